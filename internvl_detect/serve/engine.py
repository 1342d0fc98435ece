"""From a stored upload to a row: cache, a decoding process, the model's owner; a file asked twice is judged once.

    row = await engine.judge(Order("photo.jpg", sha256, path, options, owner=""))

A caller that goes away is forgotten, and what nobody waits for any more is not begun. Not here: HTTP (``api``), jobs
and their order (``jobs``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_detect.detect.interface import Wanted
from internvl_detect.errors import ResourceError
from internvl_detect.serve import render, wire
from internvl_detect.serve.cache import Cache
from internvl_detect.serve.decoders import Decoders
from internvl_detect.serve.metrics import Metrics
from internvl_detect.serve.owner import Ask, Owner
from internvl_detect.serve.settings import Settings
from internvl_detect.serve.wording import in_language
from internvl_detect.verdict import Failure, Verdict

NAME = "the file"  # what messages call it: names of clients stay out of processes, logs and the cache


@dataclass(frozen=True)
class Options:
    """What a client may ask for. ``language`` is that of the sentences added to a row, "en" or "zh"."""

    explain: bool = False
    mask: bool = False
    frames: int = 8
    language: str = "en"

    def of_answer(self) -> dict[str, Any]:
        """Those that the model's answer depends on."""
        return {"explain": self.explain, "mask": self.mask, "frames": self.frames}


@dataclass(frozen=True)
class Order:
    """One file to be judged. ``stage`` is told "decoding" and "judging" as they begin."""

    name: str
    sha256: str
    path: Path
    options: Options
    owner: str
    previews: bool = False
    stage: Callable[[str], None] = lambda stage: None


@dataclass
class _Work:
    task: asyncio.Task[dict[str, Any] | None]
    waiters: int = 0
    stages: list[Callable[[str], None]] = field(default_factory=list)


@dataclass(frozen=True)
class _Pictures:
    """What is kept beside a row: JPEGs to show, and the mask as PNG where one was drawn."""

    previews: list[bytes] = field(default_factory=list)
    mask: bytes | None = None


class Engine:
    """Runs on the event loop; decoding and the model have threads of their own."""

    def __init__(self, settings: Settings, cache: Cache, owner: Owner, decoders: Decoders, metrics: Metrics) -> None:
        self.settings, self.cache, self.owner, self.decoders = settings, cache, owner, decoders
        self.metrics = metrics
        self.file_s = 0.2  # running mean of seconds a file takes, for Retry-After
        self._pool = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        self._slots = asyncio.Semaphore(2 * settings.batch_size + settings.decoders)
        self._works: dict[tuple[str, bool], _Work] = {}

    def key(self, sha256: str, owner: str, options: Options) -> str:
        """The cache's key of a file's answer."""
        return self.cache.key(sha256, owner, options.of_answer())

    async def judge(self, order: Order) -> dict[str, Any]:
        """The row of one file: a verdict's, or a failure's. Never raises for what is in the file."""
        key = self.key(order.sha256, order.owner, order.options)
        row = self.cache.row(key)
        if row is not None and order.previews and not self.cache.has_pictures(key):
            row = None
        if row is not None:
            self.metrics.cache_hits.inc()
            if order.previews:
                self.cache.touch(key)
            return served(row, order.name, order.options.language)
        while row is None:  # None again: the work was given up just before we joined it
            row = await self._share(key, order)
        return served(row, order.name, order.options.language)

    async def close(self) -> None:
        """Finish what was taken, then end the processes."""
        works = [work.task for work in self._works.values()]
        if works:
            await asyncio.wait(works, timeout=self.settings.deadline_s)
        await asyncio.to_thread(self.decoders.close)
        if self.owner.ready:
            await asyncio.to_thread(self.owner.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _share(self, key: str, order: Order) -> dict[str, Any] | None:
        """Join the work on this very file, or begin it."""
        place = key, order.previews
        work = self._works.get(place)
        if work is None:
            own = order.path.with_name(secrets.token_hex(16))
            os.link(order.path, own)  # a waiter that goes takes its upload along, not the others'
            work = self._works[place] = _Work(task=None)  # type: ignore[arg-type]
            work.task = asyncio.create_task(self._work(work, place, own, order))
        work.waiters += 1
        work.stages.append(order.stage)
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiters -= 1
            work.stages.remove(order.stage)

    async def _work(self, work: _Work, place: tuple[str, bool], path: Path, order: Order) -> dict[str, Any] | None:
        began = time.perf_counter()
        await asyncio.sleep(0)  # the first waiter is counted
        try:
            async with self._slots:
                row, pictures = await self._steps(work, path, order)
            if row is None:
                return None
            if row.get("error") is None:
                await asyncio.to_thread(self.cache.put, place[0], row, pictures.previews, pictures.mask)
            spent = time.perf_counter() - began
            self.file_s += 0.05 * (spent - self.file_s)
            self.metrics.files.labels("failed" if row.get("error") is not None else row["decision"]).inc()
            return row
        finally:
            del self._works[place]
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    async def _steps(self, work: _Work, path: Path, order: Order) -> tuple[dict[str, Any] | None, _Pictures]:
        loop = asyncio.get_running_loop()
        while not self.owner.loaded.is_set():
            await asyncio.sleep(0.05)
        if not self.owner.ready:
            error = ResourceError("the model could not be loaded", do="look at the server's messages")
            return Failure(NAME, str(error), error.exit_code).to_dict(), _Pictures()
        detector = self.owner.detector

        def decode() -> wire.Decoded | Failure | None:
            if not work.waiters:
                return None
            loop.call_soon_threadsafe(_tell, work, "decoding")
            return self.decoders.decode(self._order(path, order), detector.loaded.tile_px)

        began = time.perf_counter()
        decoded = await loop.run_in_executor(self._pool, decode)
        self.metrics.stage_s.labels("decode").observe(time.perf_counter() - began)
        if decoded is None or not work.waiters:
            return None, _Pictures()
        if isinstance(decoded, Failure):
            return decoded.to_dict(), _Pictures()
        _tell(work, "judging")
        answer: asyncio.Future[Verdict | Failure | None] = loop.create_future()

        def done(row: Verdict | Failure | None) -> None:
            loop.call_soon_threadsafe(lambda: answer.done() or answer.set_result(row))

        def wanted() -> bool:
            if not work.waiters:
                done(None)
            return work.waiters > 0

        began = time.perf_counter()
        asked = Wanted(order.options.explain, order.options.mask and detector.draws)
        self.owner.put(Ask(NAME, decoded, asked, done, wanted))
        row = await answer
        self.metrics.stage_s.labels("model").observe(time.perf_counter() - began)
        if row is None:
            return None, _Pictures()
        mask = row.mask if isinstance(row, Verdict) else None
        drawn = None if mask is None else await asyncio.to_thread(render.drawn_png, row)
        return row.to_dict(), _Pictures(decoded.previews, drawn)

    def _order(self, path: Path, order: Order) -> dict[str, Any]:
        detector = self.owner.detector
        plan = detector.plan(order.options.frames, order.options.mask and not detector.draws)
        limits = self.settings
        return {
            "path": str(path),
            "name": NAME,
            "plan": wire.plan_to_json(plan),
            "previews": order.previews,
            "max_bytes": limits.max_file_bytes,
            "max_pixels": limits.max_pixels,
            "max_duration_s": limits.max_duration_s,
            "cpu_s": limits.decode_s,
        }


def served(row: dict[str, Any], name: str, language: str) -> dict[str, Any]:
    """A row as a client gets it: under its own name for the file, with the verdict in a sentence."""
    made = {**row, "path": name, "name": name, **in_language(row, language)}
    if row.get("error") is not None:
        made["error"] = row["error"][:1].upper() + row["error"][1:]
    return made


def _tell(work: _Work, stage: str) -> None:
    for told in list(work.stages):
        told(stage)
