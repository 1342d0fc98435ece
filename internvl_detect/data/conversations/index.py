"""Random access to annotation files of any size: byte offsets in one streaming pass, rows read when asked for.

A million rows take 8 MB. The index pickles without an open file, so a data loader's workers each open their own.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from internvl_detect.data.conversations.rows import Sample, Source, read_row
from internvl_detect.data.jsonl import MAX_LINE_BYTES, read_lines
from internvl_detect.errors import DataError

_GAMMA = 0x9E3779B97F4A7C15


def pick_rows(n_rows: int, fraction: float, seed: int = 0) -> np.ndarray:
    """The round(n_rows * fraction) rows (at least one) of lowest hash, as int64 indices in file order.

    The choice depends on the row number and ``seed`` alone, is the same on every machine, and a larger fraction keeps
    what a smaller one picked. The hash is splitmix64 (Steele, Lea and Flood, 2014).
    """
    n_picked = min(n_rows, max(1, round(n_rows * fraction))) if fraction > 1e-9 else 0
    start = np.uint64((seed * 0xD1342543DE82EF95 + _GAMMA) % 2**64)
    x = np.arange(n_rows, dtype=np.uint64) * np.uint64(_GAMMA) + start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return np.sort(np.argsort(x, kind="stable")[:n_picked]).astype(np.int64)


class AnnotationIndex(Sequence[Sample]):
    """The samples of one dataset by position, repetitions included.

    ``index[i]`` raises DataError naming file and line when that row is broken, or when the file has changed since.
    ``n_rows`` counts the file's rows; ``len`` counts positions: rows times ``repeat_time``.
    """

    def __init__(self, source: Source, repeat_time: float = 1, seed: int = 0) -> None:
        self.source = source
        offsets, lines = array("q"), array("q")
        try:
            with open(source.file, "rb") as file:
                for line, offset, _ in read_lines(file):
                    offsets.append(offset)
                    lines.append(line)
                self._stamp = self._mark(os.fstat(file.fileno()))
        except OSError as error:
            raise DataError(f"{source.file} could not be read: {error.strerror or error}") from None
        self.n_rows = len(offsets)
        self.offsets = np.frombuffer(offsets, dtype=np.int64) if offsets else np.zeros(0, np.int64)
        numbers = np.frombuffer(lines, dtype=np.int64) if lines else np.zeros(0, np.int64)
        gapless = self.n_rows == 0 or int(numbers[-1]) == self.n_rows
        self._lines = None if gapless else numbers
        self._whole = int(repeat_time)
        self._part = pick_rows(self.n_rows, repeat_time - self._whole, seed)
        self._handle: int | None = None
        self._pid = 0

    @staticmethod
    def _mark(stat: os.stat_result) -> tuple[int, int]:
        return stat.st_size, stat.st_mtime_ns

    def __len__(self) -> int:
        return self.n_rows * self._whole + len(self._part)

    def row(self, position: int) -> int:
        """The file's row (from 0, empty lines not counted) that a position stands for. Raises IndexError."""
        position = range(len(self))[position]
        full = self.n_rows * self._whole
        return position % self.n_rows if position < full else int(self._part[position - full])

    def line(self, position: int) -> int:
        """The line number, from 1, of a position. Raises IndexError."""
        row = self.row(position)
        return row + 1 if self._lines is None else int(self._lines[row])

    def raw(self, position: int) -> bytes | None:
        """The bytes of a row, without its line end; None when the line is too long. Raises DataError, IndexError."""
        row = self.row(position)
        start = int(self.offsets[row])
        end = int(self.offsets[row + 1]) if row + 1 < self.n_rows else self._stamp[0]
        content = self._read(start, min(end - start, MAX_LINE_BYTES + 2))
        content = content.partition(b"\n")[0].rstrip(b"\r\n")
        return content if len(content) <= MAX_LINE_BYTES else None

    def _read(self, start: int, n_bytes: int) -> bytes:
        file = self.source.file
        try:
            if self._handle is None or self._pid != os.getpid():  # a fork shares the descriptor, not its closing
                self._handle, self._pid = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0)), os.getpid()
            if self._mark(os.fstat(self._handle)) != self._stamp:
                raise DataError(f"{file} has changed since its rows were counted", do="start again")
            if hasattr(os, "pread"):  # no shared position: safe between threads and forks
                return os.pread(self._handle, n_bytes, start)
            with open(file, "rb") as own:
                own.seek(start)
                return own.read(n_bytes)
        except OSError as error:
            raise DataError(f"{file} could not be read: {error.strerror or error}") from None

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        sample, findings = read_row(self.raw(position), self.line(position), self.source)
        if sample is None:
            raise next(f for f in findings if f.level == "error").as_error()
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def close(self) -> None:
        """Lets go of the open file; the next read opens it again."""
        if self._handle is not None and self._pid == os.getpid():
            os.close(self._handle)
        self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_pid": 0}
