"""A mask read as an answer to "where": the boxes of its connected parts, and the words for their place.

Coordinates follow InternVL's grounding: whole thousandths of width and height, [[left, top, right, bottom], ...]. Its
tags ``<box>`` and ``<ref>`` stay out, since texts of a conversation are never read as special tokens. Not here: pairing
masks with pictures, judging masks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from internvl_detect.errors import MediaError
from internvl_detect.media.connected import Box, part_boxes
from internvl_detect.media.image import open_image
from internvl_detect.media.pixels import least_marked

__all__ = ["Box", "part_boxes", "read_mask", "region_answer"]
SCALE = 1000
MAX_BOXES = 6
MAX_SIDE_PX = 1024  # a larger mask is looked at in blocks: a thousandth is the finest that is told
_SPECK = 0.02  # of the largest part's area
_WHOLE = 0.95


def read_mask(path: str | Path) -> np.ndarray:
    """(H, W) bool, True where the picture was edited: brighter than half of the mask's brightest grey.

    Raises MediaError for what is no picture, and for a mask with nothing marked.
    """
    grey = np.asarray(open_image(path).rgb.convert("L"))
    if not grey.any():
        raise MediaError(f"the mask {path} is empty", expected="something marked in a picture with an edit")
    return grey >= least_marked(int(grey.max()))


def region_answer(mask: np.ndarray) -> str:
    """What a mask (H, W; something in it is True) says about where: share of the picture, place and boxes.

    Parts below 2 % of the largest one are specks and left out; at most ``MAX_BOXES`` are named.
    """
    mask = _blocks(mask)
    height, width = mask.shape
    share = float(mask.mean())
    if share > _WHOLE:
        return f"The whole picture: [[0, 0, {SCALE}, {SCALE}]]."
    parts = part_boxes(mask)
    kept = [box for box, area in parts if area >= _SPECK * parts[0][1]][:MAX_BOXES]
    scaled = [
        [round(SCALE * left / width), round(SCALE * top / height), round(SCALE * right / width)]
        + [round(SCALE * bottom / height)]
        for left, top, right, bottom in kept
    ]
    places = list(dict.fromkeys(_place(*box) for box in scaled))
    about = f"about {share:.0%}" if share >= 0.01 else "less than 1%"
    what = "One area" if len(scaled) == 1 else f"{len(scaled)} areas"
    return f"{what}, {about} of the picture, in the {' and the '.join(places)}: {scaled}."


def _blocks(mask: np.ndarray) -> np.ndarray:
    """The mask in blocks, True where anything in a block is, so that no side is longer than ``MAX_SIDE_PX``."""
    step = -(-max(mask.shape) // MAX_SIDE_PX)
    if step == 1:
        return mask
    height, width = mask.shape
    mask = np.logical_or.reduceat(mask, np.arange(0, height, step), axis=0)
    return np.logical_or.reduceat(mask, np.arange(0, width, step), axis=1)


def _place(left: int, top: int, right: int, bottom: int) -> str:
    x, y = (left + right) / 2 / SCALE, (top + bottom) / 2 / SCALE
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    down = "upper" if y < 1 / 3 else "lower" if y > 2 / 3 else ""
    if across and down:
        return f"{down} {across}"
    return {"upper": "upper middle", "lower": "lower middle"}.get(down) or across or "centre"
