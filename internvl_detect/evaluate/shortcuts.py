"""How well the label can be read from a file's outside: size, format, JPEG tables, metadata, without looking at it.

    features = features_of(found.table)                    # found: data.survey.Survey
    shortcuts = measure_shortcuts(features, fake, groups)
    shortcuts["size"].auc, shortcuts["all"].low

Also a baseline: ``fit(features, fake)`` gives a model whose ``score`` is the P(fake) of files it has not seen. A
detector that does no better has learnt the set's outside. Additive log-odds of each value, so that nothing is tuned and
every score can be explained; numpy only. Not here: the words (``shortcut_words``), mending a set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from internvl_detect.data.survey.table import SurveyTable
from internvl_detect.evaluate.metrics import auc

Array = np.ndarray
ALL = "all"
FOLDS = 5
FEWEST = 10  # files of a class, and groups in all, below which nothing is said
_BINS = 24
_PRIOR = 5.0  # as many files of the set's mean are added to those of a value


@dataclass(frozen=True)
class Column:
    """One thing known of every file: codes (N,) into ``names``, or, with ``names`` None, numbers (N,), NaN unknown."""

    values: Array
    names: Sequence[str] | None = None

    def __getitem__(self, rows: Array) -> Column:
        return Column(self.values[rows], self.names)


Features = Mapping[str, Sequence[Column]]


def features_of(table: SurveyTable) -> dict[str, list[Column]]:
    """The outside of the files of a survey, by feature: kind, size, aspect, format, tables, quality, compression
    (bytes per pixel, of clips and frame), metadata; and clip (codec, frames a second, seconds) where there are clips.
    """

    def text(*columns: str) -> Column:
        codes = np.stack([table[name].astype(np.int64) for name in columns], axis=1)
        distinct, where = np.unique(codes, axis=0, return_inverse=True)
        texts = [table.texts(name) if name in table.names else ["", name] for name in columns]
        parts = ((t[n] for t, n in zip(texts, row, strict=True)) for row in distinct.tolist())
        return Column(where.reshape(-1), [" ".join(p for p in row if p) or "none" for row in parts])

    width, height = table["width"].astype(float), table["height"].astype(float)
    pixels = np.where(width * height > 0, width * height, np.nan)
    fps, seconds = table["fps"].astype(float), table["duration_s"].astype(float)
    video = table["video"] > 0
    frames = np.where(video, np.maximum(1, fps * seconds), 1)
    jpeg = table["quality"] > 0
    sizes, where = np.unique(np.stack([table["width"], table["height"]], axis=1), axis=0, return_inverse=True)
    found = {
        "kind": [Column(video.astype(np.int64), ("picture", "clip"))],
        "size": [
            Column(where.reshape(-1), [f"{w}x{h}" for w, h in sizes.tolist()]),
            Column(np.sqrt(pixels)),
            Column(np.fmin(width, height)),
        ],
        "aspect": [Column(np.round(width / np.fmax(height, 1), 2))],
        "format": [text("format", "mode")],
        "tables": [text("tables", "sampling", "progressive")],
        "quality": [Column(np.where(jpeg, table["quality"], np.nan)), text("sampling")],
        "compression": [Column(table["n_bytes"] / pixels / frames)],
        "metadata": [text("marks"), text("tag")],
    }
    if video.any():
        known = (np.where(video, values, np.nan) for values in (np.round(fps, 1), seconds))
        found["clip"] = [text("codec"), *map(Column, known)]
    return found


@dataclass(frozen=True)
class ShortcutModel:
    """What ``fit`` learnt: of each column the bins' edges, if it is of numbers, and the evidence of each value."""

    prior: float
    columns: Mapping[str, Sequence[tuple[Array | None, Mapping[str, float]]]]

    def evidence(self, features: Features) -> Array:
        """(N,) log-odds that the files' outside adds to the prior; 0 where nothing is known of a value."""
        total = np.zeros(_length(features))
        for name, learnt in self.columns.items():
            for column, (edges, weights) in zip(features[name], learnt, strict=True):
                names, codes = _coded(column, edges)
                total += np.array([weights.get(text, 0.0) for text in names])[codes]
        return total

    def score(self, features: Features) -> Array:
        """(N,) P(fake) in [0, 1]. Columns say much the same twice, so it orders files and is not calibrated."""
        return 1 / (1 + np.exp(-np.clip(self.prior + self.evidence(features), -500, 500)))


def fit(features: Features, fake: Array) -> ShortcutModel:
    """Learn from files with known labels: ``fake`` (N,) 1 or True for fake, 0 for real.

    The evidence of a value is the log-odds of fake among its files, each value's with ``_PRIOR`` files of the whole
    set's mix added, less the log-odds of the whole set: a value seen once says little, an unknown one nothing.
    """
    y = np.asarray(fake, float)
    mean = (y.sum() + 0.5) / (len(y) + 1)
    prior = math.log(mean / (1 - mean))
    learnt: dict[str, list[tuple[Array | None, dict[str, float]]]] = {}
    for name, columns in features.items():
        learnt[name] = []
        for column in columns:
            edges = None if column.names is not None else _edges(column.values)
            names, codes = _coded(column, edges)
            n, of_fake = np.bincount(codes, minlength=len(names)), np.bincount(codes, y, minlength=len(names))
            rate = (of_fake + _PRIOR * mean) / (n + _PRIOR)
            weights = np.log(rate / (1 - rate)) - prior
            learnt[name].append((edges, {names[i]: float(weights[i]) for i in np.flatnonzero(n).tolist()}))
    return ShortcutModel(prior, learnt)


def _edges(values: Array) -> Array:
    known = values[np.isfinite(values)]
    return np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else np.zeros(0)


def _coded(column: Column, edges: Array | None) -> tuple[Sequence[str], Array]:
    """(names, codes): numbers as the bin between edges that they lie in, the last for those that are none."""
    if column.names is not None:
        return column.names, column.values
    bounds = np.zeros(0) if edges is None else edges
    codes = np.searchsorted(bounds, column.values, side="right")
    codes[~np.isfinite(column.values)] = len(bounds) + 1
    return [str(i) for i in range(len(bounds) + 2)], codes


def _length(features: Features) -> int:
    return len(next(iter(features.values()))[0].values)


@dataclass(frozen=True)
class Shortcut:
    """AUC of telling fake from real by one feature on files not learnt from, and its 95 % interval ``low`` to ``high``.

    All NaN where there are too few files or groups to say.
    """

    auc: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Rounded, None for NaN."""
        return {k: None if math.isnan(v) else round(v, 4) for k, v in vars(self).items()}


def measure_shortcuts(features: Features, fake: Array, groups: Array) -> dict[str, Shortcut]:
    """Each feature alone, and all together under "all", by cross-validation.

    ``fake`` (N,) of 0 and 1; ``groups`` (N,) uint64, hashes of what must not be split between learning and scoring.
    A group's fold follows from its hash. 0.5: the feature tells nothing; 1.0: it gives the label away.
    """
    y = np.asarray(fake).astype(np.int64)
    if min(y.sum(), len(y) - y.sum(), len(np.unique(groups))) < FEWEST:
        return {name: Shortcut(math.nan, math.nan, math.nan) for name in (*features, ALL)}
    folds = _fold_of(groups)
    evidence = {name: np.zeros(len(y)) for name in features}
    for fold in range(FOLDS):
        held, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if not len(held) or not len(rest):
            continue
        for name, columns in features.items():
            model = fit({name: [c[rest] for c in columns]}, y[rest])
            evidence[name][held] = model.evidence({name: [c[held] for c in columns]})
    evidence[ALL] = np.sum([values for name, values in evidence.items()], axis=0)
    return {name: auc_by_folds(values, y, folds, groups) for name, values in evidence.items()}


def _fold_of(groups: Array) -> Array:
    """0 to ``FOLDS`` - 1 from the top bits of a multiplicative hash, so that nearby numbers part."""
    mixed = groups.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(32)) % np.uint64(FOLDS)).astype(np.int64)


def auc_by_folds(scores: Array, fake: Array, folds: Array, groups: Array, level: float = 0.95) -> Shortcut:
    """The mean of the folds' AUCs, weighted by their pairs, and its interval.

    Within folds, since scores of different folds come from different models: pooled, a feature that tells nothing lies
    below 0.5. The variance is DeLong's (DeLong, DeLong and Clarke-Pearson 1988) with files of one group summed first
    (Obuchowski 1997), as copies are no independent evidence.
    """
    parts = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    parts = [part for part in parts if 0 < fake[part].sum() < len(part)]
    pairs = np.array([fake[p].sum() * (len(p) - fake[p].sum()) for p in parts], float)
    if not len(parts):
        return Shortcut(math.nan, math.nan, math.nan)
    weights = pairs / pairs.sum()
    values = np.array([auc(scores[p].tolist(), fake[p].tolist()) for p in parts])
    mean = float(pairs @ values / pairs.sum())
    _, where = np.unique(groups, return_inverse=True)
    pull = np.zeros(int(where.max()) + 1)
    for part, weight, value in zip(parts, weights, values, strict=True):
        np.add.at(pull, where[part], weight * _pull(scores[part], fake[part], value))
    n = int(np.count_nonzero(np.bincount(where)))
    shared = 1 + FOLDS / (FOLDS - 1)
    spread = math.sqrt(float((pull**2).sum()) * n / max(1, n - 1) * shared)
    reach = NormalDist().inv_cdf((1 + level) / 2) * spread
    return Shortcut(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def _pull(scores: Array, fake: Array, value: float) -> Array:
    """How far each file moves the AUC: (its share of pairs won - AUC) / files of its class. Ties count half."""
    sign = fake == 1
    moved = np.zeros(len(scores))
    for own, other, better in ((sign, ~sign, 1), (~sign, sign, -1)):
        rivals = np.sort(better * scores[other])
        mine = better * scores[own]
        won = (np.searchsorted(rivals, mine, "left") + np.searchsorted(rivals, mine, "right")) / 2 / len(rivals)
        moved[own] = (won - value) / own.sum()
    return moved
