"""``/v1``: judge files now, or as a job that survives the client, the server's restart and a kill.

Not here: the page, health and metrics (``pages``), the form of errors (``problems``), shapes (``schemas``).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.requests import ClientDisconnect

from internvl_detect.errors import MediaError
from internvl_detect.serve import render
from internvl_detect.serve.engine import Options, Order
from internvl_detect.serve.problems import Problem, busy
from internvl_detect.serve.schemas import UPLOAD_BODY, DetectAnswer, JobAnswer, errors
from internvl_detect.serve.state import Caller, Server
from internvl_detect.serve.store import FINISHED, StoredFile, StoredJob
from internvl_detect.serve.uploads import Upload

REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
_LOOK = errors(401, 404, 422, 429)
_RESULTS = errors(401, 404, 409, 410, 422, 429)
router = APIRouter(prefix="/v1", dependencies=[Depends(HTTPBearer(auto_error=False))])


def server_of(request: Request) -> Server:
    return request.app.state.server


async def caller_of(request: Request) -> Caller:
    return await asyncio.to_thread(server_of(request).caller, request)


def options_of(
    request: Request,
    explain: Annotated[bool, Query(description="Add the model's words.")] = False,
    mask: Annotated[bool, Query(description="Say where: regions, a mask.")] = False,
    frames: Annotated[int, Query(ge=1, le=512, description="Frames of a clip to look at.")] = 8,
    language: Annotated[Literal["en", "zh"], Query(description="Of headline and explanation.")] = "en",
) -> Options:
    most = server_of(request).settings.max_frames
    if frames > most:
        raise Problem(422, "bad_option", f"{frames} frames", expected=f"at most {most}")
    return Options(explain, mask, frames, language)


Who = Annotated[Caller, Depends(caller_of)]
Wanted = Annotated[Options, Depends(options_of)]
Name = Annotated[str | None, Query(max_length=1000, description="The file's name, when the body is the file.")]
_MOST = 1_000_000
At = Annotated[int, Query(alias="file", ge=0, le=_MOST, description="Which file of the job, from 0.")]
AtOrAll = Annotated[int | None, Query(alias="file", ge=0, le=_MOST, description="Which file; without: all.")]


@router.post(
    "/detect",
    response_model=DetectAnswer,
    response_model_exclude_unset=True,
    responses=errors(401, 403, 408, 413, 415, 422, 429, 503, 504),
    openapi_extra=UPLOAD_BODY,
    summary="Judge files now",
)
async def detect(request: Request, who: Who, options: Wanted, name: Name = None) -> Response:
    """A verdict for each file, in their order. One that cannot be judged has ``error`` in its row; the others go on.

    For clips and for more than a few files use a job: this answers within the deadline or with 504.
    """
    server = server_of(request)
    with server.limits.hold(who.key):
        server.direct += 1  # a place in the queue is taken before the body is read
        held, uploads = 1, []
        try:
            await _refuse_before_body(request, server, server.direct, server.settings.queue)
            uploads = await server.uploads.take(request, name)
            server.direct, held = server.direct + len(uploads) - 1, len(uploads)
            _refuse_when_full(server, server.direct, server.settings.queue)
            rows = await _judged(request, server, who, options, uploads)
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            server.direct -= held
            server.store.delete_uploads(upload.stored for upload in uploads)
    if options.mask:
        await asyncio.to_thread(_add_masks, server, who, options, uploads, rows)
    if all(row.get("error") is not None for row in rows):
        raise _nothing(rows)
    return JSONResponse({"results": rows, "request_id": request.state.request_id})


@router.post(
    "/jobs",
    status_code=202,
    response_model=JobAnswer,
    responses=errors(401, 403, 408, 413, 415, 422, 429, 503),
    openapi_extra=UPLOAD_BODY,
    summary="Judge files as a job",
)
async def submit(request: Request, who: Who, options: Wanted, name: Name = None) -> Response:
    """Accepts files to be judged in turn. What was answered by 202 is on the server's disk and survives its restart."""
    server = server_of(request)
    with server.limits.hold(who.key):
        await _refuse_before_body(request, server, server.jobs.waiting + 1, server.settings.job_queue)
        try:
            uploads = await server.uploads.take(request, name, durable=True)
        except ClientDisconnect:
            return Response(status_code=499)
        try:
            _refuse_when_full(server, server.jobs.waiting + len(uploads), server.settings.job_queue)
            job = await server.jobs.submit(who.name, options, uploads)
        except BaseException:
            server.store.delete_uploads(upload.stored for upload in uploads)
            raise
    return JSONResponse(server.jobs.to_json(job), 202, {"Location": f"/v1/jobs/{job.id}"})


async def job_of(request: Request, id: str, who: Who) -> StoredJob:
    """The job of this id and caller; another token's is as unknown as none."""
    job = await asyncio.to_thread(server_of(request).store.job, id) if len(id) <= 64 else None
    if job is None or job.owner != who.name:
        raise Problem(404, "no_job", "no such job", do="check the id, and that the token is the one it was made with")
    return job


Mine = Annotated[StoredJob, Depends(job_of)]


@router.get("/jobs/{id}", response_model=JobAnswer, response_model_exclude_unset=True, responses=_LOOK)
async def job_state(request: Request, job: Mine) -> Response:
    """A job as it stands, with the rows that are there by now."""
    return JSONResponse(server_of(request).jobs.to_json(job))


@router.get(
    "/jobs/{id}/events",
    responses={200: {"content": {"text/event-stream": {}}}, **_LOOK},
    response_class=StreamingResponse,
)
async def events(request: Request, job: Mine, who: Who) -> Response:
    """Server-sent events: ``progress`` with the job (without rows) at every change, at last ``done`` with the rows."""
    server = server_of(request)
    held = server.limits.hold(who.key)
    held.__enter__()

    async def stream() -> AsyncIterator[bytes]:
        try:
            async for now in server.jobs.watch(job.id):
                if now is None:
                    yield b": still here\n\n"
                    continue
                over = now.state in FINISHED
                data = json.dumps(server.jobs.to_json(now, results=over), ensure_ascii=True)
                yield f"event: {'done' if over else 'progress'}\ndata: {data}\n\n".encode()
        finally:
            held.__exit__(None, None, None)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.delete("/jobs/{id}", status_code=204, responses=errors(401, 403, 404, 422, 429), response_class=Response)
async def delete(request: Request, job: Mine) -> Response:
    """Cancels what is left of a job and forgets it: rows, pictures, uploads."""
    await server_of(request).jobs.delete(job)
    return Response(status_code=204)


@router.get("/jobs/{id}/report", response_class=HTMLResponse, responses=_RESULTS)
async def report(request: Request, job: Mine, at: AtOrAll = None) -> Response:
    """One self-contained HTML file about the job, or one file of it."""
    server, files = server_of(request), _finished(job, at)
    text = await asyncio.to_thread(_report_html, server, job, files)
    return HTMLResponse(text, headers={"Content-Security-Policy": REPORT_POLICY})


@router.get("/jobs/{id}/report.json", responses=_RESULTS, response_class=JSONResponse)
async def report_json(request: Request, job: Mine, at: AtOrAll = None) -> Response:
    """The rows, with model, calibration and version."""
    text = render.report_json([f.row or {} for f in _finished(job, at)], _about(server_of(request)))
    return Response(text, media_type="application/json")


@router.get("/jobs/{id}/report.md", response_class=PlainTextResponse, responses=_RESULTS)
async def report_md(request: Request, job: Mine, at: AtOrAll = None) -> Response:
    """The report in Markdown."""
    rows = [f.row or {} for f in _finished(job, at)]
    text = await asyncio.to_thread(render.report_markdown, rows, _about(server_of(request)))
    return PlainTextResponse(text, media_type="text/markdown; charset=utf-8")


_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}, **_RESULTS}
_JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}, **_RESULTS}


@router.get("/jobs/{id}/mask", responses=_PNG, response_class=Response)
async def mask(request: Request, job: Mine, at: At = 0) -> Response:
    """The mask of a picture's suspicious regions as PNG, in its own pixels."""
    file = _picture(job, at)
    drawn = _mask(server_of(request), job, file) or await asyncio.to_thread(render.mask_png, file.row)
    return Response(drawn, media_type="image/png")


@router.get("/jobs/{id}/overlay", responses=_PNG, response_class=Response)
async def overlay(request: Request, job: Mine, at: At = 0) -> Response:
    """The picture, at most 1024 px a side, with its suspicious regions drawn in, as PNG."""
    file = _picture(job, at)
    server = server_of(request)
    pictures = _preview(server, job, file, 0), _mask(server, job, file)
    return Response(await asyncio.to_thread(render.overlay_png, file.row, *pictures), media_type="image/png")


@router.get("/jobs/{id}/preview", responses=_JPEG, response_class=Response)
async def preview(request: Request, job: Mine, at: At = 0, frame: Annotated[int, Query(ge=0, le=512)] = 0) -> Response:
    """The picture as JPEG, at most 1024 px a side; of a clip the ``frame``-th of the frames that were looked at."""
    file = _finished(job, at)[0]
    return Response(_preview(server_of(request), job, file, frame), media_type="image/jpeg")


async def _judged(
    request: Request, server: Server, who: Caller, options: Options, uploads: list[Upload]
) -> list[dict[str, Any]]:
    """The rows, within the deadline, while the client is there."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    folder = server.store.uploads
    orders = [Order(u.name, u.sha256, folder / u.stored, options, who.name) for u in uploads]
    work = asyncio.gather(*(server.engine.judge(order) for order in orders))
    left = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({work, left}, timeout=server.settings.deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return list(work.result())
        if left.done():
            raise ClientDisconnect
        server.metrics.refused.labels("deadline").inc()
        raise Problem(
            504,
            "deadline",
            f"not done within {server.settings.deadline_s:g} seconds",
            do="send fewer files at a time, or make it a job: POST /v1/jobs",
        )
    finally:
        left.cancel()
        work.cancel()


async def _refuse_before_body(request: Request, server: Server, files: int, most: int) -> None:
    """Refuse without taking the body; what the client is still sending is read, so that it reads the refusal."""
    try:
        _refuse_when_full(server, files, most)
    except Problem:
        await server.uploads.drain(request)
        raise


def _refuse_when_full(server: Server, files: int, most: int) -> None:
    problem = None
    if server.stopping:
        problem = Problem(503, "stopping", "the server is shutting down", do="try again", headers={"Retry-After": "5"})
    elif server.owner.loaded.is_set() and not server.owner.ready:
        problem = Problem(503, "no_model", "the model could not be loaded", do="look at the server's messages")
    elif files > most:
        problem = busy(f"{most} files are waiting already", most * server.engine.file_s / server.settings.batch_size)
    if problem is not None:
        server.metrics.refused.labels(problem.body["error"]["code"]).inc()
        raise problem


def _nothing(rows: list[dict[str, Any]]) -> Problem:
    """No file of a request has a verdict: 415 when that is their own fault."""
    theirs = all(row["exit_code"] == MediaError.exit_code for row in rows)
    said = rows[0]["error"] if len(rows) == 1 else f"none of {len(rows)} files could be judged: {rows[0]['error']}"
    code = "unreadable" if theirs else "not_judged"
    return Problem(
        415 if theirs else 500, code, said, expected="a picture or clip", do="see results", more={"results": rows}
    )


def _add_masks(
    server: Server, who: Caller, options: Options, uploads: list[Upload], rows: list[dict[str, Any]]
) -> None:
    for upload, row in zip(uploads, rows, strict=True):
        if row.get("error") is None and row["kind"] == "image":
            drawn = server.cache.mask(server.engine.key(upload.sha256, who.name, options))
            row["mask_png"] = base64.b64encode(drawn or render.mask_png(row)).decode("ascii")


def _finished(job: StoredJob, at: int | None) -> list[StoredFile]:
    """The file of this number, or all; each must have its row."""
    if job.state == "expired":
        raise Problem(410, "expired", "the job has expired", do="send the files again")
    if at is not None and at >= len(job.files):
        raise Problem(404, "no_file", f"the job has no file {at}", expected=f"0 to {len(job.files) - 1}")
    files = list(job.files) if at is None else [job.files[at]]
    if any(file.row is None for file in files):
        raise Problem(409, "not_done", "not judged yet", do="watch the job's events")
    return files


def _picture(job: StoredJob, at: int) -> StoredFile:
    file = _finished(job, at)[0]
    if file.row is None or file.row.get("error") is not None or file.row["kind"] != "image":
        raise Problem(404, "no_picture", "the file has no mask", expected="a picture with a verdict")
    return file


def _preview(server: Server, job: StoredJob, file: StoredFile, frame: int) -> bytes:
    found = server.cache.picture(server.engine.key(file.sha256, job.owner, Options(**job.options)), frame)
    if found is None:
        gone = file.row is not None and file.row.get("error") is None and frame == 0
        status, code = (410, "gone") if gone else (404, "no_picture")
        raise Problem(status, code, "there is no picture of this", do="send the file again")
    return found


def _mask(server: Server, job: StoredJob, file: StoredFile) -> bytes | None:
    return server.cache.mask(server.engine.key(file.sha256, job.owner, Options(**job.options)))


def _report_html(server: Server, job: StoredJob, files: list[StoredFile]) -> str:
    options, key = Options(**job.options), server.engine.key
    previews = {f.name: server.cache.pictures(key(f.sha256, job.owner, options)) for f in files}
    masks = {f.name: found for f in files if (found := _mask(server, job, f)) is not None}
    return render.report_html([f.row or {} for f in files], previews, masks, _about(server))


def _about(server: Server) -> dict[str, Any]:
    return server.owner.detector.facts if server.owner.ready else {}
