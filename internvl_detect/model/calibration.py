"""From a raw score to a probability and a three-way decision: Platt scaling and two thresholds, fitted on validation.

Not a metric and not a model: numbers in, numbers out (numpy only). ``calibrate(scores, labels)`` gives a
``Calibration`` that is stored beside the adapter; without one, ``Calibration()`` leaves the score as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_detect.errors import DataError
from internvl_detect.verdict import Decision

EPS = 1e-6  # scores are cut to [EPS, 1 - EPS] before the log odds
MIN_SLOPE = 1e-3  # the map stays strictly monotone even where the scores say nothing
MAX_SLOPE = 20.0
MIN_PER_CLASS = 5  # with fewer of either class nothing is fitted
LABELS = {"real": 0, "authentic": 0, "fake": 1, "ai_generated": 1, "tampered": 1, "deepfake": 1}


@dataclass(frozen=True)
class Calibration:
    """probability = sigmoid(a * logit(score) + b); authentic below ``low``, fake above ``high``, else unsure.

    ``a`` > 0, so the order of scores never changes. ``low`` <= 0.5 <= ``high``, in probability. ``target_error`` is
    the error rate that either side was allowed on the ``n_real`` + ``n_fake`` files of ``fitted_on``; ``note`` says
    what the fit could not do. ``method`` is "none" (score = probability) or "platt". ``model``
    names whose scores these were, where that is known.
    """

    method: str = "none"
    a: float = 1.0
    b: float = 0.0
    low: float = 0.3
    high: float = 0.7
    n_real: int = 0
    n_fake: int = 0
    target_error: float = 0.05
    fitted_on: str = ""
    note: str = ""
    model: str = ""

    @property
    def fitted(self) -> bool:
        """True when validation data stands behind the probability."""
        return self.method != "none"

    def probability(self, score: float) -> float:
        """The calibrated P(fake) in [0, 1] of one raw score in [0, 1]."""
        if not self.fitted:
            return float(score)
        return float(self.probabilities([score])[0])

    def probabilities(self, scores: Sequence[float] | np.ndarray) -> np.ndarray:
        """``probability`` for many scores: (N,) float64."""
        values = np.asarray(scores, dtype=np.float64)
        if not self.fitted:
            return values
        return sigmoid(self.a * _logit(values) + self.b)

    def score_of(self, probability: float) -> float:
        """The raw score in (0, 1) whose calibrated probability this is."""
        if not self.fitted:
            return float(probability)
        return float(sigmoid((_logit(np.array([probability])) - self.b) / self.a)[0])

    def decide(self, probability: float) -> Decision:
        """The three-way answer for a calibrated probability."""
        if probability < self.low:
            return "authentic"
        return "fake" if probability > self.high else "unsure"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any] | None) -> Calibration:
        """The inverse of ``to_dict``; None gives the uncalibrated default. Raises DataError on unusable values."""
        if stored is None:
            return cls()
        if not isinstance(stored, dict):
            raise DataError(f"a calibration that is {stored!r:.80}", expected="an object with a, b, low and high")
        known = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(stored) - set(known))
        if unknown:
            raise DataError(f"a calibration with unknown keys {unknown}", expected=f"only {sorted(known)}")
        made = cls(**stored)
        numbers = (made.a, made.b, made.low, made.high)
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= 1000 for v in numbers)
        words = all(isinstance(v, str) for v in (made.method, made.fitted_on, made.note, made.model))
        counts = all(isinstance(v, int) for v in (made.n_real, made.n_fake))
        known_method = words and made.method in ("none", "platt")
        if not (plain and counts and known_method and made.a > 0 and 0 <= made.low <= 0.5 <= made.high <= 1):
            raise DataError(
                f"a calibration with a={made.a!r}, b={made.b!r}, low={made.low!r}, high={made.high!r}",
                expected="numbers with a > 0 and 0 <= low <= 0.5 <= high <= 1",
                do="fit it again with `ivdetect calibrate`",
            )
        return made


def calibrate(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[int | bool | str] | np.ndarray,
    target_error: float = 0.05,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
    fitted_on: str = "",
) -> Calibration:
    """Fit slope and offset by log loss, then the widest thresholds that keep the error rates.

    ``labels``: 1, True or a kind of fake; 0, False or "real". ``weights`` > 0 say how much each file counts, against
    the others; None: all alike. On each side both error rates hold on the given data:
    the share of wrong files among those decided so, and the share of the other class that falls there.
    Platt's smoothed targets (Platt 1999, section 2.2) keep the fit finite when the classes separate perfectly. With
    fewer than 5 files of a class nothing is fitted, and ``note`` says so. Raises DataError on unusable scores.
    """
    s = np.asarray(scores, dtype=np.float64).reshape(-1)
    y = np.array([_as_class(v) for v in labels], dtype=np.int64)
    if s.shape != y.shape:
        raise DataError(f"{s.size} scores and {y.size} labels", expected="as many of one as of the other")
    if s.size and (not np.isfinite(s).all() or s.min() < 0 or s.max() > 1):
        raise DataError("scores that are not numbers in [0, 1]", do="leave out the files that failed")
    if not 0 < target_error < 0.5:
        raise DataError(f"a target error of {target_error}", expected="a share between 0 and 0.5")
    w = np.ones(len(s)) if weights is None else np.asarray(weights, dtype=np.float64).reshape(-1)
    if w.shape != s.shape or (w.size and not (np.isfinite(w).all() and w.min() > 0)):
        raise DataError("weights that do not fit the scores", expected="a number above 0 for each")
    w = w * (len(w) / max(w.sum(), 1e-300))
    n_fake, n_real = int(y.sum()), int((1 - y).sum())
    if min(n_fake, n_real) < MIN_PER_CLASS:
        note = f"not calibrated: {n_real} real and {n_fake} fake files; at least {MIN_PER_CLASS} of each are needed"
        return Calibration(n_real=n_real, n_fake=n_fake, target_error=target_error, fitted_on=fitted_on, note=note)
    notes = []
    a, b = _fit(_logit(s), y, w)
    if a <= MIN_SLOPE:
        notes.append("the scores do not tell real from fake here")
    p = sigmoid(a * _logit(s) + b)
    low, high = thresholds(p, y, target_error, w)
    few = [f"{n} {name}" for n, name in ((n_real, "real"), (n_fake, "fake")) if n * target_error < 1]
    if few:
        notes.append(f"only {' and '.join(few)} files: an error rate of {target_error:.0%} is not shown by so few")
    return Calibration(
        "platt", a, b, low, high, n_real, n_fake, target_error, fitted_on=fitted_on, note="; ".join(notes)
    )


def thresholds(
    p: np.ndarray, y: np.ndarray, target_error: float, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """(low, high) around 0.5 that decide as much as possible with both error rates on both sides <= ``target_error``.

    ``p`` (N,) probabilities, ``y`` (N,) 0 real, 1 fake, ``weights`` (N,) as for ``calibrate``. A side that cannot be
    had is closed: low 0 or high 1. The thresholds stand a third into the gap between two observed values, so what was
    never seen stays unsure.
    """
    w = np.ones(len(p)) if weights is None else weights
    return _one_side(p, y, w, target_error), 1.0 - _one_side(1 - p, 1 - y, w, target_error)


def _one_side(p: np.ndarray, wrong: np.ndarray, w: np.ndarray, target: float) -> float:
    """The largest threshold t <= 0.5 whose files below it hold few ``wrong``; 0 when there is none."""
    order = np.argsort(p, kind="stable")
    values, w, wrong = p[order], w[order], (w * wrong)[order]
    n_wrong = wrong.sum() or 1.0
    counts = np.cumsum(wrong)  # wrong ones among the first k + 1
    upper = np.append(values[1:], 1.0)
    gap_ends = upper > values  # a threshold may stand only between different values
    cut = values + (upper - values) / 3
    cut = np.where((cut > 0.5) & (values < 0.5), 0.5, cut)
    decided = np.cumsum(w)
    fits = gap_ends & (cut <= 0.5) & (counts <= target * decided) & (counts <= target * n_wrong)
    if not fits.any():
        return 0.0
    return float(cut[np.flatnonzero(fits)[-1]])


def _fit(z: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the smoothed log loss by Newton's method with halved steps; slope cut to its bounds."""
    n_fake = float((weight * y).sum())
    t = np.where(y == 1, (n_fake + 1) / (n_fake + 2), 1 / (float(weight.sum()) - n_fake + 2))
    x = np.stack([z, np.ones_like(z)], axis=1)  # (N, 2)
    w = np.array([1.0, 0.0])
    w = _newton(x, t, w, weight)
    slope = float(np.clip(w[0], MIN_SLOPE, MAX_SLOPE))
    if slope != w[0]:  # at a bound only the offset is free
        w = np.append(slope, _newton(x[:, 1:], t, np.zeros(1), weight, fixed=slope * z))
    return slope, float(w[1])


def _newton(
    x: np.ndarray, t: np.ndarray, w: np.ndarray, weight: np.ndarray, fixed: np.ndarray | float = 0.0
) -> np.ndarray:
    loss = _log_loss(x @ w + fixed, t, weight)
    for _ in range(100):
        p = sigmoid(x @ w + fixed)
        gradient = x.T @ (weight * (p - t))
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(len(w))
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-8 and not _log_loss(x @ (w - size * step) + fixed, t, weight) <= loss:
            size /= 2
        w = w - size * step
        previous, loss = loss, _log_loss(x @ w + fixed, t, weight)
        if previous - loss <= 1e-12 * len(t):
            break
    return w


def _log_loss(logits: np.ndarray, t: np.ndarray, weight: np.ndarray) -> float:
    return float(np.sum(weight * (np.logaddexp(0, logits) - t * logits)))


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, EPS, 1 - EPS)
    return np.log(p) - np.log1p(-p)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def _as_class(label: int | bool | str) -> int:
    if isinstance(label, str):
        if label not in LABELS:
            raise DataError(f"the label {label!r}", expected=f"one of {sorted(LABELS)}")
        return LABELS[label]
    if label in (0, 1):
        return int(label)
    raise DataError(f"the label {label!r}", expected="0 (real) or 1 (fake)")
