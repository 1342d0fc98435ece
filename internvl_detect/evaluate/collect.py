"""One system's predictions brought into columns as they are read, so that a million rows need no million objects.

Kept beside the columns is what only some rows have: masks as histograms, words as their figures, clips, and the most
confident mistakes. Every failure is the row's own and is counted where its dataset is. Not here: what the columns mean
(``detection``, ``localization``, ``text``, ``clips``); the tables (``grade``).
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from internvl_detect.data.prepare.regions import read_mask
from internvl_detect.errors import IvdetectError, MediaError
from internvl_detect.evaluate.equalise import square_mask
from internvl_detect.evaluate.gallery import Mistake, mistakes
from internvl_detect.evaluate.localization import LEVELS, histograms, read_drawn
from internvl_detect.evaluate.predictions import DECISIONS, Prediction
from internvl_detect.evaluate.slices import Parts
from internvl_detect.evaluate.text import FACTS, facts_compared, rouge_l
from internvl_detect.evaluate.truth import inside

MOST_ERRORS = 200
MISTAKES = 24  # of each kind


@dataclass
class System:
    """Whose predictions: its name in tables, its rows, the folder that files and true masks are named from, that of the
    masks it drew, and their threshold that was chosen on validation data. The paths of an ``ours`` may follow links;
    those of others must stay in their folders."""

    name: str
    rows: Iterable[Prediction]
    root: Path | None = None
    mask_root: Path | None = None
    ours: bool = False
    mask_threshold: float | None = None
    about: dict[str, Any] = field(default_factory=dict)


class Numbers(dict[str, int]):
    """Names by number, in the order in which they came."""

    def of(self, name: str) -> int:
        """The number of a name, a new one where it is new."""
        return self.setdefault(name, len(self))


class Collected:
    """The columns of one system. ``groups`` and ``datasets`` are shared by systems, so that their numbers agree."""

    def __init__(self, system: System, datasets: Numbers, groups: Numbers) -> None:
        self.system, self.datasets, self.groups = system, datasets, groups
        self.keys, self.score, self.fake = array("q"), array("d"), array("b")
        self.decision, self.dataset, self.group = array("b"), array("i"), array("i")
        self.failed: Counter[int] = Counter()
        self.errors: list[dict[str, Any]] = []
        self.n_errors = 0
        self.parts = Parts()
        self.clips: list[tuple[Prediction, int, int]] = []
        self.drawn: list[np.ndarray] = []  # histograms of masks
        self.drawn_of: list[tuple[int, int, bool]] = []  # dataset, group, whether something was edited
        self.not_drawn: list[tuple[Prediction, int, int]] = []
        self.real_not_drawn = array("q")
        self.said: list[tuple[int, int, list[float]]] = []
        self.pairs: list[tuple[str, str]] = []
        self.n_made_alike = 0
        self.mistakes: list[Mistake] = []

    def read(self) -> Collected:
        """Takes all rows in."""
        self.mistakes = mistakes((row for row in self.system.rows if self._take(row)), most=MISTAKES)
        self._take_empty_masks()
        return self

    def _take(self, row: Prediction) -> bool:
        """Whether the row could be graded."""
        dataset = self.datasets.of(row.dataset)
        fake = row.fake
        if row.error or fake is None:
            self.failed[dataset] += 1
            self.tell(row, row.error or "its label is not known")
            return False
        group = self.groups.of(row.group)
        score = math.nan if row.score is None else row.score
        self.keys.append(hash((row.dataset, row.image)))
        self.score.append(score)
        self.fake.append(fake)
        self.decision.append(DECISIONS.index(row.decision) if row.decision else -1)
        self.dataset.append(dataset)
        self.group.append(group)
        self.parts.add(row.facts, row.dataset)
        self.n_made_alike += "side_px" in row.facts
        if row.frames or str(row.facts.get("kind") or "").startswith("video"):
            self.clips.append((row, dataset, group))
        self._take_mask(row, dataset, group, bool(fake))
        if row.outputs and (true := str(row.facts.get("words") or "")):
            facts = facts_compared(row.outputs, true)
            if "side_px" in row.facts:  # cut out of the picture that the true words tell of
                facts |= dict.fromkeys(("place", "size", "claims"), math.nan)
            self.said.append((dataset, group, [rouge_l(row.outputs, true), *(facts[name] for name in FACTS)]))
            self.pairs.append((row.outputs, true))
        return True

    def _take_mask(self, row: Prediction, dataset: int, group: int, fake: bool) -> None:
        if fake and not row.truth_mask:
            return
        if not row.mask:
            if fake:
                self.not_drawn.append((row, dataset, group))
            else:
                self.real_not_drawn.extend((dataset, group, _area(row.facts)))
            return
        try:
            drawn = drawn_mask(self.system, row)
            truth = true_mask(self.system, row) if fake else np.zeros(drawn.shape, bool)
            found = histograms(drawn, truth)
        except IvdetectError as error:
            self.tell(row, f"mask: {error}")
            return
        self.drawn.append(found)
        self.drawn_of.append((dataset, group, fake))

    def _take_empty_masks(self) -> None:
        """A system that draws masks and drew none of a file says that nothing was edited there."""
        if not self.drawn:
            return
        for row, dataset, group in self.not_drawn:
            try:
                truth = true_mask(self.system, row)
            except IvdetectError as error:
                self.tell(row, f"mask: {error}")
                continue
            self.drawn.append(histograms(np.zeros(truth.shape, np.uint8), truth))
            self.drawn_of.append((dataset, group, True))
        for dataset, group, area in zip(*[iter(self.real_not_drawn)] * 3, strict=True):
            empty = np.zeros((2, LEVELS), np.int64)
            empty[0, 0] = area
            self.drawn.append(empty)
            self.drawn_of.append((dataset, group, False))

    def tell(self, row: Prediction, error: str) -> None:
        """Counts an error of a row; the first MOST_ERRORS are kept."""
        self.n_errors += 1
        if len(self.errors) < MOST_ERRORS:
            told = {"system": self.system.name, "image": row.image, "line": row.line, "error": error}
            self.errors.append(told)

    def column(self, name: str) -> np.ndarray:
        """A column as an array, without a copy."""
        held = getattr(self, name)
        return np.frombuffer(held, dtype={"q": np.int64, "d": np.float64, "b": np.int8, "i": np.int32}[held.typecode])


def file_of(system: System, path: str) -> Path:
    """Where a file, or true mask, of a row lies. Raises MediaError where a stranger's path leads out of the root."""
    root = system.root or Path()
    return root / path if system.ours else inside(root, path)


def true_mask(system: System, row: Prediction) -> np.ndarray:
    """bool (H, W), cut as the picture was. Raises MediaError."""
    mask = read_mask(file_of(system, row.truth_mask))
    side = row.facts.get("side_px")
    if isinstance(side, int) and side > 0:
        mask = square_mask(mask, side)
        if not mask.any():
            raise MediaError("what was edited lies outside the part that was looked at")
    return mask


def drawn_mask(system: System, row: Prediction) -> np.ndarray:
    """uint8 (H, W), as the system stored it. Raises MediaError."""
    return read_drawn(inside(system.mask_root or Path(), row.mask))


def _area(facts: dict[str, Any]) -> int:
    """Pixels of the picture as it was looked at; 1 where they are not known, which only the micro figures feel."""
    sides = [value for name in ("width", "height") if isinstance(value := facts.get(name), int) and value > 0]
    if len(sides) < 2:
        return 1
    side = facts.get("side_px")
    return min(side, *sides) ** 2 if isinstance(side, int) and side > 0 else sides[0] * sides[1]
