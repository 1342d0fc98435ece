"""Figures that others published, and what their own numbers say once the constant answers stand beside them.

    for cell in redrawn(): cell.dataset, cell.system, cell.accuracy, cell.f1, cell.identity, cell.holds, cell.balanced

Accuracy and F1 of n files hold more than they show. F1 = 2 TP / (n + TP - TN), so it is 2 ACC / (1 + ACC) exactly where
TN = 0: no authentic file was called authentic, because there is none or because the system calls everything tampered
(near ACC = 1 rounding hides the difference). Where that holds for every system, good and bad ones, the set has
(almost) only tampered files, and the answer "tampered" scores 1.00 on it. Where the classes are counted,
TP = F1 n (1 - ACC) / (2 (1 - F1)) gives both classes' accuracies back, as far as the rounding of the printed numbers
lets it. Not measured here: anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from internvl_detect.data.datasets.catalog import key
from internvl_detect.files import read_yaml

CONSTANTS = ("always tampered", "always authentic")
_STEPS = 101  # of each printed number, over what it may be before rounding


@dataclass(frozen=True)
class Cell:
    """One system on one set. ``identity`` is 2 ACC / (1 + ACC), ``holds`` whether F1 is that within rounding;
    ``balanced`` (middle, lowest, highest) of balanced accuracy, None where the classes are not counted or the set has
    one class. ``fits`` is False where no counts of right and wrong files give these numbers. ``published`` is False for
    a constant answer, which is computed."""

    dataset: str
    system: str
    accuracy: float
    f1: float
    identity: float
    holds: bool
    balanced: tuple[float, float, float] | None
    fits: bool = True
    published: bool = True


@cache
def published() -> dict[str, Any]:
    """The tables of ``published.yaml``."""
    return read_yaml(Path(__file__).with_name("published.yaml"))


def figure_of(table: str, dataset: str, metric: str, system: str = "") -> float | None:
    """The printed figure of a system (default: the file's ``reference``) on a dataset; None where there is none."""
    told = published()["tables"][table]
    row = told["systems"].get(system or published()["reference"])
    if row is None or metric not in told["metrics"]:
        return None
    at = next((i for i, name in enumerate(told["sets"]) if key(name) == key(dataset)), None)
    return None if at is None else row[at][told["metrics"].index(metric)]


def redrawn() -> Iterator[Cell]:
    """The detection table cell by cell, each set's constant answers first."""
    table = published()["tables"]["detection"]
    for at, (dataset, counts) in enumerate(table["sets"].items()):
        cells = {name: tuple(row[at]) for name, row in table["systems"].items()}
        one_class = all(holds(*cell) for cell in cells.values())
        share = 1.0 if one_class else None if counts is None else counts[0] / sum(counts)
        if share is not None:
            for name, accuracy, f1 in zip(CONSTANTS, (share, 1 - share), (2 * share / (1 + share), 0.0), strict=True):
                balanced = None if one_class else (0.5, 0.5, 0.5)
                same = 2 * accuracy / (1 + accuracy)
                yield Cell(dataset, name, accuracy, f1, same, abs(f1 - same) < 1e-9, balanced, published=False)
        for name, (accuracy, f1) in cells.items():
            counted = counts is not None and not one_class
            found = balanced_of(accuracy, f1, *counts) if counted else None
            same = 2 * accuracy / (1 + accuracy)
            yield Cell(dataset, name, accuracy, f1, same, holds(accuracy, f1), found, fits=bool(found) or not counted)


def holds(accuracy: float, f1: float, digits: int = 2) -> bool:
    """Whether some accuracy and F1 that round to these satisfy F1 = 2 ACC / (1 + ACC)."""
    half = 0.5 * 10**-digits
    low, high = (2 * a / (1 + a) for a in (accuracy - half, accuracy + half))
    return low - half <= f1 <= high + half


def balanced_of(
    accuracy: float, f1: float, n_fake: int, n_real: int, digits: int = 2
) -> tuple[float, float, float] | None:
    """(middle, lowest, highest) balanced accuracy of all accuracies and F1s that round to these and are possible with
    so many files; None where none is."""
    half = 0.5 * 10**-digits
    acc, score = np.meshgrid(*(np.clip(np.linspace(v - half, v + half, _STEPS), 0, 1 - 1e-9) for v in (accuracy, f1)))
    n = n_fake + n_real
    tp = score * n * (1 - acc) / (2 * (1 - score))
    tn = acc * n - tp
    possible = (tp >= 0) & (tp <= n_fake) & (tn >= 0) & (tn <= n_real)
    if not possible.any():
        return None
    balanced = ((tp / n_fake + tn / n_real) / 2)[possible]
    return float(np.median(balanced)), float(balanced.min()), float(balanced.max())


def to_markdown() -> str:
    """The detection table with constant answers, identity and balanced accuracy; then the other tables as printed."""
    source = published()["source"]
    lines = [f"Published figures, not measured here. Source: {source}.", "", "## Detection, cell by cell", ""]
    lines += ["| set | system | ACC | F1 | 2·ACC/(1+ACC) | same within rounding | balanced ACC, from both |"]
    lines += ["|---|---|---:|---:|---:|---|---|"]
    cells = list(redrawn())
    for c in cells:
        name = c.system if c.published else f"*{c.system}* (computed)"
        told = "{:.2f} ({:.2f} to {:.2f})".format(*c.balanced) if c.balanced else ""
        told = "0.50" if c.balanced and not c.published else told if c.fits else "not possible with these files"
        same = "yes" if c.holds else "no"
        lines.append(f"| {c.dataset} | {name} | {c.accuracy:.2f} | {c.f1:.2f} | {c.identity:.2f} | {same} | {told} |")
    lines += ["", *said(cells)]
    for table, title in (("localization", "Localization"), ("explanation", "Words")):
        told = published()["tables"][table]
        lines += ["", f"## {title}, as printed ({' / '.join(told['metrics'])})", ""]
        lines += [f"| system | {' | '.join(told['sets'])} |", "|---|" + "---|" * len(told["sets"])]
        for system, row in told["systems"].items():
            lines.append(f"| {system} | " + " | ".join(" / ".join(f"{v:g}" for v in cell) for cell in row) + " |")
    return "\n".join(lines) + "\n"


def said(cells: list[Cell]) -> list[str]:
    """What the cells come to, a sentence each."""
    found = []
    for dataset in dict.fromkeys(c.dataset for c in cells):
        own = [c for c in cells if c.dataset == dataset and c.published]
        n = sum(c.holds for c in own)
        text = f"- {dataset}: F1 = 2·ACC/(1+ACC) in {n} of {len(own)} cells"
        constant = next((c for c in cells if c.dataset == dataset and c.system == CONSTANTS[0]), None)
        if n == len(own):
            text += (
                ", so no cell shows an authentic file that was called authentic: (almost) only tampered files were "
                'taken. The answer "tampered" scores 1.00 / 1.00, and balanced accuracy has no meaning'
            )
        elif constant is None:
            text += "; how many files of each class were taken is not known, so there is no balanced column"
        else:
            text += f'; always answering "tampered" has {constant.accuracy:.3f} / {constant.f1:.3f}'
        found.append(text + ".")
    return found
