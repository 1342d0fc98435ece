"""The pictures of a folder of datasets, ready to be measured: chosen, cut and compressed alike, with what is missing.

    found = gather("dataset", limit=60, side_px=256)
    found.items[0].row.path, found.items[0].pictures          # one of a picture, some frames of a clip
    found.missing                                             # what could not be read, and which sets are not there

Whatever ``find_datasets`` knows is read: the README's tree, published layouts, manifests. What is held is the cut
squares only. Not here: resuming and sharding over a large set (``ivdetect evaluate``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image as PILImage

from internvl_detect.data.datasets.catalog import DOMAIN_FOLDERS, catalog
from internvl_detect.data.datasets.readers import FoundSet, find_datasets
from internvl_detect.data.draws import number_of
from internvl_detect.data.findings import Finding, printable
from internvl_detect.data.folders import Note
from internvl_detect.data.manifest import ManifestRow, place_group
from internvl_detect.data.prepare.regions import read_mask
from internvl_detect.errors import IvdetectError, MediaError
from internvl_detect.evaluate.baselines.outside import outside_of
from internvl_detect.evaluate.equalise import equalise, rng_of, square, square_mask
from internvl_detect.evaluate.twins import SHRINK
from internvl_detect.media.cuts import open_media
from internvl_detect.media.image import Image

# The parts of the README's tree, in its order; its MMTD-Set is words about pictures of the others.
README_PARTS: tuple[str, ...] = (
    "CASIAv2_Tp",
    "CASIAv2_Au",
    "FR_Tp",
    "FR_Au",
    "CASIAv1+_Tp",
    "CASIAv1+_Au",
    "IMD2020_Tp",
    "IMD2020_Au",
)
README_PARTS += ("Columbia", "coverage", "NIST16", "DSO", "Korus", "FaceAPP_Train", "FaceAPP_Val", "FFHQ_Train")
README_PARTS += ("FFHQ_Val", "SD_inpaint_Train", "SD_inpaint_Val", "COCO2017_Train", "COCO2017_Val")
MOST_TOLD = 200


@dataclass
class Item:
    """One file. ``pictures`` are equalised squares: one, or those of a clip's frames, ``times_s`` their seconds.

    ``outside`` is a picture of one pixel that stands for the file as it is: its ``info["file"]`` is what
    ``baselines.outside`` reads. ``window`` is the middle of a photograph to make twins of, None for all else.
    """

    row: ManifestRow
    pictures: list[PILImage.Image]
    outside: PILImage.Image
    times_s: tuple[float, ...] = ()
    window: PILImage.Image | None = None

    @property
    def fake(self) -> int:
        """1 for every label but real."""
        return int(self.row.label != "real")

    @property
    def fits(self) -> bool:
        """Whether it is for fitting and not for the test: by its split, where the set has one, else by its group."""
        if self.row.split:
            return self.row.split == "train"
        return place_group(self.row.group, {"fit": 0.5, "test": 0.5}, 0) == "fit"


@dataclass
class Gathered:
    """``items`` in the order of their paths; ``missing`` in words, ``small`` how many files were left out for size."""

    items: list[Item] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    small: Counter[str] = field(default_factory=Counter)


def gather(root: str | Path, *, limit: int, side_px: int, frames: int = 4) -> Gathered:
    """At most ``limit`` files of each dataset, label and kind: those of lowest hash, so the choice stays when others
    come. Files with a side under ``side_px`` are left out: growing them would tell their class where sizes do.

    Raises DataError when ``root`` is not there.
    """
    root, made = Path(root), Gathered()
    trouble: Counter[str] = Counter()

    def note(finding: Finding) -> None:
        trouble[f"{finding.code}: {finding.problem}"] += 1

    found = find_datasets(root, note=note)
    for row in sorted(_chosen(found, limit, note), key=lambda row: row.path):
        try:
            opened = open_media(str(root / row.path), frames=frames)
            if row.mask and not square_mask(read_mask(root / row.mask), side_px).any():
                raise MediaError(f"{row.path}: what was edited lies outside the square that is looked at")
        except IvdetectError as error:
            made.missing.append(str(error).replace(f"{root}/", ""))
            continue
        pictures = [opened.rgb] if isinstance(opened, Image) else list(opened.frames)
        if "2x2 grid" in row.kind:  # four pictures in one: the seam in the middle would give them away
            pictures = [p.crop((0, 0, p.width // 2, p.height // 2)) for p in pictures]
        if min(min(p.size) for p in pictures) < side_px:
            made.small[row.dataset or "files"] += 1
            continue
        cut = [equalise(p, rng_of(f"{row.path}#{i}"), side_px=side_px) for i, p in enumerate(pictures)]
        times = () if isinstance(opened, Image) else tuple(opened.times_s)
        window = None
        if isinstance(opened, Image) and row.label == "real":
            window = square(pictures[0], round(side_px / SHRINK[0]))
        made.items.append(Item(row, cut, outside_of(opened), times, window))
    made.missing += [f"{set_}: {n} files under {side_px} px left out" for set_, n in made.small.items()]
    made.missing += [f"{text} ({n} times)" if n > 1 else text for text, n in trouble.most_common(MOST_TOLD)]
    made.missing += list(not_there(found))
    made.missing = [printable(text) for text in made.missing[:MOST_TOLD]]
    return made


def not_there(found: list[FoundSet]) -> Iterator[str]:
    """A line for each part of the README's tree that was not found, with where it is expected; none where only
    manifests were found. A set that lies there as published has no parts for training and validation."""
    if found and all(one.layout == "manifest" for one in found):
        return
    here = {(one.dataset.name, one.part) for one in found}
    as_published = {(s.dataset.name, s.part.label) for one in found for s in one.spots if s.layout != "readme"}
    folder = {domain: name for name, domain in DOMAIN_FOLDERS.items()}
    for name in README_PARTS:
        dataset, part = next((row, p) for row in catalog() for p in row.parts if p.name == name)
        if (dataset.name, name) not in here and (dataset.name, part.label) not in as_published:
            where = f"{folder[dataset.domain]}/{name}/image" + (" and mask" if part.masks else "")
            yield f"{dataset.name}: {name} is not there; expected in {where}. {dataset.obtain}"


def _chosen(found: list[FoundSet], limit: int, note: Note) -> Iterator[ManifestRow]:
    kept: dict[tuple[str, str, str], list[tuple[int, str, ManifestRow]]] = {}
    for one in found:
        if one.dataset.kind == "text":  # words about pictures that stand in other sets
            continue
        for row in one.rows(note):
            bucket = kept.setdefault((row.dataset, row.label, row.kind), [])
            bucket.append((number_of(row.path), row.path, row))
            if len(bucket) >= 4 * limit:
                _least(bucket, limit)
    for bucket in kept.values():
        _least(bucket, limit)
        yield from (row for _, _, row in bucket)


def _least(bucket: list[tuple[int, str, ManifestRow]], limit: int) -> None:
    bucket.sort(key=lambda each: each[:2])
    del bucket[limit:]
