"""Files on their way to a server: opened anew for each try, read in pieces, never in memory as a whole.

Not here: the request that carries them (``http_calls``), what the server says of them (``client``).
"""

from __future__ import annotations

import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from internvl_detect.errors import MediaError
from internvl_detect.http_calls import Body

Media = str | Path | bytes | BinaryIO
CHUNK = 1 << 18


@dataclass(frozen=True)
class Part:
    """One file to be sent; opened again for every try."""

    media: Media
    name: str

    def size(self) -> int:
        """Bytes that will be sent. Raises MediaError for what is no ordinary file, is empty, or cannot be read."""
        if isinstance(self.media, bytes):
            size = len(self.media)
        elif isinstance(self.media, str | Path):
            try:
                found = os.stat(self.media)
            except (OSError, ValueError) as error:
                raise MediaError(f"{self.media} cannot be opened ({getattr(error, 'strerror', error)})") from None
            if not stat.S_ISREG(found.st_mode):
                raise MediaError(f"{self.media} is no ordinary file", expected="a picture or a clip")
            size = found.st_size
        elif hasattr(self.media, "seek") and self.media.seekable():
            at = self.media.tell()
            size = self.media.seek(0, io.SEEK_END) - at
            self.media.seek(at)
        else:
            raise MediaError("a stream that cannot be rewound", expected="a path, bytes, or a file that can seek")
        if size <= 0:
            raise MediaError(f"{self.name} is empty (0 bytes)", expected="a picture or a clip")
        return size

    def chunks(self, size: int) -> Iterator[bytes]:
        """``size`` bytes in pieces; raises MediaError when the file has become shorter meanwhile."""
        if isinstance(self.media, bytes):
            yield self.media
            return
        own = isinstance(self.media, str | Path)
        try:
            file = open(self.media, "rb") if own else self.media  # type: ignore[arg-type]  # noqa: SIM115
        except OSError as error:
            raise MediaError(f"{self.media} cannot be opened ({error.strerror})") from None
        start = file.tell()
        try:
            while size > 0:
                piece = file.read(min(CHUNK, size))
                if not piece:
                    raise MediaError(f"{self.name} became shorter while it was sent", do="send it again")
                size -= len(piece)
                yield piece
        finally:
            if own:
                file.close()
            else:
                file.seek(start)


def alone(part: Part) -> Body:
    """One file as it is. Raises MediaError as ``Part.size`` does."""
    size = part.size()
    return Body(lambda: part.chunks(size), size, "application/octet-stream")


def together(parts: Sequence[Part]) -> Body:
    """Several as multipart/form-data, each in a field ``files`` (RFC 7578). Raises MediaError as ``Part.size`` does."""
    line = secrets.token_hex(16)
    heads = [
        f'--{line}\r\nContent-Disposition: form-data; name="files"; filename="{_form_name(part.name)}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        for part in parts
    ]
    sizes = [part.size() for part in parts]
    end = f"--{line}--\r\n".encode()

    def chunks() -> Iterable[bytes]:
        for head, part, size in zip(heads, parts, sizes, strict=True):
            yield head
            yield from part.chunks(size)
            yield b"\r\n"
        yield end

    length = sum(map(len, heads)) + sum(sizes) + 2 * len(parts) + len(end)
    return Body(chunks, length, f"multipart/form-data; boundary={line}")


def file_name(path: str) -> str:
    """The last part of a path: folders of this machine are nobody else's business."""
    return os.path.basename(path).encode("utf-8", "replace").decode() or "upload"


def _form_name(path: str) -> str:
    escapes = {'"': "%22", "\r": "%0D", "\n": "%0A"}  # as browsers do
    return "".join(escapes.get(c, c) for c in file_name(path))
