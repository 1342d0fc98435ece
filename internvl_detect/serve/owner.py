"""The one owner of the model: takes decoded files, a few milliseconds' worth together, and judges them.

    owner = Owner(load, batch_size=8, batch_ms=5)
    owner.start(); owner.put(Ask(name, decoded, Wanted(), done=print))

Nothing else calls the model. One thread does (the only right number on a GPU); with more ``lanes`` a small model on a
CPU uses every core, which one batch of it cannot. Not here: queues of files (``engine``).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from internvl_detect.detect.interface import Wanted
from internvl_detect.errors import EXIT_INTERNAL
from internvl_detect.serve.wire import Decoded
from internvl_detect.verdict import Failure, Verdict


@dataclass
class Ask:
    """One decoded file. ``done`` is called from the owner's thread; ``wanted`` says whether anyone still waits."""

    name: str
    decoded: Decoded
    asked: Wanted
    done: Callable[[Verdict | Failure], None]
    wanted: Callable[[], bool] = lambda: True


class Owner:
    """Holds the detector that ``load`` makes. ``on_batch`` is told each batch's size and seconds."""

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        batch_size: int = 8,
        batch_ms: float = 5.0,
        lanes: int = 1,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._load, self.batch_size, self.batch_s, self.on_batch = load, batch_size, batch_ms / 1000, on_batch
        self.detector: Any = None
        self.problem: BaseException | None = None
        self.loaded = threading.Event()  # set when the model is there, or cannot be
        self._asks: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, args=(n,), name=f"model-{n}", daemon=True) for n in range(lanes)
        ]

    def start(self) -> None:
        """Begin to load."""
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> bool:
        return self.detector is not None

    @property
    def waiting(self) -> int:
        """How many decoded files wait for the model."""
        return self._asks.qsize()

    def put(self, ask: Ask) -> None:
        """Hand over one file."""
        self._asks.put(ask)

    def close(self) -> None:
        """Judge what was handed over, then end."""
        for _ in self._threads:
            self._asks.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, lane: int) -> None:
        if lane == 0:
            try:
                self.detector = self._load()
            except BaseException as error:  # noqa: BLE001 - the one who waits for ``loaded`` raises it
                self.problem = error
            self.loaded.set()
        self.loaded.wait()
        if self.detector is None:
            return
        ending = False
        while not ending:
            first = self._asks.get()
            if first is None:
                return
            batch, ending = self._gather(first)
            for wanted in dict.fromkeys(ask.asked for ask in batch):
                same = [ask for ask in batch if ask.asked == wanted and ask.wanted()]
                if same:
                    self._judge(same, wanted)
            first = None
            batch.clear()

    def _gather(self, first: Ask) -> tuple[list[Ask], bool]:
        """What comes within the time of a batch, and whether the end came with it."""
        batch, until = [first], time.monotonic() + self.batch_s
        while len(batch) < self.batch_size:
            try:
                left = until - time.monotonic()
                ask = self._asks.get(timeout=left) if left > 0 else self._asks.get_nowait()
            except queue.Empty:
                break
            if ask is None:
                return batch, True
            batch.append(ask)
        return batch, False

    def _judge(self, asks: list[Ask], wanted: Wanted) -> None:
        began = time.perf_counter()
        try:
            jobs = []
            for ask in asks:
                job = self.detector.job_of(ask.name, ask.decoded.cut)
                job.timings.update(ask.decoded.timings)
                jobs.append(job)
            rows = self.detector.judge(jobs, wanted)
        except Exception as error:  # noqa: BLE001 - a bug met by one batch must not end the server
            words = f"a bug in this program: {type(error).__name__}"
            rows = [Failure(ask.name, words, EXIT_INTERNAL) for ask in asks]
        self.on_batch(len(asks), time.perf_counter() - began)
        for ask, row in zip(asks, rows, strict=True):
            ask.done(row)
