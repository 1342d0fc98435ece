"""Intervals by bootstrap over source groups: copies of a picture, and frames of a clip, are no independent evidence.

    intervals(rows.values, rows.n_groups)                 # (low, high) of every figure of a Ranked
    paired([a.values, b.values], n_groups)                # of b less a, by the same draws

A draw is how often each group came when as many as there are were drawn with replacement; whatever takes such weights
can have an interval. Percentile intervals (Efron and Tibshirani 1993, chapter 13). The draws follow from the seed, and
are the same whatever the number of threads.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

Array = np.ndarray
Values = Callable[[Array], Array]
ROUNDS = 1000
LEVEL = 0.95


def draw(n_groups: int, round_: int, seed: int = 0) -> Array:
    """(n_groups,) how often each group was drawn in round number ``round_``; they sum to ``n_groups``."""
    rng = np.random.Generator(np.random.SFC64([seed, round_]))
    return np.bincount(rng.integers(n_groups, size=n_groups, dtype=np.int32), minlength=n_groups)


def intervals(
    values: Values, n_groups: int, *, rounds: int = ROUNDS, seed: int = 0, level: float = LEVEL
) -> tuple[Array, Array]:
    """(low, high), each of the shape of ``values(weights)``; NaN with fewer than two groups, and where no draw has a
    value. Draws without one (a class that was not drawn) are left out."""
    low, high = paired([values], n_groups, rounds=rounds, seed=seed, level=level)[0]
    return low, high


def paired(
    systems: Sequence[Values], n_groups: int, *, rounds: int = ROUNDS, seed: int = 0, level: float = LEVEL
) -> list[tuple[Array, Array]]:
    """The (low, high) of the first system's values, then of each other system less the first, in the same draws."""
    shape = systems[0](np.ones(n_groups, np.int64)).shape
    if n_groups < 2:
        return [(np.full(shape, np.nan), np.full(shape, np.nan)) for _ in systems]
    drawn = np.empty((len(systems), rounds, *shape))

    def one(at: int) -> None:
        weights = draw(n_groups, at, seed)
        for which, values in enumerate(systems):
            drawn[which, at] = values(weights)

    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        list(pool.map(one, range(rounds)))
    drawn[1:] -= drawn[:1]
    return [_percentiles(each, level) for each in drawn]


def means(values: Array, group: Array, n_groups: int) -> Values:
    """A function of weights: the weighted mean of each column of ``values`` (N, K), NaN left out of its column."""
    known = ~np.isnan(values)
    sums = np.stack([np.bincount(group, np.where(k, v, 0), n_groups) for v, k in zip(values.T, known.T, strict=True)])
    counts = np.stack([np.bincount(group, k, n_groups) for k in known.T])

    def weighted(weights: Array) -> Array:
        n = np.einsum("kg,g", counts, weights)  # not by BLAS, whose threads would fight those of ``paired``
        return np.divide(np.einsum("kg,g", sums, weights), n, out=np.full(len(n), np.nan), where=n > 0)

    return weighted


def _percentiles(drawn: Array, level: float) -> tuple[Array, Array]:
    tail = 50 * (1 - level)
    with warnings.catch_warnings():  # a column without any value is NaN, and says so itself
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanpercentile(drawn, [tail, 100 - tail], axis=0)
    return low, high
