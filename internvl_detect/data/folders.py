"""Reading folders that strangers filled: sorted, links kept inside the root, and every oddity a finding.

    walk = Walk(root, note)
    if walk.enter(folder): folders, files = walk.read(folder)

A folder is named by its path from the root, with ``/``, and "" is the root. Holds one folder's names at a time. Not
here: what the files mean (``layouts``, ``readers``).
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from internvl_detect.data.findings import Finding, Level, printable, show
from internvl_detect.data.jsonl import well_formed
from internvl_detect.media.source import CLIP_SUFFIXES, PICTURE_SUFFIXES

LISTS = frozenset((".csv", ".tsv", ".jsonl", ".json"))
PACKED = frozenset((".parquet", ".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"))
DONE = "prepared.json"  # in a folder that a preparation wrote
MAX_DEPTH = 32
MAX_LISTS = 200
_PASSED_OVER = frozenset(("__macosx", "thumbs.db", "desktop.ini", "$recycle.bin"))

Note = Callable[[Finding], None]


@dataclass(frozen=True)
class Glance:
    """What a folder holds, without the names of its media: its folders, its lists (CSV, JSON), how many media."""

    folders: tuple[str, ...]
    lists: tuple[str, ...]
    n_media: int
    n_packed: int


def suffix_of(name: str) -> str:
    """The suffix with its dot, in lower case; empty where there is none."""
    return os.path.splitext(name)[1].lower()


def is_media(name: str) -> bool:
    """Whether the suffix is that of a picture or a clip."""
    return (suffix := suffix_of(name)) in PICTURE_SUFFIXES or suffix in CLIP_SUFFIXES


def joined(*parts: str) -> str:
    """Path parts with ``/`` between them, empty ones left out."""
    return "/".join(part for part in parts if part)


def _folded(name: str) -> str:
    """What a disk that minds neither case nor the two codings of an accent takes the name for."""
    return unicodedata.normalize("NFC", name).casefold()


def is_in(path: str, folder: str) -> bool:
    """Whether a real path on disk is that of a folder, or below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


class Walk:
    """Reads folders under ``root``. ``enter`` is True once for each real folder, so that links lead into no loop.

    Links to files inside the root are files. Links to folders inside it are folders, but where ``follow`` is False:
    what lies under another name may have another label there.
    """

    def __init__(self, root: str | Path, note: Note, dataset: str = "", *, follow: bool = True) -> None:
        self.root, self._note, self.dataset, self._follow = os.fspath(root), note, dataset, follow
        self._real_root = os.path.realpath(self.root)
        self._entered: dict[tuple[int, int], str] = {}
        self._real_folders: dict[str, str] = {}

    def full(self, path: str) -> str:
        """The path on disk."""
        return os.path.join(self.root, *path.split("/")) if path else self.root

    def note(self, level: Level, code: str, path: str, problem: str, hint: str = "") -> None:
        """Hands on a finding about ``path``, which is taken from the root."""
        self._note(Finding(level, code, printable(self.full(path)), 0, problem, hint, self.dataset))

    def enter(self, folder: str) -> bool:
        """False, with a finding, for a folder entered before under another name, or one that is nested too deeply."""
        if folder.count("/") >= MAX_DEPTH:
            self.note("error", "too-deep", folder, f"more than {MAX_DEPTH} folders deep; not read")
            return False
        try:
            found = os.stat(self.full(folder))
        except OSError as error:
            self._unreadable(folder, error)
            return False
        before = self._entered.setdefault((found.st_dev, found.st_ino), folder)
        if before != folder:
            self.note("warning", "link-twice", folder, f"the same folder as {show(before, 300)}; read once")
        return before == folder

    def read(self, folder: str) -> tuple[list[str], list[str]]:
        """(folders, files) in it by name, in the order of their characters; hidden ones are passed over."""
        folders: list[str] = []
        files: list[str] = []
        for name, is_folder in self._entries(folder):
            (folders if is_folder else files).append(name)
        folders.sort()
        files.sort()
        if len({_folded(name) for name in (*folders, *files)}) < len(folders) + len(files):
            first: dict[str, str] = {}
            for name in (*folders, *files):
                if (twin := first.setdefault(_folded(name), name)) != name:
                    same = twin.casefold() == name.casefold()
                    alike = "upper and lower case" if same else "the coding of its accents"
                    problem = f"differs from {show(twin)} in {alike} only"
                    hint = "one overwrites the other on Windows or macOS; rename it"
                    self.note("warning", "case-twins", joined(folder, name), problem, hint)
        return folders, files

    def glance(self, folder: str) -> Glance:
        """What it holds, in one pass that keeps no names of media."""
        folders: list[str] = []
        lists: list[str] = []
        media = packed = 0
        for name, is_folder in self._entries(folder):
            suffix = suffix_of(name)
            if is_folder:
                folders.append(name)
            elif suffix in LISTS and len(lists) < MAX_LISTS:
                lists.append(name)
            else:
                media += suffix in PICTURE_SUFFIXES or suffix in CLIP_SUFFIXES
                packed += suffix in PACKED
        return Glance(tuple(sorted(folders)), tuple(sorted(lists)), media, packed)

    def _entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        try:
            with os.scandir(self.full(folder)) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name.lower() in _PASSED_OVER:
                        continue
                    if (is_folder := self._kind(folder, entry)) is not None:
                        yield entry.name, is_folder
        except OSError as error:
            self._unreadable(folder, error)

    def _kind(self, folder: str, entry: os.DirEntry[str]) -> bool | None:
        """True for a folder, False for a file, None, with a finding, for what is neither or must not be read."""
        path = joined(folder, entry.name)
        if not well_formed(entry.name):
            self.note("error", "name-not-text", path, "its name is not valid UTF-8; not read", "rename it")
            return None
        if not entry.name.isprintable() and any(c < " " or c == "\x7f" for c in entry.name):
            problem = "its name holds a line break or another control character"
            self.note("warning", "name-control", path, problem, "rename it: many tools cannot read such a name")
        try:
            if entry.is_symlink():
                target = self._target(entry.path)
                if not is_in(target, self._real_root):
                    self.note("error", "link-outside", path, "a link that leads out of the root; not followed")
                    return None
                mode = os.stat(target).st_mode
                is_folder, is_file = stat.S_ISDIR(mode), stat.S_ISREG(mode)
                if is_folder and is_in(self._real(os.path.dirname(entry.path)), target):
                    self.note("warning", "link-loop", path, "a link to a folder that holds it; not followed")
                    return None
                if is_folder and not self._follow:
                    self.note("warning", "link-folder", path, "a link to a folder, inside a dataset; not followed")
                    return None
            else:
                is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:
            self.note("error", "link-broken", path, f"could not be read: {error.strerror or error}")
            return None
        if not is_folder and not is_file:
            self.note("warning", "not-a-file", path, "neither a file nor a folder; not read")
            return None
        return is_folder

    def _target(self, link: str) -> str:
        """The real path of a link; the folders on the way are looked up once."""
        target = os.path.join(os.path.dirname(link), os.readlink(link))
        folder, name = os.path.split(target)
        if name in ("", ".", ".."):
            return os.path.realpath(link)
        target = os.path.join(self._real(folder), name)
        return os.path.realpath(target) if os.path.islink(target) else target

    def _real(self, folder: str) -> str:
        if folder not in self._real_folders:
            if len(self._real_folders) > 10_000:
                self._real_folders.clear()
            self._real_folders[folder] = os.path.realpath(folder)
        return self._real_folders[folder]

    def _unreadable(self, folder: str, error: OSError) -> None:
        self.note("error", "unreadable-folder", folder, f"the folder could not be read: {error.strerror or error}")
