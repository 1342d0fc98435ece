"""Claims about work in processes: order, bounded reading ahead, and that one item can end only itself."""

from __future__ import annotations

import os
import signal

import pytest

from internvl_detect.data.engine import run_ordered
from internvl_detect.errors import ConfigError


def square_or_die(n: int) -> int | str:
    if n == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if n == 1000:
        raise ValueError("a thousand")
    return n * n


def lost(item: int, why: str) -> str:
    return f"{item} lost: {why}"


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_items_order(workers):
    items = [n for n in range(60) if n != 7]
    assert list(run_ordered(square_or_die, items, workers=workers, chunk=4, on_lost=lost)) == [n * n for n in items]


def test_an_item_that_kills_its_process_is_lost_alone():
    done = list(run_ordered(square_or_die, range(40), workers=2, chunk=3, on_lost=lost))
    assert [r for n, r in enumerate(done) if n != 7] == [n * n for n in range(40) if n != 7]
    assert done[7].startswith("7 lost: the process that worked on it died")


def test_items_are_read_only_a_little_ahead():
    read = []
    source = (read.append(n) or n for n in range(10, 10_000))
    results = run_ordered(square_or_die, source, workers=2, chunk=5, on_lost=lost)
    assert next(results) == 100
    assert len(read) <= 5 * 4 * 2 + 5
    results.close()


def test_an_exception_of_the_work_is_raised_and_an_unknown_engine_refused():
    with pytest.raises(ValueError, match="a thousand"):
        list(run_ordered(square_or_die, [1000], workers=2, on_lost=lost))
    with pytest.raises(ConfigError, match="engine 'cluster'"):
        list(run_ordered(square_or_die, [1], engine="cluster", on_lost=lost))
