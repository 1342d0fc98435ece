"""Which traces of an edit can be seen, measured on the finished twins: what words may say and no more.

Each number compares the forged picture with its authentic twin, so a piece that looks no odder than what stood there
before leaves no trace. Not a detector: it knows the twin and the mask.

    measured = measure(real, fake, mask)
    visible(measured, record)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from internvl_detect.data.forge.finish import Array
from internvl_detect.data.forge.pasting import box_of

RING_PX = 6  # what counts as the surroundings
EDGE_LEVELS, LIGHT_LEVELS, COLOUR_LEVELS = 6.0, 15.0, 10.0  # grey levels beyond the twin's
SMOOTHER, GRAINIER = 0.6, 1.6  # fine detail against the surroundings', and against the twin's
SCALED = 1.2


def measure(real: Array, fake: Array, mask: Array | None) -> dict[str, float]:
    """Numbers for two (H, W, 3) uint8 pictures and the boolean (H, W) mask, None where the whole picture is changed.

    ``detail``: fine detail inside the mask over that of the surroundings, and ``detail_before`` the twin's; of a whole
    picture, over the twin's. ``edge``: how much larger steps across the outline are than in the twin, in grey levels;
    ``light`` and ``colour``: by how much more the mean luma, and the mean chroma, differ from the surroundings.
    """
    if mask is None:
        ratio = _detail(_luma(fake)).mean() / max(1e-3, _detail(_luma(real)).mean())
        return {"detail": round(float(ratio), 3), "detail_before": 1.0}
    x0, y0, x1, y1 = box_of(mask, margin=RING_PX + 2)
    inside = mask[y0:y1, x0:x1]
    near = Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(RING_PX))
    ring = (np.asarray(near) > 0) & ~inside
    if not ring.any():
        ring = ~inside if (~inside).any() else inside
    numbers = []
    for picture in (fake[y0:y1, x0:x1], real[y0:y1, x0:x1]):
        luma = _luma(picture)
        detail = _detail(luma)
        between = picture[inside].mean(0) - picture[ring].mean(0)  # (3,)
        light = float(between @ (0.299, 0.587, 0.114))
        chroma = between - between.mean()
        shares = detail[inside].mean(), max(0.2, float(detail[ring].mean()))
        numbers.append((shares[0] / shares[1], _step(luma, inside), abs(light), math.hypot(*chroma)))
    (detail_f, step_f, light_f, chroma_f), (detail_r, step_r, light_r, chroma_r) = numbers
    found = {"detail": detail_f, "detail_before": detail_r, "edge": step_f - step_r}
    found |= {"light": light_f - light_r, "colour": chroma_f - chroma_r}
    return {name: round(float(value), 3) for name, value in found.items()}


def visible(measured: dict[str, float], record: dict[str, Any]) -> list[str]:
    """Names of ``words.TRACES`` that hold, at most three, the more telling first."""
    detail, before = measured["detail"], measured["detail_before"]
    scale = record.get("scale", 1.0)
    whole = "edge" not in measured
    holds = {
        "repeat": "source_place" in record,
        "edges": measured.get("edge", 0) >= EDGE_LEVELS,
        "smooth": detail <= (0.85 if whole else SMOOTHER) and detail <= 0.85 * before,
        "grain": detail >= (1.15 if whole else GRAINIER) and detail >= 1.15 * before,
        "colour": measured.get("colour", 0) >= COLOUR_LEVELS,
        "light": measured.get("light", 0) >= LIGHT_LEVELS,
        "resolution": not 1 / SCALED < scale < SCALED,
    }
    return [name for name, held in holds.items() if held][:3]


def _luma(rgb: Array) -> Array:
    return rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _detail(luma: Array) -> Array:
    """Size of the finest detail at each pixel: what differs from the mean of the four neighbours."""
    padded = np.pad(luma, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.abs(luma - around / 4)


def _step(luma: Array, inside: Array, reach: int = 2) -> float:
    """Mean absolute difference over 2 x ``reach`` pixels across the outline."""
    found = []
    for a, b in ((luma, inside), (luma.T, inside.T)):
        if a.shape[0] > 2 * reach:
            crossing = b[2 * reach :] != b[: -2 * reach]
            found.append(np.abs(a[2 * reach :] - a[: -2 * reach])[crossing])
    steps = np.concatenate(found) if found else np.zeros(0)
    return float(steps.mean()) if steps.size else 0.0
