"""Tar shards made of a training set: large files that are fast to copy, and to read from object storage.

    report = write_shards("meta.json", "shards", engine="ray", workers=8)

Makes ``NAME-000000.tar`` in WebDataset's convention (KEY.jpg as it is on disk, KEY.json its annotation row), beside
each ``NAME-000000.idx.jsonl``, and ``meta.json`` with ``NAME.jsonl``, which train as they are. Which row stands in
which shard depends on the input and the limits alone, so any engine and any number of workers give the same bytes. A
killed job goes on with the shards that are whole. Not here: one shard's content (``shard_file``), shards of others
(``foreign``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_detect.data.conversations.meta import TEXT_KEYS, DatasetEntry, read_meta, write_meta
from internvl_detect.data.conversations.rows import read_row
from internvl_detect.data.engine import run_ordered
from internvl_detect.data.findings import Finding, show
from internvl_detect.data.jsonl import BadJson, atomically, dump, parse, read_lines
from internvl_detect.data.shards.shard_file import Job, Written, check_alone, without, write_shard
from internvl_detect.data.storage.members import extent, index_path
from internvl_detect.data.storage.stores import is_address
from internvl_detect.errors import EXIT_OK, ConfigError, DataError, OutputError
from internvl_detect.files import UNFINISHED, alone_in, is_new

MAX_BYTES = 1 << 30
MAX_SAMPLES = 10_000
MAX_FINDINGS = 100_000
_PARTS = ".parts"


@dataclass
class ShardReport:
    """What was written: ``shards`` files of ``n_bytes`` in all, with ``samples`` in them.

    ``left_out`` rows could not be used; ``findings`` tell of them, of at most MAX_FINDINGS. ``kept`` of the shards
    were whole already. ``meta`` is the path of the new meta JSON.
    """

    meta: str
    shards: int = 0
    kept: int = 0
    samples: int = 0
    n_bytes: int = 0
    left_out: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, written: Written) -> None:
        """Counts a shard."""
        self.shards += written.samples > 0
        self.kept += written.kept and written.samples > 0
        self.samples += written.samples
        self.n_bytes += written.n_bytes
        self.left_out += written.left_out
        room = MAX_FINDINGS - len(self.findings)
        self.findings += [Finding(**found) for found in written.findings[:room]]

    @property
    def exit_code(self) -> int:
        """0, or 5 when rows were left out."""
        return DataError.exit_code if self.left_out else EXIT_OK

    def to_json(self) -> str:
        """The report as JSON text, in ASCII."""
        rows = [finding.to_dict() for finding in self.findings]
        return json.dumps({**self.__dict__, "findings": rows, "exit_code": self.exit_code}, indent=2)

    def format_text(self) -> str:
        """One line a row that was left out, then the totals."""
        lines = [finding.format() for finding in self.findings]
        old = f" ({self.kept} of them whole from before)" if self.kept else ""
        lines.append(
            f"{self.meta}: {self.samples} samples in {self.shards} shards{old}, {self.n_bytes} bytes; "
            f"{self.left_out} rows left out"
        )
        return "\n".join(lines)


def write_shards(
    meta: str | Path,
    out: str | Path,
    *,
    choice: str | None = None,
    max_bytes: int = MAX_BYTES,
    max_samples: int = MAX_SAMPLES,
    engine: str = "processes",
    workers: int = 0,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ShardReport:
    """Copies the chosen datasets of a meta JSON into shards of at most ``max_samples`` rows and ``max_bytes`` of media
    (one row alone may have more).

    Every picture and clip is opened; rows whose media are broken are left out and reported (``strict``: DataError at
    the first). ``progress`` gets bytes of annotation files done and in all. Raises ConfigError for a folder that holds
    other things, DataError for a broken meta JSON, OutputError.
    """
    entries = read_meta(meta, choice)
    for entry in entries:
        if is_address(entry.root):
            raise ConfigError(
                f"dataset {show(entry.name)} lies at {show(entry.root)}", do="make shards where the files are"
            )
    names = _file_names(entries)
    out = Path(os.path.abspath(out))
    with alone_in(out):
        _claim(out, {"max_bytes": max_bytes, "max_samples": max_samples, "names": names})
        report = ShardReport(str(out / "meta.json"))
        sizes = {entry.name: os.path.getsize(entry.annotation) for entry in entries}
        datasets: dict[str, dict[str, Any]] = {}
        labels: set[str] = set()
        done = 0
        for entry in entries:
            before = report.samples
            with atomically(out / f"{names[entry.name]}.jsonl") as rows:
                for written in _write(_jobs(entry, names[entry.name], out, max_bytes, max_samples), engine, workers):
                    report.add(written)
                    if strict and report.findings:
                        raise report.findings[0].as_error()
                    labels.add(written.label)
                    with open(written.part, "rb") as part:
                        part.readline()
                        shutil.copyfileobj(part, rows, 1 << 20)
                    if progress is not None:
                        progress(done + written.end, sum(sizes.values()))
            done += sizes[entry.name]
            datasets[entry.name] = _settings_of(entry, f"{names[entry.name]}.jsonl", report.samples - before)
        if not report.samples:
            raise DataError(f"no row of {meta} can be used", do=report.findings[0].format() if report.findings else "")
        write_meta(out / "meta.json", datasets)
        _leave(out, labels)
        return report


def _write(jobs: Iterator[Job], engine: str, workers: int) -> Iterator[Written]:
    """Every shard, in order. One whose process died is written again without the rows that are to blame."""
    for found in run_ordered(write_shard, jobs, on_lost=_as_it_was, engine=engine, workers=workers, chunk=1):
        if isinstance(found, Written):
            yield found
            continue
        apart = max(2, workers)  # never in this process
        rows = list(found.rows())
        items = ((found.source, line, raw) for line, raw in rows)
        whys = run_ordered(check_alone, items, on_lost=lambda _, why: why, engine=engine, workers=apart)
        job = without(found, {line: why for (line, _), why in zip(rows, whys, strict=True) if why})
        for again in run_ordered(write_shard, [job], on_lost=_as_it_was, engine=engine, workers=apart):
            if not isinstance(again, Written):
                raise DataError(
                    f"{job.label}: the process that writes it dies every time", do="is there memory enough?"
                )
            yield again


def _as_it_was(job: Job, why: str) -> Written | Job:
    return job


def _jobs(entry: DatasetEntry, name: str, out: Path, max_bytes: int, max_samples: int) -> Iterator[Job]:
    """The annotation file cut into shards: by the sizes of all media that are named, so that nothing need be opened."""
    source = entry.source
    number = n_rows = n_bytes = 0
    start = first = end = 0
    plan = hashlib.sha256()

    def job() -> Job:
        label = f"{name}-{number:06d}"
        return Job(source, label, str(out), str(out / _PARTS), start, end, first, plan.hexdigest())

    try:
        with open(entry.annotation, "rb") as file:
            for line, offset, raw in read_lines(file):
                sample, _ = read_row(raw, line, source)
                media = () if sample is None else (*sample.images, *filter(None, [sample.video]))
                stats = [extent(path) for path in media]
                size = sum(stat[0] for stat in stats)
                if n_rows and (n_rows == max_samples or n_bytes + size > max_bytes):
                    end = offset
                    yield job()
                    number, n_rows, n_bytes, start, first, plan = number + 1, 0, 0, offset, line - 1, hashlib.sha256()
                n_rows += 1
                n_bytes += size
                plan.update(repr((line, raw, stats)).encode())
            end = file.tell()
    except OSError as error:
        raise DataError(f"{entry.annotation} could not be read: {error.strerror or error}") from None
    if n_rows:
        yield job()


def _file_names(entries: list[DatasetEntry]) -> dict[str, str]:
    """What the files of each dataset are called: its name where that can name a file anywhere, no two alike."""
    names: dict[str, str] = {}
    for entry in entries:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", entry.name)[:60] or "_"
        taken = {name.lower() for name in names.values()}
        names[entry.name] = plain
        number = 2
        while names[entry.name].lower() in taken:
            names[entry.name] = f"{plain}_{number}"
            number += 1
    return names


def _settings_of(entry: DatasetEntry, annotation: str, length: int) -> dict[str, Any]:
    """The dataset's place in the new meta JSON, its settings as they were."""
    given = {"root": ".", "annotation": annotation, "data_augment": entry.data_augment}
    optional = {"max_dynamic_patch": entry.max_tiles, **{key: getattr(entry, key) for key in TEXT_KEYS}}
    given |= {key: value for key, value in optional.items() if value is not None}
    return {**given, "repeat_time": entry.repeat_time, "length": length}


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Takes a new folder, or one where the same job was begun."""
    plan = out / _PARTS / "job.json"
    try:
        if plan.is_file():
            if parse(plan.read_bytes()) != settings:
                found = f"{out} holds an unfinished job with other limits or datasets"
                raise ConfigError(found, do="name them as before, or another folder")
        elif not is_new(out):
            raise ConfigError(f"{out} is not empty", expected="a new folder", do="choose another name")
        else:
            with atomically(plan) as file:
                file.write(dump(settings).encode())
    except (OSError, BadJson) as error:
        raise OutputError(f"{out} cannot be used ({error})", do="choose another folder") from None


def _leave(out: Path, labels: set[str]) -> None:
    """Takes away what killed runs left: shards of an earlier state of the input, unfinished files, the parts."""
    for part in (out / _PARTS).glob("*-*.jsonl"):
        if part.stem not in labels:
            tar = out / f"{part.stem}.tar"
            tar.unlink(missing_ok=True)
            Path(index_path(str(tar))).unlink(missing_ok=True)
    for unfinished in out.glob(f"{UNFINISHED}*"):
        unfinished.unlink(missing_ok=True)
    shutil.rmtree(out / _PARTS)
