"""How a detector's scores hold when pictures are compressed, resized, blurred: AUC for each (operation, severity).

A fixed list, so that figures of two detectors and two years can be compared. Each picture is degraded by a seed of its
own name, and scored by the callable; nothing is written here. The first row is the picture as it is. Intervals are
bootstrap intervals over source groups, the same draws for each severity.

    curve = severity_curves(score, pictures, fake, groups, names)       # score: list of pictures -> list of numbers
    curve[0].operation, curve[0].severity, curve[0].auc, curve[0].low, curve[0].high
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image as PILImage

from internvl_detect.errors import ConfigError, IvdetectError
from internvl_detect.evaluate.detection import FIGURES, Ranked
from internvl_detect.evaluate.equalise import rng_of
from internvl_detect.evaluate.intervals import intervals
from internvl_detect.evaluate.metrics import auc
from internvl_detect.media.degrade import CHAINS, degrade

NONE = "none"
SEVERITIES: dict[str, tuple[Any, ...]] = {
    "jpeg": (95, 90, 80, 75, 70, 60),
    "webp": (90, 75, 60),
    "resize": (0.5, 0.75, 1.5, 2.0),
    "blur": (0.5, 1.0, 2.0),
    "noise": (2, 5, 10),
    "crop": (0.9, 0.75, 0.5),
    "screenshot": (0.75, 1.25),
    "double_jpeg": (95, 85, 75),
    "social": tuple(CHAINS),
}
CLIP_SEVERITIES: dict[str, tuple[int, ...]] = {"h264": (18, 23, 28, 35), "h265": (18, 23, 28, 35)}
MEANING = {
    "jpeg": "JPEG quality",
    "webp": "WebP quality",
    "resize": "factor of both sides, bicubic",
    "blur": "standard deviation in px",
    "noise": "standard deviation in grey levels",
    "crop": "share of each side that is kept, place drawn",
    "screenshot": "scale on the screen, bilinear, no compression after",
    "double_jpeg": "quality of the second JPEG; the first had 75, its grid is shifted by a draw",
    "social": "a stand-in for a platform: longer side and JPEG quality of media.degrade.CHAINS",
    "h264": "crf",
    "h265": "crf",
}
ROUNDS = 500
Score = Callable[[Sequence[PILImage.Image]], Sequence[float | None]]


@dataclass(frozen=True)
class Point:
    """One operation at one severity: AUC with its 95 % interval (NaN where a class is missing), what was lost on the
    way, and the mean score of each class."""

    operation: str
    severity: str
    auc: float
    low: float
    high: float
    n_real: int
    n_fake: int
    mean_real: float
    mean_fake: float
    failed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, rounded; None for NaN."""
        return {k: None if v != v else round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def steps(only: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """(operation, severity) of pictures, the untouched first; ``only`` keeps some operations. Raises ConfigError."""
    for name in only:
        if name not in SEVERITIES:
            raise ConfigError(f"degradation {name!r}", expected=", ".join(SEVERITIES))
    yield NONE, ""
    for operation, severities in SEVERITIES.items():
        for severity in severities if not only or operation in only else ():
            yield operation, severity


def worsened(picture: PILImage.Image, operation: str, severity: Any, rng: np.random.Generator) -> PILImage.Image:
    """The picture after one step of the list; ``rng`` places crops and grids, and makes noise. Raises ConfigError."""
    if operation == NONE:
        return picture
    if operation == "crop":
        to = [max(1, round(side * severity)) for side in picture.size]
        x, y = (int(rng.integers(side - kept + 1)) for side, kept in zip(picture.size, to, strict=True))
        return degrade(picture, "crop", box_xyxy=(x, y, x + to[0], y + to[1]))
    if operation == "double_jpeg":
        return degrade(picture, "double_jpeg", first=75, quality=severity, shift_px=int(rng.integers(8)))
    if operation == "noise":
        return degrade(picture, "noise", sigma=severity, rng=rng)
    key = {"resize": "factor", "blur": "radius", "screenshot": "scale", "social": "chain"}.get(operation, "quality")
    return degrade(picture, operation, **{key: severity})


def severity_curves(
    score: Score,
    pictures: Sequence[PILImage.Image],
    fake: Sequence[int],
    groups: Sequence[str],
    names: Sequence[str],
    *,
    only: Sequence[str] = (),
    rounds: int = ROUNDS,
) -> list[Point]:
    """A Point for each step. ``fake`` 1 or 0; ``groups`` what is drawn whole; ``names`` seed each picture's draws.

    A score of None, or a picture that a step cannot be done to, is left out of that step and counted as ``failed``.
    """
    found = []
    for operation, severity in steps(only):
        made: list[PILImage.Image | None] = []
        for picture, name in zip(pictures, names, strict=True):
            try:
                made.append(worsened(picture, operation, severity, rng_of(f"{operation}/{severity}/{name}")))
            except IvdetectError:
                made.append(None)
        there = [i for i, picture in enumerate(made) if picture is not None]
        scores: list[float | None] = [None] * len(made)
        for i, value in zip(there, score([p for p in made if p is not None]), strict=True):
            scores[i] = value
        found.append(point(operation, severity, scores, fake, groups, rounds=rounds))
    return found


def point(
    operation: str,
    severity: Any,
    scores: Sequence[float | None],
    fake: Sequence[int],
    groups: Sequence[str],
    *,
    rounds: int = ROUNDS,
) -> Point:
    """The figures of one step from its scores; None and NaN are failed ones."""
    kept = [i for i, value in enumerate(scores) if value is not None and math.isfinite(value)]
    s = np.array([scores[i] for i in kept], float)
    y = np.array([fake[i] for i in kept], int)
    _, where = np.unique(np.array([groups[i] for i in kept], dtype=object).astype(str), return_inverse=True)
    low, high = group_interval(s, y, where, rounds=rounds)
    real, fakes = s[y == 0], s[y == 1]
    return Point(
        operation,
        str(severity),
        auc(s, y),
        low,
        high,
        n_real=len(real),
        n_fake=len(fakes),
        mean_real=float(real.mean()) if len(real) else math.nan,
        mean_fake=float(fakes.mean()) if len(fakes) else math.nan,
        failed=len(scores) - len(kept),
    )


def group_interval(
    scores: np.ndarray, fake: np.ndarray, group: np.ndarray, *, rounds: int = ROUNDS
) -> tuple[float, float]:
    """95 % percentile bootstrap of the AUC; ``group`` (N,) whole numbers, whole groups are drawn with replacement.

    (NaN, NaN) with one class only or fewer than two groups.
    """
    if not 0 < fake.sum() < len(fake):
        return math.nan, math.nan
    rows, at = Ranked(scores, fake, None, group), list(FIGURES).index("auc")
    low, high = intervals(rows.values, rows.n_groups, rounds=rounds)
    return float(low[at]), float(high[at])
