"""The shortcuts of a dataset, class against class, in numbers and in plain words with what to do about each.

    for comparison in compare(found):            # found: data.survey.Survey
        print(comparison.title, comparison.shortcuts["all"].auc, *warnings_of(comparison), sep="\\n")

Not here: how they are measured (``shortcuts``), how they are laid out (``report.survey``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_detect.data.findings import Finding
from internvl_detect.data.survey.table import FINE
from internvl_detect.data.survey.whole import Survey
from internvl_detect.evaluate.shortcuts import ALL, FEWEST, Column, Features, Shortcut, features_of, measure_shortcuts

MOST_DATASETS = 20
_SHOWN = 3
_COMMON = 0.05
_WEAK, _STRONG, _CERTAIN = 0.55, 0.7, 0.9  # where the lower end of the interval lies
WORDS = {
    "kind": "being a picture or a clip alone",
    "size": "the size in pixels alone",
    "aspect": "width over height alone",
    "format": "the file format and colour mode alone",
    "tables": "the JPEG quantisation tables alone",
    "quality": "the JPEG quality and sampling alone",
    "compression": "the bytes per pixel alone",
    "metadata": "the metadata alone",
    "clip": "codec, frame rate and length of clips alone",
    ALL: "all of these together",
}
_ALIKE = "re-encode both classes alike, at JPEG qualities drawn from one range"
_TO_DO = {
    "kind": "train and test pictures and clips apart, or have both in both classes",
    "size": "crop or resize both classes alike",
    "aspect": "crop both classes alike",
    "format": _ALIKE,
    "tables": _ALIKE,
    "quality": _ALIKE,
    "compression": _ALIKE,
    "metadata": "re-encode both classes without metadata",
    "clip": "cut and re-encode the clips of both classes alike",
}


@dataclass(frozen=True)
class Comparison:
    """The real files against the fake ones of one ``label`` ("fake": all of them) in one ``dataset`` ("": all).

    ``values`` says of each feature what the two sides have, commonest first: {feature: {"real": [(text, share)], ...}};
    of numbers it has the 5, 50 and 95 % points, and how many files have one, like
    [("5%", number), ..., ("known", share)].
    """

    dataset: str
    label: str
    n_real: int
    n_fake: int
    shortcuts: dict[str, Shortcut]
    values: dict[str, dict[str, list[tuple[str, float]]]]
    different: dict[str, dict[str, int]]  # how many different values each side has; 0 for numbers

    @property
    def title(self) -> str:
        """For example "real against tampered"."""
        return f"real against {self.label}" + (f" in {self.dataset}" if self.dataset else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; keys are stable."""
        features = {name: shortcut.to_dict() for name, shortcut in self.shortcuts.items()}
        for name, sides in self.values.items():
            features[name]["values"] = {s: [[text, round(n, 4)] for text, n in pairs] for s, pairs in sides.items()}
        head = {"dataset": self.dataset, "label": self.label, "n_real": self.n_real, "n_fake": self.n_fake}
        return {**head, "features": features, "warnings": warnings_of(self)}


def compare(found: Survey) -> list[Comparison]:
    """Real against each kind of fake, against all of them where there are several, and inside each dataset of many."""
    table = found.table
    labels = np.array(table.texts("label"))[table["label"]]
    usable = found.usable() & (table["state"] == FINE)
    real, fake = usable & (labels == "real"), usable & (labels != "real")
    if not real.any() or not fake.any():
        return []
    features = features_of(table)
    groups = np.where(table["own_group"] > 0, table["sha"], table["group"])  # copies of a file are one source
    kinds = sorted(set(labels[fake].tolist()))
    asked = [("", "fake", real, fake)] if len(kinds) > 1 else []
    asked += [("", kind, real, fake & (labels == kind)) for kind in kinds]
    datasets = np.bincount(table["dataset"][fake], minlength=len(table.texts("dataset")))
    many = [d for d in np.argsort(-datasets, kind="stable").tolist() if datasets[d]][:MOST_DATASETS]
    if len(np.unique(table["dataset"])) > 1:
        own = [(table.texts("dataset")[d], table["dataset"] == d) for d in many]
        asked += [(name or "rows without a dataset", "fake", real & here, fake & here) for name, here in own]
    sides = [
        (d, k, np.flatnonzero(a), np.flatnonzero(b)) for d, k, a, b in asked if min(a.sum(), b.sum(), FEWEST) == FEWEST
    ]
    return [_comparison(dataset, kind, a, b, features, groups) for dataset, kind, a, b in sides]


def _comparison(
    dataset: str, kind: str, real: np.ndarray, fake: np.ndarray, features: Features, groups: np.ndarray
) -> Comparison:
    rows = np.append(real, fake)
    chosen = {name: [column[rows] for column in columns] for name, columns in features.items()}
    truth = np.repeat([0, 1], [len(real), len(fake)])
    values, different = {}, {}
    for name, columns in features.items():
        parts = {"real": columns[0][real], "fake": columns[0][fake]}
        values[name] = {side: _values(column) for side, column in parts.items()}
        different[name] = {
            side: len(np.unique(column.values)) if column.names is not None else 0 for side, column in parts.items()
        }
    shortcuts = measure_shortcuts(chosen, truth, groups[rows])
    return Comparison(dataset, kind, len(real), len(fake), shortcuts, values, different)


def _values(column: Column) -> list[tuple[str, float]]:
    if column.names is None:
        known = column.values[np.isfinite(column.values)]
        if not len(known):
            return []
        numbers = [*np.quantile(known, (0.05, 0.5, 0.95)).tolist(), len(known) / len(column.values)]
        return list(zip(("5%", "50%", "95%", "known"), numbers, strict=True))
    counts = np.bincount(column.values, minlength=len(column.names)) / len(column.values)
    order = np.argsort(-counts, kind="stable")[:_SHOWN]
    return [(column.names[i], float(counts[i])) for i in order.tolist() if counts[i] > 0]


def warnings_of(comparison: Comparison) -> list[dict[str, str]]:
    """``feature``, ``text`` (what it gives away) and ``to_do``, the strongest first; only what lies clear of chance.

    Nothing is to be done about "all" itself: a model that scores no better has learnt the set, not forgeries.
    """
    found = []
    for name, shortcut in sorted(comparison.shortcuts.items(), key=lambda item: -item[1].auc):
        if not shortcut.low > _WEAK:  # NaN is not
            continue
        how = "be told" if shortcut.low > _CERTAIN else "often be told" if shortcut.low > _STRONG else "be guessed"
        text = (
            f"by {WORDS[name]} the label can {how} (AUC {shortcut.auc:.2f}, {shortcut.low:.2f} to {shortcut.high:.2f})"
        )
        if sides := comparison.values.get(name):
            labels = {"real": "real", "fake": comparison.label}
            apart = not {text for text, _ in sides["real"]} & {text for text, _ in sides["fake"]}
            said = [_in_words(labels[s], sides[s], comparison.different[name][s], apart) for s in ("real", "fake")]
            text += f": {said[0]}; {said[1]}"
        found.append({"feature": name, "text": text, "to_do": _TO_DO.get(name, "")})
    return found


def as_findings(comparisons: Sequence[Comparison]) -> list[Finding]:
    """The warnings as findings of the code ``shortcut``."""
    return [
        Finding(
            *("warning", "shortcut", one.dataset or "all files", 0),
            f"{one.title}: {told['text']}",
            told["to_do"],
            one.dataset,
        )
        for one in comparisons
        for told in warnings_of(one)
    ]


def _in_words(side: str, pairs: list[tuple[str, float]], different: int, apart: bool) -> str:
    """For example "every real file is 300x300 or 340x340", "fake files have 0.52 (nine in ten: 0.4 to 0.6)".

    Shares are given where the two sides are not ``apart``, as then they are the difference.
    """
    if not pairs:
        return f"no {side} file has one"
    if pairs[0][0] == "5%":
        low, middle, high = (f"{value:.3g}" for _, value in pairs[:3])
        known = _percent(pairs[3][1])
        who = f"{side} files" if known == "100%" else f"the {known} of {side} files that have one"
        return f"{who} have {middle}" + (f" (nine in ten: {low} to {high})" if low != high else "")
    names = [name for name, _ in pairs]
    if different == len(pairs) and (apart or different == 1):
        return f"every {side} file is {' or '.join(names)}"
    common = [f"{_percent(share)} {name}" for name, share in pairs if share >= _COMMON]
    if not common:
        return f"{side} files have {different} different values"
    return f"{side} files are {', '.join(common)}" + (
        f", of {different} different values" if different > len(pairs) else ""
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
