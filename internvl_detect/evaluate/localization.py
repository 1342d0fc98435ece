"""How well masks are drawn: pixel F1, IoU, MCC and AUC, per picture and micro, at every threshold a stored mask has.

    found = histograms(drawn, truth)                # drawn uint8 (H, W), probability times 255; truth bool (H, W)
    localization([found, ...], group, edited, threshold=0.42)

A stored mask has 256 levels, so two histograms of a picture hold its figures at all thresholds. Per picture: the mean
over pictures. Micro: pixels of all pictures together. A picture without an edit counts too ("all"): drawing nothing on
it is right and has 1, drawing anything has 0. "oracle" is the best threshold for these very pictures, which nobody
has who does not know the truth. Not here: which file is whose mask (``grade``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from internvl_detect.errors import MediaError
from internvl_detect.evaluate.intervals import ROUNDS, intervals, means
from internvl_detect.media.image import open_image

Array = np.ndarray
LEVELS = 256
NAMES = ("pixel_f1", "pixel_iou", "pixel_mcc", "pixel_auc", "micro_f1", "micro_iou", "micro_mcc")


def read_drawn(path: str | Path) -> Array:
    """uint8 (H, W): a drawn mask as it is stored, 255 for certain. Raises MediaError."""
    return np.asarray(open_image(path).rgb.convert("L"))


def histograms(drawn: Array, truth: Array) -> Array:
    """int64 (2, 256): of untouched and of edited pixels, how many were drawn at each level.

    Raises MediaError when the two have different sizes.
    """
    if drawn.shape != truth.shape:
        sizes = (f"{m.shape[1]}x{m.shape[0]}" for m in (drawn, truth))
        raise MediaError("the drawn mask has {} px, the true one {}".format(*sizes), expected="the picture's own size")
    codes = drawn.astype(np.int16) + LEVELS * truth.astype(np.int16)
    return np.bincount(codes.ravel(), minlength=2 * LEVELS).reshape(2, LEVELS)


def level_of(threshold: float) -> int:
    """The lowest level that a threshold in [0, 1] takes as marked; at least 1, so that 0 is never marked."""
    return min(LEVELS - 1, max(1, math.ceil(threshold * (LEVELS - 1) - 1e-9)))


def counts_at(found: Array, level: int) -> Array:
    """(N, 4) tp, fp, fn, tn in pixels of histograms (N, 2, 256), marked being ``level`` and more."""
    marked, rest = found[:, :, level:].sum(axis=2), found[:, :, :level].sum(axis=2)
    return np.stack([marked[:, 1], marked[:, 0], rest[:, 1], rest[:, 0]], axis=1).astype(np.float64)


def shares(counts: Array) -> Array:
    """(..., 3) F1, IoU and MCC of counts (..., 4). Where drawn and true mask are the same, all are 1, empty ones too;
    where the MCC is 0/0 otherwise it is 0."""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    same = fp + fn == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = np.where(same, 1.0, 2 * tp / (2 * tp + fp + fn))
        iou = np.where(same, 1.0, tp / (tp + fp + fn))
        below = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
        mcc = np.where(same, 1.0, np.where(below > 0, (tp * tn - fp * fn) / below, 0.0))
    return np.stack([f1, iou, mcc], axis=-1)


def pixel_auc(found: Array) -> Array:
    """(N,) AUC over the pixels of each picture, ties counting half; NaN where a picture has pixels of one kind."""
    untouched, edited = found[:, 0].astype(np.float64), found[:, 1].astype(np.float64)
    below = np.cumsum(untouched, axis=1) - untouched / 2
    pairs = untouched.sum(axis=1) * edited.sum(axis=1)
    return np.divide((below * edited).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def best_level(found: Array) -> int:
    """The level with the highest mean F1 over the pictures; the lowest such."""
    return 1 + int(np.argmax([shares(counts_at(found, level))[:, 0].mean() for level in range(1, LEVELS)]))


def localization(
    found: Sequence[Array],
    group: Sequence[int],
    edited: Sequence[bool],
    *,
    threshold: float | None = None,
    rounds: int = ROUNDS,
) -> list[dict[str, Any]]:
    """One dict for each set of pictures ("tampered", "all") and rule of the threshold ("fixed", "validation" where
    ``threshold`` is given, "oracle"): ``n``, ``threshold`` and of each of NAMES (value, low, high)."""
    every, groups, marks = np.stack(found), np.asarray(group), np.asarray(edited, bool)
    lines = []
    for over, chosen in (("tampered", marks), ("all", np.ones(len(marks), bool))):
        if not chosen.any() or (over == "all" and marks.all()):
            continue
        own, member = every[chosen], np.unique(groups[chosen], return_inverse=True)[1]
        rules = {"fixed": level_of(0.5)} | ({} if threshold is None else {"validation": level_of(threshold)})
        for rule, level in (rules | {"oracle": best_level(own)}).items():
            value, low, high = _figures(own, level, member, rounds)
            told = {name: (value[i], low[i], high[i]) for i, name in enumerate(NAMES)}
            lines.append(
                {"over": over, "rule": rule, "threshold": level / (LEVELS - 1), "n": int(chosen.sum()), **told}
            )
    return lines


def _figures(found: Array, level: int, member: Array, rounds: int) -> tuple[list[float], list[float], list[float]]:
    counts = counts_at(found, level)
    n_groups = int(member.max()) + 1
    of_pictures = means(np.column_stack([shares(counts), pixel_auc(found)]), member, n_groups)
    of_groups = np.stack([np.bincount(member, column, n_groups) for column in counts.T])

    def values(weights: Array) -> Array:
        return np.append(of_pictures(weights), shares(np.einsum("kg,g", of_groups, weights)))

    low, high = intervals(values, n_groups, rounds=rounds)
    return values(np.ones(n_groups)).tolist(), low.tolist(), high.tolist()
