"""Twins to fit baselines on: a photograph and its forgery, the same content in the same condition as what is tested.

A window of each photograph is forged, then both twins are shrunk by one draw, saved as a file of the set would be (one
drawn JPEG quality, or none) and treated as every test picture is (``equalise``). So neither content nor size nor
compression tells the class, and the edit lies inside what is looked at. Not here: forged sets to keep (``data.forge``).

    made = twins([("a.jpg", picture), ("b.jpg", other)], side_px=256, qualities=[90, None])
    baseline.fit(made.pictures, made.fake)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image as PILImage

from internvl_detect.data.forge.edits import Rebuild
from internvl_detect.data.forge.methods import METHODS, forge
from internvl_detect.errors import DataError
from internvl_detect.evaluate.equalise import equalise, rng_of, square
from internvl_detect.media.degrade import jpeg

SHRINK = (0.6, 1.0)  # of the window, where the photograph has the pixels
_KERNELS = (PILImage.Resampling.BILINEAR, PILImage.Resampling.BICUBIC, PILImage.Resampling.LANCZOS)


@dataclass
class Twins:
    """``fake`` 0 or 1 of each picture; ``method`` and ``group`` (the photograph) are the same for both of a pair.

    ``masks``: bool (side, side), where the picture was changed: nowhere in a real one, everywhere in one rebuilt as a
    whole. ``failed``: photographs that could not be forged, or are too small.
    """

    pictures: list[PILImage.Image] = field(default_factory=list)
    fake: list[int] = field(default_factory=list)
    method: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def part(self, rows: Sequence[int]) -> tuple[list[PILImage.Image], list[int]]:
        """The pictures and labels of some rows."""
        return [self.pictures[i] for i in rows], [self.fake[i] for i in rows]


def methods_here(rebuilds: bool) -> tuple[str, ...]:
    """The methods of forging that can be done: those of OpenCV where it is installed, decoders where there are some."""
    has_cv2 = importlib.util.find_spec("cv2") is not None
    fit = (name for name, m in METHODS.items() if (has_cv2 or not m.cv2) and (rebuilds or not m.rebuild))
    return tuple(name for name in fit if name != "face_swap")  # needs two aligned faces


def twins(
    photographs: Sequence[tuple[str, PILImage.Image]],
    *,
    side_px: int,
    rebuilds: Sequence[Rebuild] = (),
    qualities: Sequence[int | None] = (None,),
    per_photo: int = 1,
) -> Twins:
    """``per_photo`` pairs of each (name, RGB picture), by different methods in turn.

    ``rebuilds`` are decoders, (H, W, 3) uint8 to the same, taken in turn. ``qualities``: JPEG qualities of the set's
    files whatever their class, None for one that is not JPEG; each pair draws one. The next photograph is the donor.
    """
    methods, made = methods_here(bool(rebuilds)), Twins()
    large = [(name, picture) for name, picture in photographs if min(picture.size) >= side_px]
    made.failed += [name for name, picture in photographs if min(picture.size) < side_px]
    for i, (name, picture) in enumerate(large):
        for number in range(per_photo):
            at = i * per_photo + number
            method, rng = methods[at % len(methods)], rng_of(f"{name}/{number}", 1)
            donor = large[(i + 1 + number) % len(large)][1]
            rebuild = rebuilds[at // len(methods) % len(rebuilds)] if rebuilds else None
            try:
                *pair, changed = _pair(picture, donor, method, rng, rebuild, side_px)
            except DataError:  # a picture without detail, say: the others go on
                made.failed.append(name)
                continue
            quality = qualities[int(rng.integers(len(qualities)))]
            for fake, twin in enumerate(pair):
                saved = twin if quality is None else jpeg(twin, quality=quality)
                made.pictures.append(equalise(saved, rng_of(f"{name}/{number}"), side_px=side_px))
                made.fake.append(fake)
                made.method.append(method)
                made.group.append(name)
                made.masks.append(changed if fake else np.zeros_like(changed))
    return made


def _pair(
    picture: PILImage.Image,
    donor: PILImage.Image,
    method: str,
    rng: np.random.Generator,
    rebuild: Rebuild | None,
    side_px: int,
) -> tuple[PILImage.Image, PILImage.Image, np.ndarray]:
    """Both twins at ``side_px``, uncompressed, and where the second was changed. Raises DataError where nothing can be
    forged."""
    window = min(round(side_px / rng.uniform(*SHRINK)), *picture.size)
    kernel = _KERNELS[int(rng.integers(len(_KERNELS)))]
    real, other = (np.asarray(square(p, window)) for p in (picture, donor))
    edited, mask, _ = forge(real, method, rng, donor=other, rebuild=rebuild)
    first, second = (PILImage.fromarray(values).resize((side_px, side_px), kernel) for values in (real, edited))
    changed = PILImage.fromarray(mask.astype(np.uint8) * 255).resize((side_px, side_px), PILImage.Resampling.BOX)
    return first, second, np.asarray(changed) > 127
