"""The engine for many machines: the same work, in the same order, as Ray Data runs it (the extra ``ray``).

Called by ``engine.run_ordered(engine="ray")``. Where RAY_ADDRESS is set it joins that cluster, which needs this package
(and the files, at the same paths) on every node; else it starts Ray on this machine, without dashboard, statistics or
messages, until the process ends. Items are read in windows, so that a source may be endless; a worker that dies costs
only the item that killed it. Not here: processes of one machine without Ray (``engine``).
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from internvl_detect.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")
FIRST_CHUNKS, MOST_CHUNKS = 4, 64  # a worker's chunks in one window: a few at first, for early results


def run_on_ray(
    work: Callable[[T], R], items: Iterable[T], *, on_lost: Callable[[T], R], workers: int, chunk: int
) -> Iterator[R]:
    """``work`` of every item, in order, ``chunk`` items to a task and at most ``workers`` tasks at once.

    Raises ConfigError where Ray is not installed or the cluster cannot be reached, and what ``work`` raises.
    """
    start_ray(workers)
    source = iter(items)
    per_worker = FIRST_CHUNKS
    while window := list(itertools.islice(source, workers * per_worker * chunk)):
        chunks = [window[i : i + chunk] for i in range(0, len(window), chunk)]
        for part, results in zip(chunks, _run(work, chunks, workers), strict=True):
            if results is None:  # one of these items killed its worker: each by itself
                for item, alone in zip(part, _run(work, [[item] for item in part], workers), strict=True):
                    yield on_lost(item) if alone is None else alone[0]
            else:
                yield from results
        per_worker = min(2 * per_worker, MOST_CHUNKS)


def _run(work: Callable[[T], R], chunks: list[list[T]], workers: int) -> Iterator[list[R] | None]:
    """The results of each chunk in order; None where the worker died."""
    from ray.cloudpickle import dumps, loads

    called = dumps(work)

    def each(row: dict[str, Any]) -> dict[str, Any]:
        try:  # also the imports that ``work`` needs: what is raised here would look to Ray like a dead worker
            done: Any = list(map(loads(called), loads(row["blob"])))
        except Exception as error:  # noqa: BLE001 - raised again by the caller
            done = error
        return {"chunk": row["chunk"], "blob": dumps(done)}

    how = {"concurrency": min(workers, len(chunks)), "max_retries": 0}
    due = 0
    for number, done in stream(each, chunks, how, ordered=True):
        for _ in range(due, number):
            yield None
        due = number + 1
        yield done
    for _ in range(due, len(chunks)):
        yield None


def stream(call: Any, chunks: list[Any], how: dict[str, Any], *, ordered: bool) -> Iterator[tuple[int, Any]]:
    """(number, result) of each chunk that comes back; none of a chunk whose worker died.

    ``call`` is a function of a row with ``chunk`` and ``blob``, or a class of such: Ray's actors, one object each. All
    travels as bytes: Arrow would bring items of different keys to one schema, and change them. ``how`` is for
    Dataset.map. Raises what ``call`` gives as an exception in place of a result.
    """
    import ray
    from ray.cloudpickle import dumps, loads

    rows = [{"chunk": number, "blob": dumps(part)} for number, part in enumerate(chunks)]
    data: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.60 announces for 2.64 that max_retries will be given in another way
        data = data.map(call, **how)
    data.context.max_errored_blocks = -1
    data.context.enable_progress_bars = False
    data.context.execution_options.preserve_order = ordered
    for row in data.iter_rows():
        done = loads(row["blob"])
        if isinstance(done, Exception):
            raise done
        yield row["chunk"], done


def start_ray(workers: int) -> None:
    """Joins the cluster of RAY_ADDRESS, or starts Ray here; leaves a Ray that runs already as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else Ray tells of dead workers on standard output
    try:
        import ray
        import ray.data
    except ImportError:
        do = "install it: pip install 'internvl2-8bdetect[ray]'"
        raise ConfigError("engine 'ray' needs Ray, which is not installed", do=do) from None
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return
    here = os.environ.get("RAY_ADDRESS", "") in ("", "local")
    machine: dict[str, Any] = {"address": "local", "num_cpus": workers, "include_dashboard": False} if here else {}
    before = os.environ.get("PYTHONPATH")
    try:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # workers are to import what this one does
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **machine)
    except Exception as error:  # noqa: BLE001 - whatever keeps a cluster from starting or from being reached
        found = f"Ray could not be started or joined: {' '.join(str(error).split())[:200]}"
        raise ConfigError(found, do="check RAY_ADDRESS, or leave --engine out") from None
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
