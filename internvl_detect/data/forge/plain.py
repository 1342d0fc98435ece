"""Forgeries that need no OpenCV: a region with soft edges spliced, copied or resampled, and words for it.

They make the samples in the package. For forging sets of one's own there are regions that follow segments, more
methods and fuller words: ``methods``, ``words``, ``folder``.

    edited, mask, record = make_edited(rgb, np.random.default_rng(0), "splice", donor=other)
    print(describe(record, rng))
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from internvl_detect.data.forge.finish import KERNELS, Array
from internvl_detect.data.forge.words import place_of

METHODS = ("splice", "copy_move", "resample", "rebuild")
_NAMES = {
    "splice": ("a piece of another photograph was pasted in", "splice"),
    "copy_move": ("a part of the picture was copied there", "copy-move"),
    "resample": ("it was resampled", "resampling"),
    "rebuild": ("it was rebuilt by a decoder", "inpainting"),
}


def soft_mask(height: int, width: int, rng: np.random.Generator, *, low: float = 0.06, high: float = 0.3) -> Array:
    """An irregular region with soft edges: float32 (H, W) in [0, 1], zero outside it.

    ``low`` and ``high`` bound the share of the picture that it covers, before the edge is softened.
    """
    coarse = np.clip(rng.normal(0.5, 0.2, (6, 6)), 0, 1)
    field = Image.fromarray((coarse * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    cy, cx = rng.uniform(0.18, 0.82) * height, rng.uniform(0.18, 0.82) * width
    stretch = rng.uniform(0.6, 1.6)
    distance = np.hypot((y - cy) / stretch, (x - cx) * stretch) / np.sqrt(height * width)
    score = np.asarray(field, np.float32) / 255 - 2.4 * distance
    share = rng.uniform(low, high)
    hard = score >= np.quantile(score, 1 - share)
    softness = float(rng.uniform(0.6, 4.0)) * min(height, width) / 256
    blurred = Image.fromarray((hard * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(softness))
    return np.asarray(blurred, np.float32) / 255


def resample(rgb: Array, rng: np.random.Generator) -> Array:
    """The whole picture made smaller and larger again with drawn kernels, then sharpened: a decoder without a net."""
    h, w = rgb.shape[:2]
    factor = float(rng.uniform(1.5, 3.0))
    down, up = rng.integers(3), rng.integers(4)
    small = Image.fromarray(rgb).resize((max(8, round(w / factor)), max(8, round(h / factor))), KERNELS[down])
    large = small.resize((w, h), KERNELS[up])
    amount = int(rng.integers(60, 220))
    return np.asarray(large.filter(ImageFilter.UnsharpMask(radius=float(rng.uniform(0.8, 2.0)), percent=amount)))


def _moved(source: Array, height: int, width: int, rng: np.random.Generator) -> Array:
    """A (height, width) window of ``source``, rotated, rescaled and perhaps mirrored."""
    picture = Image.fromarray(source)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = max(float(rng.uniform(0.7, 1.4)), 1.25 * width / picture.width, 1.25 * height / picture.height)
    size = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    kernel = KERNELS[rng.integers(3)]
    picture = picture.resize(size, kernel).rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC)
    margin_x, margin_y = (picture.width - width) // 2, (picture.height - height) // 2
    x = margin_x + int(rng.integers(-margin_x // 2, margin_x // 2 + 1))
    y = margin_y + int(rng.integers(-margin_y // 2, margin_y // 2 + 1))
    return np.asarray(picture.crop((x, y, x + width, y + height)))


def _shifted(rgb: Array, rng: np.random.Generator) -> Array:
    """The picture moved by a quarter to a half of its sides; what comes in from outside is its mirror image."""
    dy, dx = (int(n * rng.uniform(0.25, 0.5)) for n in rgb.shape[:2])
    below, right = rng.random(2) < 0.5
    pad = ((dy, 0) if below else (0, dy), (dx, 0) if right else (0, dx), (0, 0))
    h, w = rgb.shape[:2]
    padded = np.pad(rgb, pad, mode="reflect")
    y, x = (0 if below else dy), (0 if right else dx)
    return padded[y : y + h, x : x + w]


def make_edited(
    rgb: Array,
    rng: np.random.Generator,
    method: str,
    *,
    donor: Array | None = None,
) -> tuple[Array, Array, dict[str, Any]]:
    """A forged copy of the (H, W, 3) uint8 picture, the boolean (H, W) mask, and a record of what was done.

    Pixels outside the mask are untouched. ``donor`` is the other photograph of a splice; "rebuild" resamples
    as a decoder would. ValueError for an unknown method or a splice without a donor.
    """
    if method not in METHODS:
        raise ValueError(f"edit method {method!r}: expected one of {', '.join(METHODS)}")
    if method == "splice" and donor is None:
        raise ValueError("a splice needs another photograph: pass donor=")
    h, w = rgb.shape[:2]
    alpha = soft_mask(h, w, rng)
    if method == "splice" and donor is not None:
        other = _moved(donor, h, w, rng)
    elif method == "copy_move":
        other = _moved(rgb, h, w, rng)
        other = _shifted(other, rng)
    else:
        other = resample(rgb, rng)
    mixed = rgb + alpha[..., None] * (other.astype(np.float32) - rgb)
    mask = alpha > 0
    edited = np.where(mask[..., None], np.clip(np.rint(mixed), 0, 255).astype(np.uint8), rgb)
    ys, xs = np.nonzero(mask)
    record = {
        "method": method,
        "box_xyxy": [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1],
        "share": round(float(alpha.mean()), 4),
        "place": place_of(mask),
    }
    return edited, mask, record


def describe(record: dict[str, Any], rng: np.random.Generator) -> str:
    """The answer of a training row, from what was really done: "No. ...", "Yes. The whole picture ..." or a part.

    ``record`` is that of ``make_edited``, ``{"method": "whole"}`` for a picture rebuilt as a whole, or
    ``{"method": "none"}`` for a photograph.
    """
    method = record["method"]
    if method == "none":
        choices: tuple[str, ...] = (
            "No.",
            "No. The picture looks like a photograph.",
            "No. Noise and fine detail are even over the whole picture.",
        )
    elif method == "whole":
        choices = (
            "Yes. The whole picture was generated.",
            "Yes. The fine detail of the whole picture was made by a decoder.",
            "Yes. There are traces of a generator over the whole picture.",
        )
    else:
        how, short = _NAMES[method]
        choices = (
            f"Yes. The {record['place']} part was edited ({short}).",
            f"Yes. The {record['place']} part was changed: {how}.",
            f"Yes. There are traces of editing in the {record['place']} part ({short}).",
        )
    # Mostly the first: what can't be foreseen in an answer is noise to a small model that learns from it.
    return choices[int(rng.choice(3, p=(0.8, 0.1, 0.1)))]
