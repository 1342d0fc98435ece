"""What the internet does to pictures, as pure functions, and the seeded policy that ``data_augment`` turns on.

Each operation takes an RGB picture and explicit parameters and returns a new RGB picture, given a generator where
it needs chance. Same picture, same parameters, same seed: same bytes. Not a model of any camera or platform.

    degrade(rgb, "jpeg", quality=70)
    augment(rgb, np.random.default_rng(7))
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageFilter

from internvl_detect.errors import ConfigError

# The policy of ``augment``: how probable each step is, and its range.
CROP_P, CROP_KEEP = 0.3, (0.7, 1.0)  # share of each side that is kept
FLIP_P = 0.5
RESIZE_P, RESIZE_FACTOR = 0.3, (0.5, 1.5)
BLUR_P, BLUR_RADIUS = 0.2, (0.3, 1.2)  # px
JPEG_P, JPEG_QUALITY = 0.5, (60, 95)
LEAST_PX = 32  # augment makes no side shorter than this by cropping or shrinking
MOST_PIXELS = 50_000_000  # nor a picture larger by growing


def jpeg(rgb: PILImage.Image, *, quality: int, subsampling: int = 2) -> PILImage.Image:
    """Compress as JPEG (quality 1 to 100; ``subsampling`` 2 is 4:2:0, 0 is 4:4:4) and decode again."""
    _within("quality", quality, 1, 100)
    return _round_trip(rgb, "JPEG", quality=int(quality), subsampling=subsampling)


def webp(rgb: PILImage.Image, *, quality: int) -> PILImage.Image:
    """Compress as lossy WebP (quality 0 to 100) and decode again. Sides up to 16383 px."""
    _within("quality", quality, 0, 100)
    _within("side", max(rgb.size), 1, 16383)
    return _round_trip(rgb, "WEBP", quality=int(quality), method=2)


def resize(rgb: PILImage.Image, *, factor: float) -> PILImage.Image:
    """Scale both sides by ``factor`` (0.01 to 8), bicubic; no side below 1 px."""
    _within("factor", factor, 0.01, 8)
    size = (max(1, round(rgb.width * factor)), max(1, round(rgb.height * factor)))
    return rgb.resize(size, PILImage.Resampling.BICUBIC)


def blur(rgb: PILImage.Image, *, radius: float) -> PILImage.Image:
    """Gaussian blur; ``radius`` is the standard deviation in pixels, 0 to 50."""
    _within("radius", radius, 0, 50)
    return rgb.filter(ImageFilter.GaussianBlur(radius))


def noise(rgb: PILImage.Image, *, sigma: float, rng: np.random.Generator) -> PILImage.Image:
    """Add Gaussian noise of standard deviation ``sigma`` (0 to 128 grey levels), each channel for itself, clipped."""
    _within("sigma", sigma, 0, 128)
    values = np.asarray(rgb, np.float32)
    values = values + np.float32(sigma) * rng.standard_normal(values.shape, dtype=np.float32)
    return PILImage.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def crop(rgb: PILImage.Image, *, box_xyxy: tuple[int, int, int, int]) -> PILImage.Image:
    """The part of the picture between (x0, y0) and (x1, y1), in pixels, which must lie inside it."""
    x0, y0, x1, y1 = box_xyxy
    if not (0 <= x0 < x1 <= rgb.width and 0 <= y0 < y1 <= rgb.height):
        expected = f"a box with area inside {rgb.width}x{rgb.height} px"
        raise ConfigError(f"a crop to {tuple(box_xyxy)}", expected=expected)
    return rgb.crop((x0, y0, x1, y1))


def flip(rgb: PILImage.Image) -> PILImage.Image:
    """Left and right exchanged."""
    return rgb.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)


def double_jpeg(rgb: PILImage.Image, *, first: int, quality: int, shift_px: int = 0) -> PILImage.Image:
    """JPEG at quality ``first``, ``shift_px`` (0 to 7) rows and columns cut off above and left, JPEG at ``quality``.

    0 leaves both grids of 8x8 blocks on each other; sides under 16 px are not cut.
    """
    _within("shift_px", shift_px, 0, 7)
    once = jpeg(rgb, quality=first)
    if shift_px and min(rgb.size) >= 16:
        once = once.crop((shift_px, shift_px, *once.size))
    return jpeg(once, quality=quality)


def screenshot(rgb: PILImage.Image, *, scale: float) -> PILImage.Image:
    """As if shown at ``scale`` (0.1 to 4) of its size on a screen and captured: bilinear, no compression after (PNG).

    A stand-in: no sub-pixel rendering, colour management or moire of a photographed screen.
    """
    _within("scale", scale, 0.1, 4)
    size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    return rgb.resize(size, PILImage.Resampling.BILINEAR)


# Longer side in px, JPEG quality, how often it is passed on. Stand-ins in the manner of platforms, not measured ones:
# what a platform does changes by year, app and upload.
CHAINS: dict[str, tuple[int, int, int]] = {
    "large": (2048, 85, 1),
    "feed": (1080, 75, 1),
    "messenger": (1280, 70, 1),
    "messenger_twice": (1280, 70, 2),
    "thumbnail": (512, 60, 1),
}


def social(rgb: PILImage.Image, *, chain: str) -> PILImage.Image:
    """One of CHAINS: shrunk to its longer side (never grown; Lanczos), then JPEG 4:2:0; again for each passing on."""
    if chain not in CHAINS:
        raise ConfigError(f"chain {chain!r}", expected=", ".join(CHAINS))
    longer, quality, times = CHAINS[chain]
    for _ in range(times):
        if max(rgb.size) > longer:
            factor = longer / max(rgb.size)
            size = (max(1, round(rgb.width * factor)), max(1, round(rgb.height * factor)))
            rgb = rgb.resize(size, PILImage.Resampling.LANCZOS)
        rgb = jpeg(rgb, quality=quality)
    return rgb


OPERATIONS: dict[str, Callable[..., PILImage.Image]] = {
    "jpeg": jpeg,
    "webp": webp,
    "resize": resize,
    "blur": blur,
    "noise": noise,
    "crop": crop,
    "flip": flip,
    "double_jpeg": double_jpeg,
    "screenshot": screenshot,
    "social": social,
}


def degrade(rgb: PILImage.Image, operation: str, **parameters: Any) -> PILImage.Image:
    """One operation by name. Raises ``ConfigError`` for a name or a parameter that it does not know."""
    if operation not in OPERATIONS:
        raise ConfigError(f"degradation {operation!r}", expected=", ".join(OPERATIONS))
    try:
        return OPERATIONS[operation](rgb, **parameters)
    except TypeError as error:
        raise ConfigError(f"degradation {operation} with {parameters}", expected=str(error)) from None


def augment(rgb: PILImage.Image, rng: np.random.Generator) -> PILImage.Image:
    """The training policy: crop, flip, resize, light blur, JPEG, each by its own chance, in this order."""
    return augment_with_mask(rgb, None, rng)[0]


def augment_with_mask(
    rgb: PILImage.Image, mask: PILImage.Image | None, rng: np.random.Generator
) -> tuple[PILImage.Image, PILImage.Image | None]:
    """``augment``, and what becomes of the picture's mask (mode L, 0 or 255): cropped, flipped and resized alike.

    Every chance and amount is drawn whether it is used or not, so that what a seed means for one step does not hang on
    the steps before it.
    """
    use = rng.random(5)
    keep, place = rng.uniform(*CROP_KEEP, 2), rng.random(2)
    factor, radius = rng.uniform(*RESIZE_FACTOR), rng.uniform(*BLUR_RADIUS)
    quality = int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1))
    if use[0] < CROP_P:
        box = _crop_box(rgb.size, keep, place)
        rgb, mask = crop(rgb, box_xyxy=box), mask and mask.crop(box)
    if use[1] < FLIP_P:
        rgb, mask = flip(rgb), mask and flip(mask)
    if use[2] < RESIZE_P and min(rgb.size) * factor >= LEAST_PX and rgb.width * rgb.height * factor**2 <= MOST_PIXELS:
        rgb = resize(rgb, factor=factor)
        mask = mask and mask.resize(rgb.size, PILImage.Resampling.BOX).point(lambda level: 255 * (level >= 128))
    if use[3] < BLUR_P:
        rgb = blur(rgb, radius=radius)
    if use[4] < JPEG_P and max(rgb.size) <= 65_500:  # what a JPEG can hold
        rgb = jpeg(rgb, quality=quality)
    return rgb, mask


def _crop_box(size: tuple[int, int], keep: np.ndarray, place: np.ndarray) -> tuple[int, int, int, int]:
    sides = [min(full, max(LEAST_PX, round(full * share))) for full, share in zip(size, keep, strict=True)]
    starts = [int((full - side) * where) for full, side, where in zip(size, sides, place, strict=True)]
    return starts[0], starts[1], starts[0] + sides[0], starts[1] + sides[1]


def _round_trip(rgb: PILImage.Image, kind: str, **options: Any) -> PILImage.Image:
    buffer = io.BytesIO()
    clean = rgb.copy() if rgb.info else rgb
    clean.info = {}  # Pillow would write a profile or comment of the source into the file
    clean.save(buffer, kind, **options)
    buffer.seek(0)
    with PILImage.open(buffer, formats=[kind]) as again:
        again.load()
        return again.convert("RGB") if again.mode != "RGB" else again.copy()


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} {value}", expected=f"{least} to {most}")
