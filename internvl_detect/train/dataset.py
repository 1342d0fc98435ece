"""Rows of encoded samples for the trainer: opens media, augments, cuts tiles, builds ids and labels.

What row i holds depends on (settings, seed, i) alone, so a resumed run sees the same pictures. Not here: which samples
share a row (``packing``), lengths (``corpus``), tensors (``collate``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image as PILImage
from torch.utils.data import Dataset

from internvl_detect.data.conversations.meta import Sample
from internvl_detect.data.prepare.regions import read_mask
from internvl_detect.data.storage.members import opened, stated_size
from internvl_detect.errors import IvdetectError, MediaError, OutputError
from internvl_detect.media.image import open_image
from internvl_detect.media.tiles import Tiles, TileSettings, count_tiles, cut_tiles
from internvl_detect.train.collate import Broken, Item, Row, Target
from internvl_detect.train.corpus import Corpus, Encoding, Problem, marks, placed
from internvl_detect.train.packing import Plan

TRUTH = {"real": 0, "fake": 1}


class Rows(Dataset):
    """Row i of ``plan`` as a list of Items. With ``on_broken`` "skip" a sample that fails now is left out and listed
    in ``skipped_file``; with "error" it becomes a Broken. ``augment`` False never degrades (validation)."""

    def __init__(
        self,
        corpus: Corpus,
        encoding: Encoding,
        plan: Plan,
        *,
        seed: int = 0,
        augment: bool = True,
        on_broken: str = "skip",
        skipped_file: str = "",
    ) -> None:
        self.corpus, self.encoding, self.plan = corpus, encoding, plan
        self.seed, self.augment, self.on_broken, self.skipped_file = seed, augment, on_broken, skipped_file

    def __len__(self) -> int:
        return len(self.plan.rows)

    def __getitem__(self, row: int) -> Row:
        items: Row = []
        for entry in self.plan.rows[row]:
            number, epoch = self.plan.sample(entry)
            try:
                rng = np.random.default_rng([self.seed, epoch, number]) if self.augment else None
                items.append(encode_sample(self.corpus[number], self.encoding, rng, tag=number))
            except IvdetectError as error:
                dataset, file, line = self.corpus.place(number)
                if self.on_broken == "error":
                    ended = placed(error, file, line)
                    return [Broken(ended.found, ended.expected, ended.do)]
                if self.skipped_file:
                    append_line(self.skipped_file, Problem(dataset, file, line, str(error)).to_dict())
        return items


def encode_sample(sample: Sample, encoding: Encoding, rng: np.random.Generator | None = None, *, tag: int = -1) -> Item:
    """One sample ready for a row. ``rng`` degrades its pictures when its dataset asks for that (None: never).

    Raises MediaError or DataError for a sample that cannot be used.
    """
    pixels: list[np.ndarray] = []
    target: Target | None = None
    seed = int(rng.integers(2**31)) if rng is not None else 0
    if sample.video is not None:
        fit = encoding.fit(sample, [])
        counts = list(fit.tiles_per_image)
        for frame in _frames(sample, len(counts)):
            pixels.append(cut_tiles(frame, fit.settings, seed=seed).pixels[:1])
    else:
        pictures = [_picture(path) for path in sample.images]
        fit = encoding.fit(sample, [p.size for p in pictures])
        counts = []
        for picture, planned in zip(pictures, fit.tiles_per_image, strict=True):
            settings = fit.settings
            marked = encoding.seg_id is not None and marks(sample)
            mask = _mask(sample, picture.size) if marked else None
            if rng is not None and sample.data_augment:
                picture, mask = _augmented(picture, mask, rng)
                settings = _at_most(picture.size, settings, planned)
            cut = cut_tiles(picture, settings, seed=seed)
            tiles = cut.pixels
            if mask is not None:
                target = _target(picture, mask, cut)
            counts.append(len(tiles))
            pixels.append(tiles)
    encoded = encoding.encode(sample, counts)
    return Item(
        encoded.input_ids,
        encoded.labels,
        np.concatenate(pixels) if pixels else None,
        TRUTH.get(sample.label or "", -1),
        tag,
        target,
    )


def _mask(sample: Sample, size_wh: tuple[int, int]) -> PILImage.Image:
    """What a sample marks, 0 or 255 a pixel; nothing in an authentic picture."""
    if sample.mask is None or sample.label == "real":
        return PILImage.new("L", size_wh)
    mask = PILImage.fromarray(read_mask(sample.mask).astype(np.uint8) * 255)
    if mask.size != size_wh:
        raise MediaError(f"{sample.mask} is {mask.width}x{mask.height} px", expected=f"{size_wh[0]}x{size_wh[1]}")
    return mask


def _target(picture: Any, mask: PILImage.Image, cut: Tiles) -> Target:
    boxes = [tuple(map(int, b)) for b, whole in zip(cut.boxes_xyxy, cut.is_thumbnail, strict=True) if not whole]
    truth = (np.asarray(mask) > 0).astype(np.uint8)
    return Target(np.array(picture, np.uint8), truth, boxes)  # type: ignore[arg-type]


def _at_most(size_wh: tuple[int, int], settings: TileSettings, planned: int) -> TileSettings:
    """Settings that cut a picture whose shape an augmentation changed into no more tiles than its row has room for."""
    limit = settings.max_tiles
    while count_tiles(*size_wh, settings) > planned and limit > 1:
        limit -= 1
        settings = replace(settings, max_tiles=limit, min_tiles=min(settings.min_tiles, limit))
    return settings


def _augmented(picture: Any, mask: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """As it is where a crop would leave nothing of what the mask marks: the answer would no longer be true."""
    from internvl_detect.media.degrade import augment_with_mask

    made, kept = augment_with_mask(picture, mask, rng)
    gone = mask is not None and mask.getbbox() is not None and kept.getbbox() is None
    return (picture, mask) if gone else (made, kept)


def _picture(path: str) -> Any:
    with opened(path) as source:
        picture = open_image(source).rgb
    if stated_size(path) not in (None, picture.size):  # its row was packed by that size
        raise MediaError(f"{path} is not of the size that its shard's index says", expected=f"{stated_size(path)} px")
    return picture


def _frames(sample: Sample, count: int) -> Sequence[Any]:
    from internvl_detect.media.video import open_video

    bound = getattr(sample, "clip_s", None)
    with opened(sample.video or "") as source:
        return open_video(source, frames=count, bound=bound).frames


def append_line(path: str, row: dict[str, Any]) -> None:
    """One JSON line in one write, so that several processes may add to a file. Raises OutputError."""
    line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror}", do="free space") from None
