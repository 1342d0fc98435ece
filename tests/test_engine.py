"""Claims about work in processes: order, bounded reading ahead, and that one item can end only itself."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from internvl_detect.data.engine import ENGINES, run_ordered
from internvl_detect.data.shards.writing import write_shards
from internvl_detect.errors import ConfigError

pytest_plugins = ["shard_fixtures"]


def square_or_die(n: int) -> int | str:
    if n == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if n == 1000:
        raise ValueError("a thousand")
    return n * n


def as_text(item: object) -> str:
    return repr(item)


def wait_long(n: int) -> int:
    os.write(1, b"%d\n" % os.getpid())  # one write: two processes share the pipe
    time.sleep(600)
    return n


def lost(item: int, why: str) -> str:
    return f"{item} lost: {why}"


@pytest.fixture(scope="module", autouse=True)
def end_ray():
    """Ray starts with the first test that needs it, and serves them all."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.mark.parametrize(("engine", "workers"), [("processes", 1), ("processes", 2), ("ray", 2)])
def test_results_come_in_the_items_order(engine, workers):
    items = [n for n in range(60) if n != 7]
    done = run_ordered(square_or_die, items, engine=engine, workers=workers, chunk=4, on_lost=lost)
    assert list(done) == [n * n for n in items]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_item_that_kills_its_process_is_lost_alone(engine):
    done = list(run_ordered(square_or_die, range(40), engine=engine, workers=2, chunk=3, on_lost=lost))
    assert [r for n, r in enumerate(done) if n != 7] == [n * n for n in range(40) if n != 7]
    assert done[7].startswith("7 lost: the process that worked on it died")


def test_items_are_read_only_a_little_ahead():
    read = []
    source = (read.append(n) or n for n in range(10, 10_000))
    results = run_ordered(square_or_die, source, workers=2, chunk=5, on_lost=lost)
    assert next(results) == 100
    assert len(read) <= 5 * 4 * 2 + 5
    results.close()


def test_an_endless_source_is_enough_for_ray_and_what_travels_is_not_changed():
    endless = ({"n": n, ("a", "b")[n % 2]: (None, b"\xff", [1, "x"])[n % 3]} for n in itertools.count())
    results = run_ordered(as_text, endless, engine="ray", workers=2, chunk=1, on_lost=lost)
    expected = ["{'n': 0, 'a': None}", "{'n': 1, 'b': b'\\xff'}", "{'n': 2, 'a': [1, 'x']}"]
    assert list(itertools.islice(results, 3)) == expected
    results.close()


def test_both_engines_write_the_same_shards(mixed, tmp_path):
    for engine in ENGINES:
        write_shards(mixed, tmp_path / engine, max_samples=2, engine=engine, workers=2)
    first, second = (sorted((tmp_path / engine).iterdir()) for engine in ENGINES)
    assert len(first) == 8 and [p.name for p in first] == [p.name for p in second]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_ray_says_nothing_on_the_way(capfd):
    list(run_ordered(square_or_die, [6, 7, 8], engine="ray", workers=2, chunk=1, on_lost=lost))
    time.sleep(0.3)  # its listener prints from a thread
    assert capfd.readouterr() == ("", "")


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'internvl2-8bdetect\[ray\]'"):
        next(run_ordered(square_or_die, [1], engine="ray", on_lost=lost))


def test_an_exception_of_the_work_is_raised_and_an_unknown_engine_refused():
    for engine in ENGINES:
        with pytest.raises(ValueError, match="a thousand"):
            list(run_ordered(square_or_die, [1000], engine=engine, workers=2, on_lost=lost))
    with pytest.raises(ConfigError, match="engine 'cluster'"):
        list(run_ordered(square_or_die, [1], engine="cluster", on_lost=lost))


def test_workers_end_with_a_parent_that_was_killed():
    code = "import test_engine as t\nlist(t.run_ordered(t.wait_long, [1, 2], workers=2, chunk=1, on_lost=t.lost))"
    code = "if __name__ == '__main__':\n    " + code.replace("\n", "\n    ")
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as parent:
        try:
            workers = [int(parent.stdout.readline()) for _ in range(2)]
        finally:
            parent.kill()
    until = time.monotonic() + 30
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be taken note of does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
