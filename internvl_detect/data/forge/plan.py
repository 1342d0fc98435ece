"""What is to be forged: photographs found in folders, their splits, and who may give a piece to whom.

A photograph and its donors are of one split, so nothing of a training picture is in a test picture. Splits follow from
names alone (``manifest.split_by_group``). Not here: opening files (``item``), which method (drawn there, from the
photograph's name).

    tasks = plan(find_sources(["mine"]), settings)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from internvl_detect.data.forge.methods import METHODS, Rebuild
from internvl_detect.data.forge.opencv import need_cv2
from internvl_detect.data.forge.regions import KINDS, NEED_CV2
from internvl_detect.data.manifest import ManifestRow, split_by_group
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.media.source import CLIP_SUFFIXES, PICTURE_SUFFIXES

SHARES = (("train", 0.8), ("val", 0.1), ("test", 0.1))
SUMMARY = "forge.json"  # in a folder that forging wrote
USUAL = ("splice", "copy_move", "removal", "poisson")
DONORS = 6  # neighbours that a photograph may take a piece from; few, so that decoded ones are used again


@dataclass(frozen=True)
class Source:
    """One file of the user's. ``name`` is its folder's name and its path inside: what is drawn, and where it is split
    to, follows from it. ``kind``: photograph, face (the user says that it shows one, aligned) or clip."""

    path: str
    name: str
    root: str
    kind: str = "photograph"
    split: str = ""


@dataclass(frozen=True)
class Settings:
    """What a set is made with; all of it decides the bytes, but for ``out``.

    ``rebuild`` travels to every process, so it should be small: paths, not weights (``train.rebuild.Rebuilder``).
    """

    out: str
    per_photo: int = 2
    methods: tuple[str, ...] = USUAL
    seed: int = 0
    size_px: int = 512
    rebuild: Rebuild | None = None
    kinds: tuple[str, ...] = KINDS
    shares: tuple[tuple[str, float], ...] = SHARES

    def check(self, *, faces: bool = True) -> None:
        """Raises ConfigError for a setting that makes no sense, or needs what is not there."""
        unknown = [m for m in self.methods if m not in METHODS]
        if unknown or not self.methods:
            raise ConfigError(f"forging method {', '.join(unknown) or 'none'}", expected=", ".join(METHODS))
        if not set(self.kinds) <= set(KINDS) or not self.kinds:
            raise ConfigError(f"kinds of region {self.kinds}", expected=", ".join(KINDS))
        if not 1 <= self.per_photo <= 1000 or not 128 <= self.size_px <= 8192 or self.seed < 0:
            found = f"{self.per_photo} forgeries a photograph, {self.size_px} px, seed {self.seed}"
            raise ConfigError(found, expected="1 to 1000, 128 to 8192 px, and a seed from 0 on")
        networks = [m for m in self.methods if METHODS[m].rebuild]
        if networks and self.rebuild is None:
            raise ConfigError(f"{networks[0]} without an autoencoder", do="pass --autoencoder ENCODER DECODER")
        if "face_swap" in self.methods and not faces:
            raise ConfigError("face_swap without photographs of faces", do="pass --faces DIR")
        if any(METHODS[m].cv2 for m in self.methods) or set(self.kinds) & set(NEED_CV2):
            need_cv2("forging")


@dataclass(frozen=True)
class Task:
    """One photograph or clip and what is made from it."""

    source: Source
    donors: tuple[Source, ...]
    settings: Settings = field(repr=False)

    @property
    def count(self) -> int:
        """How many forgeries it becomes: a clip one, a photograph as many as asked for."""
        return 1 if self.source.kind == "clip" else self.settings.per_photo


def digest(*parts: object) -> bytes:
    """32 bytes that follow from the parts alone, the same on every machine."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).digest()


def find_sources(
    paths: Sequence[str | Path], kind: str = "photograph", *, skip: str | Path | None = None
) -> list[Source]:
    """Pictures (or clips, by ``kind``) in the folders, and single files, sorted by name within each.

    Links to folders are not followed, nor links to files outside the folder. Passed over are the folder ``skip`` (where
    forgeries go) and what was forged before: forgeries are no photographs. Raises DataError for a path that is not
    there, or for no file at all.
    """
    suffixes = CLIP_SUFFIXES if kind == "clip" else PICTURE_SUFFIXES
    found: list[Source] = []
    used: dict[str, int] = {}
    for given in map(Path, paths):
        if not given.exists():
            raise DataError(f"{given} does not exist", expected="a folder of photographs or a photograph")
        base = _real(given if given.is_dir() else given.parent)
        used[base.name] = used.get(base.name, 0) + 1
        root = base.name if used[base.name] == 1 else f"{base.name}-{used[base.name]}"
        files = _files(given, _real(skip) if skip else None) if given.is_dir() else [given]
        for file in files:
            if not given.is_dir() or (file.suffix.lower() in suffixes and _real(file).is_relative_to(base)):
                inside = file.relative_to(given if given.is_dir() else given.parent).as_posix()
                name = os.fsencode(f"{root}/{inside}").decode("utf-8", "backslashreplace")
                found.append(Source(str(file), name, root, kind))
    if not found:
        raise DataError(
            f"no files to forge in {', '.join(map(str, paths))}", expected=f"files in {', '.join(suffixes)}"
        )
    return found


def _files(folder: Path, skip: Path | None) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        inside = {name: Path(where, name) for name in sorted(folders)}
        folders[:] = [n for n, path in inside.items() if _real(path) != skip and not os.path.isfile(path / SUMMARY)]
        yield from (Path(where, name) for name in sorted(names))


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises for links in a circle


def with_splits(sources: Sequence[Source], settings: Settings) -> list[Source]:
    """The sources with their splits set, by ``split_by_group`` of their names."""
    rows = (ManifestRow(path=s.name, label="real", group_id=s.name) for s in sources)
    split = split_by_group(rows, dict(settings.shares), settings.seed)
    return [replace(s, split=row.split) for s, row in zip(sources, split, strict=True)]


def plan(sources: Sequence[Source], settings: Settings) -> list[Task]:
    """A task for every source, split by split, in an order drawn by the seed; donors are the next ones in that order.

    Faces take from faces; photographs and clips take from photographs.
    """
    parts: dict[tuple[str, str], list[Source]] = {}
    for source in with_splits(sources, settings):
        parts.setdefault((source.split, source.kind), []).append(source)
    for part in parts.values():
        part.sort(key=lambda s: digest(settings.seed, "order", s.name))
    tasks = []
    for split, kind in sorted(parts):
        givers = parts.get((split, "photograph" if kind == "clip" else kind), [])
        for i, source in enumerate(parts[split, kind]):
            near = [givers[(i + k) % len(givers)] for k in range(1, DONORS + 1)] if givers else []
            donors = tuple(dict.fromkeys(donor for donor in near if donor != source))
            tasks.append(Task(source, donors, settings))
    return tasks
