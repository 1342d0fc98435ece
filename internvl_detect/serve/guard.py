"""What every request passes first: which name it was sent to, from where, and what headers its answer carries.

A name that is not ours is refused (DNS rebinding), as is a change asked for by another site's page. The log has method,
route, status, milliseconds and a request id: no file name, no job id, no token. Not here: tokens (``tokens``).
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from internvl_detect.serve.metrics import Metrics
from internvl_detect.serve.problems import Problem
from internvl_detect.serve.settings import Settings, is_address

log = logging.getLogger("ivdetect.serve")
API_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
HEADERS = {
    "Content-Security-Policy": API_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Any, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, request_id, status = time.perf_counter(), secrets.token_hex(8), 500
        scope.setdefault("state", {})["request_id"] = request_id

        async def answer(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-Id"] = request_id
            await send(message)

        problem = self._refuse(scope)
        try:
            if problem is not None:
                self.metrics.refused.labels(problem.body["error"]["code"]).inc()
                await problem.response()(scope, receive, answer)
            else:
                await self.app(scope, receive, answer)
        finally:
            spent = time.perf_counter() - began
            route = _route(scope)
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.request_s.labels(route).observe(spent)
            log.info("%s %s %d %.0f ms %s", _method(scope), route, status, 1000 * spent, request_id)

    def _refuse(self, scope: dict[str, Any]) -> Problem | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = _host_of(hosts[0]) if len(hosts) == 1 else ""
        if not host or not (is_address(host) or host in self.settings.names):
            return Problem(
                421,
                "unknown_host",
                "the Host header names no name of this server",
                expected="an address, localhost, or a name given by --allow-host",
            )
        if scope["method"] in ("GET", "HEAD"):
            return None
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if (origin is not None and urlsplit(origin).netloc.lower() != hosts[0].lower()) or site in (
            "cross-site",
            "same-site",
        ):
            return Problem(403, "other_origin", "another site's page asked for this", expected="this server's own page")
        return None


def _host_of(header: str) -> str:
    """The host of a Host header, without port and brackets, in lower case; "" for what is none."""
    if "@" in header:
        return ""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _route(scope: dict[str, Any]) -> str:
    route = scope.get("route")
    return getattr(route, "path", None) or "other"


def _method(scope: dict[str, Any]) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "OTHER"
