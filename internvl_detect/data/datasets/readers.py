"""Datasets on disk: which are there, whatever their layout, and their files as manifest rows.

    for found in find_datasets("dataset", note=print):
        for row in found.rows(note=print): ...

Streams: one folder's names are held at a time, and the names of its masks. Nothing is opened but lists (CSV, JSON). Not
here: whether the pictures are whole (the check), which of them to take (``choice``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from internvl_detect.data.datasets import layouts
from internvl_detect.data.datasets.catalog import DOMAIN_FOLDERS, Dataset, catalog, plain_dataset
from internvl_detect.data.datasets.layouts import Layout, Spot
from internvl_detect.data.datasets.listings import SPLITS
from internvl_detect.data.datasets.pairing import is_mask_folder
from internvl_detect.data.datasets.spots import spot_rows
from internvl_detect.data.findings import Finding, did_you_mean, printable, show
from internvl_detect.data.folders import DONE, Glance, Note, Walk, is_in, joined, suffix_of
from internvl_detect.data.manifest import ManifestRow, read_manifest
from internvl_detect.errors import DataError


@dataclass(frozen=True)
class FoundSet:
    """One part of a dataset, as it was found. ``folder`` is the set's folder, from ``root``; paths have ``/``.

    ``kin`` are the spots of all parts of the same dataset: their names tell which files share a source.
    """

    dataset: Dataset
    part: str
    folder: str
    layout: Layout
    root: Path
    spots: tuple[Spot, ...] = ()
    kin: tuple[Spot, ...] = ()

    def rows(self, note: Note) -> Iterator[ManifestRow]:
        """Every picture and clip, folder by folder in name order; what is wrong with one goes to ``note``."""
        if self.layout == "manifest":
            return _manifest_rows(self, note)
        return spot_rows(self, note)


def find_datasets(root: str | Path, *, note: Note) -> list[FoundSet]:
    """The datasets under a folder, in the order of their paths; or of one manifest file.

    Looked for in each folder: a manifest, the README's tree, a dataset's own layout, folders named by label. ``note``
    gets what could not be read, and folders of pictures whose label nothing tells. Raises DataError when ``root`` is
    not there.
    """
    root = Path(root)
    if root.is_file():
        return [_manifest_set(root.parent, root.name)]
    if not root.is_dir() and root.exists():
        raise DataError(f"{root} is no ordinary file", expected="a folder of datasets, or a manifest (CSV, JSONL)")
    if not root.is_dir():
        raise DataError(f"{root} is not there", expected="a folder of datasets, or a manifest (CSV, JSONL)")
    return _Finder(root, note).run()


class _Finder:
    """Goes through folders from the root down; what is found is not looked into any further."""

    def __init__(self, root: Path, note: Note) -> None:
        self.root, self.note = root, note
        self.found: list[FoundSet] = []
        self.spots: list[Spot] = []
        self._told: list[tuple[str, Finding]] = []
        self._looked: dict[str, Glance] = {}
        self._now = ""
        self._walk = Walk(root, lambda finding: self._told.append((self._now, finding)))

    def run(self) -> list[FoundSet]:
        self._visit("", self._name_of_root(), "", "", None)
        self._without_twins()
        self.spots = [replace(spot, masks=spot.masks or self._masks_beside(spot)) for spot in self.spots]
        uses = Counter(spot.masks for spot in self.spots)
        self.spots = [replace(spot, shares_masks=uses[spot.masks] > 1) for spot in self.spots]
        for _, spots in groupby(sorted(self.spots, key=_part_of), key=_part_of):
            mine = tuple(spots)
            kin = tuple(s for s in self.spots if s.dataset.name == mine[0].dataset.name)
            first = mine[0]
            self.found.append(FoundSet(first.dataset, first.part.name, first.base, first.layout, self.root, mine, kin))
        inside = {s.pictures for s in self.spots} | {s.masks for s in self.spots if s.masks}
        for folder, finding in self._told:  # what lies in a set is told when its rows are read
            if not any(above in inside for above in _upwards(folder)):
                self.note(finding)
        return sorted(self.found, key=lambda f: (f.folder, f.dataset.name, f.part))

    def _without_twins(self) -> None:
        """Leaves out what is another name, by a link, of pictures that are found under their own."""
        real_root = os.path.realpath(self.root)
        own: dict[str, str] = {}
        linked: list[tuple[Spot, str]] = []
        for spot in self.spots:
            real = os.path.realpath(self._walk.full(spot.pictures))
            if real == os.path.join(real_root, *spot.pictures.split("/")):
                own[real] = spot.pictures
            else:
                linked.append((spot, real))
        for spot, real in linked:
            twin = next((path for at, path in own.items() if is_in(real, at) or is_in(at, real)), None)
            if twin is None:
                own[real] = spot.pictures
                continue
            self._now = spot.pictures.rpartition("/")[0]
            problem = f"a link to pictures that are found as {show(twin, 300)}; read once"
            self._walk.note("warning", "link-twice", spot.pictures, problem)
            self.spots.remove(spot)

    def _masks_beside(self, spot: Spot) -> str:
        above = spot.pictures.rpartition("/")[0]
        names = self._look(above).folders if spot.wants_masks else ()
        return next((joined(above, name) for name in names if is_mask_folder(name)), "")

    def _name_of_root(self) -> str:
        return os.path.basename(os.path.abspath(self.root)) or "data"

    def _look(self, folder: str) -> Glance:
        if folder not in self._looked:
            self._now = folder
            self._looked[folder] = self._walk.glance(folder)
        return self._looked[folder]

    def _visit(self, folder: str, name: str, domain: str, split: str, row: Dataset | None) -> None:
        """``name`` is what a plain set here is called, ``row`` the catalog's, if a folder above bears its name."""
        self._now = folder
        if not self._walk.enter(folder):
            return
        here = self._look(folder)
        if os.path.isfile(self._walk.full(joined(folder, DONE))):  # made of datasets, and none of them
            return
        own_name = folder.rpartition("/")[2] or self._name_of_root()
        called_so = [n for n in here.lists if _is_called_manifest(n)]  # beside it, any other list is about its files
        manifests = called_so or [n for n in here.lists if _is_manifest(self.root, joined(folder, n))]
        if manifests:
            self.found += [_manifest_set(self.root, joined(folder, n)) for n in manifests]
            return
        self._texts(folder, here)
        if spots := layouts.readme_spots(folder, self._look, domain) if folder else []:
            self.spots += spots
            return
        row = next((r for r in catalog() if r.has_folder(own_name)), row)
        spots = layouts.published_spots(folder, own_name, self._look)
        plain = row if row is not None else plain_dataset(_safe(name), domain)
        taken = {s.pictures for s in spots}
        for spot in layouts.label_spots(folder, self._look, plain, split):
            if not any(t == spot.pictures or t.startswith(spot.pictures + "/") for t in taken):
                spots.append(spot)
        self.spots += spots
        covered = {s.pictures for s in spots} | {s.masks for s in spots if s.masks}
        if not spots and (here.n_media or here.n_packed):
            self._unlabelled(folder, here)
        domain = DOMAIN_FOLDERS.get(own_name.lower(), domain)
        for child in here.folders:
            path = joined(folder, child)
            if path in covered or (spots and is_mask_folder(child)) or any(c.startswith(path + "/") for c in covered):
                continue
            is_split = child.lower() in SPLITS
            below = SPLITS[child.lower()] if is_split else split
            self._visit(path, name if is_split else child, domain, below, row)

    def _texts(self, folder: str, here: Glance) -> None:
        for name in here.lists:
            row = next((r for r in catalog() if r.kind == "text" and r.is_called(name)), None)
            if row is not None:
                self.found.append(FoundSet(row, name, folder, "readme", self.root))

    def _unlabelled(self, folder: str, here: Glance) -> None:
        self._now = folder
        parent = folder.rpartition("/")[0] if folder.rpartition("/")[2].lower() in layouts.IMAGE_FOLDERS else folder
        name = parent.rpartition("/")[2]
        if here.n_media:
            near = did_you_mean(name, layouts.part_names())
            hint = (
                near
                if near.startswith("did")
                else "put them in folders called real and fake, or name them in a manifest"
            )
            problem = f"{here.n_media} pictures or clips whose label nothing tells; not read"
            self._walk.note("warning", "no-label", folder, problem, hint)
        elif here.n_packed:
            problem = f"{here.n_packed} packed files (Parquet, zip, tar); not read"
            self._walk.note("warning", "packed", folder, problem, "unpack them first")


def _part_of(spot: Spot) -> tuple[str, str, str, str]:
    return spot.base, spot.dataset.name, spot.part.name, spot.layout


def _upwards(folder: str) -> Iterator[str]:
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _safe(name: str) -> str:
    """A folder's name as that of a dataset: what a choice could not write is replaced."""
    return "".join("_" if c in ',;|:/\\"' or not c.isprintable() else c for c in name).strip(" .") or "data"


def _is_called_manifest(name: str) -> bool:
    return suffix_of(name) != ".json" and name.lower().partition(".")[0] == "manifest"


def _is_manifest(root: Path, path: str) -> bool:
    """Whether a list has the columns of a manifest: its first row can be read as one."""
    if suffix_of(path) == ".json":
        return False
    try:
        return next(read_manifest(root.joinpath(*path.split("/"))), None) is not None
    except DataError:
        return False


def _manifest_set(root: Path, path: str) -> FoundSet:
    folder, _, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    above = folder.rpartition("/")[2] or os.path.basename(os.path.abspath(root))
    called = above if stem.lower() == "manifest" or stem.lower() in SPLITS else stem
    return FoundSet(plain_dataset(_safe(called)), name, folder, "manifest", root)


def _manifest_rows(found: FoundSet, note: Note) -> Iterator[ManifestRow]:
    path = found.root.joinpath(*joined(found.folder, found.part).split("/"))
    file = printable(str(path))

    def bad(error: DataError) -> None:
        problem = error.found.removeprefix(f"{path}:")
        line, _, rest = problem.partition(": ")
        at, said = (int(line), rest) if line.isdigit() else (0, problem.strip())
        note(Finding("error", "manifest", file, at, said, error.do or error.expected, found.dataset.name))

    rows = read_manifest(path, on_error=bad)
    while True:
        try:
            row = next(rows, None)
        except DataError as error:
            bad(error)
            return
        if row is None:
            return
        paths = [_inside(found.folder, p) if p else "" for p in (row.path, row.mask)]
        if paths[0] is None or paths[1] is None:
            problem = f"{printable(row.path)}: the file or its mask lies outside the manifest's folder"
            hint = "write paths from the manifest's folder"
            note(Finding("error", "outside-root", file, 0, problem, hint, found.dataset.name))
            continue
        yield replace(
            row,
            path=paths[0],
            mask=paths[1],
            dataset=row.dataset or found.dataset.name,
            domain_tag=row.domain_tag or layouts.tag_of(row.label, row.domain),
        )


def _inside(folder: str, path: str) -> str | None:
    """A manifest's path from the root; None for one that leaves the manifest's folder."""
    path = path.replace("\\", "/") if os.sep == "\\" else path
    if path.startswith("/") or os.path.isabs(path) or "://" in path[:12]:
        return None
    steps: list[str] = []
    for step in path.split("/"):
        if step == "..":
            if not steps:
                return None
            steps.pop()
        elif step not in ("", "."):
            steps.append(step)
    return joined(folder, *steps) if steps else None
