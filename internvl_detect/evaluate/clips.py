"""Clips: figures of whole clips, of their frames, and of the stretch that a system calls synthetic.

    clip_figures(rows, group)     # rows: predictions of clips

The truth of a frame is that of its clip, or, where the clip's edited stretch is known (``facts["stretch_s"]``, or the
seconds in its true words), whether the frame lies in it. Frames of one clip are one group for the intervals. Not here:
how a clip's score comes from its frames (``detect.aggregate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from internvl_detect.evaluate.detection import FIGURES, Ranked
from internvl_detect.evaluate.intervals import ROUNDS, intervals, means
from internvl_detect.evaluate.predictions import Prediction

SHOWN = ("auc", "ap", "balanced_accuracy", "real_accuracy", "fake_accuracy", "f1", "eer")


def true_stretch(row: Prediction) -> tuple[float, float] | None:
    """The seconds of a fake clip that were edited, where they are known."""
    if not row.fake:
        return None
    if row.facts.get("stretch_s"):
        return row.facts["stretch_s"]
    from internvl_detect.data.forge.words import facts_of

    return facts_of(str(row.facts.get("words") or "")).stretch_s


def overlap(a: tuple[float, float] | None, b: tuple[float, float]) -> float:
    """Temporal IoU in [0, 1] of two stretches of seconds; 0 where none was named. Two that are the same moment: 1."""
    if a is None:
        return 0.0
    both = min(a[1], b[1]) - max(a[0], b[0])
    either = max(a[1], b[1]) - min(a[0], b[0])
    return float(a == b) if either == 0 else max(0.0, both) / either


def frame_truth(row: Prediction) -> list[int]:
    """1 or 0 of each frame."""
    stretch = true_stretch(row)
    if stretch is None:
        return [int(row.fake or 0)] * len(row.frames)
    return [int(stretch[0] <= time <= stretch[1]) for time, _ in row.frames]


def clip_figures(
    rows: Sequence[Prediction], group: Sequence[int], *, threshold: float = 0.5, rounds: int = ROUNDS
) -> dict[str, Any]:
    """``clips`` and ``frames``: n_real, n_fake and (value, low, high) of SHOWN. ``temporal_iou``: mean over fake clips
    whose stretch is known; ``real_with_stretch``: share of real clips in which one was named."""
    member = np.unique(np.asarray(group), return_inverse=True)[1]
    scores = [np.nan if row.score is None else row.score for row in rows]
    found: dict[str, Any] = {"clips": _told(scores, [row.fake or 0 for row in rows], member, threshold, rounds)}
    flat = [(s, y, g) for row, g in zip(rows, member, strict=True)
            for (_, s), y in zip(row.frames, frame_truth(row), strict=True)]  # fmt: skip
    if flat:
        values, truth, groups = (list(column) for column in zip(*flat, strict=True))
        found["frames"] = _told(values, truth, np.unique(groups, return_inverse=True)[1], threshold, rounds)
    columns = np.full((len(rows), 2), np.nan)
    for i, row in enumerate(rows):
        stretch = true_stretch(row)
        if stretch is not None:
            columns[i, 0] = overlap(row.stretch, stretch)
        elif not row.fake:
            columns[i, 1] = float(row.stretch is not None)
    mean = means(columns, member, int(member.max()) + 1)
    low, high = intervals(mean, int(member.max()) + 1, rounds=rounds)
    value = mean(np.ones(int(member.max()) + 1))
    known = (~np.isnan(columns)).sum(axis=0)
    for at, name in enumerate(("temporal_iou", "real_with_stretch")):
        found[name] = {"n": int(known[at]), name: (float(value[at]), float(low[at]), float(high[at]))}
    return found


def _told(scores: Sequence[float], fake: Sequence[int], group: np.ndarray, threshold: float, rounds: int) -> dict:
    rows = Ranked(scores, fake, None, group, threshold=threshold)
    low, high = intervals(rows.values, rows.n_groups, rounds=rounds)
    figures = rows.figures()
    place = {name: at for at, name in enumerate(FIGURES)}
    told = {name: (figures[name], float(low[place[name]]), float(high[place[name]])) for name in SHOWN}
    return {"n_real": len(fake) - sum(fake), "n_fake": sum(fake), **told}
