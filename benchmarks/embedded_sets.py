"""The pictures that the embedded weights are measured on, and the figures and tables that come of them.

Part of ``embedded.py``, which says how to run it. A picture is of the test split of what was trained on, or of a source
that was never trained on. Forged sets and edits by others stay as their files are; pictures that are taken whole are
equalised, since authentic and generated ones come in different formats. Not here: what is measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from internvl_detect.data.draws import share_of
from internvl_detect.data.prepare.regions import read_mask
from internvl_detect.errors import DataError, MediaError
from internvl_detect.evaluate.detection import FIGURES, Ranked
from internvl_detect.evaluate.equalise import equalise, rng_of, square
from internvl_detect.evaluate.intervals import intervals
from internvl_detect.evaluate.localization import histograms
from internvl_detect.media.image import open_image
from internvl_detect.media.source import PICTURE_SUFFIXES
from internvl_detect.train.material import as_they_are, forged_rows
from internvl_detect.train.tag_data import TagRow

ROUNDS = 500  # of each bootstrap
LEAST = 5  # groups of a class: fewer, drawn again and again, show no spread
WHOLE, FORGED, TAMPERED, DRAWN = "whole", "forged", "tampered by others", "drawn by people"
Figure = dict[str, float | None]


@dataclass(frozen=True)
class Item:
    """One picture: ``pool`` is one of these four, ``method`` what was done in a forged set, ``record`` what it holds
    of it; ``seen`` whether other pictures of its source were trained on."""

    row: TagRow
    pool: str
    seen: bool = True
    method: str = ""
    record: dict[str, Any] | None = field(default=None, compare=False)

    @property
    def fake(self) -> int:
        return int(self.row.tag != "authentic")

    @property
    def group(self) -> str:
        """What is drawn whole for intervals: the photograph that it is or was made of."""
        return self.row.group

    def picture(self) -> Image.Image:
        """As it is measured by the tagger: whole pictures equalised, others as their files are."""
        rgb = open_image(self.row.path).rgb
        return equalise(rgb, rng_of(self.row.group)) if self.pool in (WHOLE, DRAWN) else rgb

    def equalised(self) -> Image.Image:
        """Made like all others. Raises MediaError where an edit lies outside the part that is looked at."""
        if (truth := self.truth()) is not None and not np.asarray(square(Image.fromarray(truth), 512)).any():
            raise MediaError(f"the edit of {self.row.path} lies outside the part that is looked at")
        return equalise(open_image(self.row.path).rgb, rng_of(f"{self.row.group}/{Path(self.row.path).name}"))

    def truth(self) -> np.ndarray | None:
        """(H, W) bool of what was edited; None without a mask."""
        return read_mask(self.row.mask) if self.row.mask else None


def gather(
    material: Path,
    folders: Mapping[str, Mapping[str, Path]],
    most: int,
) -> list[Item]:
    """Up to ``most`` pictures of each source, tag and method, drawn by their names.

    ``folders`` has "generated" and "real" (test split), "unseen_generated", "unseen_real", "unseen_drawn" and
    "unseen_tampered" (whole folders, the last with masks in DIR/mask by stem). Raises DataError when there is nothing.
    """
    records = {}
    for file in sorted(material.glob("*/records.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            record = json.loads(line)
            records[str(file.parent / record["path"])] = record
    items = []
    for row in forged_rows(material):
        if row.split == "test":
            record = records.get(row.path)
            items.append(Item(row, FORGED, method=record["method"] if record else "", record=record))
    for kind, tag, seen in (
        ("generated", "ai_generated", True),
        ("real", "authentic", True),
        ("unseen_generated", "ai_generated", False),
        ("unseen_real", "authentic", False),
    ):
        rows = as_they_are(folders[kind], tag)
        items += [Item(row, WHOLE, seen) for row in rows if row.split == "test" or not seen]
    items += [Item(row, DRAWN, False) for row in as_they_are(folders["unseen_drawn"], "authentic")]
    for name, folder in sorted(folders["unseen_tampered"].items()):
        items += [Item(row, TAMPERED, False) for row in _tampered(name, folder)]
    if not items:
        raise DataError("no pictures to measure on", expected="a test split, or folders never trained on")
    return some(items, most, lambda item: (item.pool, item.row.source, item.row.tag, item.method))


def _tampered(name: str, folder: Path) -> Iterable[TagRow]:
    for file in sorted(folder.iterdir()):
        masks = sorted((folder / "mask").glob(f"{file.stem}.*"))
        if file.suffix.lower() in PICTURE_SUFFIXES and masks:
            yield TagRow(str(file), "photoshop", str(masks[0]), f"{name}/{file.name}", "test", name)


def some(items: Iterable[Item], most: int, key: Callable[[Item], Any]) -> list[Item]:
    """``most`` of the items of each ``key``, drawn by their names, in order of their keys."""
    parts: dict[Any, list[Item]] = {}
    for item in sorted(items, key=lambda item: share_of(f"benchmark/{item.row.source}/{item.row.path}")):
        part = parts.setdefault(key(item), [])
        if len(part) < most:
            part.append(item)
    return [item for at in sorted(parts) for item in parts[at]]


def counted(items: Iterable[Item]) -> dict[str, int]:
    """How many pictures of each pool, source and class."""
    found: dict[str, int] = {}
    for item in items:
        name = f"{item.pool}/{item.row.source}/{('authentic', 'fake')[item.fake]}{'' if item.seen else ' (never seen)'}"
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def figure(value: float, low: float = math.nan, high: float = math.nan) -> Figure:
    """A number with its interval, rounded; None for NaN."""
    return {k: None if v != v else round(float(v), 4) for k, v in (("value", value), ("low", low), ("high", high))}


def numbers(names: Sequence[str]) -> np.ndarray:
    """(N,) each name's number, from 0."""
    return np.unique(np.array(names, str), return_inverse=True)[1]


def bootstrapped(values: Callable[[np.ndarray], np.ndarray], names: Sequence[str], n_groups: int) -> dict[str, Figure]:
    """Figures of a function of the groups' weights, by ``names``."""
    value = values(np.ones(n_groups))
    low, high = intervals(values, n_groups, rounds=ROUNDS)
    return {name: figure(*three) for name, *three in zip(names, value, low, high, strict=True)}


def ranked(
    scores: Sequence[float], fake: Sequence[int], groups: Sequence[str], decisions: Sequence[int] | None = None
) -> Ranked:
    """Detection rows with groups by name."""
    return Ranked(scores, fake, decisions, numbers(groups))


def detection(rows: Ranked, wanted: Sequence[str] = ("auc",)) -> dict[str, Any]:
    """Counts, and the ``wanted`` of evaluate.detection.FIGURES, with intervals where each class has LEAST groups."""
    every = bootstrapped(rows.values, list(FIGURES), rows.n_groups)
    if min(len(np.unique(rows.group[rows.fake == c])) for c in (True, False)) < LEAST:
        every = {name: figure(one["value"] if one["value"] is not None else math.nan) for name, one in every.items()}
    n_fake = int(rows.fake.sum())
    return {"n_real": len(rows) - n_fake, "n_fake": n_fake, **{name: every[name] for name in wanted}}


def histogram(probability: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """(2, 256) of a drawn map in [0, 1] (H, W); ``truth`` None is nothing edited. Raises MediaError."""
    drawn = (probability * 255).round().astype(np.uint8)
    return histograms(drawn, np.zeros(drawn.shape, bool) if truth is None else truth)


def cell(value: Any) -> str:
    """A table's cell: a figure as "0.912 (0.880 to 0.943)", a dash for nothing."""
    if isinstance(value, dict) and "value" in value:
        if value["value"] is None:
            return "-"
        both = "" if value["low"] is None else f" ({value['low']:.3f} to {value['high']:.3f})"
        return f"{value['value']:.3f}{both}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None or value == "" else str(value).replace("|", "/")


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, with the columns of all lines in the order of their first coming; "" for no lines."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    if not names:
        return ""
    rows = [[cell(line.get(name)) for name in names] for line in lines]
    head = f"| {' | '.join(name.replace('_', ' ') for name in names)} |\n|{'---|' * len(names)}\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)
