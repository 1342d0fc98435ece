"""The same treatment for both classes before anything is measured: one size rule and one JPEG compression.

GenImage's fakes are PNG and its photographs JPEG; many face sets have one size a class. A detector that reads that
scores well and has learnt nothing. After ``equalise`` size, format and quality say nothing of the class, because they
are drawn without looking at it. What compression did *before* (traces of a first JPEG) stays, as does content.

    same = equalise(picture, rng_of(path))
"""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image as PILImage

from internvl_detect.media.degrade import jpeg

SIDE_PX = 512  # of the square that is cut out
QUALITY = (75, 95)
RULE = (
    "the middle square, at most 512 px; a smaller one stays as it is unless a common side is given; JPEG 4:2:0 at a "
    "quality drawn from 75 to 95 by the file's name"
)


def equalise(
    picture: PILImage.Image,
    rng: np.random.Generator,
    *,
    side_px: int = SIDE_PX,
    quality: tuple[int, int] = QUALITY,
    exact: bool = False,
) -> PILImage.Image:
    """The middle square of the RGB picture, native pixels where it has them, compressed once as JPEG.

    The square has ``side_px`` or the picture's shorter side, whichever is less; with ``exact`` a smaller picture is
    grown (bicubic), so that every picture has one size. ``rng`` draws the quality, which is noted in
    ``info["file"]`` for the baseline that looks at a file's outside alone.
    """
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    drawn = int(rng.integers(quality[0], quality[1] + 1))
    made = jpeg(square(rgb, side_px, exact=exact), quality=drawn)
    made.info["file"] = {"format": "JPEG", "mode": "RGB", "quality": drawn}
    return made


def square(picture: PILImage.Image, side_px: int, *, exact: bool = False) -> PILImage.Image:
    """The middle square alone, without compression: what is done to masks too."""
    side = min(side_px, *picture.size)
    x, y = (picture.width - side) // 2, (picture.height - side) // 2
    cut = picture.crop((x, y, x + side, y + side))
    if exact and side < side_px:
        kernel = PILImage.Resampling.BICUBIC if picture.mode == "RGB" else PILImage.Resampling.NEAREST
        cut = cut.resize((side_px, side_px), kernel)
    return cut


def square_mask(mask: np.ndarray, side_px: int) -> np.ndarray:
    """What that square leaves of a boolean (H, W) mask."""
    return np.asarray(square(PILImage.fromarray(mask.astype(np.uint8) * 255), side_px)) > 127


def common_side(sizes: list[tuple[int, int]], most_px: int = SIDE_PX) -> int:
    """The side (px) that every one of the (width, height) sizes has at least, ``most_px`` at most; 32 at least."""
    return max(32, min([most_px, *(min(size) for size in sizes)]))


def rng_of(name: str, seed: int = 0) -> np.random.Generator:
    """A generator from the file's name and ``seed``: the same file is treated alike in every run and order."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))
