"""Fusion, calibration and thresholds from log odds by source: numbers in, numbers out.

A source is a generator, a camera set, or a forged set; each weighs the same within its class, both classes weigh the
same, so that neither the largest source nor the commoner class decides. Thresholds are chosen for sources never seen:
they must hold when the sources are drawn anew (by bootstrap), and on the given ones.

    fusion = fit_fusion(odds)
    calibration = fit_calibration(kept, fusion, target_error=0.15)

Not here: asking model and tagger, files (``fuse``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from internvl_detect.errors import ConfigError, DataError
from internvl_detect.model.calibration import Calibration, calibrate, sigmoid, thresholds
from internvl_detect.model.fusion import Fusion

Array = np.ndarray
STRENGTH = 1.0  # C of the regression: the inverse of how strongly weights are drawn to 0
CAUTION = 0.75  # share of the draws of sources in which the thresholds hold
ROUNDS = 200


@dataclass(frozen=True)
class Odds:
    """Raw log odds of fake, the model's and the tagger's, (N,) each; ``fake`` (N,) 1 or 0; ``source`` (N,) names."""

    model: Array
    tag: Array
    fake: Array
    source: Array

    def __post_init__(self) -> None:
        if not len(self.model) == len(self.tag) == len(self.fake) == len(self.source):
            raise DataError("log odds, labels and sources of different lengths")
        if not (np.isfinite(self.model).all() and np.isfinite(self.tag).all()):
            raise DataError("log odds that are not numbers", do="leave out the files that failed")
        if len(np.unique(self.fake)) != 2:
            raise DataError("pictures of one class only", expected="authentic ones and fakes")

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> Odds:
        """Of objects with ``model``, ``tagger``, ``fake`` and ``source``."""
        columns = {name: [row[name] for row in rows] for name in ("model", "tagger", "fake", "source")}
        numbers = [np.array(columns[name], np.float64) for name in ("model", "tagger")]
        return cls(*numbers, np.array(columns["fake"], np.int64), np.array(columns["source"], str))

    def groups(self) -> Array:
        """(N,) a number for each source of a class."""
        both = [f"{y}/{name}" for y, name in zip(self.fake, self.source, strict=True)]
        return np.unique(both, return_inverse=True)[1]

    def fused(self, fusion: Fusion) -> Array:
        """(N,) the fused log odds."""
        return fusion.log_odds(self.model, self.tag)  # type: ignore[arg-type,return-value]

    def apart(self, fusion: Fusion) -> Array:
        """(N,) where the parts disagree, so that the decision is unsure whatever the thresholds."""
        first, second = sigmoid(self.model), sigmoid(self.tag)
        lower, upper = np.minimum(first, second), np.maximum(first, second)
        return (lower < fusion.low) & (upper > fusion.high)


def weights_of(fake: Array, group: Array, times: Array | None = None) -> Array:
    """(N,) summing to N: both classes alike, the sources of a class alike. ``times``: how often each group counts."""
    size = np.bincount(group)
    w = (np.ones(len(size)) if times is None else times)[group] / size[group]
    for y in (0, 1):
        w[fake == y] *= len(w) / 2 / max(w[fake == y].sum(), 1e-300)
    return w


def fit_fusion(odds: Odds) -> Fusion:
    """A logistic regression of the truth on both log odds, by scikit-learn; no weight below 0.

    Where a weight comes out below 0, the better one of the two parts stands alone. Raises ConfigError without
    scikit-learn, DataError where neither part tells fake from authentic.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ConfigError("fitting a fusion needs scikit-learn", do="pip install 'internvl2-8bdetect[eval]'") from None
    w = weights_of(odds.fake, odds.groups())
    best: tuple[float, Fusion] | None = None
    for use in sorted(product((1, 0), repeat=2), reverse=True)[:3]:  # both, the model alone, the tagger alone
        x = np.stack([odds.model, odds.tag], 1) * use
        made = LogisticRegression(C=STRENGTH, tol=1e-8, max_iter=1000).fit(x, odds.fake, sample_weight=w)
        model, tag = (float(v) * u for v, u in zip(made.coef_[0], use, strict=True))
        loss = float((w * np.logaddexp(0, np.where(odds.fake == 1, -1, 1) * made.decision_function(x))).sum())
        if min(model, tag) >= 0 and max(model, tag) > 0 and (best is None or loss < best[0]):
            best = loss, Fusion(model, tag, float(made.intercept_[0]))
        if best is not None and all(use):
            break
    if best is None:
        raise DataError("neither InternVL2 nor the domain tagger tells fake from authentic on these pictures")
    return best[1]


def fit_calibration(
    odds: Odds, fusion: Fusion, target_error: float, *, caution: float = CAUTION, fitted_on: str = ""
) -> Calibration:
    """Probability and thresholds of the fused log odds; pictures on which the parts disagree are never decided.

    Thresholds begin where they hold in a share ``caution`` of ROUNDS draws of the sources with replacement, and are
    then tightened until at most ``target_error`` of those called fake, and of those called authentic, are wrong. Raises
    DataError where there are too few pictures.
    """
    if not 0.5 <= caution < 1:
        raise ConfigError(f"a caution of {caution}", expected="0.5 to under 1")
    group, y = odds.groups(), odds.fake
    w = weights_of(y, group)
    made = calibrate(sigmoid(odds.fused(fusion)), y, target_error, weights=w, fitted_on=fitted_on)
    if not made.fitted:
        raise DataError(made.note, expected="more pictures for the calibration")
    p, free = made.probabilities(sigmoid(odds.fused(fusion))), ~odds.apart(fusion)
    n, rng = int(group.max()) + 1, np.random.default_rng(0)
    of_class = [np.unique(group[y == c]) for c in (0, 1)]
    found = []
    for _ in range(ROUNDS):
        drawn = np.concatenate([rng.choice(own, len(own)) for own in of_class])
        times = np.bincount(drawn, minlength=n).astype(float)
        there = (times[group] > 0) & free
        found.append(thresholds(p[there], y[there], target_error, weights_of(y, group, times)[there]))
    low = float(np.quantile([pair[0] for pair in found], 1 - caution))
    high = float(np.quantile([pair[1] for pair in found], caution))
    low, high = tightened(p[free], y[free], w[free], target_error, low, high)
    closed = [f"never {name}" for name, shut in (("authentic", low <= 0), ("fake", high >= 1)) if shut]
    note = "; ".join([part for part in (made.note, *closed) if part])
    return dataclasses.replace(made, low=low, high=high, note=note)


def errors_of(p: Array, y: Array, w: Array, low: float, high: float) -> dict[str, float]:
    """Four shares of wrong answers, weighted; 0 where nothing is decided.

    ``fake`` and ``authentic``: among those called so. ``of_real`` and ``of_fake``: among the decided of that class.
    """
    called = {"authentic": p < low, "fake": p > high}
    wrong = {"authentic": y == 1, "fake": y == 0}
    decided = called["authentic"] | called["fake"]
    found = {name: _share(w, called[name] & wrong[name], called[name]) for name in called}
    found["of_real"] = _share(w, called["fake"] & (y == 0), decided & (y == 0))
    found["of_fake"] = _share(w, called["authentic"] & (y == 1), decided & (y == 1))
    return found


def tightened(p: Array, y: Array, w: Array, target: float, low: float, high: float) -> tuple[float, float]:
    """The first thresholds from ``low`` downwards and ``high`` upwards at which at most ``target`` of those called
    authentic, and of those called fake, are wrong: each moves past one wrong answer at a time; a side that cannot be
    had is closed."""
    while True:
        now = errors_of(p, y, w, low, high)
        if now["fake"] > target + 1e-12:
            high = 1 - _lower(1 - p, 1 - y, 1 - high)
        elif now["authentic"] > target + 1e-12:
            low = _lower(p, y, low)
        else:
            return low, high


def _lower(p: Array, wrong: Array, limit: float) -> float:
    """Under the last wrong one below ``limit``: a third into the gap under it; 0 where nothing is left."""
    last = p[(p < limit) & (wrong == 1)].max()
    below = p[p < last]
    return float(below.max() + (last - below.max()) / 3) if below.size else 0.0


def _share(w: Array, part: Array, whole: Array) -> float:
    return float(w[part].sum() / w[whole].sum()) if whole.any() else 0.0


def told(odds: Odds, fusion: Fusion, calibration: Calibration) -> dict[str, Any]:
    """What the pair does with these pictures: errors, coverage, and by class and source how many are answered how."""
    y, group = odds.fake, odds.groups()
    p, free = calibration.probabilities(sigmoid(odds.fused(fusion))), ~odds.apart(fusion)
    w = weights_of(y, group)
    called = np.where(~free, "unsure", np.where(p < calibration.low, "authentic", "unsure"))
    called = np.where(free & (p > calibration.high), "fake", called)
    by_source: dict[str, dict[str, int]] = {}
    for fake, source, answer in sorted(zip(y.tolist(), odds.source.tolist(), called.tolist(), strict=True)):
        own = by_source.setdefault(f"{('real', 'fake')[fake]}/{source}", {"authentic": 0, "unsure": 0, "fake": 0})
        own[answer] += 1
    errors = errors_of(p[free], y[free], w[free], calibration.low, calibration.high)
    decided = called != "unsure"
    coverage = {name: _share(w, decided & (y == c), y == c) for c, name in ((0, "real"), (1, "fake"))}
    rounded = {name: {k: round(v, 4) for k, v in part.items()} for name, part in (("e", errors), ("c", coverage))}
    return {
        "pictures": len(y),
        "errors": rounded["e"],
        "coverage": rounded["c"],
        "disagree": round(float(w[~free].sum() / w.sum()), 4),
        "by_source": by_source,
    }
