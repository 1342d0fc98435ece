"""Predictions graded: every figure with its interval, constant answers beside it, differences of systems, slices.

    report = grade([System("ours", rows), System("theirs", others)])
    report["lines"][0]["figures"]["auc"]       # {"value": 0.83, "low": 0.79, "high": 0.87}

The report is plain JSON types, None for what cannot be said; tables (``table``) and the page (``report.evaluation``)
are made from it. Not here: making predictions (``run``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_detect import __version__
from internvl_detect.evaluate.clips import clip_figures
from internvl_detect.evaluate.collect import Collected, Numbers, System
from internvl_detect.evaluate.detection import FIGURES, Ranked, constant_answers
from internvl_detect.evaluate.intervals import LEVEL, ROUNDS, intervals, means, paired
from internvl_detect.evaluate.localization import localization
from internvl_detect.evaluate.slices import measure
from internvl_detect.evaluate.text import FACTS, similarities

ALL = "all"
SLICES = 60  # of each system in the report; the worst
SLICE_ROUNDS, MANY = 300, 100_000  # fewer rounds for slices of many rows, whose intervals are narrow
WORDS = ("rouge_l", *(f"fact_{name}" for name in FACTS), "css")
Figure = dict[str, float | None]


@dataclass(frozen=True)
class Settings:
    """``threshold`` of the score for what is called fake. ``embeddings``: None leaves the comparison of words by
    meaning out, "" takes the offline model, else a folder."""

    threshold: float = 0.5
    rounds: int = ROUNDS
    embeddings: str | None = None
    slices: bool = True


def grade(
    systems: Sequence[System], settings: Settings | None = None, step: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """The report. The first system is the one that others are compared with; ``step`` is told what comes next."""
    settings = settings or Settings()
    datasets, groups = Numbers(), Numbers()
    collected = []
    for system in systems:
        step(f"reading {system.name}")
        collected.append(Collected(system, datasets, groups).read())
    names = list(datasets)
    report: dict[str, Any] = {
        "version": __version__,
        "level": LEVEL,
        "rounds": settings.rounds,
        "threshold": settings.threshold,
        "systems": [{"name": c.system.name, **c.system.about, **_extent(c)} for c in collected],
        "metrics": {name: {"more_is_better": more, "what": what} for name, (more, what) in FIGURES.items()},
    }
    kept: dict[str, Any] = {"lines": [], "localization": [], "words": [], "clips": [], "slices": [], "curves": {}}
    for one in collected:
        step(f"grading {one.system.name}")
        kept["lines"] += _lines(one, names, settings)
        kept["localization"] += _masks(one, names, settings)
        kept["words"] += _words(one, names, settings)
        kept["clips"] += _clips(one, names, settings)
        kept["slices"] += _slices(one, settings)
        if len(one.score) and (curves := _ranked(one, None, settings).curves()):
            kept["curves"][one.system.name] = curves
    step("comparing")
    report |= kept | {"differences": _differences(collected, names, settings)}
    report["mistakes"] = {c.system.name: [m.to_dict() for m in c.mistakes] for c in collected}
    report["errors"] = [error for c in collected for error in c.errors]
    return report


def figure(value: float, low: float = math.nan, high: float = math.nan) -> Figure:
    """A number with its interval, None for NaN."""
    return {k: None if v != v else float(v) for k, v in (("value", value), ("low", low), ("high", high))}


def _extent(one: Collected) -> dict[str, Any]:
    n = len(one.score)
    return {"n": n, "n_failed": sum(one.failed.values()), "n_errors": one.n_errors, "n_made_alike": one.n_made_alike}


def _sets(one: Collected, names: list[str]) -> Iterator[tuple[str, np.ndarray | None, int]]:
    """(dataset, its rows, failed ones), each dataset by itself and all together where there are several."""
    of = one.column("dataset")
    there = [code for code in range(len(names)) if (of == code).any() or one.failed[code]]
    for code in there:
        yield names[code], np.flatnonzero(of == code) if len(there) > 1 else None, one.failed[code]
    if len(there) > 1:
        yield ALL, None, sum(one.failed.values())


def _ranked(one: Collected, rows: np.ndarray | None, settings: Settings) -> Ranked:
    columns = [one.column(name) for name in ("score", "fake", "decision", "group")]
    if rows is not None:
        columns = [column[rows] for column in columns]
    group = np.unique(columns[3], return_inverse=True)[1] if len(columns[3]) else columns[3]
    return Ranked(columns[0], columns[1], columns[2], group, threshold=settings.threshold)


def _lines(one: Collected, names: list[str], settings: Settings) -> Iterator[dict[str, Any]]:
    for dataset, rows, failed in _sets(one, names):
        ranked = _ranked(one, rows, settings)
        n_fake = int(ranked.fake.sum())
        n_real = len(ranked) - n_fake
        low, high = intervals(ranked.values, ranked.n_groups, rounds=settings.rounds)
        values = ranked.figures().values()
        constant = constant_answers(n_real, n_fake)
        yield {
            "system": one.system.name,
            "dataset": dataset,
            "n_real": n_real,
            "n_fake": n_fake,
            "n_groups": ranked.n_groups,
            "n_failed": failed,
            "n_unscored": ranked.n_unscored,
            "figures": {name: figure(*told) for name, *told in zip(FIGURES, values, low, high, strict=True)},
            "constant": {who: {name: figure(v)["value"] for name, v in told.items()} for who, told in constant.items()},
            "confusion": _confusion(one, rows, settings),
        }


def _confusion(one: Collected, rows: np.ndarray | None, settings: Settings) -> dict[str, dict[str, int]]:
    chosen = slice(None) if rows is None else rows
    score, fake, decision = (one.column(name)[chosen] for name in ("score", "fake", "decision"))
    decided = np.where(decision >= 0, decision, np.where(score >= settings.threshold, 2, 0))
    words = ("authentic", "unsure", "fake")
    return {
        truth: {word: int(((fake == y) & (decided == at)).sum()) for at, word in enumerate(words)}
        for y, truth in enumerate(("real", "fake"))
    }


def _by_dataset(codes: Sequence[int], names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    of = np.asarray(codes)
    there = np.unique(of)
    for code in there.tolist():
        yield names[code], np.flatnonzero(of == code)
    if len(there) > 1:
        yield ALL, np.arange(len(of))


def _masks(one: Collected, names: list[str], settings: Settings) -> Iterator[dict[str, Any]]:
    if not one.drawn:
        return
    for dataset, rows in _by_dataset([code for code, _, _ in one.drawn_of], names):
        own = [one.drawn_of[i] for i in rows]
        told = localization(
            [one.drawn[i] for i in rows],
            [group for _, group, _ in own],
            [edited for *_, edited in own],
            threshold=one.system.mask_threshold,
            rounds=settings.rounds,
        )
        for line in told:
            numbers = {k: figure(*v) if isinstance(v, tuple) else v for k, v in line.items()}
            yield {"system": one.system.name, "dataset": dataset, **numbers}


def _words(one: Collected, names: list[str], settings: Settings) -> Iterator[dict[str, Any]]:
    if not one.said:
        return
    css = [math.nan] * len(one.pairs) if settings.embeddings is None else similarities(one.pairs, settings.embeddings)
    table = np.column_stack([np.array([values for *_, values in one.said]), css])
    for dataset, rows in _by_dataset([code for code, _, _ in one.said], names):
        member = np.unique([one.said[i][1] for i in rows], return_inverse=True)[1]
        n_groups = int(member.max()) + 1
        mean = means(table[rows], member, n_groups)
        low, high = intervals(mean, n_groups, rounds=settings.rounds)
        value = mean(np.ones(n_groups))
        told = {name: figure(value[i], low[i], high[i]) for i, name in enumerate(WORDS)}
        yield {"system": one.system.name, "dataset": dataset, "n": len(rows), **told}


def _clips(one: Collected, names: list[str], settings: Settings) -> Iterator[dict[str, Any]]:
    for dataset, at in _by_dataset([code for _, code, _ in one.clips], names) if one.clips else ():
        rows, groups = [one.clips[i][0] for i in at], [one.clips[i][2] for i in at]
        found = clip_figures(rows, groups, threshold=settings.threshold, rounds=settings.rounds)
        for level, told in found.items():
            numbers = {k: figure(*v) if isinstance(v, tuple) else v for k, v in told.items()}
            yield {"system": one.system.name, "dataset": dataset, "level": level, **numbers}


def _slices(one: Collected, settings: Settings) -> list[dict[str, Any]]:
    score = one.column("score")
    if not settings.slices or not len(score) or np.isnan(score).any():
        return []
    columns = (score, one.column("fake"), one.column("group"))
    rounds = SLICE_ROUNDS if len(score) < MANY else SLICE_ROUNDS // 10
    found = measure(*columns, one.parts, threshold=settings.threshold, rounds=min(rounds, settings.rounds))
    return [{"system": one.system.name, **part.to_dict()} for part in found[:SLICES]]


def _differences(collected: Sequence[Collected], names: list[str], settings: Settings) -> list[dict[str, Any]]:
    return [line for other in collected[1:] for line in _difference(collected[0], other, names, settings)]


def _difference(a: Collected, b: Collected, names: list[str], settings: Settings) -> Iterator[dict[str, Any]]:
    """Of ``b`` less ``a`` on the files that both have judged, in the same draws."""
    _, of_a, of_b = np.intersect1d(a.column("keys"), b.column("keys"), return_indices=True)
    agree = a.column("fake")[of_a] == b.column("fake")[of_b]
    of_a, of_b = of_a[agree], of_b[agree]
    if not len(of_a):
        return
    for dataset, rows in _by_dataset(a.column("dataset")[of_a].tolist(), names):
        group = np.unique(a.column("group")[of_a[rows]], return_inverse=True)[1]
        both = [
            Ranked(
                c.column("score")[of[rows]],
                c.column("fake")[of[rows]],
                c.column("decision")[of[rows]],
                group,
                threshold=settings.threshold,
            )
            for c, of in ((a, of_a), (b, of_b))
        ]
        low, high = paired([r.values for r in both], both[0].n_groups, rounds=settings.rounds)[1]
        value = both[1].values() - both[0].values()
        told = {name: figure(value[i], low[i], high[i]) for i, name in enumerate(FIGURES)}
        yield {"system": b.system.name, "less": a.system.name, "dataset": dataset, "n": len(rows), "figures": told}
