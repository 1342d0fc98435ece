"""The facts of files already looked at, so that a survey that was killed goes on, and a second one is quick.

    with open_cache(root / CACHE_NAME, note=print) as cache:
        known = cache.get([("a.jpg", "image", size, mtime_ns)])

A SQLite file; facts hold for one path, role, size and time of change. A cache is a help and never a condition: one
that is damaged, locked, in a place that cannot be written or of a stranger's making is passed over with a note.
Not here: which files there are.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from internvl_detect.data.survey.facts import NAMES, FileFacts

CACHE_NAME = ".ivdetect-cache.sqlite"
Key = tuple[str, str, int, int]  # path as in the manifest, role, bytes, time of change in ns
_OURS = 0x69766463  # "ivdc"
_TABLE = (
    "CREATE TABLE facts (path BLOB, role TEXT, size INTEGER, mtime_ns INTEGER, facts TEXT, PRIMARY KEY (path, role))"
)
# What the facts are and how they are made; another version's are made again.
_VERSION = f"1 {' '.join(NAMES)}"
_MOST_BOUND = 200
_PATIENCE_S = 5.0  # with another run that writes


class FactsCache:
    """``get`` and ``put``; both do nothing once something was wrong with the file, which ``note`` is told once."""

    def __init__(self, connection: sqlite3.Connection | None, note: Callable[[str], None]) -> None:
        self.connection, self.note = connection, note

    def get(self, keys: Sequence[Key]) -> dict[Key, FileFacts]:
        """The facts of those files that have not changed since."""
        found: dict[Key, FileFacts] = {}
        wanted = {(os.fsencode(key[0]), key[1]): key for key in keys}
        paths = sorted({path for path, _ in wanted})
        for start in range(0, len(paths), _MOST_BOUND):
            part = paths[start : start + _MOST_BOUND]
            query = f"SELECT path, role, size, mtime_ns, facts FROM facts WHERE path IN ({','.join('?' * len(part))})"
            for path, role, size, mtime_ns, text in self._run(query, part):
                key = wanted.get((path, role))
                if key is not None and key[2:] == (size, mtime_ns) and (facts := _facts(text)) is not None:
                    found[key] = facts
        return found

    def put(self, known: Iterable[tuple[Key, FileFacts]]) -> None:
        """Remember, and write to the disk."""
        rows = [(os.fsencode(p), r, s, t, json.dumps(facts.to_list())) for (p, r, s, t), facts in known]
        if rows and self.connection is not None:
            try:
                with self.connection:
                    self.connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", rows)
            except (sqlite3.Error, OverflowError) as error:
                self._give_up(error)

    def _run(self, query: str, values: Sequence[object]) -> list[tuple]:
        if self.connection is None:
            return []
        try:
            return self.connection.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._give_up(error)
            return []

    def _give_up(self, error: Exception) -> None:
        self.note(f"the cache is not used any further: {error}")
        self.close()

    def close(self) -> None:
        """Let the file go."""
        if self.connection is not None:
            with suppress(sqlite3.Error):
                self.connection.close()
            self.connection = None


@contextmanager
def open_cache(path: Path | None, note: Callable[[str], None]) -> Iterator[FactsCache]:
    """The cache in ``path``, made if there is none; None, or a file that is no cache of ours, gives one that is empty.

    A damaged file of the name that this program gives its caches is replaced; any other is left as it is.
    """
    cache = FactsCache(None if path is None else _connect(path, note), note)
    try:
        yield cache
    finally:
        cache.close()


def _connect(path: Path, note: Callable[[str], None]) -> sqlite3.Connection | None:
    try:
        try:
            kind = os.lstat(path).st_mode
        except FileNotFoundError:
            return _new(path)
        if not stat.S_ISREG(kind):  # a link could lead anywhere, a pipe would block
            note(f"the cache {path.name} is no ordinary file, and not used")
            return None
        problem = _open_ours(path)
        if isinstance(problem, sqlite3.Connection):
            return problem
        if path.name != CACHE_NAME:
            note(f"{path.name} is not used as a cache, and left as it is: {problem}")
            return None
        note(f"the cache is made anew: {problem}")
        path.unlink()
        return _new(path)
    except (sqlite3.Error, OSError) as error:
        note(f"no cache in {path.name}: {error.strerror if isinstance(error, OSError) else error}")
        return None


def _open_ours(path: Path) -> sqlite3.Connection | str:
    """The connection, or what is wrong. Raises sqlite3.OperationalError where another program holds a lock."""
    connection = sqlite3.connect(path, timeout=_PATIENCE_S)
    try:
        _prepare(connection)
        if connection.execute("PRAGMA application_id").fetchone()[0] != _OURS:
            problem = "it is another program's file"
        elif connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            problem = "it is damaged"
        elif connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() != _schema():
            problem = "it is of another version, or not made by this program"
        else:
            return connection
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        problem = str(error)
    connection.close()
    return problem


def _new(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_PATIENCE_S)
    _prepare(connection)
    with connection:
        connection.execute(f"PRAGMA application_id = {_OURS}")
        connection.execute(_TABLE)
        connection.execute(_version_view())
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA synchronous = OFF")  # a kill loses nothing; after a power cut quick_check speaks


def _version_view() -> str:
    return f"CREATE VIEW version AS SELECT '{_VERSION}' AS version"


def _schema() -> list[tuple[str | None]]:
    """Of ``sqlite_master`` by name: the table, the index of its key, the version. More would be a stranger's."""
    return [(_TABLE,), (None,), (_version_view(),)]


def _facts(text: object) -> FileFacts | None:
    try:
        return FileFacts.from_list(json.loads(text)) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
