"""Rows of results on disk: JSON lines that survive a kill, a full disk and a second run.

Each row is written whole and flushed at once. With ``resume`` the rows that are there are kept, a torn last line is cut
off, and files that already have a verdict are not judged again (failed ones are).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from internvl_detect.detect.question_rows import row_key
from internvl_detect.errors import ConfigError, OutputError
from internvl_detect.verdict import Failure, Verdict, from_row

BEGIN = b'{"path":'  # of every row that this program writes


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One line of JSON. File names that are no UTF-8 keep their bytes as escapes (``\\udc..``), so they come back."""
    try:
        return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


class ResultsFile:
    """A JSONL file open for appending. ``done`` holds the key (``row_key``) of every row without an error that it
    began with."""

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        self.done: set[str] = set()
        self.rows = 0
        if self.path.exists() and not self.path.is_file():
            raise ConfigError(f"{self.path} is no ordinary file", expected="a file name", do="choose another name")
        if self.path.exists() and not resume:
            raise ConfigError(
                f"{self.path} exists", expected="a new file", do="add --resume to go on with it, or choose another name"
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._take_over()
            self._file: BinaryIO = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by __exit__
            self._end = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row, whole or not at all. Raises OutputError when it cannot be written."""
        line = encode_row(row)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
        except OSError as error:
            self._cut(self._end)
            raise self._failed(error) from error
        self._end += len(line)
        self.rows += 1

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._file.close()
        except OSError as failed:
            raise self._failed(failed) from failed

    def _take_over(self) -> None:
        """Read the rows of an earlier run; keep whole lines that are rows, drop those of failures and a torn end."""
        kept: list[bytes] = []
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    if not line.endswith(b"\n") and BEGIN.startswith(line[: len(BEGIN)]):
                        break  # the run before was ended in the middle of this row
                    raise ConfigError(
                        f"{self.path}, line {number} is no JSON",
                        expected="results of an earlier run",
                        do="choose another name",
                    ) from error
                if not isinstance(row, dict) or not isinstance(row.get("path"), str):
                    raise ConfigError(
                        f"{self.path}, line {number} is no row of results",
                        expected="a 'path'",
                        do="choose another name",
                    )
                if row.get("error") is None:
                    self.done.add(row_key(row["path"], str(row.get("question") or "")))
                    kept.append(line if line.endswith(b"\n") else line + b"\n")
        temporary = self.path.with_name(self.path.name + ".partial")
        temporary.write_bytes(b"".join(kept))
        os.replace(temporary, self.path)

    def _cut(self, size: int) -> None:
        with contextlib.suppress(OSError):
            self._file.truncate(size)

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path} could not be written ({error.strerror or error}); {self.rows} rows of this run are in it",
            do="free disk space and run the same command with --resume",
        )


def open_results(path: Path, *, resume: bool = False) -> Any:
    """A ResultsFile, or for a name in .parquet a folder of parts with the same methods."""
    if path.suffix == ".parquet":
        from internvl_detect.detect.results_parquet import ParquetResults

        return ParquetResults(path, resume=resume)
    return ResultsFile(path, resume=resume)


def load_rows(path: str | Path) -> Iterator[Verdict | Failure]:
    """The verdicts and failures of results in JSONL or Parquet. Raises ConfigError naming a line that is none."""
    if Path(path).suffix == ".parquet":
        from internvl_detect.detect.results_parquet import parquet_rows

        yield from parquet_rows(Path(path))
        return
    if Path(path).exists() and not Path(path).is_file():
        raise ConfigError(f"{path} is no ordinary file", expected="a file of 'ivdetect detect --out'")
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield from_row(json.loads(line))
                except (ValueError, OverflowError, RecursionError, AttributeError) as error:
                    raise ConfigError(
                        f"{path}, line {number} is no row of results ({error})",
                        expected="JSON from 'ivdetect detect --out'",
                    ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror})", expected="a file of 'ivdetect detect --out'"
        ) from error
