"""Rows of results as Parquet: a folder of parts with one schema, which a kill costs nothing and a second run goes on.

    results.parquet/part-00000.parquet, part-00001.parquet, ..., _pending.jsonl

Rows go to ``_pending.jsonl`` first, as ``ResultsFile`` writes them, and become a part when there are enough; readers of
Parquet folders pass over names with an underscore. Needs pyarrow, which comes with the extra ``ray``. Not here: what is
in a row (``verdict``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from internvl_detect.detect.question_rows import row_key
from internvl_detect.detect.results_file import ResultsFile
from internvl_detect.errors import ConfigError, OutputError
from internvl_detect.verdict import Failure, Verdict, from_row

PART_ROWS = 4096
PENDING = "_pending.jsonl"
_PART = re.compile(r"part-(\d{5,})\.parquet")
_ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")


class ParquetResults:
    """A folder open for more rows. ``done`` as in ``ResultsFile``."""

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        _arrow()
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is no folder", expected="a folder of parts", do="choose another name")
        if self.path.exists() and any(self.path.iterdir()) and not resume:
            raise ConfigError(
                f"{self.path} exists",
                expected="a new folder",
                do="add --resume to go on with it, or choose another name",
            )
        self.done: set[str] = set()
        self._next = 0
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            pending = _pending_keys(self.path / PENDING)
            for part in _parts(self.path):
                self._take_over(part, pending)
                self._next = int(_PART.fullmatch(part.name)[1]) + 1  # type: ignore[index]
            self._pending = ResultsFile(self.path / PENDING, resume=resume)
        except OSError as error:
            raise self._failed(error) from error
        self.done |= self._pending.done
        self._waiting = len(self._pending.done)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row, whole or not at all. Raises OutputError when it cannot be written."""
        self._pending.write(row)
        self._waiting += 1
        if self._waiting >= PART_ROWS:
            self._make_part()

    def __enter__(self) -> ParquetResults:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._waiting and not isinstance(error, OutputError):
            self._make_part(last=True)
            return
        self._pending.__exit__(kind, error, tb)
        if not self._waiting:
            (self.path / PENDING).unlink(missing_ok=True)

    def _make_part(self, *, last: bool = False) -> None:
        """The pending rows as one more part. A kill between the two steps leaves them in both: see ``_take_over``."""
        self._pending.__exit__(None, None, None)
        pending = self.path / PENDING
        try:
            rows = [json.loads(line) for line in pending.read_bytes().splitlines()]
            _write_part(self.path / f"part-{self._next:05d}.parquet", rows)
            pending.unlink()
        except OSError as error:
            raise self._failed(error) from error
        self._next += 1
        self._waiting = 0
        if not last:
            self._pending = ResultsFile(pending)

    def _take_over(self, part: Path, pending: set[str]) -> None:
        """Note what an earlier run has done; failures go, to be judged again, and so do rows that are still pending."""
        rows = list(_rows_of(part))
        kept = [row for row in rows if row.get("error") is None and _key(row) not in pending]
        self.done |= {_key(row) for row in kept}
        if not kept:
            part.unlink()
        elif len(kept) < len(rows):
            _write_part(part, kept)

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path} could not be written ({error.strerror or error})",
            do="free disk space and run the same command with --resume",
        )


def parquet_rows(path: Path) -> Iterator[Verdict | Failure]:
    """The verdicts and failures of a folder of parts. Raises ConfigError for what is none."""
    _arrow()
    parts = _parts(path) if path.is_dir() else []
    if not parts:
        raise ConfigError(f"{path} has no parts", expected="a folder of 'ivdetect detect --out NAME.parquet'")
    for part in parts:
        for row in _rows_of(part):
            try:
                yield from_row(row)
            except ValueError as error:
                raise ConfigError(f"{part} has a row that is none ({error})", expected="rows of ivdetect") from error


def schema() -> Any:
    """The columns: keys of a row by their names; ``details`` of evidence as JSON."""
    pa = _arrow()
    text, real, whole = pa.string(), pa.float64(), pa.int64()
    frame = pa.struct([("index", whole), ("time_s", real), ("score", real), ("mask_share", real)])
    stretch = pa.struct([("start_s", real), ("end_s", real), ("score", real)])
    region = pa.struct([("box_xyxy", pa.list_(whole)), ("score", real), ("area_px", whole), ("sentence", text)])
    where = pa.struct([("place", text), ("sentence", text)])
    basis = pa.list_(pa.struct([("aspect", text), ("sentence", text)]))
    reasons = pa.struct(
        [("whether", pa.bool_()), ("where", where), ("basis", basis), ("contradictions", pa.list_(text))]
    )
    evidence = pa.struct([("source", text), ("summary", text), ("score", real), ("details", text)])
    columns = dict.fromkeys(("path", "kind"), text) | dict.fromkeys(("score", "probability"), real)
    columns |= dict.fromkeys(("decision", "label", "model"), text) | {"timings": pa.map_(text, real)}
    columns |= {"calibrated": pa.bool_(), "words": text, "frames": pa.list_(frame), "stretch": stretch}
    columns |= {"regions": pa.list_(region), "evidence": pa.list_(evidence), "notes": pa.list_(text)}
    columns |= {"width": whole, "height": whole, "sha256": text, "error": text, "exit_code": whole}
    columns |= {"reasons": reasons, "domain_tag": text, "tag_probabilities": pa.map_(text, real)}
    columns |= dict.fromkeys(("mask_share", "mask_threshold"), real)
    columns |= dict.fromkeys(("question", "image", "outputs", "mask"), text)
    return pa.schema(list(columns.items()))


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        do = "install it: pip install 'internvl2-8bdetect[ray]', or write to a name in .jsonl"
        raise ConfigError("results in Parquet need pyarrow, which is not installed", do=do) from None
    return pyarrow


def _write_part(path: Path, rows: list[dict[str, Any]]) -> None:
    pa = _arrow()
    made = [_utf8(row) for row in rows]
    for row in made:
        if row.get("evidence"):
            row["evidence"] = [e | {"details": json.dumps(e.get("details") or {})} for e in row["evidence"]]
        for key in ("timings", "tag_probabilities"):
            if row.get(key) is not None:
                row[key] = list(row[key].items())
    temporary = path.with_name("_" + path.name + ".partial")
    pa.parquet.write_table(pa.Table.from_pylist(made, schema()), temporary, compression="zstd")
    os.replace(temporary, path)


def _rows_of(part: Path) -> Iterator[dict[str, Any]]:
    pa = _arrow()
    try:
        table = pa.parquet.read_table(part)
        rows = table.to_pylist()
        for row in rows:
            row["path"] = _from_utf8(row["path"])
            for key in ("timings", "tag_probabilities"):
                row[key] = dict(row.get(key) or ())
            for item in row.get("evidence") or ():
                item["details"] = json.loads(item["details"] or "{}")
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{part} is no part of results ({error})", expected="what ivdetect wrote") from error
    yield from rows


def _parts(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if _PART.fullmatch(p.name)), key=lambda p: (len(p.name), p.name))


def _key(row: Mapping[str, Any]) -> str:
    return row_key(row["path"], str(row.get("question") or ""))


def _pending_keys(file: Path) -> set[str]:
    """The keys of whole rows that are pending; the row in which the run before was ended is none."""
    keys = set()
    for line in file.read_bytes().splitlines(keepends=True) if file.is_file() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            keys.add(_key(json.loads(line)))
    return keys


def _utf8(value: Any) -> Any:
    """Parquet's text is UTF-8: bytes of a file name that are none become escapes, ``\\udc80`` to ``\\udcff``."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _utf8(item) for key, item in value.items()}
    return [_utf8(item) for item in value] if isinstance(value, list) else value


def _from_utf8(path: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int("dc" + found[1], 16)), path)
