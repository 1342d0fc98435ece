"""The application, and the loop that runs it: listen, finish what was taken at a signal, leave.

    app = create_app(settings, lambda: Detector.from_pretrained("nano"))
    code = run(settings, load)

Not here: routes (``api``, ``pages``), parts (``state``).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from internvl_detect import __version__
from internvl_detect.errors import IvdetectError
from internvl_detect.serve import api, pages
from internvl_detect.serve.guard import Guard
from internvl_detect.serve.problems import add_handlers
from internvl_detect.serve.settings import Settings
from internvl_detect.serve.state import Server

HEADER_S = 15.0
_ABOUT = """Detects AI-generated and tampered pictures and clips.

`POST /v1/detect` answers at once; `POST /v1/jobs` takes clips and batches, survives restarts and tells its progress.
A verdict is a model's estimate, not a proof; "no sign found" does not say that a file is real.
No route takes an address or a path: files are sent, not named."""


def create_app(settings: Settings, load: Callable[[], Any]) -> FastAPI:
    """The application around one server; ``app.state.server`` is it."""
    server = Server(settings, load)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await server.start()
        yield
        await server.stop()

    app = FastAPI(
        title="ivdetect", version=__version__, description=_ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.server = server
    add_handlers(app)
    app.include_router(api.router)
    app.include_router(pages.health)
    app.include_router(pages.router)
    app.add_middleware(Guard, settings=settings, metrics=server.metrics)
    app.openapi = lambda: _described(app, settings)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The OpenAPI description, with this server's own bounds, and errors in JSON wherever they come."""
    if app.openapi_schema is None:
        routes = [route for path in FastAPI.openapi(app)["paths"].values() for route in path.values()]
        for route in routes:
            for parameter in route.get("parameters", []):
                if parameter["name"] == "frames":
                    parameter["schema"]["maximum"] = settings.max_frames
            for status, response in route["responses"].items():
                if status >= "400":
                    schema = next(iter(response["content"].values()))["schema"]
                    response["content"] = {"application/json": {"schema": schema}}
    return app.openapi_schema or {}


class Protocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever for the end of a request's headers."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEADER_S, self._too_slow)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(HEADER_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _too_slow(self) -> None:
        self._waiting = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class Listener(uvicorn.Server):
    """uvicorn, which tells our server of a signal before it waits for what is running."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self.server = server
        self.problem: BaseException | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A first signal ends it in order, a second Ctrl-C at once."""
        asyncio.get_event_loop().call_soon_threadsafe(self.server.hang_up)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say where; a model that cannot be loaded ends the server."""
        await super().startup(sockets)
        if not self.started:
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        print(f"listening on http://{host}:{port}", file=sys.stderr, flush=True)
        self._loading = asyncio.create_task(self._report_model())

    async def shutdown(self, sockets: Any = None) -> None:
        """End in order; uvicorn would then die of the signal once more."""
        await super().shutdown(sockets)
        self._captured_signals.clear()

    async def _report_model(self) -> None:
        owner = self.server.owner
        await asyncio.to_thread(owner.loaded.wait)
        if owner.ready:
            print(f"ready: {owner.detector.loaded.name}", file=sys.stderr, flush=True)
        else:
            self.problem, self.should_exit = owner.problem, True


def config_of(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn is to listen."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(settings.deadline_s) + 5,
        h11_max_incomplete_event_size=65536,
    )


def run(settings: Settings, load: Callable[[], Any], *, verbose: bool = False) -> None:
    """Serve until a signal. Raises IvdetectError where it cannot listen or the model cannot be loaded."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(message)s")
    app = create_app(settings, load)
    config = config_of(app, settings)
    listener = Listener(config, app.state.server)
    try:
        listener.run()
    except SystemExit:  # uvicorn's way to say that the address is taken
        raise IvdetectError(
            f"cannot listen on {settings.host}:{settings.port}", expected="a free port", do="choose another --port"
        ) from None
    if isinstance(listener.problem, BaseException):
        raise listener.problem
