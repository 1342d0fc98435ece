"""Whether what a detector says and draws is why it decides: three measurements, without knowing the detector.

1. Cover: the share of the mask that lies in the part of the picture that the words name.
2. Hiding: the score's fall when the masked region is inpainted, against an equal region elsewhere; paired by picture.
3. Agreement: a "fake" of an edit has a mask and words that say so, a "real" neither.

    report = faithfulness(judge, pictures)     # judge: list of pictures -> list of (score, map or None, words)
    report.hiding_mean, report.hiding_low, report.hiding_high

A positive ``hiding`` means that the region carried the decision. Not here: whether the decision is right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image as PILImage

from internvl_detect.data.forge.opencv import need_cv2
from internvl_detect.evaluate.equalise import rng_of

Array = np.ndarray
Judge = Callable[[Sequence[PILImage.Image]], Sequence[tuple[float, Array | None, str]]]
LEAST_SHARE, MOST_SHARE = 0.002, 0.4  # of a mask whose region is hidden; more leaves no equal place elsewhere
_PLACE = re.compile(r"\b(upper|lower|top|bottom)?[ -]?(left|right|cent(?:er|re)|middle)?\b", re.I)
_ROWS = {"upper": 0, "top": 0, "lower": 2, "bottom": 2}
_EDITED = re.compile(
    r"\b(edited|manipulated|tampered|altered|pasted|inserted|spliced|copied|removed|forged|fake)\b", re.I
)
_DENIED = re.compile(r"\b(no|not|nothing|never|without)\b[^.]{0,40}$", re.I)


@dataclass(frozen=True)
class Faithfulness:
    """Means with 95 % bootstrap intervals over pictures; NaN where nothing could be measured; ``n_`` are the counts."""

    cover_mean: float
    cover_low: float
    cover_high: float
    n_cover: int
    hiding_mean: float
    hiding_low: float
    hiding_high: float
    n_hiding: int
    agreement: float
    agreement_low: float
    agreement_high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, rounded; None for NaN."""
        return {k: None if v != v else round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def faithfulness(
    judge: Judge,
    pictures: Sequence[PILImage.Image],
    *,
    threshold: float = 0.5,
    map_threshold: float = 0.5,
    seed: int = 0,
) -> Faithfulness:
    """All three. ``threshold`` is that of the score, ``map_threshold`` of the map. Raises ConfigError without OpenCV.

    Every picture is judged once, and twice more where its mask can be hidden.
    """
    said = list(judge(pictures))
    covers, agreements = [], []
    hidden: list[PILImage.Image] = []
    for i, (picture, (score, drawn, words)) in enumerate(zip(pictures, said, strict=True)):
        mask = None if drawn is None else np.asarray(drawn) >= map_threshold
        has_mask = mask is not None and mask.mean() >= LEAST_SHARE
        agreements.append(float(agree(score >= threshold, has_mask, words)))
        named = named_part(words, (picture.height, picture.width))
        if mask is None or not has_mask:
            continue
        if named is not None:
            covers.append(float(mask[named].sum() / mask.sum()))
        other = elsewhere(mask, rng_of(str(i), seed))
        if other is not None:
            hidden += [hide(picture, mask), hide(picture, other)]
    after = [score for score, _, _ in judge(hidden)] if hidden else []
    # Both falls are from the same score, so it leaves the difference: after elsewhere - after region.
    falls = [there - here for here, there in zip(after[::2], after[1::2], strict=True)]
    cover, hiding, agreed = (_interval(values, seed) for values in (covers, falls, agreements))
    return Faithfulness(*cover, len(covers), *hiding, len(falls), *agreed, len(said))


def hide(picture: PILImage.Image, mask: Array) -> PILImage.Image:
    """The picture with the boolean (H, W) region inpainted (Telea 2004, radius 5 px). Raises ConfigError."""
    cv2 = need_cv2("hiding a region")
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8))
    return PILImage.fromarray(cv2.inpaint(np.ascontiguousarray(picture.convert("RGB")), wide, 5, cv2.INPAINT_TELEA))


def elsewhere(mask: Array, rng: np.random.Generator) -> Array | None:
    """The same shape moved round the picture to where it does not meet the mask; None if 200 draws find no place."""
    if not LEAST_SHARE <= mask.mean() <= MOST_SHARE:
        return None
    for _ in range(200):
        dy, dx = (int(rng.integers(side)) for side in mask.shape)
        moved = np.roll(mask, (dy, dx), (0, 1))
        if not (moved & mask).any():
            return moved
    return None


def named_part(words: str, shape: tuple[int, int]) -> Array | None:
    """The boolean (H, W) part that the words name ("upper left", "bottom", "centre"): the first place named; None if
    none is. Thirds of the picture, each grown by a twelfth of the side, as words are not exact."""
    for found in _PLACE.finditer(words):
        row, column = (part.lower() if part else "" for part in found.groups())
        if not row and not column:
            continue
        rows = _ROWS.get(row, 1 if column.startswith(("cent", "mid")) else None)
        columns = {"left": 0, "right": 2}.get(column, 1 if column.startswith(("cent", "mid")) else None)
        part = np.zeros(shape, bool)
        part[_third(rows, shape[0]), _third(columns, shape[1])] = True
        return part
    return None


def agree(fake: bool, has_mask: bool, words: str) -> bool:
    """Whether verdict, mask and words say the same: all that something was edited, or all that nothing was."""
    return fake == has_mask == says_edited(words)


def says_edited(words: str) -> bool:
    """Whether the words claim an edit, a denial before it in the same sentence ("no region was edited") not counting.

    By a list of words: good for sentences in the manner of the training data, not for free speech.
    """
    return any(not _DENIED.search(words[: found.start()]) for found in _EDITED.finditer(words))


def _third(which: int | None, side: int) -> slice:
    if which is None:
        return slice(0, side)
    return slice(max(0, round(side * (which / 3 - 1 / 12))), round(side * ((which + 1) / 3 + 1 / 12)))


def _interval(values: Sequence[float], seed: int, rounds: int = 1000) -> tuple[float, float, float]:
    if not values:
        return math.nan, math.nan, math.nan
    v, rng = np.asarray(values, float), np.random.default_rng(seed)
    low, high = np.percentile(v[rng.integers(len(v), size=(rounds, len(v)))].mean(axis=1), [2.5, 97.5])
    return float(v.mean()), float(low), float(high)
