"""Bearer tokens: made once, printed once, kept as salted scrypt hashes in a file that only its owner can read.

    token = Tokens(folder).create("ci")   # ivd_<id>_<secret>
    Tokens(folder).owner_of(token)        # "ci"

The id names the row, so a wrong token costs one hash at most, and an unknown id none. A new or withdrawn token counts
at once, without a restart. Not here: rates (``limits``), headers (``guard``).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from internvl_detect.errors import ConfigError
from internvl_detect.files import read_text

_SHAPE = re.compile(r"ivd_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_REMEMBERED = 1024


class Tokens:
    """The tokens of a data folder, in ``tokens.json``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens.json"
        self._rows: list[dict[str, Any]] = []
        self._stamp: tuple[int, int] | None = None
        self._known: dict[bytes, str] = {}  # by a keyed hash: the tokens themselves are not kept
        self._key, self._lock = secrets.token_bytes(32), threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._load())

    def names(self) -> list[tuple[str, str]]:
        """(name, when it was made) of each."""
        return [(row["name"], row["created_at"]) for row in self._load()]

    def create(self, name: str) -> str:
        """A new token of this name. Raises ConfigError when there is one, or the name is none."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"the token name {name!r:.80}", expected="letters, digits, dots, - and _, at most 64")
        rows = self._load()
        if any(row["name"] == name for row in rows):
            raise ConfigError(f"a token named {name} exists", do="withdraw it first, by --withdraw")
        made, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_bytes(16)
        row = {"id": made, "name": name, "salt": salt.hex(), "hash": _hash(secret, salt).hex()}
        self._store([*rows, {**row, "created_at": datetime.now(UTC).isoformat(timespec="seconds")}])
        return f"ivd_{made}_{secret}"

    def withdraw(self, name: str) -> None:
        """Delete a token. Raises ConfigError when there is none of this name."""
        rows = self._load()
        left = [row for row in rows if row["name"] != name]
        if len(left) == len(rows):
            raise ConfigError(f"no token is named {name}", expected=", ".join(r["name"] for r in rows) or "one")
        self._store(left)

    def owner_of(self, token: str) -> str | None:
        """The name of the token; None for one that is not (or no longer) valid. Takes tens of milliseconds at first."""
        shape = _SHAPE.fullmatch(token)
        rows = self._load()
        if shape is None:
            return None
        mark = hmac.new(self._key, token.encode("ascii"), hashlib.sha256).digest()
        with self._lock:
            if mark in self._known:
                return self._known[mark]
        for row in rows:
            if row["id"] == shape[1]:
                made = _hash(shape[2], bytes.fromhex(row["salt"]))
                if hmac.compare_digest(made, bytes.fromhex(row["hash"])):
                    with self._lock:
                        if len(self._known) >= _MOST_REMEMBERED:
                            self._known.clear()
                        self._known[mark] = row["name"]
                    return str(row["name"])
        return None

    def _load(self) -> list[dict[str, Any]]:
        try:
            state = os.stat(self.path)
        except FileNotFoundError:
            self._rows, self._stamp = [], None
            self._known.clear()
            return self._rows
        stamp = (state.st_mtime_ns, state.st_ino)
        if stamp != self._stamp:
            if state.st_mode & 0o077:
                found = f"{self.path} can be read by others"
                raise ConfigError(found, expected="mode 600", do=f"chmod 600 {self.path}")
            try:
                rows = json.loads(read_text(self.path, what="token file"))["tokens"]
                self._rows = [{k: str(row[k]) for k in ("id", "name", "salt", "hash", "created_at")} for row in rows]
            except (ValueError, KeyError, TypeError):
                raise ConfigError(f"{self.path} is no token file", do="delete it and make new tokens") from None
            with self._lock:
                self._known.clear()
            self._stamp = stamp
        return self._rows

    def _store(self, rows: list[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self.path.with_name("tokens.json.partial")
        part.unlink(missing_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"tokens": rows}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)


def _hash(secret: str, salt: bytes) -> bytes:
    return hashlib.scrypt(secret.encode("ascii"), salt=salt, n=2**14, r=8, p=1, maxmem=64 * 2**20)
