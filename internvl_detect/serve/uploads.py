"""Uploads, from the socket to random names in the data folder: hashed and counted as they come, never whole in memory.

Multipart or a bare body. A client's file name is only ever text, cleaned; nothing on disk is named after it. Not here:
decoding (``decoders``), how long files are kept (``store``, ``api``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from internvl_detect.report.words import visible
from internvl_detect.serve.problems import Problem
from internvl_detect.serve.settings import MIB, Settings

MOST_HEADER = 16384  # bytes of a part's own headers
DRAIN_BYTES, DRAIN_S = 8 * MIB, 5.0


@dataclass(frozen=True)
class Upload:
    """A file that has arrived: its owner's name for it, cleaned; its SHA-256, its name in the folder, its bytes."""

    name: str
    sha256: str
    stored: str
    n_bytes: int


class Uploads:
    """Takes the bodies of requests into ``folder``."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings

    async def take(self, request: Request, name: str | None, durable: bool = False) -> list[Upload]:
        """All files of a request, at least one; ``durable``: on the disk, not only in its cache.

        Raises Problem: 413 for too many bytes or files, 415 for another type of body, 422 for a broken one, 408 for
        one that comes too slowly. Whatever was stored by then is deleted.
        """
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        taker = _Taker(self.folder, self.settings)
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > self.settings.max_request_bytes:
            raise taker.too_large("the request", self.settings.max_request_bytes)
        try:
            if kind == b"multipart/form-data":
                await self._multipart(request, options.get(b"boundary", b""), taker)
            elif kind.startswith((b"image/", b"video/")) or kind == b"application/octet-stream":
                taker.begin(name or "")
                async for chunk in self._chunks(request):
                    taker.write(chunk)
                taker.end()
            else:
                raise Problem(
                    415,
                    "unsupported_body",
                    f"a body of type {visible(kind.decode('latin-1'), 80) or 'unknown'}",
                    expected="multipart/form-data, image/*, video/* or application/octet-stream",
                )
            if not taker.taken:
                raise Problem(422, "no_file", "the request holds no file", expected="at least one part named files")
            if durable:
                await asyncio.to_thread(taker.sync)
            return _told_apart(taker.taken)
        except BaseException:
            taker.discard()
            raise

    async def drain(self, request: Request) -> None:
        """Read and forget what a refused client is still sending, within bounds, so that it reads the refusal."""
        with contextlib.suppress(TimeoutError, ClientDisconnect, Problem):
            async with asyncio.timeout(DRAIN_S):
                left = DRAIN_BYTES
                async for chunk in request.stream():
                    left -= len(chunk)
                    if left < 0:
                        return

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        """The body, as fast as ``idle_s`` and ``upload_s`` want it and no longer than ``max_request_bytes``."""
        until, total = time.monotonic() + self.settings.upload_s, 0
        stream = request.stream().__aiter__()
        while True:
            try:
                wait = min(self.settings.idle_s, max(0.0, until - time.monotonic()))
                chunk = await asyncio.wait_for(anext(stream), wait)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Problem(
                    408, "slow", "the upload came too slowly", headers={"Connection": "close"}, do="send it again"
                ) from None
            total += len(chunk)
            if total > self.settings.max_request_bytes:
                raise _Taker.too_large("the request", self.settings.max_request_bytes)
            yield chunk

    async def _multipart(self, request: Request, boundary: bytes, taker: _Taker) -> None:
        if not 1 <= len(boundary) <= 256:
            raise _broken("no boundary")
        parts = _Parts(taker)
        try:
            parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
            async for chunk in self._chunks(request):
                parser.write(chunk)
            parser.finalize()
        except MultipartParseError as error:
            raise _broken(visible(error, 120)) from None
        if not parts.ended:
            raise _broken("it breaks off")


class _Taker:
    """Writes one file after the other."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.taken: list[Upload] = []
        self._file: Any = None

    def begin(self, name: str) -> None:
        if len(self.taken) >= self.settings.max_files:
            raise Problem(
                413, "too_many_files", "too many files in one request", expected=f"at most {self.settings.max_files}"
            )
        self._name, self._size, self._hash = name, 0, hashlib.sha256()
        self._stored = secrets.token_hex(16)
        handle = os.open(self.folder / self._stored, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        self._file = os.fdopen(handle, "wb", buffering=0)

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self.settings.max_file_bytes:
            raise self.too_large("a file", self.settings.max_file_bytes)
        self._hash.update(data)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            raise Problem(
                503, "storage_full", "the server cannot store the upload", headers={"Retry-After": "60"}
            ) from None

    def end(self) -> None:
        self._file.close()
        self._file = None
        self.taken.append(Upload(clean_name(self._name), self._hash.hexdigest(), self._stored, self._size))

    def sync(self) -> None:
        for upload in self.taken:
            handle = os.open(self.folder / upload.stored, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        handle = os.open(self.folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    def discard(self) -> None:
        names = [upload.stored for upload in self.taken]
        if self._file is not None:
            self._file.close()
            names.append(self._stored)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.folder / name)

    @staticmethod
    def too_large(what: str, most: int) -> Problem:
        return Problem(
            413, "too_large", f"{what} has more than {most} bytes", expected="less", headers={"Connection": "close"}
        )


class _Parts:
    """What the multipart parser calls. A part without the name ``files`` is an error: options stand in the address."""

    def __init__(self, taker: _Taker) -> None:
        self.taker, self.ended = taker, False
        self._field, self._value, self._size = b"", b"", 0
        self._disposition = b""

    def callbacks(self) -> dict[str, Callable[..., None]]:
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        found = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        return {**found, "on_headers_finished": self._headers_finished, "on_end": self._end}

    def _part_begin(self) -> None:
        self._field, self._value, self._size, self._disposition = b"", b"", 0, b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += self._counted(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end])

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") not in (b"files", b"file"):
            name = visible(options.get(b"name", b"").decode("utf-8", "replace"), 60)
            raise Problem(
                422,
                "unknown_part",
                f'the form has a part named "{name}"',
                expected="parts named files; options stand in the query",
            )
        self.taker.begin(options.get(b"filename", b"").decode("utf-8", "replace"))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.taker.write(data[start:end])

    def _part_end(self) -> None:
        self.taker.end()

    def _end(self) -> None:
        self.ended = True

    def _counted(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size > MOST_HEADER:
            raise _broken("a part's headers are too long")
        return data


def clean_name(name: str) -> str:
    """A client's file name as text: no folders, nothing that hides or acts, at most 120 characters."""
    last = name.encode("utf-8", "replace").decode("utf-8").replace("\\", "/").rsplit("/", 1)[-1]
    return visible(last, 120).strip() or "file"


def _told_apart(uploads: Iterable[Upload]) -> list[Upload]:
    """The same files; of those with one name the later get a number."""
    seen: dict[str, int] = {}
    out = []
    for upload in uploads:
        seen[upload.name] = seen.get(upload.name, 0) + 1
        again = seen[upload.name]
        name = f"{upload.name} ({again})" if again > 1 else upload.name
        out.append(Upload(name, upload.sha256, upload.stored, upload.n_bytes))
    return out


def _broken(why: str) -> Problem:
    return Problem(422, "broken_form", f"the form cannot be read: {why}", expected="multipart/form-data")
