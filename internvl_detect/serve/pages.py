"""The page and its files, health, readiness, metrics: what is served without a token, except the metrics.

The page's files are read once, at the start, by name: no path of a request reaches the disk. Not here: ``/v1``.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from internvl_detect import __version__
from internvl_detect.serve.api import Who, server_of
from internvl_detect.serve.problems import Problem
from internvl_detect.serve.schemas import errors

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
router = APIRouter(include_in_schema=False)
health = APIRouter(tags=["health"])


def _read() -> dict[str, tuple[bytes, str, str]]:
    """The page's files: bytes, type, entity tag."""
    found = {}
    for entry in resources.files(__package__).joinpath("page").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in _TYPES:
            data = entry.read_bytes()
            found[entry.name] = data, f"{_TYPES[suffix]}; charset=utf-8", f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    return found


FILES = _read()


def _send(request: Request, name: str) -> Response:
    if name not in FILES:
        raise Problem(404, "no_page", "no such page", do="see /")
    data, kind, tag = FILES[name]
    headers = {"Content-Security-Policy": PAGE_POLICY, "ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=kind)


@router.get("/")
async def page(request: Request) -> Response:
    """The page."""
    return _send(request, "index.html")


@router.get("/static/{name}")
async def static(request: Request, name: str) -> Response:
    """A file of the page."""
    return _send(request, "" if name == "index.html" else name)


@health.get("/healthz", responses=errors())
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok", "version": __version__}


@health.get("/readyz", responses=errors(503))
async def readyz(request: Request) -> Response:
    """The model is loaded, and the server takes files."""
    server = server_of(request)
    if server.stopping or not server.owner.ready:
        why = "shutting down" if server.stopping else "the model is not loaded"
        raise Problem(503, "not_ready", why, do="ask again in a second", headers={"Retry-After": "1"})
    limits = server.settings
    bounds = {"max_file_bytes": limits.max_file_bytes, "max_files": limits.max_files, "max_frames": limits.max_frames}
    more = {"limits": bounds, "decoders_without_network": server.decoders.without_network}
    calibration = server.owner.detector.calibration
    thresholds = {"low": calibration.low, "high": calibration.high}
    thresholds |= {f"score_{name}": calibration.score_of(value) for name, value in thresholds.items()}
    return JSONResponse({"status": "ready", "model": server.owner.detector.loaded.name, **thresholds, **more})


@health.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **errors(401, 429)}, response_class=Response)
async def metrics(request: Request, who: Who) -> Response:
    """Prometheus' text. Needs a token where tokens exist."""
    return Response(server_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
