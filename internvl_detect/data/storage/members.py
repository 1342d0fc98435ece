"""Media that are no files of their own: members of tar shards and objects of a store, opened where a path is named.

    with opened("sets/train-000000.tar/000000012.jpg") as source:
        picture = open_image(source)

A path through a ``.tar`` means the member of that name; one that begins with an address (s3://, gs://, https://) is
read from there, by ranges, as fsspec does it. An ordinary path is given back as it is. Members are found by the
shard's index (``NAME.idx.jsonl``), or by one pass over the tar's headers where there is none; an index is kept in 32
bytes a member. Every open has a file of its own, so threads and forks are safe. Not here: who may name an address
(``conversations``, ``stores``), reading shards from end to end (``shards.foreign``).
"""

from __future__ import annotations

import io
import os
import posixpath
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np

from internvl_detect.data.draws import number_of
from internvl_detect.data.findings import show
from internvl_detect.data.jsonl import BadJson, parse, read_lines, well_formed
from internvl_detect.data.storage.stores import NotThere, fetch, is_address, why_not, with_store
from internvl_detect.data.storage.tar_file import BLOCK, parse_header, walk
from internvl_detect.errors import DataError, MediaError
from internvl_detect.media.source import open_source

PIECE = 1 << 26  # bytes of an object fetched and held at once
MAX_COPY = 2 << 30
MAX_INDEX = 1 << 28
_SIZE_KEYS = ("offset", "size", "width", "height")


@contextmanager
def opened(path: str) -> Iterator[str | BinaryIO]:
    """``path`` itself when it is an ordinary one, else a seekable binary file with that name, closed at the end.

    Raises MediaError for what is not there, cannot be read, or is not where the shard's index says.
    """
    place = _split(path)
    if place is None and not is_address(path):
        yield path
        return
    tar, member = place or (path, "")
    offset, size = 0, 0
    if member:
        index = _index(tar)
        entry = index.find(member)
        if entry is None:
            raise NotThere(f"{show(tar, 300)} holds no {show(member)}{index.problem}", expected="a member of this name")
        offset, size = entry[:2]
    with (_remote if is_address(tar) else _local)(path, tar, member, offset, size) as file:
        yield file


def stated_size(path: str) -> tuple[int, int] | None:
    """Upright (width, height) in pixels as the shard's index says; None where nothing says it. Raises MediaError."""
    place = _split(path)
    if place is None:
        return None
    entry = _index(place[0]).find(place[1])
    return (entry[2], entry[3]) if entry is not None and entry[2] and entry[3] else None


def extent(path: str) -> tuple[int, int]:
    """(bytes, time of change in ns) of a file or a member; (0, 0) where there is none. Not for addresses."""
    place = _split(path)
    try:
        stat = os.stat(place[0] if place else path)
        entry = _index(place[0]).find(place[1]) if place else None
    except (OSError, ValueError, MediaError):
        return 0, 0
    return (entry[1] if entry else 0) if place else stat.st_size, stat.st_mtime_ns


def index_path(tar: str) -> str:
    """Where the index of a shard lies: beside it."""
    return tar.removesuffix(".tar") + ".idx.jsonl"


def _split(path: str) -> tuple[str, str] | None:
    """(tar, member) of a path through a tar; a folder whose name ends in .tar is a folder."""
    if ".tar" not in path:
        return None
    slashed = path.replace(os.sep, "/")
    at = slashed.find(".tar/")
    while at >= 0:
        if is_address(path) or os.path.isfile(path[: at + 4]):
            return path[: at + 4], slashed[at + 5 :]
        at = slashed.find(".tar/", at + 5)
    return None


class _Index:
    """Where the members of one shard are, by the hash of their names; ``problem`` ends the list early."""

    def __init__(self, entries: Iterable[tuple[str, int, int, int, int]]) -> None:
        hashes, numbers = array("Q"), array("q")
        self.problem = ""
        try:
            for name, *rest in entries:
                hashes.append(number_of(posixpath.normpath(name)))
                numbers.extend(rest)
        except DataError as error:
            self.problem = f" ({error.found}; {error.do})"
        self.hashes = np.asarray(hashes, dtype=np.uint64)
        order = np.argsort(self.hashes, kind="stable")
        self.hashes = self.hashes[order]
        self.numbers = np.asarray(numbers, dtype=np.int64).reshape(-1, 4)[order]

    def find(self, name: str) -> tuple[int, int, int, int] | None:
        """(offset, size, width, height), the last two 0 where not known; of two members of a name the first."""
        wanted = np.uint64(number_of(name))
        at = int(np.searchsorted(self.hashes, wanted))
        if at == len(self.hashes) or self.hashes[at] != wanted:
            return None
        offset, size, width, height = map(int, self.numbers[at])
        return offset, size, width, height


def _index(tar: str) -> _Index:
    if is_address(tar):
        return _load(tar, 0, 0)
    try:
        stat = os.stat(tar)
    except OSError as error:
        raise NotThere(f"{tar} cannot be opened: {error.strerror}", expected="a tar shard") from None
    return _load(tar, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _load(tar: str, size: int, changed_ns: int) -> _Index:
    """The index of a shard as it was at that size and time. Raises MediaError."""
    beside = index_path(tar)
    if is_address(tar):
        try:
            content = fetch(beside, 0, MAX_INDEX)
        except NotThere:
            return with_store(tar, lambda store: _scan(store.open(tar, "rb", block_size=1 << 22), tar))
        return _Index(_read_index(io.BytesIO(content), beside))
    if os.path.isfile(beside):
        return _Index(_read_index(open_source(beside)[0], beside))
    return _scan(open_source(tar)[0], tar)


@contextmanager
def open_tar(tar: str) -> Iterator[BinaryIO]:
    """A whole shard, by path or address, to be read from end to end. Raises MediaError."""
    if is_address(tar):
        if hint := why_not(tar, allowed=True):
            raise MediaError(f"{show(tar, 300)} cannot be read", do=hint)
        file = with_store(tar, lambda store: store.open(tar, "rb", block_size=1 << 22))
    else:
        file = open_source(tar)[0]
    with file:
        yield file


def _scan(file: BinaryIO, tar: str) -> _Index:
    with file:
        return _Index((m.name, m.offset, m.size, 0, 0) for m in walk(file, tar) if not m.problem)


def _read_index(file: BinaryIO, shown: str) -> Iterator[tuple[str, int, int, int, int]]:
    do = "delete it to have the shard read instead"
    with file:
        for line, _, raw in read_lines(file, 1 << 16):
            try:
                row = parse(raw) if raw is not None else None
            except BadJson as bad:
                raise DataError(f"{shown}:{line}: {bad.problem}", do=do) from None
            name = row.get("member") if isinstance(row, dict) else None
            numbers = [row.get(key, 0) for key in _SIZE_KEYS] if isinstance(row, dict) else []
            whole = all(type(n) is int and 0 <= n < 2**62 for n in numbers)
            if not isinstance(name, str) or not well_formed(name) or not whole:
                raise DataError(f"{shown}:{line}: not an entry of an index", do=do)
            yield name, numbers[0], numbers[1], numbers[2], numbers[3]


def _check_place(block: bytes, tar: str, member: str, offset: int, size: int) -> None:
    """The block before a member's bytes must be its header: the tar may be another one than the index was made for."""
    try:
        header = parse_header(block, tar)
    except DataError:
        header = None
    plain = member.isascii() and len(member) < 100  # a longer name stands in a header of its own
    named = header is not None and posixpath.normpath(header.name.decode("utf-8", "replace")) == member
    if header is None or (header.size != size and header.size) or (plain and not named):
        found = f"{tar}: {show(member)} is not at byte {offset} as {index_path(tar)} says"
        raise MediaError(found, do="delete the index, or put the tar back that it was made for")


class _Slice(io.RawIOBase):
    """``size`` bytes of an open file from ``start`` on, as a file by itself that owns the other."""

    def __init__(self, file: BinaryIO, name: str, start: int, size: int) -> None:
        super().__init__()
        self.file, self.name, self.start, self.size, self.at = file, name, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, offset + (0, self.at, self.size)[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.size - self.at)
        self.file.seek(self.start + self.at)
        content = self.file.read(left if size is None or size < 0 else min(size, left))
        self.at += len(content)
        return content

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()


def _local(path: str, tar: str, member: str, offset: int, size: int) -> Any:
    file = open_source(tar)[0]
    try:
        file.seek(max(0, offset - BLOCK))
        _check_place(file.read(BLOCK), tar, member, offset, size)
    except BaseException:
        file.close()
        raise
    return _Slice(file, path, offset, size)


def _remote(path: str, tar: str, member: str, offset: int, size: int) -> Any:
    """A copy in memory, or on disk above 64 MiB: decoders read here and there, which would be a request each."""
    head = BLOCK if member else 0
    if not member:
        size = int(with_store(path, lambda store: store.size(path)) or 0)
    if size > MAX_COPY:
        raise MediaError(f"{show(path, 300)} has {size} bytes", expected=f"at most {MAX_COPY}")
    copy = tempfile.SpooledTemporaryFile(PIECE)  # noqa: SIM115 - the slice closes it
    at, end = offset - head, offset + size
    while at < end:
        piece = fetch(tar, at, min(at + PIECE, end))
        if not piece:
            break
        copy.write(piece)
        at += len(piece)
    if member:
        copy.seek(0)
        _check_place(copy.read(BLOCK), tar, member, offset, size)
    return _Slice(copy, path, head, size)  # type: ignore[arg-type]
