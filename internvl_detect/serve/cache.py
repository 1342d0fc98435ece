"""Rows by the hash of a file's content and of everything the answer depends on, and the small pictures shown beside.

The key is keyed by a secret of the data folder, so a stored key says nothing to someone who has a list of known
files' hashes. Not here: when it is asked (``engine``).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from typing import Any

from internvl_detect.serve.store import Store

MASK = -1  # in the place of a frame's number


class Cache:
    """Results live ``expires_s`` seconds from their last use in a job. ``about`` names model and settings."""

    def __init__(self, store: Store, about: str, expires_s: float, enabled: bool = True) -> None:
        self.store, self.about, self.expires_s, self.enabled = store, about, expires_s, enabled
        path = store.folder / "secret"
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
        self._secret = path.read_bytes()

    def key(self, sha256: str, owner: str, options: dict[str, Any]) -> str:
        """The key of a file's answer. Tokens do not share: a hit would tell one what another has asked."""
        text = json.dumps([sha256, owner, self.about, options], sort_keys=True)
        return hmac.new(self._secret, text.encode("utf-8"), hashlib.sha256).hexdigest()

    def row(self, key: str) -> dict[str, Any] | None:
        """The stored row."""
        if not self.enabled:
            return None
        found = self.store.read("SELECT row FROM cache WHERE key = ? AND expires > ?", (key, time.time()))
        return json.loads(found[0][0]) if found else None

    def mask(self, key: str) -> bytes | None:
        """The PNG of the mask that was drawn for it."""
        return self.picture(key, MASK)

    def has_pictures(self, key: str) -> bool:
        """Whether there is something to show for it."""
        return bool(self.store.read("SELECT 1 FROM pictures WHERE key = ? AND frame >= 0 LIMIT 1", (key,)))

    def picture(self, key: str, frame: int) -> bytes | None:
        """A JPEG of the picture, or of the clip's frame of this place among those looked at."""
        found = self.store.read("SELECT jpeg FROM pictures WHERE key = ? AND frame = ?", (key, frame))
        return found[0][0] if found else None

    def pictures(self, key: str) -> list[bytes]:
        """All of a file's."""
        return [
            row[0]
            for row in self.store.read("SELECT jpeg FROM pictures WHERE key = ? AND frame >= 0 ORDER BY frame", (key,))
        ]

    def put(self, key: str, row: dict[str, Any], previews: list[bytes], mask: bytes | None = None) -> None:
        """Store a row and its pictures, from now on."""
        expires = time.time() + self.expires_s
        with self.store.transaction() as db:
            if self.enabled:
                text = json.dumps(row, allow_nan=False)
                db.execute("INSERT OR REPLACE INTO cache VALUES (?, ?, ?)", (key, text, expires))
            rows = [(key, at, jpeg, expires) for at, jpeg in enumerate(previews)]
            rows += [(key, MASK, mask, expires)] if mask is not None else []
            db.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)", rows)

    def touch(self, key: str) -> None:
        """Begin a stored row's time anew: a job refers to it."""
        expires = time.time() + self.expires_s
        with self.store.transaction() as db:
            for table in ("cache", "pictures"):
                db.execute(f"UPDATE {table} SET expires = ? WHERE key = ?", (expires, key))

    def drop(self, key: str) -> None:
        """Forget a row and its pictures."""
        with self.store.transaction() as db:
            for table in ("cache", "pictures"):
                db.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
