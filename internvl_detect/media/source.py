"""Get at the bytes of a stranger's file safely, and say what they are by content, never by extension.

Knows files, bytes and binary file objects; no URLs. Not a decoder: ``image.py`` and ``video.py`` are.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from internvl_detect.errors import MediaError

Source = str | Path | bytes | bytearray | memoryview | BinaryIO
CHUNK = 1 << 20
HEAD = 4096  # bytes that are enough to tell what a file is
# What names promise, for walks through folders; what a file is, its bytes say.
PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
)
CLIP_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".ogv", ".wmv")
    + (".3gp",)
)

_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"}
_MOV_BOXES = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}


def picture_format(head: bytes) -> str | None:
    """JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF or HEIF by the first bytes; None for anything else."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    brands = _brands(head)
    if brands & _AVIF:
        return "AVIF"
    return "HEIF" if brands & _HEIF else None


def clip_format(head: bytes) -> str | None:
    """The name of FFmpeg's demuxer for a clip of a known container; None for anything else."""
    if head[4:8] == b"ftyp":
        return None if _brands(head) & (_AVIF | _HEIF) else "mov"
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"FLV\x01"):
        return "flv"
    if head.startswith(b"OggS"):
        return "ogg"
    if head.startswith(b"\x00\x00\x01\xba"):
        return "mpeg"
    if head.startswith(bytes.fromhex("3026b2758e66cf11")):
        return "asf"
    for size, first in ((188, 0), (192, 4)):
        if len(head) > first + 2 * size and all(head[first + i * size] == 0x47 for i in range(3)):
            return "mpegts"
    return None


def sniff(head: bytes) -> str | None:
    """``"image"`` or ``"video"`` by the first bytes of a file (some hundreds suffice), None for anything else."""
    if picture_format(head):
        return "image"
    return "video" if clip_format(head) else None


def sniff_file(path: str | Path) -> str | None:
    """``sniff`` of a file on disk. Raises ``MediaError`` when it cannot be read."""
    file, _, _ = open_source(path)
    with file:
        return sniff(file.read(HEAD))


def describe(head: bytes) -> str:
    """In words, what bytes are that are no picture and no clip this program knows."""
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = [
        (b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<svg", "an SVG drawing"),
        (b"#extm3u", "a playlist"), (b"%pdf", "a PDF"), (b"pk\x03\x04", "a ZIP archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"version https://git-lfs", "a Git LFS pointer, not the file itself"), (b"8bps", "a Photoshop document"),
        (b"\x00\x00\x00\x0cjxl ", "a JPEG XL picture"), (b"\xff\x0a", "a JPEG XL picture"),
    ]  # fmt: skip
    for magic, words in known:
        if start.startswith(magic):
            return words
    if not head.strip(b"\0"):
        return "zero bytes only"
    try:
        text = head[: HEAD - 4].decode("utf-8")
    except UnicodeDecodeError:
        return "of a format this program does not know"
    return "text" if sum(c.isprintable() or c.isspace() for c in text) > 0.95 * len(text) else "of an unknown format"


def name_of(source: Any) -> str:
    """What to call a source in a message."""
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "the bytes given"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the file object given"


def open_source(source: Source) -> tuple[BinaryIO, str | None, bool]:
    """(binary file, path or None, whether the caller must close it).

    Raises ``MediaError`` for what is missing or unreadable, a directory, a device, a named pipe (which would block).
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), None, True
    if not isinstance(source, (str, Path)):
        if not hasattr(source, "read"):
            raise MediaError(f"a {type(source).__name__} as media", expected="a path, bytes or a binary file object")
        return source, None, False
    path = str(source)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise MediaError(f"{path} does not exist", expected="a file") from None
        if isinstance(error, IsADirectoryError) or (os.path.isdir(path)):
            raise MediaError(f"{path} is a folder", expected="a file") from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MediaError(f"{path} cannot be opened: {reason}", expected="a readable file") from None
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(kind) else "a named pipe, socket or device"
        raise MediaError(f"{path} is {what}", expected="a file")
    return os.fdopen(handle, "rb"), path, True


def read_source(source: Source, max_bytes: int) -> tuple[bytes, str | None]:
    """(all bytes, path or None); a file object is read from where it stands. Never reads more than the limit.

    Raises ``MediaError`` for what ``open_source`` refuses, for no bytes at all and for more than ``max_bytes``.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, path = bytes(source), None
        size = len(data)
    else:
        file, path, ours = open_source(source)
        try:
            size = os.fstat(file.fileno()).st_size if path is not None else 0
            data = b"" if size > max_bytes else _read_at_most(file, min(size if path else max_bytes, max_bytes) + 1)
        except OSError as error:
            raise MediaError(f"{name_of(source)} cannot be read: {error.strerror or error}") from None
        finally:
            if ours:
                file.close()
        size = max(size, len(data))
    check_size(size, max_bytes, name_of(source))
    return data, path


def check_size(size: int, max_bytes: int, name: str) -> None:
    """Raises ``MediaError`` for 0 bytes and for more than ``max_bytes``."""
    if size > max_bytes:
        found = f"{name} is larger than {max_bytes / 2**20:.4g} MiB" + (f" ({size / 2**20:.1f} MiB)" if size else "")
        raise MediaError(found, expected="at most max_bytes", do="Raise the limit if you trust the file")
    if size == 0:
        raise MediaError(f"{name} is empty (0 bytes)", expected="a picture or a clip")


def sha256_of(file: BinaryIO) -> str:
    """Hex digest of a seekable file from its start; leaves it at its start."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


def _read_at_most(file: BinaryIO, most: int) -> bytes:
    parts, left = [], most
    while left > 0:
        part = file.read(left if isinstance(file, io.BufferedReader) else min(left, CHUNK))
        if isinstance(part, str):
            raise MediaError(
                "a file object opened as text", expected="one opened in binary mode", do='Open it with "rb"'
            )
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO base media file; empty for anything else."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(max(int.from_bytes(head[:4], "big"), 12), 256, len(head))
    return {head[8:12]} | {head[i : i + 4] for i in range(16, end, 4)}
