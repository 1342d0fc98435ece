"""Tar files, one header after the other: which files a stranger's archive holds and where, and headers for our own.

Only ordinary files are given out, by offset; nothing is extracted, no name becomes a path, and no header makes this
read more than MAX_LONG_NAME bytes. Knows ustar, GNU's long names and POSIX (pax) path and size; links, devices and
sparse files are named with the reason why they are not read. Not here: samples (``foreign``), compressed archives.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from internvl_detect.data.findings import show
from internvl_detect.data.jsonl import well_formed
from internvl_detect.errors import DataError

BLOCK = 512
END = bytes(2 * BLOCK)
MAX_LONG_NAME = 65_536
_NOT_FILES = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe"}


@dataclass(frozen=True)
class Member:
    """A file of an archive: ``size`` bytes from byte ``offset`` on. ``problem`` says why it must not be read."""

    name: str
    offset: int
    size: int
    problem: str = ""


@dataclass(frozen=True)
class Header:
    """One header block as it stands: the name is cut off where a long name went before it."""

    name: bytes
    size: int
    kind: bytes


def walk(file: BinaryIO, shown: str) -> Iterator[Member]:
    """The members of a seekable archive called ``shown`` in messages, folders left out, in the order of the file.

    Raises DataError where the archive is broken or ends too early, after the members that are whole.
    """
    total = file.seek(0, 2)
    at, name, size = 0, None, None  # name and size: what a header before the header said
    sparse = False
    while True:
        block = _read(file, at, BLOCK)
        if block == bytes(BLOCK):
            return
        if len(block) < BLOCK:
            where = f"{shown} ends at byte {total} without the mark of a tar's end"
            raise DataError(where, do="it is cut off: get it again")
        header = parse_header(block, f"{shown}, byte {at}")
        at += BLOCK
        if header.kind in (b"L", b"x", b"K", b"g"):
            if header.kind in (b"L", b"x"):
                content = _read(file, at, _bounded(header.size, shown))
                if len(content) < header.size:
                    raise DataError(f"{shown} ends in the middle of a header", do="it is cut off: get it again")
                if header.kind == b"L":
                    name = content.rstrip(b"\0")
                else:
                    said = _pax(content, shown)
                    sparse = any(key.startswith(b"GNU.sparse") for key in said)
                    name, size = said.get(b"path", name), _number(said, shown)
            at += _padded(header.size)
            continue
        if header.kind == b"S":
            raise DataError(f"{shown} holds a sparse file at byte {at}", expected="ordinary files")
        raw, length = header.name if name is None else name, header.size if size is None else size
        is_file = header.kind in (b"0", b"\0", b"7") and not raw.endswith(b"/")
        if is_file or header.kind in _NOT_FILES:
            text = raw.decode("utf-8", "surrogateescape")
            problem = _NOT_FILES.get(header.kind, "a sparse file" if sparse else "")
            if not well_formed(text) or not text:
                problem = "a file whose name is no UTF-8 text"
            if is_file and at + length > total:
                found = f"{shown} ends at byte {total}, in the middle of {show(text)}"
                raise DataError(found, do="it is cut off: get it again")
            yield Member(text, at, length if is_file else 0, problem)
        elif header.kind not in (b"5", b"0", b"\0", b"7"):
            raise DataError(f"{shown} holds an entry of the unknown kind {header.kind!r} at byte {at - BLOCK}")
        at += _padded(length) if is_file else 0
        name, size, sparse = None, None, False


def parse_header(block: bytes, shown: str) -> Header:
    """One block of 512 bytes. Raises DataError for anything that is no tar header; ``shown`` is its place."""
    said = _octal(block[148:156])
    if said is None or sum(block) - sum(block[148:156]) + 8 * 32 != said:
        raise DataError(f"{shown}: no tar header", expected="an uncompressed tar", do="it may be damaged: get it again")
    field = block[124:136]
    size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)
    if size is None or size >= 2**62:
        raise DataError(f"{shown}: a tar header without a size")
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and prefix:
        name = prefix + b"/" + name
    return Header(name, size, block[156:157])


def file_header(name: str, size: int) -> bytes:
    """The header of a file of ``size`` bytes, the same everywhere: no time, no owner. ``name`` is short and ASCII."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def padding(size: int) -> bytes:
    """What follows ``size`` bytes up to the next block."""
    return bytes(-size % BLOCK)


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _bounded(size: int, shown: str) -> int:
    if size > MAX_LONG_NAME:
        raise DataError(f"{shown} holds a header of {size} bytes", expected=f"at most {MAX_LONG_NAME}")
    return size


def _octal(field: bytes) -> int | None:
    text = field.strip(b" \0")
    if not text:
        return 0
    return int(text, 8) if text.isdigit() and not text.strip(b"01234567") else None


def _pax(content: bytes, shown: str) -> dict[bytes, bytes]:
    """The records "LENGTH KEY=VALUE\\n" of a POSIX header."""
    said: dict[bytes, bytes] = {}
    while content.strip(b"\0"):
        digits, _, _ = content[:8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = content[len(digits) + 1 : length - 1]
        key, equals, value = record.partition(b"=")
        if not equals or content[length - 1 : length] != b"\n":
            raise DataError(f"{shown} holds a broken POSIX header")
        said[key] = value
        content = content[length:]
    return said


def _number(said: dict[bytes, bytes], shown: str) -> int | None:
    value = said.get(b"size")
    if value is not None and not (value.isdigit() and len(value) < 19):
        raise DataError(f"{shown} holds a POSIX header whose size is {value[:20]!r}")
    return None if value is None else int(value)
