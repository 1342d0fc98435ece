"""From the scores of frames to that of a clip, and to the stretch that looks synthetic. Numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from internvl_detect.verdict import Frame, Stretch

_EDGE = 1e-6
TOP_SHARE = 0.5


def clip_score(scores: Sequence[float]) -> float:
    """P(fake) of a clip from P(fake) of its frames: the mean log odds of the more suspicious half (at least one).

    Half, so that an edited stretch is not outvoted by the frames around it, and log odds, so that one frame alone
    decides only when it is very sure. Raises ValueError for no scores.
    """
    if not scores:
        raise ValueError("no frames were scored")
    odds = sorted((logit(s) for s in scores), reverse=True)
    top = odds[: max(1, math.ceil(len(odds) * TOP_SHARE))]
    return 1.0 / (1.0 + math.exp(-sum(top) / len(top)))


def synthetic_stretch(frames: Sequence[Frame], threshold: float = 0.5) -> Stretch | None:
    """The run of frames with the largest sum of log odds above ``threshold``'s; None when no frame is above it.

    Frames in time order. The stretch runs from its first frame's time to its last one's; ``score`` is the mean of its
    frames (Kadane's maximum subarray over logit(score) - logit(threshold)).
    """
    best, best_run = 0.0, None
    total, start = 0.0, 0
    for at, frame in enumerate(frames):
        gain = logit(frame.score) - logit(threshold)
        if total <= 0:
            total, start = 0.0, at
        total += gain
        if total > best:
            best, best_run = total, (start, at)
    if best_run is None:
        return None
    run = frames[best_run[0] : best_run[1] + 1]
    return Stretch(run[0].time_s, run[-1].time_s, sum(f.score for f in run) / len(run))


def logit(score: float) -> float:
    """The log odds of a score, which is kept a millionth away from 0 and 1."""
    inside = min(max(score, _EDGE), 1 - _EDGE)
    return math.log(inside / (1 - inside))
