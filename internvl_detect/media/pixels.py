"""Bring any mode that Pillow decodes to upright 8-bit RGB, and say in words what was done.

The reference calls ``convert("RGB")``; so does this wherever that is right: alpha is dropped (not put on white). Where
it would clip (16 and 32 bit, float) the values are scaled instead. Colour profiles are not applied; nor does the
reference apply them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image as PILImage
from PIL import ImageCms

T = PILImage.Transpose
UPRIGHT = {
    2: (T.FLIP_LEFT_RIGHT, "mirrored"),
    3: (T.ROTATE_180, "rotated by 180 degrees"),
    4: (T.FLIP_TOP_BOTTOM, "flipped upside down"),
    5: (T.TRANSPOSE, "mirrored and rotated by 90 degrees"),
    6: (T.ROTATE_270, "rotated by 90 degrees clockwise"),
    7: (T.TRANSVERSE, "mirrored and rotated by 270 degrees"),
    8: (T.ROTATE_90, "rotated by 90 degrees counter-clockwise"),
}
_SAID = {
    "1": "1 bit per pixel converted to RGB",
    "L": "grey converted to RGB",
    "P": "palette converted to RGB",
    "CMYK": "CMYK converted to RGB without a colour profile",
    "YCbCr": "YCbCr converted to RGB",
    "HSV": "HSV converted to RGB",
}
_ALPHA = {"LA": "grey", "La": "grey", "PA": "palette", "RGBA": "RGB", "RGBa": "RGB", "RGBX": "RGB"}


def to_rgb(picture: PILImage.Image) -> tuple[PILImage.Image, list[str]]:
    """(mode RGB, what was done). A picture that is RGB already comes back as it is, not copied.

    Raises ``ValueError`` for a mode that has no way to RGB.
    """
    mode = picture.mode
    if mode == "RGB":
        return picture, []
    if mode.startswith("I") or mode == "F":
        grey, how = _to_grey(picture)
        return PILImage.fromarray(grey).convert("RGB"), [f"{how}; grey converted to RGB"]
    if mode == "LAB":
        from_lab, to_srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        rgb = ImageCms.profileToProfile(picture, from_lab, to_srgb, outputMode="RGB")
        return (rgb or picture).convert("RGB"), ["CIELAB converted to RGB"]
    if mode in ("La", "RGBa"):  # premultiplied; there is no direct way to RGB
        picture = picture.convert(mode[:-1] + "A")
    if mode in _ALPHA:
        return picture.convert("RGB"), [f"alpha channel dropped ({_ALPHA[mode]} with alpha)"]
    said = _SAID.get(mode, f"mode {mode} converted to RGB")
    if mode in ("P", "L", "1") and "transparency" in picture.info:
        said += ", its transparency dropped"
    return picture.convert("RGB"), [said]


def turn_upright(picture: PILImage.Image, orientation: int) -> tuple[PILImage.Image, list[str]]:
    """Apply an EXIF orientation (1 to 8; anything else counts as 1)."""
    if orientation not in UPRIGHT:
        return picture, []
    how, said = UPRIGHT[orientation]
    return picture.transpose(how), [f"{said} (EXIF orientation {orientation})"]


def _to_grey(picture: PILImage.Image) -> tuple[np.ndarray, str]:
    """uint8 (H, W) from 16 or 32 bit whole numbers or float, scaled to the range the format means, never clipped."""
    values = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        return _scaled(values, 0, 65535), "16 bit scaled to 8 bit"
    low, high = _finite_range(values)
    if picture.mode == "F":
        if low >= 0 and high <= 1:
            return _scaled(values, 0, 1), "float 0..1 scaled to 8 bit"
        if low >= 0 and high <= 255:
            return _scaled(values, 0, 255), "float 0..255 rounded to 8 bit"
        return _scaled(values, low, high), f"float scaled to 8 bit from its own range {low:.6g}..{high:.6g}"
    if low >= 0 and high <= 65535:
        return _scaled(values, 0, 65535), "32 bit scaled to 8 bit from the 16 bit range"
    return _scaled(values, low, high), f"32 bit scaled to 8 bit from its own range {low:.6g}..{high:.6g}"


def _finite_range(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """``low``..``high`` to 0..255, rounded; what is not a number becomes 0."""
    span = high - low or 1.0
    unit = np.clip((values.astype(np.float64) - low) / span, 0, 1)
    return np.rint(np.nan_to_num(unit) * 255).astype(np.uint8)


def least_marked(brightest: int) -> int:
    """The least grey of a mask that is marked, where ``brightest`` is its brightest: more than half of that."""
    return brightest // 2 + 1
