"""What the domain tagger is trained on: crops of a manifest's pictures at their own resolution, degraded at random.

A crop's truth follows from its pixels: a crop of an edited picture beside the edit is authentic, one that holds a
sliver of it has no tag. Crops of a batch have one size, drawn anew for each batch, so that the tagger is used to
pictures of many sizes. Not here: the network and its training (``tagger``), whole pictures.

    rows = tag_rows(read_manifest(path)...)
    crop = cut(rows[0], size_px=224, rng=np.random.default_rng(0))
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from internvl_detect.data.engine import run_ordered
from internvl_detect.data.findings import show
from internvl_detect.data.jsonl import atomically
from internvl_detect.data.labels import verity
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.errors import DataError, IvdetectError
from internvl_detect.media.degrade import jpeg
from internvl_detect.media.image import open_image
from internvl_detect.model.tagger_net import METHODS
from internvl_detect.questions import TAG_SENTENCES

TAGS = tuple(TAG_SENTENCES)
CELL_PX = 8
SLIVER = 0.004  # share of a crop that is edited below which the crop has no tag
UNKNOWN = -1.0
ALIGNED = 0.5  # share of the crops that begin where a block of the picture's JPEG does, as a picture saved again does
ENLARGED, MOST_ENLARGED = 0.1, 1.6  # share of the crops that are enlarged, and by how much at most
_OF_LABEL = {"real": "authentic", "ai_generated": "ai_generated", "deepfake": "deepfake", "tampered": "photoshop"}
_KERNELS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)


@dataclass(frozen=True)
class TagRow:
    """A picture with its tag and the mask of what was edited, "" where the whole is of one kind or none is known.

    ``method`` is one of METHODS, "" for another or an unknown one.
    """

    path: str
    tag: str
    mask: str = ""
    group: str = ""
    split: str = ""
    source: str = ""
    method: str = ""

    @property
    def whole(self) -> bool:
        """Whether the truth is the same everywhere in the picture."""
        return self.tag in ("authentic", "ai_generated")


@dataclass(frozen=True)
class Crop:
    """``rgb`` uint8 (S, S, 3); ``tag`` a place in TAGS, ``method`` one in METHODS, -1 where there is none or it is not
    known; ``maps`` float32 (2, S/8, S/8): the share of each cell that is edited, and generated, -1 likewise."""

    rgb: np.ndarray
    tag: int
    maps: np.ndarray
    method: int


def tag_rows(rows: Iterable[ManifestRow], root: Path) -> list[TagRow]:
    """The pictures of a manifest with their tags: the column ``domain_tag`` where it is given, else by label.

    Clips are left out. Raises DataError for a tag that there is none of.
    """
    found = []
    for row in rows:
        if row.is_video:
            continue
        tag = "authentic" if verity(row.label) == "real" else row.domain_tag or _OF_LABEL.get(row.label, "")
        if tag not in TAGS:
            found_tag = f"domain tag {show(tag)}" if tag else f"label {show(row.label)} and no domain tag"
            raise DataError(f"{show(row.path)} has the {found_tag}", expected=f"a tag of {', '.join(TAGS)}")
        mask = str(root / row.mask) if row.mask and tag not in ("authentic", "ai_generated") else ""
        method = row.generator if row.generator in METHODS and tag != "authentic" else ""
        found.append(TagRow(str(root / row.path), tag, mask, row.group, row.split, row.dataset, method))
    return found


_decoded_in: Path | None = None  # where ``keep_decoded`` keeps pictures


def keep_decoded(paths: Sequence[str], folder: str | Path, *, workers: int) -> int:
    """Decode pictures once into files that every process maps into its memory; how many it decoded.

    What a run before left in ``folder`` is kept. Pictures that cannot be read are told when a crop is cut. Raises
    OutputError for a folder that cannot be written to, or has no room left: 3 bytes a pixel.
    """
    global _decoded_in
    _decoded_in = Path(folder)
    left = [(path, at) for path in paths if (at := _kept_at(path)) and not at.is_file()]
    return sum(run_ordered(_keep, left, on_lost=lambda item, why: 0, workers=max(1, workers)))


def _kept_at(path: str) -> Path | None:
    """Where the picture is kept decoded; None where nothing is, or there is no such picture."""
    if _decoded_in is None:
        return None
    try:
        about = Path(path).stat()
    except OSError:
        return None
    key = f"{Path(path).absolute()} {about.st_size} {about.st_mtime_ns}"
    return _decoded_in / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def _keep(item: tuple[str, Path]) -> int:
    path, at = item
    try:
        rgb = _decoded(path)
    except IvdetectError:
        return 0
    with atomically(at) as file:
        np.save(file, rgb)
    return 1


def _decoded(path: str) -> np.ndarray:
    return np.asarray(open_image(path).rgb)


_read = lru_cache(maxsize=64)(_decoded)


def pixels(path: str) -> np.ndarray:
    """The picture as uint8 (H, W, 3), not to be written to. Raises MediaError."""
    if (at := _kept_at(path)) is not None:
        try:
            return np.lib.format.open_memmap(at, mode="r")
        except (OSError, ValueError):  # not there, or broken
            pass
    return _read(path)


def _mask(row: TagRow, size_hw: tuple[int, ...]) -> np.ndarray | None:
    if not row.mask:
        return None
    mask = pixels(row.mask)[..., 0]
    if mask.shape != size_hw:
        (mh, mw), (h, w) = mask.shape, size_hw
        raise DataError(f"{row.mask} is {mw}x{mh}", expected=f"{w}x{h}, as {row.path}")
    return mask >= 128


def cut(row: TagRow, size_px: int, rng: np.random.Generator, *, strength: float = 1.0) -> Crop:
    """A crop of ``size_px``, a multiple of 32; smaller pictures are mirrored. ``strength`` scales how often a crop is
    degraded; 0 gives the picture's own pixels. Raises MediaError and DataError for files that cannot be used."""
    rgb = pixels(row.path)
    return crop_of(row, rgb, _mask(row, rgb.shape[:2]), size_px, rng, strength=strength)


def crop_of(
    row: TagRow, rgb: np.ndarray, mask: np.ndarray | None, size_px: int, rng: np.random.Generator, *, strength: float
) -> Crop:
    """``cut`` of a picture that is in memory, uint8 (H, W, 3), with its boolean (H, W) mask; ``row`` names its kind."""
    height, width = rgb.shape[:2]
    resized, factor = rng.random(), 1.0
    if resized < ENLARGED * strength:
        factor = float(rng.uniform(1.0, MOST_ENLARGED))
    elif resized < (ENLARGED + 0.35) * strength:
        factor = float(rng.uniform(0.45, 1.0))
    want = round(size_px / factor)
    want = min(want, max(size_px, min(width, height)))
    x, y = _corner((width, height), want, mask, rng)
    if rng.random() < ALIGNED:
        x, y = x - x % CELL_PX, y - y % CELL_PX
    h, w = min(want, height - y), min(want, width - x)
    pad = ((0, want - h), (0, want - w))
    crop = np.pad(rgb[y : y + h, x : x + w], (*pad, (0, 0)), mode="symmetric")
    inside = None if mask is None else np.pad(mask[y : y + h, x : x + w], pad, mode="symmetric")
    crop = worn(crop, rng, 0.35 * strength)  # so that no grid of a compression tells a class
    if want != size_px:
        kernel = _KERNELS[int(rng.integers(len(_KERNELS)))]
        crop = np.asarray(Image.fromarray(crop).resize((size_px, size_px), kernel))
        if inside is not None:
            small = Image.fromarray(inside.astype(np.uint8) * 255).resize((size_px, size_px), Image.Resampling.BOX)
            inside = np.asarray(small) >= 128
    if rng.random() < 0.5 * min(1.0, strength):
        crop, inside = crop[:, ::-1], None if inside is None else inside[:, ::-1]
    tag, maps = _truth(row, inside, size_px)
    method = METHODS.index(row.method) if row.method in METHODS and tag > 0 else -1
    return Crop(degraded(crop, rng, strength), tag, maps, method)


def _corner(size: tuple[int, int], want: int, mask: np.ndarray | None, rng: np.random.Generator) -> tuple[int, int]:
    """Where the crop begins; for an edited picture mostly around a pixel of the edit."""
    room = [max(0, n - want) for n in size]
    if mask is not None and rng.random() < 0.7 and mask.any():
        ys, xs = np.nonzero(mask)
        at = int(rng.integers(len(ys)))
        start = (int(xs[at] - rng.integers(want)), int(ys[at] - rng.integers(want)))
        return min(max(0, start[0]), room[0]), min(max(0, start[1]), room[1])
    return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))


def _truth(row: TagRow, inside: np.ndarray | None, size_px: int) -> tuple[int, np.ndarray]:
    cells = size_px // CELL_PX
    maps = np.zeros((2, cells, cells), np.float32)
    if row.tag == "authentic":
        return TAGS.index("authentic"), maps
    if row.tag == "ai_generated":
        maps[0], maps[1] = UNKNOWN, 1.0
        return TAGS.index(row.tag), maps
    if inside is None:
        maps[:] = UNKNOWN
        return TAGS.index(row.tag), maps
    maps[0] = inside.reshape(cells, CELL_PX, cells, CELL_PX).mean((1, 3))
    maps[1] = {"aigc_editing": maps[0], "photoshop": 0.0, "deepfake": UNKNOWN}[row.tag]
    share = float(inside.mean())
    tag = TAGS.index("authentic") if not share else -1 if share < SLIVER else TAGS.index(row.tag)
    return tag, maps


def worn(rgb: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """The same, in a ``share`` of the cases after a compression, as what was posted before."""
    if rng.random() >= share:
        return rgb
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    return np.asarray(jpeg(picture, quality=int(rng.integers(60, 99)), subsampling=int(rng.choice([0, 2]))))


def toned(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brighter or darker, with more or less contrast or colour: what makes pictures of a collection look alike."""
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[int(rng.integers(3))]
    return enhance(picture).enhance(float(rng.uniform(0.6, 1.4)))


def degraded(rgb: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """The crop toned, blurred, sharpened, smoothed, noisy and compressed, each in a part of the cases; the same
    generator gives the same pixels."""
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    chance = rng.random(5)
    if chance[4] < 0.2 * strength:
        picture = toned(picture, rng)
    if chance[0] < 0.1 * strength:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))
    elif chance[0] < 0.2 * strength:
        picture = picture.filter(ImageFilter.UnsharpMask(1.0, int(rng.integers(30, 150))))
    elif chance[0] < 0.23 * strength:
        picture = picture.filter(ImageFilter.MedianFilter(3))
    if chance[1] < 0.12 * strength:
        noisy = np.asarray(picture, np.float32) + rng.normal(0, rng.uniform(1, 5), np.shape(picture))
        picture = Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    if chance[2] < 0.6 * strength:
        coded = io.BytesIO()
        if chance[3] < 0.9:
            quality = int(rng.integers(55, 99))
            picture.save(coded, "JPEG", quality=quality, subsampling=int(rng.choice([0, 2])))
        else:
            picture.save(coded, "WEBP", quality=int(rng.integers(60, 99)), method=0)
        picture = Image.open(coded).convert("RGB")
    return np.asarray(picture)
