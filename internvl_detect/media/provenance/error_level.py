"""The error level picture: how much each part changes when the picture is saved once more as a JPEG.

A part with another history than its surroundings can stand out; so can any edge, texture or bright colour. It is a
picture for a trained eye and has no score (Krawetz, "A Picture's Worth", 2007).
"""

from __future__ import annotations

import io

from PIL import Image as PILImage
from PIL import ImageChops

QUALITY = 90
LONG_SIDE_PX = 2048


def error_level(rgb: PILImage.Image, *, quality: int = QUALITY) -> bytes:
    """PNG of the absolute difference after saving at ``quality``, stretched so that its largest value is white.

    The picture is shown at its own size where its long side is at most 2048 px, else every difference is kept as the
    mean of its neighbourhood.
    """
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=quality, subsampling=0)
    difference = ImageChops.difference(rgb, PILImage.open(io.BytesIO(buffer.getvalue())))
    scale = min(1.0, LONG_SIDE_PX / max(difference.size))
    if scale < 1:
        size = (max(1, round(difference.width * scale)), max(1, round(difference.height * scale)))
        difference = difference.resize(size, PILImage.Resampling.BOX)
    most = max(high for _, high in difference.getextrema()) or 1  # type: ignore[misc]
    out = io.BytesIO()
    difference.point(lambda value: min(255, value * 255 // most)).save(out, "PNG", compress_level=1)
    return out.getvalue()
