"""Detection metrics on scores in [0, 1]: counts first, then an explicit reduction. numpy only, no plots, no files.

Positive means fake. A metric states its threshold rule in its name or docstring; what cannot be computed (one class
only) is NaN, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from internvl_detect.errors import DataError


@dataclass(frozen=True)
class Counts:
    """Decisions against truth: tp fake called fake, fp real called fake, tn real called real, fn fake called real."""

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.tn + other.tn, self.fn + other.fn)


def counts_at(
    scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray, threshold: float = 0.5
) -> Counts:
    """Counts with "fake" meaning score >= ``threshold``; ``labels`` 1 fake, 0 real."""
    s, y = _checked(scores, labels)
    called = s >= threshold
    return Counts(
        int((called & (y == 1)).sum()),
        int((called & (y == 0)).sum()),
        int((~called & (y == 0)).sum()),
        int((~called & (y == 1)).sum()),
    )


def accuracy(c: Counts) -> float:
    """Share of right decisions over all files; NaN without files."""
    return _share(c.tp + c.tn, c.tp + c.tn + c.fp + c.fn)


def real_accuracy(c: Counts) -> float:
    """Share of real files called real; NaN without real files."""
    return _share(c.tn, c.tn + c.fp)


def fake_accuracy(c: Counts) -> float:
    """Share of fake files called fake; NaN without fake files."""
    return _share(c.tp, c.tp + c.fn)


def balanced_accuracy(c: Counts) -> float:
    """Mean of real and fake accuracy; a constant answer scores 0.5. NaN with one class only."""
    return (real_accuracy(c) + fake_accuracy(c)) / 2


def f1(c: Counts) -> float:
    """F1 of the class fake: 2 tp / (2 tp + fp + fn); NaN when nothing is or is called fake."""
    return _share(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def auc(scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """Area under the ROC curve: the chance that a fake scores above a real one, ties counting half. NaN with one class.

    By ranks (Mann-Whitney U with mid-ranks), exact with any number of ties, O(N log N).
    """
    s, y = _checked(scores, labels)
    n_fake, n_real = int((y == 1).sum()), int((y == 0).sum())
    if not n_fake or not n_real:
        return math.nan
    _, where, repeats = np.unique(s, return_inverse=True, return_counts=True)
    last = np.cumsum(repeats)
    mid_rank = last - (repeats - 1) / 2  # ranks from 1; equal scores share their mean rank
    u = mid_rank[where][y == 1].sum() - n_fake * (n_fake + 1) / 2
    return float(u / (n_fake * n_real))


def log_loss(probabilities: Sequence[float], labels: Sequence[int], eps: float = 1e-7) -> float:
    """Mean negative log likelihood in nats, probabilities cut to [eps, 1 - eps]; NaN without files."""
    p, y = _checked(probabilities, labels)
    if not p.size:
        return math.nan
    p = np.clip(p, eps, 1 - eps)
    return float(-np.mean(np.where(y == 1, np.log(p), np.log1p(-p))))


def auc_interval(
    scores: Sequence[float], labels: Sequence[int], *, level: float = 0.95, rounds: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the AUC, resampling within each class; (NaN, NaN) with one class."""
    s, y = _checked(scores, labels)
    fake, real = s[y == 1], s[y == 0]
    if not fake.size or not real.size:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    truth = np.repeat([1, 0], [fake.size, real.size])
    values = [auc(np.append(rng.choice(fake, fake.size), rng.choice(real, real.size)), truth) for _ in range(rounds)]
    tail = (1 - level) / 2
    return float(np.quantile(values, tail)), float(np.quantile(values, 1 - tail))


def detection_summary(scores: Sequence[float], labels: Sequence[int]) -> dict[str, float]:
    """What training watches: AUC, balanced, real and fake accuracy at the fixed threshold 0.5, and the counts."""
    c = counts_at(scores, labels, 0.5)
    return {
        "auc": auc(scores, labels),
        "balanced_accuracy": balanced_accuracy(c),
        "real_accuracy": real_accuracy(c),
        "fake_accuracy": fake_accuracy(c),
        "n_real": c.tn + c.fp,
        "n_fake": c.tp + c.fn,
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _checked(scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s, y = np.asarray(scores, dtype=np.float64).reshape(-1), np.asarray(labels).reshape(-1)
    if s.shape != y.shape:
        raise DataError(f"{s.size} scores and {y.size} labels", expected="as many of one as of the other")
    if s.size and not np.isfinite(s).all():
        raise DataError("scores that are not numbers", do="leave out the files that failed")
    if y.size and not np.isin(y, (0, 1)).all():
        raise DataError("labels other than 0 and 1", expected="1 for fake, 0 for real")
    return s, y
