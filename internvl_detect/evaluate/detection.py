"""Every figure of detection from one pass over sorted scores, for any weights of the source groups.

    rows = Ranked(scores, fake, decisions, group)       # sorted once
    rows.figures()["auc"]                               # the figures themselves
    rows.values(weights)                                # the same, as if group g stood there weights[g] times

The weights are what makes a bootstrap of a million rows cheap: a draw is a count of each group, no array is resampled.
Positive means fake. What cannot be computed (one class only, nothing called fake, a row without a score) is NaN, never
a guess. Not here: the intervals (``intervals``), the simple counts (``metrics``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from internvl_detect.errors import DataError

Array = np.ndarray
N_BINS = 15  # of equal width, for ECE
FALSE_ALARMS = (0.01, 0.05)
# Name, whether more is better, and what it is; thresholds are those of ``Ranked``.
FIGURES: dict[str, tuple[bool, str]] = {
    "auc": (True, "area under the ROC curve, ties counting half"),
    "ap": (True, "average precision: sum of precision times the step in recall, over distinct scores"),
    "accuracy": (True, "share of right answers at the threshold"),
    "balanced_accuracy": (True, "mean of real and fake accuracy; a constant answer has 0.5"),
    "real_accuracy": (True, "share of real files called real"),
    "fake_accuracy": (True, "share of fake files called fake (recall)"),
    "precision": (True, "share of fakes among files called fake"),
    "f1": (True, "F1 of the class fake: 2 tp / (2 tp + fp + fn)"),
    "eer": (False, "error rate where false alarms and misses are equally many, on the ROC curve's straight pieces"),
    "tpr_at_1_fpr": (True, "most fakes found by a threshold with at most 1% false alarms"),
    "tpr_at_5_fpr": (True, "most fakes found by a threshold with at most 5% false alarms"),
    "ece": (False, f"expected calibration error of P(fake), {N_BINS} bins of equal width"),
    "brier": (False, "mean squared difference between P(fake) and the label"),
    "coverage": (True, 'share of files with an answer other than "unsure"'),
    "decided_accuracy": (True, "share of right answers among those"),
}
_N = {name: at for at, name in enumerate(FIGURES)}


class Ranked:
    """The rows of one system on one set. ``scores`` (N,) in [0, 1], NaN for a row with a decision only; ``fake`` (N,)
    1 or 0; ``decisions`` (N,) 0 authentic, 1 unsure, 2 fake, -1 none given; ``group`` (N,) from 0.

    Called fake is a score >= ``threshold``, without a score the decision "fake"; an "unsure" without a score is a wrong
    answer. Raises DataError for what does not fit.
    """

    def __init__(
        self,
        scores: Array | Sequence[float],
        fake: Array | Sequence[int],
        decisions: Array | Sequence[int] | None = None,
        group: Array | Sequence[int] | None = None,
        *,
        threshold: float = 0.5,
    ) -> None:
        s, y = np.asarray(scores, np.float64), np.asarray(fake, np.int8)
        d = np.full(len(s), -1, np.int8) if decisions is None else np.asarray(decisions, np.int8)
        g = np.arange(len(s)) if group is None else np.asarray(group)
        if not len(s) == len(y) == len(d) == len(g) or not np.isin(y, (0, 1)).all():
            raise DataError("scores, labels, decisions and groups of different lengths, or labels beside 0 and 1")
        scored = ~np.isnan(s)
        if not ((s[scored] >= 0) & (s[scored] <= 1)).all():
            raise DataError("a score outside 0 to 1", expected="P(fake)")
        self.threshold = threshold
        self.ranks = bool(scored.all()) and len(s) > 0
        self.n_unscored = int((~scored).sum())
        order = np.argsort(-s, kind="stable") if self.ranks else np.arange(len(s))
        self.scores, self.fake, self.group = s[order], y[order] == 1, g[order].astype(np.int64)
        self.n_groups = int(g.max()) + 1 if len(g) else 0
        d = d[order]
        called = np.where(np.isnan(self.scores), d == 2, self.scores >= threshold)
        called = np.where(np.isnan(self.scores) & (d == 1), ~self.fake, called)
        self._hit, self._alarm = called & self.fake, called & ~self.fake
        self._decides = bool((d >= 0).all()) and len(d) > 0
        self._decided = d != 1
        self._right = self._decided & ((d == 2) == self.fake)
        if self.ranks:
            last = np.append(self.scores[1:] != self.scores[:-1], True)
            self._ends = np.flatnonzero(last) if not last.all() else None  # of rows with the same score
            bins = np.minimum((self.scores * N_BINS).astype(np.int64), N_BINS - 1)
            self._bins = np.flatnonzero(np.append(True, bins[1:] != bins[:-1]))
            self._off = self.scores - self.fake
            self._square = self._off**2
            self._at = int(np.searchsorted(-self.scores, -threshold, side="right"))

    def __len__(self) -> int:
        return len(self.scores)

    def figures(self) -> dict[str, float]:
        """All of FIGURES, each row counted once."""
        return dict(zip(FIGURES, self.values().tolist(), strict=True))

    def values(self, weights: Array | None = None) -> Array:
        """(len(FIGURES),) float64 with row i counted ``weights[group[i]]`` times; ``weights`` whole numbers >= 0."""
        found = np.full(len(FIGURES), np.nan)
        w = np.ones(len(self)) if weights is None else weights.astype(np.float64)[self.group]
        on_fake = w * self.fake
        n, n_fake = float(w.sum()), float(on_fake.sum())
        if n == 0:
            return found
        n_real = n - n_fake
        if self.ranks:
            up, every = np.cumsum(on_fake), np.cumsum(w)
            tp = float(up[self._at - 1]) if self._at else 0.0
            fp = float(every[self._at - 1]) - tp if self._at else 0.0
            self._by_rank(found, up, every, n_fake, n_real)
            found[_N["ece"]] = np.abs(np.add.reduceat(w * self._off, self._bins)).sum() / n
            found[_N["brier"]] = dot(w, self._square) / n
        else:
            tp, fp = dot(w, self._hit), dot(w, self._alarm)
        real_right, fake_right = _share(n_real - fp, n_real), _share(tp, n_fake)
        simple = {
            "accuracy": (tp + n_real - fp) / n,
            "balanced_accuracy": (real_right + fake_right) / 2,
            "real_accuracy": real_right,
            "fake_accuracy": fake_right,
            "precision": _share(tp, tp + fp),
            "f1": _share(2 * tp, tp + fp + n_fake),
        }
        if self._decides:
            decided = dot(w, self._decided)
            simple |= {"coverage": decided / n, "decided_accuracy": _share(dot(w, self._right), decided)}
        for name, value in simple.items():
            found[_N[name]] = value
        return found

    def _by_rank(self, found: Array, up: Array, every: Array, n_fake: float, n_real: float) -> None:
        """The figures of the curve; ``up`` and ``every`` are cumulated weights of fakes and of all, highest first."""
        tp, called = (up, every) if self._ends is None else (up[self._ends], every[self._ends])
        if n_fake:  # a threshold that calls nothing, as nothing of this draw lies there, has no part in it
            precision = np.divide(tp, called, out=np.ones_like(tp), where=called > 0)
            found[_N["ap"]] = (tp[0] * precision[0] + dot(tp[1:] - tp[:-1], precision[1:])) / n_fake
        if not n_fake or not n_real:
            return
        fp = called - tp
        twice = fp[0] * tp[0] + dot(fp[1:] - fp[:-1], tp[1:] + tp[:-1])
        found[_N["auc"]] = twice / 2 / (n_fake * n_real)
        for share, name in zip(FALSE_ALARMS, ("tpr_at_1_fpr", "tpr_at_5_fpr"), strict=True):
            at = _last_at_most(fp, n_real, share)
            found[_N[name]] = tp[at] / n_fake if at >= 0 else 0.0
        found[_N["eer"]] = _equal_error(tp, fp, n_fake, n_real)

    def curves(self) -> dict[str, list[list[float]]]:
        """Points of ROC (false alarms, found), PR (recall, precision) and reliability (mean score, share of fakes, rows
        of the bin); empty without ranks or with one class only. At most 200 points each."""
        if not self.ranks or self.fake.all() or not self.fake.any():
            return {}
        ends = np.arange(len(self)) if self._ends is None else self._ends
        tp = np.cumsum(self.fake)[ends].astype(float)
        called = ends + 1.0
        far, found = (called - tp) / (~self.fake).sum(), tp / self.fake.sum()
        kept = _spread(far, found)
        roc = [
            [0.0, 0.0],
            *([round(float(a), 5), round(float(b), 5)] for a, b in zip(far[kept], found[kept], strict=True)),
        ]
        pr = [[round(float(found[i]), 5), round(float(tp[i] / called[i]), 5)] for i in kept.tolist()]
        reliability = []
        for part in np.split(np.arange(len(self)), self._bins[1:]):
            reliability.append([float(self.scores[part].mean()), float(self.fake[part].mean()), len(part)])
        return {"roc": roc, "pr": pr, "reliability": reliability[::-1]}


def constant_answers(n_real: int, n_fake: int) -> dict[str, dict[str, float]]:
    """The figures of "always fake" and "always real" on a set of that many files; of ranking they have AUC 0.5."""
    found = {}
    for name, score in (("always fake", 1.0), ("always real", 0.0)):
        one_each = Ranked([score] * 2, [0, 1], [2 if score else 0] * 2)
        found[name] = dict(zip(FIGURES, one_each.values(np.array([n_real, n_fake])).tolist(), strict=True))
    return found


def dot(a: Array, b: Array) -> float:
    """The sum of products (N,) in this thread alone: BLAS would start threads that fight those of the bootstrap."""
    return float(np.einsum("i,i", a, b))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else np.nan


def _last_at_most(fp: Array, n_real: float, share: float) -> int:
    """The last place whose false alarm rate is at most ``share``, -1 if none; ``fp`` never falls."""
    at = int(np.searchsorted(fp, share * n_real, side="right"))
    while at < len(fp) and fp[at] / n_real <= share:  # the product above is rounded, the rate is what is meant
        at += 1
    while at and fp[at - 1] / n_real > share:
        at -= 1
    return at - 1


def _equal_error(tp: Array, fp: Array, n_fake: float, n_real: float) -> float:
    """Where the straight pieces of the ROC curve, from (0, 0) on, meet false alarms = misses."""
    low, high = 0, len(tp)  # the first place where false alarms reach misses
    while low < high:
        middle = (low + high) // 2
        if fp[middle] / n_real >= 1 - tp[middle] / n_fake:
            high = middle
        else:
            low = middle + 1
    low = min(low, len(tp) - 1)
    far, miss = fp[low] / n_real, 1 - tp[low] / n_fake
    far_before, miss_before = (fp[low - 1] / n_real, 1 - tp[low - 1] / n_fake) if low else (0.0, 1.0)
    over, under = far - miss, miss_before - far_before
    return float(far_before + (far - far_before) * (under / (under + over))) if under + over > 0 else float(far)


def _spread(x: Array, y: Array, most: int = 199) -> Array:
    """Places of at most ``most`` points, evenly along the curve; always its last."""
    if len(x) <= most:
        return np.arange(len(x))
    along = np.cumsum(np.abs(np.diff(x, prepend=0.0)) + np.abs(np.diff(y, prepend=0.0)))
    return np.unique(np.append(np.searchsorted(along, np.linspace(0, along[-1], most)[:-1]), len(x) - 1))
