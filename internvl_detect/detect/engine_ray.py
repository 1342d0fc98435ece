"""Bulk scanning on Ray Data (the extra ``ray``): actors that own a model each, rows as they come.

On this machine, or on the cluster of RAY_ADDRESS, where every node needs this package, the model and the files at the
same paths. A file that kills its actor becomes a Failure: what was lost with an actor is asked again, each file alone,
once all others have their rows. Not here: Ray itself (``data.engine_ray``), one process (``detector``).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from internvl_detect.data.engine import DIED, cores
from internvl_detect.data.engine_ray import start_ray, stream
from internvl_detect.detect.question_rows import Asked
from internvl_detect.errors import IvdetectError, ResourceError
from internvl_detect.model.embedded import resolve_tagger
from internvl_detect.verdict import Failure, Verdict

WINDOW = 4096  # chunks that Ray is given at once; actors live as long as a window
QUEUED = 2  # chunks of an actor under way: one to work on, one to follow


class OnRay:
    """See ``engines.Engine``. ``workers`` 0: one actor a GPU of the cluster, or else a core of this machine."""

    def __init__(self, workers: int, model: str, adapter: str | None, options: dict[str, Any]) -> None:
        self.name, self.notes = "ray", ()
        self.facts: dict[str, Any] = {}
        start_ray(workers or cores())
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0)) if options.get("device") != "cpu" else 0
        self._each: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        self.workers = workers or gpus or cores()
        folder = resolve_tagger(options.get("tagger", "auto"), model)
        self.draws, self.streams = folder is not None and folder.is_dir(), False
        options |= {"tagger": _anywhere(str(folder)) if folder else None}
        if drawer := options.get("mask_adapter"):
            options["mask_adapter"] = _anywhere(drawer)
        self._settings = (_anywhere(model), adapter and _anywhere(adapter), options)

    def rows(
        self, files: Sequence[str | Asked | Failure], *, batch_size: int, workers: int, **asking: Any
    ) -> Iterator[tuple[int, Verdict | Failure]]:
        """See ``Engine``: in no order. ``workers`` threads of each actor decode ahead."""
        asking["workers"] = workers
        judge = (*self._settings, asking)
        chunks: list[list[int]] = [[]]
        for at, file in enumerate(files):
            if isinstance(file, Failure):
                yield at, file
                continue
            if len(chunks[-1]) == batch_size:
                chunks.append([])
            chunks[-1].append(at)
        lost: list[int] = []
        for start in range(0, len(chunks), WINDOW):
            window = [part for part in chunks[start : start + WINDOW] if part]
            yield from self._ask(judge, files, window, QUEUED, lost)
        if lost:
            dead: list[int] = []
            yield from self._ask(judge, files, [[at] for at in sorted(lost)], 1, dead)
            for at in dead:
                yield at, Failure(_path(files[at]), DIED, ResourceError.exit_code)

    def _ask(
        self, judge: tuple[Any, ...], files: Sequence[Any], chunks: list[list[int]], queued: int, lost: list[int]
    ) -> Iterator[tuple[int, Verdict | Failure]]:
        """Rows of the files in ``chunks``; those that went down with an actor are added to ``lost``."""
        if not chunks:
            return
        import ray

        pool = ray.data.ActorPoolStrategy(size=min(self.workers, len(chunks)), max_tasks_in_flight_per_actor=queued)
        how = {"compute": pool, "fn_constructor_args": judge, "max_restarts": -1, "max_task_retries": 0, **self._each}
        content = [[_absolute(files[at]) for at in part] for part in chunks]
        seen = set()
        for number, (facts, rows) in stream(Judge, content, how, ordered=False):
            self.facts = facts
            seen.add(number)
            for at, row in zip(chunks[number], rows, strict=True):
                yield at, dataclasses.replace(row, path=_path(files[at]))
        lost.extend(at for number, part in enumerate(chunks) if number not in seen for at in part)


class Judge:
    """What an actor holds: the model, loaded once. What goes wrong while loading is told to whoever asks."""

    def __init__(self, model: str, adapter: str | None, options: dict[str, Any], asking: dict[str, Any]) -> None:
        self.asking = asking
        self.failed: Exception | None = None
        try:
            from internvl_detect.detect.detector import Detector
            from internvl_detect.detect.engines import OfDetector, Where, fits

            self.engine = OfDetector(Detector.from_pretrained(model, adapter, **options))
            fits(options.get("calibration"), self.engine, Where(), None)
        except Exception as error:  # noqa: BLE001 - an actor that does not start would be started for ever
            self.failed = (
                error if isinstance(error, IvdetectError) else RuntimeError(f"{type(error).__name__}: {error}")
            )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from ray.cloudpickle import dumps, loads

        done: Any = self.failed
        if done is None:
            files = loads(row["blob"])
            pairs = self.engine.rows(files, batch_size=len(files), **self.asking)
            done = (self.engine.facts, [judged for _, judged in pairs])
        return {"chunk": row["chunk"], "blob": dumps(done)}


def _path(file: str | Asked) -> str:
    return file.path if isinstance(file, Asked) else str(file)


def _absolute(file: str | Asked) -> str | Asked:
    """An actor may have another working directory."""
    path = os.path.abspath(_path(file))
    return dataclasses.replace(file, path=path) if isinstance(file, Asked) else path


def _anywhere(folder: str) -> str:
    """A folder by its absolute path; a name that is none (nano) as it is."""
    return os.path.abspath(folder) if os.path.isdir(folder) else folder
