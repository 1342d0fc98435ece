"""A small HTTP server in a thread, for tests of what asks servers: routes are functions of the request."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    """What was asked: body as bytes, query as single values."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    handler: BaseHTTPRequestHandler = field(repr=False, default=None)  # type: ignore[assignment]

    def json(self) -> Any:
        return json.loads(self.body)


Reply = tuple[int, dict[str, str], bytes] | None  # None: the route has written to the socket itself


def reply(content: Any, status: int = 200, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """JSON, or bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return status, {k.replace("_", "-"): v for k, v in headers.items()}, body


@dataclass
class StandIn:
    """A running server: its address and what it was asked so far."""

    url: str
    asked: list[Request]


@contextlib.contextmanager
def serving(route: Callable[[Request], Reply], *, read_body: bool = True) -> Iterator[StandIn]:
    """Answers every request by ``route`` until the block ends."""
    asked: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0) if read_body else 0
            query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
            headers = {k.lower(): v for k, v in self.headers.items()}
            request = Request(self.command, parts.path, query, headers, self.rfile.read(length), self)
            asked.append(request)
            with contextlib.suppress(OSError):
                answer = route(request)
                if answer is None:
                    self.close_connection = True
                    return
                status, said, body = answer
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | said).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield StandIn(f"http://127.0.0.1:{server.server_address[1]}", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
