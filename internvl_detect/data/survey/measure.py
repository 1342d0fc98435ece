"""The facts of many files in the order they are asked for: from the cache where it knows them, else by processes.

    measure(files, settle, root=root, cache=cache, workers=2)

A path that leaves the root, also by a link, is not opened; nor is what is no ordinary file. Memory does not grow with
the number of files. Not here: what facts are (``facts``), what follows from them (``whole``).
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from internvl_detect.data.engine import run_ordered
from internvl_detect.data.survey.facts import FileFacts, facts_of
from internvl_detect.data.survey.facts_cache import FactsCache, Key

T = TypeVar("T")
_TOGETHER = 256  # files asked of, and told to, the cache at once
_MOST_WAITING = 4096  # known files that wait behind one being looked at
THERE = FileFacts(code="unopened")


@dataclass(frozen=True)
class Asked(Generic[T]):
    """A file to look at: ``path`` is relative to the root, ``about`` whatever the caller wants back."""

    path: str
    role: str
    about: T


class Places:
    """Where a manifest's paths lie on the disk: ``find`` gives (path, status), or facts that say why it is not used."""

    def __init__(self, root: str | Path) -> None:
        self.root = os.path.abspath(root)
        self.inside = os.path.join(os.path.realpath(root), "")
        self._real_folder = lru_cache(maxsize=65_536)(os.path.realpath)

    def find(self, path: str, role: str) -> tuple[str, os.stat_result] | FileFacts:
        """One path. Links are followed as long as they stay inside the root."""
        what = "mask" if role == "mask" else "file"
        full = os.path.join(self.root, path)
        folder, name = os.path.split(full)
        try:
            real = os.path.join(self._real_folder(folder), name)
            status = os.lstat(real)
            if stat.S_ISLNK(status.st_mode):
                real = os.path.realpath(real)
                status = os.stat(real)
            if name in ("", ".", "..") or not real.startswith(self.inside):
                return FileFacts(code="outside-root", problem="leads out of the root, and is not opened")
        except FileNotFoundError:
            return FileFacts(code=f"missing-{what}", problem="is not there")
        except (OSError, ValueError) as error:  # a loop of links, a name too long, a zero byte, half a character
            why = error.strerror if isinstance(error, OSError) else "no path that a disk can have"
            return FileFacts(code=f"missing-{what}", problem=f"cannot be reached: {why}")
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a named pipe, socket or device"
            return FileFacts(code=f"missing-{what}", problem=f"is {kind}, not a file")
        return real, status


def measure(
    files: Iterable[Asked[T]],
    settle: Callable[[T, FileFacts], None],
    *,
    root: str | Path,
    cache: FactsCache,
    workers: int = 0,
    open_them: bool = True,
) -> None:
    """Calls ``settle(about, facts)`` for every file, in order. ``workers`` as in ``engine.run_ordered``.

    Without ``open_them`` it is only looked whether a file is there; its facts are then ``THERE``.
    """
    places = Places(root)
    waiting: deque[tuple[Asked[T], Key | None, FileFacts | None]] = deque()
    learnt: list[tuple[Key, FileFacts]] = []

    def to_look_at() -> Iterator[tuple[str, str, FileFacts | None]]:
        """What processes must look at. Files that are known are settled here, or wait for those before them."""
        source = iter(files)
        while part := list(islice(source, _TOGETHER)):
            found = [(asked, places.find(asked.path, asked.role)) for asked in part]
            keys = [
                None
                if isinstance(place, FileFacts)
                else (asked.path, asked.role, place[1].st_size, place[1].st_mtime_ns)
                for asked, place in found
            ]
            known = cache.get([key for key in keys if key is not None]) if open_them else {}
            for (asked, place), key in zip(found, keys, strict=True):
                if isinstance(place, FileFacts):
                    facts: FileFacts | None = place
                else:
                    facts = known.get(key) if key is not None and open_them else THERE
                if facts is not None and not waiting:
                    settle(asked.about, facts)
                elif facts is not None and len(waiting) < _MOST_WAITING:
                    waiting.append((asked, None, facts))
                else:
                    waiting.append((asked, key if facts is None else None, None))
                    yield "" if isinstance(place, FileFacts) else place[0], asked.role, facts

    def learn(key: Key | None, facts: FileFacts) -> None:
        if key is not None and not facts.code:  # what failed is tried again
            learnt.append((key, facts))
        if len(learnt) >= _TOGETHER:
            cache.put(learnt)
            learnt.clear()

    try:
        for new in run_ordered(_look, to_look_at(), workers=workers, on_lost=_lost):
            while waiting and (facts := waiting[0][2]) is not None:
                settle(waiting.popleft()[0].about, facts)
            asked, key, _ = waiting.popleft()
            learn(key, new)
            settle(asked.about, new)
        while waiting:
            asked, _, facts = waiting.popleft()
            settle(asked.about, facts or THERE)
    finally:
        cache.put(learnt)


def _key(asked: Asked[T], place: tuple[str, os.stat_result] | FileFacts) -> Key | None:
    if isinstance(place, FileFacts):
        return None
    return asked.path, asked.role, place[1].st_size, place[1].st_mtime_ns


def _look(item: tuple[str, str, FileFacts | None]) -> FileFacts:
    path, role, known = item
    return known if known is not None else facts_of((path, role))


def _lost(item: tuple[str, str, FileFacts | None], why: str) -> FileFacts:
    return FileFacts(code="unreadable-mask" if item[1] == "mask" else "unreadable-media", problem=why)
