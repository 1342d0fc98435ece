"""Predictions on disk while they are made: each row whole and flushed, an interrupted run goes on, shards are merged.

    with PredictionsFile("out/predictions.jsonl") as file:
        for item in wanted:
            if not file.has(item.dataset, item.image): file.write(prediction)

Rows with an error are tried again when a run goes on. Not here: reading others' files (``predictions``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from internvl_detect.data.jsonl import BadJson, atomically, dump, parse
from internvl_detect.errors import ConfigError, OutputError
from internvl_detect.evaluate.predictions import Prediction

BEGIN = b'{"image": '  # of every row that this program writes
SHARDS = "shards"  # folder of a run's parts


class PredictionsFile:
    """A JSONL file open for appending; what an earlier run wrote without error is kept, a torn last line cut off.

    Raises ConfigError where the file holds something else, OutputError where it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows = 0
        self._done: set[int] = set()
        if self.path.exists() and not self.path.is_file():
            raise ConfigError(f"{self.path} is no ordinary file", do="choose another folder")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._take_over()
            self._file: BinaryIO = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by __exit__
            self._end = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise self._failed(error) from error

    def __len__(self) -> int:
        return len(self._done)

    def has(self, dataset: str, image: str) -> bool:
        """Whether an earlier run has judged the file."""
        return hash((dataset, image)) in self._done

    def write(self, row: Prediction) -> None:
        """Append one row, whole or not at all. Raises OutputError."""
        data = dump(row.to_row()).encode("utf-8") + b"\n"
        try:
            if self._file.write(data) != len(data):
                raise OSError(28, "no space left on device")
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise self._failed(error) from error
        self._end += len(data)
        self.rows += 1

    def __enter__(self) -> PredictionsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def _take_over(self) -> None:
        with open(self.path, "rb") as old, atomically(self.path) as kept:
            for number, line in enumerate(old, 1):
                if not line.endswith(b"\n") and BEGIN.startswith(line[: len(BEGIN)]):
                    break  # the run before was ended in the middle of this row
                try:
                    row = parse(line)
                    image, error = row["image"], row.get("error")
                except (BadJson, TypeError, KeyError, AttributeError):
                    found = f"{self.path}, line {number} is no prediction"
                    raise ConfigError(found, expected="rows of an earlier run", do="choose another folder") from None
                if not error:
                    self._done.add(hash((row.get("dataset", ""), image)))
                    kept.write(line)

    def _failed(self, error: OSError) -> OutputError:
        found = f"{self.path} could not be written ({error.strerror or error})"
        return OutputError(found, do="free disk space and run the same command again")


def shard_path(out: Path, shard: tuple[int, int] | None) -> Path:
    """Where a part of a run writes; ``shard`` is (number from 1, number of parts), None for the whole."""
    if shard is None:
        return out / "predictions.jsonl"
    return out / SHARDS / f"{shard[0]}-of-{shard[1]}" / "predictions.jsonl"


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/8" as (2, 8). Raises ConfigError."""
    number, _, parts = text.partition("/")
    if number.strip().isdecimal() and parts.strip().isdecimal() and 1 <= int(number) <= int(parts) <= 100_000:
        return int(number), int(parts)
    raise ConfigError(f"shard {text!r}", expected="one like 2/8, counted from 1")


def merge_shards(out: Path, order: Iterable[tuple[str, str]]) -> int:
    """Brings the rows of all shards, and of the whole's own file, into ``predictions.jsonl`` by ``order``, which is
    (dataset, image) of every file meant; gives the number of rows. A file that several parts have is taken once, one
    without error before others. Raises ConfigError for rows that are none, OutputError."""
    whole = shard_path(out, None)
    files = [whole, *sorted((out / SHARDS).glob("*-of-*/predictions.jsonl"))]
    places: dict[int, tuple[int, int, bool]] = {}  # key -> (file, offset, whether it has no error)
    for at, path in enumerate(files):
        if not path.is_file():
            continue
        offset = 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    try:
                        row = parse(line)
                        key, fine = hash((row.get("dataset", ""), row["image"])), not row.get("error")
                    except (BadJson, TypeError, KeyError, AttributeError):
                        raise ConfigError(f"{path}, line {number} is no prediction", do="remove it") from None
                    if key not in places or (fine and not places[key][2]):
                        places[key] = (at, offset, fine)
                offset += len(line)
    wanted = [place for dataset, image in order if (place := places.get(hash((dataset, image))))]
    with contextlib.ExitStack() as stack:
        opened = {at: stack.enter_context(open(files[at], "rb")) for at in {place[0] for place in wanted}}
        target = stack.enter_context(atomically(whole))
        for at, offset, _ in wanted:
            opened[at].seek(offset)
            target.write(opened[at].readline())
    return len(wanted)
