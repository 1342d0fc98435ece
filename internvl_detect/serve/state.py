"""The parts of one running server, put together and taken apart in order; and who is asking.

    server = Server(settings, load)  # load() makes the Detector, in the owner's thread
    await server.start(); ...; await server.stop()

Not here: routes (``api``, ``pages``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from internvl_detect.errors import ConfigError
from internvl_detect.serve.cache import Cache
from internvl_detect.serve.decoders import Decoders
from internvl_detect.serve.engine import Engine
from internvl_detect.serve.jobs import Jobs
from internvl_detect.serve.limits import Limits
from internvl_detect.serve.metrics import Metrics
from internvl_detect.serve.owner import Owner
from internvl_detect.serve.problems import Problem
from internvl_detect.serve.settings import Settings
from internvl_detect.serve.store import Store
from internvl_detect.serve.tokens import Tokens
from internvl_detect.serve.uploads import Uploads


@dataclass(frozen=True)
class Caller:
    """Who asks: a token's name, "" without tokens; ``key`` is what limits count by."""

    name: str
    key: str


class Server:
    """One model, one data folder. Raises ConfigError where it would be open to strangers, or its folder is in use."""

    def __init__(self, settings: Settings, load: Callable[[], Any]) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.tokens = Tokens(settings.data_dir)
        settings.check_open(bool(self.tokens))
        self._needs_token = not settings.no_auth and (bool(self.tokens) or not settings.is_local)
        self.store = Store(settings.data_dir)
        self.limits = Limits(settings.rate_per_min, settings.concurrent)
        self.uploads = Uploads(self.store.uploads, settings)
        self.owner = Owner(
            load,
            batch_size=settings.batch_size,
            batch_ms=settings.batch_ms,
            lanes=settings.lanes,
            on_batch=self._count_batch,
        )
        restarts = self.metrics.worker_restarts.inc
        self.decoders = Decoders(settings.decoders, settings.decode_mib, settings.decode_s, restarts)
        self.direct = 0  # files of direct requests that were taken and not answered
        self.stopping = False
        self.engine: Engine
        self.jobs: Jobs
        self._watch()

    async def start(self) -> None:
        """Load the model, then take up the jobs that an earlier server left. Requests may come at once."""
        self.owner.start()
        self.cache = Cache(self.store, "", self.settings.expire_h * 3600, self.settings.cache)
        self.engine = Engine(self.settings, self.cache, self.owner, self.decoders, self.metrics)
        self.jobs = Jobs(self.settings, self.store, self.engine)
        self._loading = asyncio.create_task(self._loaded())

    async def _loaded(self) -> None:
        await asyncio.to_thread(self.owner.loaded.wait)
        if self.owner.ready:
            self.cache.about = repr(sorted(self.owner.detector.facts.items())) + repr(self.owner.detector.tiles)
            self.jobs.start()

    def hang_up(self) -> None:
        """Take nothing new; those who watch a job are let go."""
        self.stopping = True
        if hasattr(self, "jobs"):
            self.jobs.hang_up()

    async def stop(self) -> None:
        """Finish what was taken."""
        self.hang_up()
        self._loading.cancel()
        await self.jobs.close()
        await self.engine.close()
        self.store.close()

    def caller(self, request: Request) -> Caller:
        """Who sent a request; may take tens of milliseconds. Raises Problem 401, 429."""
        address = request.client.host if request.client else "unknown"
        try:
            wanted = self._needs_token or (not self.settings.no_auth and bool(self.tokens))
            if not wanted:
                return Caller("", f"address:{address}")
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            name = None
            if scheme.lower() == "bearer" and token:
                name = self.tokens.owner_of(token.strip())
                if name is None:
                    self.limits.wrong_token(address)
        except ConfigError as error:
            raise Problem(503, "tokens", "the server's token file cannot be used", do="tell its owner") from error
        if name is None:
            raise Problem(
                401,
                "no_token",
                "no valid token came with the request",
                expected="the header Authorization: Bearer ivd_...",
                do="ask the server's owner for one: ivdetect serve token NAME",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return Caller(name, f"token:{name}")

    def _count_batch(self, size: int, seconds: float) -> None:
        self.metrics.batch_size.observe(size)
        self.metrics.batch_s.observe(seconds)

    def _watch(self) -> None:
        watch = self.metrics.watch
        watch("ivdetect_queue_files", "Files of direct requests that wait or run.", lambda: self.direct)
        watch("ivdetect_job_files", "Files of jobs without a row.", lambda: self.jobs.waiting)
        watch("ivdetect_model_queue", "Decoded files that wait for the model.", lambda: self.owner.waiting)
        watch("ivdetect_ready", "1 when the model is loaded.", lambda: float(self.owner.ready))
