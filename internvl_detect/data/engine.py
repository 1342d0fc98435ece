"""Much work on many items, in processes: results in the items' order, memory bounded, no item able to end the rest.

    for result in run_ordered(work, items, workers=2, on_lost=lambda item, why: Failure(item, why)):

``work`` is a function of a module, so that a process can find it; it catches what it expects itself. What kills its
process (memory, a crash in a decoder) is the item's loss alone: ``on_lost`` says what stands in its place. With
``engine="ray"`` the processes are those of a Ray cluster (``engine_ray``). Not here: what the work is.
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from internvl_detect.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")
ENGINES = ("processes", "ray")
DIED = "the process that worked on it died: out of memory, or a crash in a decoder"


def run_ordered(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    on_lost: Callable[[T, str], R],
    engine: str = "processes",
    workers: int = 0,
    chunk: int = 16,
) -> Iterator[R]:
    """``work`` of every item, in order. ``workers`` 0 takes the cores there are; 1 works in this process.

    ``chunk`` items travel together; at most four chunks a worker are under way (on Ray up to 64). An exception of
    ``work`` is raised here; an item whose process dies becomes ``on_lost(item, reason)``. Raises ConfigError for an
    unknown engine, and for "ray" where Ray is not installed or its cluster not reached.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r}", expected=" or ".join(ENGINES))
    workers = workers or cores()
    if engine == "ray":
        from internvl_detect.data.engine_ray import run_on_ray

        yield from run_on_ray(work, items, on_lost=lambda item: on_lost(item, DIED), workers=workers, chunk=chunk)
        return
    if workers == 1:
        yield from map(work, items)
        return
    pool = _pool(workers)
    source = iter(items)
    waiting: deque[tuple[list[T], Future[list[R]]]] = deque()
    try:
        while True:
            while len(waiting) < 4 * workers and (part := list(itertools.islice(source, chunk))):
                try:
                    waiting.append((part, pool.submit(_each, work, part)))
                except BrokenProcessPool:
                    waiting.append((part, Future()))
                    waiting[-1][1].set_exception(BrokenProcessPool())
            if not waiting:
                return
            part, future = waiting.popleft()
            try:
                yield from future.result()
            except BrokenProcessPool:
                yield from (_alone(work, item, on_lost) for item in part)
                pool.shutdown(wait=False, cancel_futures=True)
                pool = _pool(workers)
                waiting = deque((p, pool.submit(_each, work, p)) for p, _ in waiting)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever: this one ends with it."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _each(work: Callable[[T], R], part: list[T]) -> list[R]:
    return [work(item) for item in part]


def _alone(work: Callable[[T], R], item: T, on_lost: Callable[[T, str], R]) -> R:
    with _pool(1) as pool:
        try:
            return pool.submit(work, item).result()
        except BrokenProcessPool:
            return on_lost(item, DIED)
