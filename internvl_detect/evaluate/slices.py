"""Where a detector fails: accuracy and AUC by generator, domain, size, JPEG quality, face or not, method; worst first.

Rows are mappings or objects with ``label``, ``score``, ``group_id`` and ``facts`` (as in ``predictions``). A slice of
fakes alone (a generator) is measured against the real rows of its own dataset, or, where it has none, against all of
them: a generator has no real pictures of its own. Small slices are marked and come after the others.

    for part in slices_of(rows):
        print(part.by, part.value, part.auc, part.low, part.high, part.n_real, part.n_fake, part.small)
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from internvl_detect.evaluate.metrics import auc, balanced_accuracy, counts_at
from internvl_detect.evaluate.predictions import value_of
from internvl_detect.evaluate.robustness import group_interval

FEWEST = 30  # rows of a class under which a slice is called small
MOST = 200  # values of one kind that are told; the largest
BY = ("dataset", "generator", "domain", "method", "size", "quality", "face", "format")
_SIZES = ((0, "under 256 px"), (256, "256 to 511 px"), (512, "512 to 1023 px"), (1024, "1024 px and more"))
_QUALITIES = ((0, "JPEG under 60"), (60, "JPEG 60 to 74"), (75, "JPEG 75 to 89"), (90, "JPEG 90 and more"))


@dataclass(frozen=True)
class Slice:
    """One part: ``by`` and ``value`` name it. AUC with its 95 % interval, balanced accuracy at ``threshold``, counts.

    ``against`` says where the real rows are from: "itself", "its dataset" or "all". ``small`` slices prove little.
    """

    by: str
    value: str
    auc: float
    low: float
    high: float
    balanced_accuracy: float
    n_real: int
    n_fake: int
    against: str
    small: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, rounded; None for NaN."""
        return {k: None if v != v else round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def facts_for_slicing(facts: Mapping[str, Any], dataset: str = "") -> dict[str, str]:
    """The slice that each kind puts a row into; kinds of which nothing is known are left out.

    Size is the shorter side; ``face`` may be a truth value or text; a ``kind`` of "face" in the facts counts too.
    """
    found = {"dataset": dataset}
    for name in ("generator", "domain", "method", "format"):
        found[name] = str(facts.get(name) or "")
    sides = [_number(facts.get(name)) for name in ("width", "height")]
    if all(sides):
        found["size"] = _bin(min(sides), _SIZES)
    if quality := _number(facts.get("quality")):
        found["quality"] = _bin(quality, _QUALITIES)
    face = facts.get("face", "face" in str(facts["kind"]).lower() if facts.get("kind") else None)
    if face is not None and face != "":
        found["face"] = "face" if face in (True, 1, "1", "true", "yes", "face") else "no face"
    return {name: value for name, value in found.items() if value}


def slices_of(rows: Iterable[Any], *, threshold: float = 0.5, rounds: int = 300) -> list[Slice]:
    """All slices, the worst first: by AUC, small ones and those that have none last. Rows without a score are left out.

    ``label`` is 0 or 1, or a label of the manifest ("real" against all others).
    """
    kept: list[tuple[float, int, str]] = []
    parts = Parts()
    for row in rows:
        score = value_of(row, "score")
        if score is None or not math.isfinite(score):
            continue
        label = value_of(row, "label")
        kept.append((float(score), int(label not in (0, "0", "real")), str(value_of(row, "group_id") or len(kept))))
        parts.add(value_of(row, "facts") or {}, str(value_of(row, "dataset") or ""))
    if not kept:
        return []
    scores, fake = np.array([k[0] for k in kept]), np.array([k[1] for k in kept])
    groups = np.unique([k[2] for k in kept], return_inverse=True)[1]
    return measure(scores, fake, groups, parts, threshold=threshold, rounds=rounds)


class Parts:
    """Which slice of each kind every row is in, as numbers: 0 where nothing is known. Holds 32 bytes a row."""

    def __init__(self) -> None:
        self.codes: dict[str, array[int]] = {by: array("i") for by in BY}
        self.names: dict[str, dict[str, int]] = {by: {"": 0} for by in BY}

    def add(self, facts: Mapping[str, Any], dataset: str) -> None:
        """The next row."""
        found = facts_for_slicing(facts, dataset)
        for by, names in self.names.items():
            self.codes[by].append(names.setdefault(found.get(by, ""), len(names)))


def measure(
    scores: np.ndarray, fake: np.ndarray, groups: np.ndarray, parts: Parts, *, threshold: float, rounds: int
) -> list[Slice]:
    """The slices of rows in columns, as ``slices_of`` orders them. ``groups`` (N,) whole numbers."""
    datasets = np.frombuffer(parts.codes["dataset"], np.int32)
    found = []
    for by in BY:
        codes, names = np.frombuffer(parts.codes[by], np.int32), list(parts.names[by])
        counts = np.bincount(codes, minlength=len(names))
        counts[0] = 0
        if np.count_nonzero(counts) > 1 or by in ("generator", "method"):
            for code in sorted(np.flatnonzero(counts).tolist(), key=lambda c: (-counts[c], names[c]))[:MOST]:
                chosen, against = _with_real(codes == code, fake, datasets)
                found.append(_slice(by, names[code], chosen, against, scores, fake, groups, threshold, rounds))
    return sorted(found, key=lambda s: (math.isnan(s.auc), s.small, s.auc, s.by, s.value))


def _with_real(chosen: np.ndarray, fake: np.ndarray, datasets: np.ndarray) -> tuple[np.ndarray, str]:
    if (chosen & (fake == 0)).any() or not (chosen & (fake == 1)).any():
        return chosen, "itself"
    real = (fake == 0) & np.isin(datasets, np.unique(datasets[chosen]))
    return (chosen | real, "its dataset") if real.any() else (chosen | (fake == 0), "all")


def _slice(
    by: str,
    value: str,
    chosen: np.ndarray,
    against: str,
    scores: np.ndarray,
    fake: np.ndarray,
    groups: np.ndarray,
    threshold: float,
    rounds: int,
) -> Slice:
    s, y = scores[chosen], fake[chosen]
    member = np.unique(groups[chosen], return_inverse=True)[1]
    low, high = group_interval(s, y, member, rounds=rounds)
    n_fake = int(y.sum())
    counts = counts_at(s, y, threshold)
    small = min(n_fake, len(y) - n_fake) < FEWEST
    values = (auc(s, y), low, high, balanced_accuracy(counts))
    return Slice(by, value, *values, len(y) - n_fake, n_fake, against, small)


def _bin(value: float, bins: Sequence[tuple[int, str]]) -> str:
    return next(name for least, name in reversed(bins) if value >= least)


def _number(value: Any) -> float:
    try:
        number = float(value or 0)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0
