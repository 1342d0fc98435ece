"""Regions to edit: they follow what is in the picture, in three classes of size.

Four kinds. ``superpixels``: segments of like colour grown together. ``grabcut``: what GrabCut takes for the object in
a drawn box. ``colour``: one connected patch of a colour. ``blob``: an irregular shape that follows nothing, as a hand
draws it. They are found on a small copy and brought to full size with smooth outlines. Not here: faces (``faces``),
what happens in a region (``methods``).

    region = draw_region(rgb, np.random.default_rng(0), size="medium")
    region.mask, region.kind
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from internvl_detect.data.forge.finish import Array
from internvl_detect.data.forge.opencv import need_cv2
from internvl_detect.data.forge.plain import soft_mask
from internvl_detect.data.forge.superpixels import grow, superpixels

SIZES = {"small": (0.01, 0.05), "medium": (0.05, 0.15), "large": (0.15, 0.40)}  # shares of the picture
KINDS = ("superpixels", "grabcut", "colour", "blob")
NEED_CV2 = ("grabcut", "colour")
WORKING_PX = 128  # longer side of the copy that regions are found on
TRIES = 3


@dataclass(frozen=True)
class Region:
    """``mask`` is boolean (H, W); ``kind`` one of KINDS."""

    mask: Array
    kind: str


def size_of(share: float) -> str:
    """The class of a region that covers this share of the picture; below 1 % counts as small, above 40 % as large."""
    return next((name for name, (_, high) in SIZES.items() if share < high), "large")


def draw_region(
    rgb: Array, rng: np.random.Generator, *, size: str | None = None, kinds: Sequence[str] = KINDS
) -> Region:
    """A region of the (H, W, 3) uint8 picture of the class ``size`` (drawn if None), of one of ``kinds``.

    Where a segment of that size is not found in three tries, it is a blob. ConfigError when a kind needs OpenCV and
    it is not there.
    """
    h, w = rgb.shape[:2]
    low, high = SIZES[size or str(rng.choice(list(SIZES)))]
    kind = kinds[int(rng.integers(len(kinds)))]
    scale = min(1.0, WORKING_PX / max(h, w))
    to = (max(8, round(w * scale)), max(8, round(h * scale)))
    small = np.asarray(Image.fromarray(rgb).resize(to, Image.Resampling.BILINEAR, reducing_gap=2.0))
    finders = {"superpixels": _of_superpixels, "grabcut": _of_grabcut, "colour": _of_colour, "blob": _blob}
    for _ in range(TRIES):
        share = float(rng.uniform(low + 0.1 * (high - low), high - 0.1 * (high - low)))
        mask = full_size(finders[kind](small, rng, share), (w, h))
        if low <= mask.mean() < high:
            return Region(mask, kind)
    share = (low + high) / 2
    return Region(full_size(_blob(small, rng, share), (w, h)), "blob")


def full_size(mask: Array, size_wh: tuple[int, int]) -> Array:
    """A small boolean mask at (width, height), its outline smoothed over a pixel and a half of the small one."""
    soft = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1.0))
    return np.asarray(soft.resize(size_wh, Image.Resampling.BICUBIC)) >= 128


def _blob(small: Array, rng: np.random.Generator, share: float) -> Array:
    return soft_mask(small.shape[0], small.shape[1], rng, low=share, high=share) >= 0.5


def _of_superpixels(small: Array, rng: np.random.Generator, share: float) -> Array:
    even = np.asarray(Image.fromarray(small).filter(ImageFilter.GaussianBlur(1.0)))
    return grow(superpixels(even), even, rng, pixels=round(share * small.shape[0] * small.shape[1]))


def _of_grabcut(small: Array, rng: np.random.Generator, share: float) -> Array:
    cv2 = need_cv2("GrabCut")
    h, w = small.shape[:2]
    area, stretch = share / 0.55, rng.uniform(0.6, 1.6)
    centre_y, centre_x = rng.uniform(0.2, 0.8, 2)
    best = np.zeros((h, w), bool)
    for _ in range(2):  # the second box corrects for how much of the first one was object
        box_h = int(np.clip(h * np.sqrt(area * stretch), 6, h - 3))
        box_w = int(np.clip(w * np.sqrt(area / stretch), 6, w - 3))
        y = int(np.clip(centre_y * h - box_h / 2, 1, h - box_h - 1))
        x = int(np.clip(centre_x * w - box_w / 2, 1, w - box_w - 1))
        found = np.zeros((h, w), np.uint8)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(int(rng.integers(2**31)))  # it starts from a k-means
        cv2.grabCut(np.ascontiguousarray(small), found, (x, y, box_w, box_h), *models, 1, cv2.GC_INIT_WITH_RECT)
        cut = _largest(np.isin(found, (cv2.GC_FGD, cv2.GC_PR_FGD)))
        if abs(cut.mean() - share) < abs(best.mean() - share):
            best = cut
        if 0.6 * share < cut.mean() < 1.6 * share:
            break
        area = min(0.9, area * float(np.clip(share / max(cut.mean(), 1e-3), 0.3, 4.0)))
    return best


def _of_colour(small: Array, rng: np.random.Generator, share: float) -> Array:
    cv2 = need_cv2("a region by colour")
    h, w = small.shape[:2]
    even = cv2.medianBlur(np.ascontiguousarray(small), 5)
    start = (int(rng.integers(w)), int(rng.integers(h)))
    best = np.zeros((h, w), bool)
    for tolerance in (4, 7, 11, 16, 24, 36, 54):
        flooded = np.zeros((h + 2, w + 2), np.uint8)
        flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (1 << 8)
        cv2.floodFill(even, flooded, start, 0, (tolerance,) * 3, (tolerance,) * 3, flags)
        found = _largest(flooded[1:-1, 1:-1] > 0)
        if abs(found.mean() - share) < abs(best.mean() - share):
            best = found
    return best


def _largest(mask: Array) -> Array:
    """The largest connected part of a boolean mask, its holes filled."""
    cv2 = need_cv2("a region's outline")
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    outlines = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    filled = np.zeros(mask.shape, np.uint8)
    if outlines:
        cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled > 0
