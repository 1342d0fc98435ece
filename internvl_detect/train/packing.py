"""Which samples go together: the order of a whole run, and several samples in one row without waste.

An optimiser step always sees ``batch_size`` samples, packed or not, so packing changes the speed and nothing else.
Inside a step the samples are spread over as few rows as fit, evenly filled. Plain numbers in, plain numbers out; not
here: reading samples (``dataset``) and how rows become tensors (``collate``).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from internvl_detect.errors import DataError

WINDOW_BATCHES = 50  # samples of like length are sought within so many batches


@dataclass(frozen=True)
class Plan:
    """The rows of a whole run, in order. An entry p of a row is sample p % n_samples in its epoch p // n_samples.

    Every step has ``rows_per_step`` rows, the longest first; empty rows fill up a step that needs fewer.
    """

    rows: tuple[tuple[int, ...], ...]
    rows_per_step: int
    n_samples: int

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return len(self.rows) // self.rows_per_step if self.rows_per_step else 0

    @property
    def epochs(self) -> float:
        """How often each sample is seen, on average."""
        return sum(len(row) for row in self.rows) / self.n_samples

    def sample(self, entry: int) -> tuple[int, int]:
        """(sample, epoch) of an entry."""
        return entry % self.n_samples, entry // self.n_samples


def plan_run(
    lengths: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    max_tokens: int,
    epochs: float = 1.0,
    max_steps: int = 0,
    seed: int = 0,
    row_multiple: int = 1,
    packing: bool = True,
    group_by_length: bool = False,
) -> Plan:
    """The plan for samples of these ``lengths`` in tokens; the same arguments give the same plan.

    ``row_multiple``: the rows of a step are a multiple of this (processes x rows per forward). ``max_steps`` above 0
    replaces ``epochs``. Raises DataError without samples or with one longer than ``max_tokens``.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if not sizes.size:
        raise DataError("there is no sample to train on", do="check TRAIN_DATA_CHOICE and run `ivdetect data check`")
    if sizes.max() > max_tokens:
        raise DataError(f"sample {int(sizes.argmax())} has {int(sizes.max())} tokens", expected=f"at most {max_tokens}")
    total = max_steps * batch_size if max_steps else max(1, round(epochs * sizes.size))
    order = run_order(sizes, total, batch_size, seed, group_by_length)
    steps: list[list[tuple[int, ...]]] = []
    for start in range(0, total, batch_size):
        batch = order[start : start + batch_size]
        long = sizes[batch % sizes.size]
        groups = pack(long, max_tokens, row_multiple) if packing else [[i] for i in np.argsort(-long, kind="stable")]
        steps.append([tuple(int(batch[i]) for i in group) for group in groups])
    per_step = max(len(rows) for rows in steps)
    per_step = math.ceil(per_step / row_multiple) * row_multiple
    rows = tuple(row for step in steps for row in step + [()] * (per_step - len(step)))
    return Plan(rows, per_step, int(sizes.size))


def run_order(sizes: np.ndarray, total: int, batch_size: int, seed: int, group_by_length: bool) -> np.ndarray:
    """(total,) entries: epoch after epoch, each in its own seeded order; a step may span two epochs."""
    n = sizes.size
    epochs = math.ceil(total / n)
    parts = [np.random.default_rng([seed, e]).permutation(n) + e * n for e in range(epochs)]
    order = np.concatenate(parts)[:total].astype(np.int64)
    if not group_by_length:
        return order
    window = batch_size * WINDOW_BATCHES
    grouped = []
    for start in range(0, total, window):
        part = order[start : start + window]
        part = part[np.argsort(-sizes[part % n], kind="stable")]
        batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        # The longest batch leads the run, so that memory that does not suffice shows at once; a short one ends it.
        lead = batches[:1] if start == 0 else []
        tail = batches[-1:] if len(batches) > len(lead) and len(batches[-1]) < batch_size else []
        middle = batches[len(lead) : len(batches) - len(tail)]
        mixed = np.random.default_rng([seed, start, 1]).permutation(len(middle))
        grouped += [*lead, *(middle[i] for i in mixed), *tail]
    return np.concatenate(grouped)


def pack(lengths: Sequence[int] | np.ndarray, capacity: int, multiple: int = 1) -> list[list[int]]:
    """Indices of ``lengths`` in rows of at most ``capacity`` tokens, the number of rows a multiple of ``multiple``.

    As few rows as first-fit-decreasing needs, then filled evenly (longest sample to the emptiest row). The longest
    row comes first; rows may be empty. Raises DataError when one item alone does not fit.
    """
    sizes = [int(v) for v in lengths]
    if sizes and max(sizes) > capacity:
        raise DataError(f"a sample of {max(sizes)} tokens", expected=f"at most {capacity}")
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    tight = _first_fit(sizes, order, capacity)
    n_rows = max(multiple, math.ceil(len(tight) / multiple) * multiple)
    rows = _evenly(sizes, order, n_rows)
    if max((sum(sizes[i] for i in row) for row in rows), default=0) > capacity:
        rows = tight + [[] for _ in range(n_rows - len(tight))]
    rows = [sorted(row) for row in rows]
    return sorted(rows, key=lambda row: (-sum(sizes[i] for i in row), row))


def _first_fit(sizes: list[int], order: list[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    room: list[int] = []
    for i in order:
        at = next((r for r, left in enumerate(room) if left >= sizes[i]), None)
        if at is None:
            rows.append([])
            room.append(capacity)
            at = len(rows) - 1
        rows[at].append(i)
        room[at] -= sizes[i]
    return rows


def _evenly(sizes: list[int], order: list[int], n_rows: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    heap = [(0, r) for r in range(n_rows)]
    for i in order:
        used, r = heapq.heappop(heap)
        rows[r].append(i)
        heapq.heappush(heap, (used + sizes[i], r))
    return rows
