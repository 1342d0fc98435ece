"""Jobs, their files and results in SQLite: what was accepted is on disk before the client hears of it.

A restart, a kill -9 included, finds every file that has no row yet and judges it. Uploads lie beside the database under
random names; the name a client gave is only ever text. All methods block for milliseconds and may be called from any
thread. Not here: the cache and the pictures (``cache``), when jobs run (``jobs``).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_detect.errors import ConfigError, OutputError

MOST_TRIES = 3  # a file that the server went down with this often is given up
TOMBSTONE_S = 7 * 86400.0  # how long an expired job is still known to have been
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, options TEXT NOT NULL, state TEXT NOT NULL,
  created REAL NOT NULL, expires REAL NOT NULL);
CREATE TABLE IF NOT EXISTS files (
  job TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, at INTEGER NOT NULL, name TEXT NOT NULL,
  sha256 TEXT NOT NULL, upload TEXT, tries INTEGER NOT NULL DEFAULT 0, row TEXT, PRIMARY KEY (job, at));
CREATE INDEX IF NOT EXISTS files_open ON files(job) WHERE row IS NULL;
CREATE TABLE IF NOT EXISTS cache (key TEXT PRIMARY KEY, row TEXT NOT NULL, expires REAL NOT NULL);
CREATE TABLE IF NOT EXISTS pictures (
  key TEXT NOT NULL, frame INTEGER NOT NULL, jpeg BLOB NOT NULL, expires REAL NOT NULL, PRIMARY KEY (key, frame));
"""
FINISHED = ("done", "failed", "cancelled", "expired")


@dataclass(frozen=True)
class StoredFile:
    """One file of a job. ``upload`` is its name in the upload folder until it is deleted; ``row`` its result."""

    job: str
    at: int
    name: str
    sha256: str
    upload: str | None
    tries: int
    row: dict[str, Any] | None


@dataclass(frozen=True)
class StoredJob:
    """A job as stored; times are seconds since 1970. ``owner`` is the token's name, "" without tokens."""

    id: str
    owner: str
    options: dict[str, Any]
    state: str
    created: float
    expires: float
    files: tuple[StoredFile, ...]


class Store:
    """The data folder of one server. Raises ConfigError when another server uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uploads = folder, folder / "uploads"
        try:
            self.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chmod(folder, 0o700)
            self._hold = _hold(folder / "lock")
            self._db = sqlite3.connect(folder / "serve.sqlite", check_same_thread=False, isolation_level=None)
            os.chmod(folder / "serve.sqlite", 0o600)
            self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(_SCHEMA)
            self._reader = sqlite3.connect(folder / "serve.sqlite", check_same_thread=False, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"the data folder {folder} cannot be used ({error})", do="choose another") from None
        self._lock, self._read_lock = threading.RLock(), threading.RLock()
        self._sweep()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The database, for one change that happens whole or not at all."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def read(self, question: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT; waits for no writer."""
        with self._read_lock:
            return self._reader.execute(question, tuple(values)).fetchall()

    def add_job(
        self, owner: str, options: dict[str, Any], files: list[tuple[str, str, str]], expires_s: float
    ) -> StoredJob:
        """A new job of (name, sha256, upload); on disk when this returns."""
        name, now = secrets.token_urlsafe(16), time.time()
        with self.transaction() as db:
            values = (name, owner, json.dumps(options), "queued", now, now + expires_s)
            db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?)", values)
            rows = [(name, at, *file) for at, file in enumerate(files)]
            db.executemany("INSERT INTO files (job, at, name, sha256, upload) VALUES (?, ?, ?, ?, ?)", rows)
        made = self.job(name)
        assert made is not None
        return made

    def job(self, name: str) -> StoredJob | None:
        """The job of this id."""
        with self._read_lock:
            self._reader.execute("BEGIN")
            try:
                found = self.read("SELECT id, owner, options, state, created, expires FROM jobs WHERE id = ?", (name,))
                columns = "job, at, name, sha256, upload, tries, row"
                files = self.read(f"SELECT {columns} FROM files WHERE job = ? ORDER BY at", (name,))
            finally:
                self._reader.execute("COMMIT")
        if not found:
            return None
        job, owner, options, state, created, expires = found[0]
        return StoredJob(job, owner, json.loads(options), state, created, expires, tuple(map(_file, files)))

    def open_jobs(self) -> list[str]:
        """Ids of jobs with work left, oldest first."""
        found = self.read("SELECT id FROM jobs WHERE state IN ('queued', 'running') ORDER BY created, rowid")
        return [row[0] for row in found]

    def open_files(self) -> int:
        """How many files of jobs wait for a row."""
        return int(self.read("SELECT count(*) FROM files WHERE row IS NULL")[0][0])

    def start_file(self, job: str, at: int) -> int:
        """Note that a file is being worked on; how often that has begun."""
        with self.transaction() as db:
            db.execute("UPDATE files SET tries = tries + 1 WHERE job = ? AND at = ?", (job, at))
            db.execute("UPDATE jobs SET state = 'running' WHERE id = ? AND state = 'queued'", (job,))
            found = db.execute("SELECT tries FROM files WHERE job = ? AND at = ?", (job, at)).fetchone()
        return int(found[0]) if found else 0

    def finish_file(self, job: str, at: int, row: dict[str, Any], keep: bool) -> None:
        """Store a file's row, and delete its upload unless it is kept; the last one finishes the job."""
        text, upload = json.dumps(row, ensure_ascii=True, allow_nan=False), None
        with self.transaction() as db:
            found = db.execute("SELECT upload FROM files WHERE job = ? AND at = ?", (job, at)).fetchone()
            if not keep:
                upload = found[0] if found else None
                db.execute("UPDATE files SET row = ?, upload = NULL WHERE job = ? AND at = ?", (text, job, at))
            else:
                db.execute("UPDATE files SET row = ? WHERE job = ? AND at = ?", (text, job, at))
            left, good = db.execute(
                "SELECT sum(row IS NULL), sum(json_extract(row, '$.error') IS NULL) FROM files WHERE job = ?", (job,)
            ).fetchone()
            if left == 0:
                state = "done" if good else "failed"
                db.execute("UPDATE jobs SET state = ? WHERE id = ? AND state IN ('queued','running')", (state, job))
        self.delete_uploads([upload])

    def cancel(self, job: str, row: dict[str, Any]) -> None:
        """Give up what is left of a job: files without a row get ``row``."""
        with self.transaction() as db:
            gone = db.execute("SELECT upload FROM files WHERE job = ? AND row IS NULL", (job,)).fetchall()
            db.execute("UPDATE jobs SET state = 'cancelled' WHERE id = ? AND state IN ('queued', 'running')", (job,))
            files = db.execute("SELECT at, name FROM files WHERE job = ? AND row IS NULL", (job,)).fetchall()
            values = [(json.dumps({**row, "path": name, "name": name}), job, at) for at, name in files]
            db.executemany("UPDATE files SET row = ?, upload = NULL WHERE job = ? AND at = ?", values)
        self.delete_uploads(upload for (upload,) in gone)

    def delete(self, job: str) -> None:
        """Forget a job, its results and uploads."""
        with self.transaction() as db:
            gone = db.execute("SELECT upload FROM files WHERE job = ?", (job,)).fetchall()
            db.execute("DELETE FROM jobs WHERE id = ?", (job,))
        self.delete_uploads(upload for (upload,) in gone)

    def expire(self, now: float | None = None) -> int:
        """Delete what has had its time; how many jobs that were. An id is known as expired for a week more."""
        now = time.time() if now is None else now
        with self.transaction() as db:
            which = "SELECT id FROM jobs WHERE expires < ? AND state IN ('done', 'failed', 'cancelled')"
            jobs = [row[0] for row in db.execute(which, (now,))]
            gone = db.execute(f"SELECT upload FROM files WHERE job IN ({which})", (now,)).fetchall()
            db.execute(f"DELETE FROM files WHERE job IN ({which})", (now,))
            db.executemany("UPDATE jobs SET state = 'expired', options = '{}' WHERE id = ?", [(j,) for j in jobs])
            db.execute("DELETE FROM jobs WHERE state = 'expired' AND expires < ?", (now - TOMBSTONE_S,))
            for table in ("cache", "pictures"):
                db.execute(f"DELETE FROM {table} WHERE expires < ?", (now,))
        self.delete_uploads(upload for (upload,) in gone)
        with self._lock:
            self._db.execute("PRAGMA incremental_vacuum(2000)").fetchall()
        return len(jobs)

    def delete_uploads(self, names: Iterable[str | None]) -> None:
        """Delete files of the upload folder; those that are gone already do not matter."""
        for name in names:
            if name:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.uploads / name)

    def close(self) -> None:
        """Let go of the folder."""
        with self._lock, self._read_lock:
            self._reader.close()
            self._db.close()
            os.close(self._hold)

    def _sweep(self) -> None:
        """Delete uploads that no job knows: their requests had no answer yet when the server was killed."""
        known = {row[0] for row in self.read("SELECT upload FROM files WHERE upload IS NOT NULL")}
        self.delete_uploads(name for name in os.listdir(self.uploads) if name not in known)


def _file(row: tuple[Any, ...]) -> StoredFile:
    return StoredFile(*row[:6], json.loads(row[6]) if row[6] else None)


def _hold(path: Path) -> int:
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ConfigError(f"{path.parent} is used by another server", do="give this one another --data-dir") from None
    return handle
