"""Every broken row of a training set in one pass, before a training run of many hours meets the first.

    report = check("meta.json", token_counter=count, max_tokens=4096)
    print(report.format_text()); sys.exit(report.exit_code)

Memory does not grow with the rows but for 16 bytes each (duplicate ids).
Not here: what is printed (``command``), mending anything, shortcuts that let a model cheat (sizes, formats by class).
"""

from __future__ import annotations

import dataclasses
import json
import os
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from internvl_detect.data.conversations.meta import DatasetEntry, chosen, parse_meta
from internvl_detect.data.conversations.opening import MediaDesk
from internvl_detect.data.conversations.rows import Sample, read_row
from internvl_detect.data.draws import number_of
from internvl_detect.data.findings import Finding, Level, Tally, printable, show
from internvl_detect.data.jsonl import read_lines
from internvl_detect.errors import IvdetectError

MAX_KEPT = 100_000
_FEW_LABELS = 20
_LOPSIDED = 0.05


@dataclass
class DatasetCounts:
    """What one dataset holds. ``usable`` rows have no error; ``tokens_*`` are 0 where nothing counted them."""

    name: str
    file: str
    rows: int = 0
    usable: int = 0
    text: int = 0
    image: int = 0
    video: int = 0
    real: int = 0
    fake: int = 0
    unlabelled: int = 0
    tokens_max: int = 0
    tokens_sum: int = 0


@dataclass
class Report(Tally):
    """What was found: ``rows`` in the order of the files, at most ``MAX_KEPT`` of them; ``by_code`` counts them all."""

    meta: str
    rows: list[Finding] = field(default_factory=list)
    n_errors: int = 0
    n_warnings: int = 0
    by_code: Counter[str] = field(default_factory=Counter)
    datasets: list[DatasetCounts] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """The findings that make a row or a dataset unusable."""
        return [finding for finding in self.rows if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings to look at; training works all the same."""
        return [finding for finding in self.rows if finding.level == "warning"]

    def add(self, finding: Finding) -> None:
        """Counts a finding, and keeps it while there is room."""
        self.count(finding)
        if len(self.rows) < MAX_KEPT:
            self.rows.append(finding)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = dataclasses.asdict(self)
        return {**plain, "by_code": dict(sorted(self.by_code.items())), "exit_code": self.exit_code}

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON text, in ASCII."""
        return json.dumps(self.to_dict(), indent=indent)

    def format_text(self) -> str:
        """One line a finding, ``file:line: problem (hint)``, then one line a dataset and the totals."""
        lines = [finding.format() for finding in self.rows]
        if (left := self.n_errors + self.n_warnings - len(self.rows)) > 0:
            lines.append(f"... and {left} more of the same kinds: {dict(self.by_code.most_common(6))}")
        lines += [note for note in self.notes if "working directory" in note]
        for one in self.datasets:
            tokens = f", at most {one.tokens_max} tokens" if one.tokens_max else ""
            lines.append(
                f"{printable(one.name)}: {one.usable} of {one.rows} rows usable; {one.image} image, {one.video} video, "
                f"{one.text} text; {one.real} real, {one.fake} fake, {one.unlabelled} without label{tokens}"
            )
        lines.append(f"{self.n_errors} errors, {self.n_warnings} warnings")
        return "\n".join(lines)


def check(
    meta_path: str | Path,
    *,
    token_counter: Callable[[Sample], int] | None = None,
    max_tokens: int | None = None,
    open_media: bool = True,
    choice: str | None = None,
    allow_outside: bool = False,
    allow_remote: bool = False,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Reads every row of every dataset and opens every picture and clip; never stops at the first problem.

    ``token_counter`` gives a sample's length in tokens, and is called from the calling thread; more than
    ``max_tokens`` is an error. ``open_media`` False looks only whether the files are there. ``workers`` threads
    open media. ``allow_remote`` reads from the object storage that a root names. ``progress`` gets bytes of
    annotation files done and in all. Raises ConfigError for a wrong ``choice``.
    """
    report = Report(str(meta_path))
    found = parse_meta(meta_path, allow_outside=allow_outside, allow_remote=allow_remote)
    entries, findings = chosen(*found, choice)
    for finding in findings:
        report.add(finding)
    report.notes = [f"{entry.name}: {note}" for entry in entries for note in entry.notes]
    total = sum(os.path.getsize(e.annotation) for e in entries if os.path.isfile(e.annotation))
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        media = MediaDesk(pool, open_media, max_pending=max(1, workers) * 8)
        done = 0
        for entry in entries:
            one = _DatasetCheck(entry, report, media, token_counter, max_tokens)
            for offset in one.run():
                if progress is not None:
                    progress(done + offset, total)
            done += one.size
            if progress is not None:
                progress(min(done, total), total)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return report


class _DatasetCheck:
    """One dataset's pass: rows are read ahead of their media, and settled in the order of the file."""

    def __init__(
        self,
        entry: DatasetEntry,
        report: Report,
        media: MediaDesk,
        token_counter: Callable[[Sample], int] | None,
        max_tokens: int | None,
    ) -> None:
        self.entry, self.report, self.media = entry, report, media
        self.token_counter, self.max_tokens = token_counter, max_tokens
        self.counts = DatasetCounts(entry.name, entry.annotation)
        self.ids, self.id_lines = array("Q"), array("q")
        self.size = 0

    def note(self, level: Level, code: str, line: int, problem: str, hint: str = "", file: str = "") -> None:
        where = file or self.entry.annotation
        self.report.add(Finding(level, code, where, line, problem, hint, self.entry.name))

    def run(self) -> Iterator[int]:
        """Yields how many bytes of the annotation file are settled, row by row."""
        self.report.datasets.append(self.counts)
        first_kept = len(self.report.rows)
        waiting: deque[tuple[int, int, Sample | None, list[Finding], list[Any]]] = deque()
        try:
            with open(self.entry.annotation, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                for line, offset, raw in read_lines(file):
                    sample, findings = read_row(raw, line, self.entry.source)
                    asked = self.media.ask(sample) if sample is not None else []
                    waiting.append((line, offset, sample, findings, asked))
                    while len(waiting) > self.media.max_pending:
                        yield self._settle(*waiting.popleft())
        except OSError as error:
            self.note(
                "error", "unreadable-file", 0, f"the annotation file could not be read: {error.strerror or error}"
            )
        while waiting:
            yield self._settle(*waiting.popleft())
        self._whole_file()
        self.report.rows[first_kept:] = sorted(self.report.rows[first_kept:], key=lambda f: f.line)

    def _settle(self, line: int, offset: int, sample: Sample | None, findings: list[Finding], asked: list[Any]) -> int:
        counts = self.counts
        counts.rows += 1
        for finding in findings:
            self.report.add(finding)
        if sample is None:
            return offset
        problems = [problem for _, future in asked if (problem := future.result()) is not None]
        for code, problem, hint in dict.fromkeys(problems):
            self.note("error", code, line, problem, hint)
        setattr(counts, sample.kind, getattr(counts, sample.kind) + 1)
        counts.real += sample.label == "real"
        counts.fake += sample.label == "fake"
        counts.unlabelled += sample.label is None
        if sample.id is not None:
            self.ids.append(number_of(sample.id))
            self.id_lines.append(line)
        if not problems and self._short_enough(sample):
            counts.usable += 1
        return offset

    def _short_enough(self, sample: Sample) -> bool:
        if self.token_counter is None:
            return True
        try:
            n = self.token_counter(sample)
        except IvdetectError as error:
            problem = error.found.removeprefix(f"{sample.file}:{sample.line}: ")
            self.note("error", "token-count", sample.line, problem, error.do or error.expected)
            return False
        except Exception as error:  # a row the counter cannot take is that row's problem
            problem = f"its tokens could not be counted: {type(error).__name__}: {show(str(error), 120)}"
            self.note("error", "token-count", sample.line, problem)
            return False
        self.counts.tokens_max = max(self.counts.tokens_max, n)
        self.counts.tokens_sum += n
        if self.max_tokens is not None and n > self.max_tokens:
            hint = "shorten the text, use fewer images or a smaller max_dynamic_patch, or allow more tokens"
            self.note("error", "too-long", sample.line, f"{n} tokens, and {self.max_tokens} are allowed", hint)
            return False
        return True

    def _whole_file(self) -> None:
        counts, entry = self.counts, self.entry
        if counts.rows == 0:
            self.note("error", "no-rows", 0, f"dataset {show(entry.name)} has no rows")
        if entry.length is not None and entry.length != counts.rows:
            problem = f'"length" of {show(entry.name)} says {entry.length} and the file holds {counts.rows} rows'
            self.note("warning", "length", 0, problem, "the rows count; length is not used", self.report.meta)
        if self.ids:
            self._duplicate_ids()
        labelled = counts.real + counts.fake
        if labelled >= _FEW_LABELS and min(counts.real, counts.fake) < _LOPSIDED * labelled:
            problem = f"labels are lopsided: {counts.real} real, {counts.fake} fake"
            self.note("warning", "label-balance", 0, problem, "fine if another dataset of the run makes up for it")

    def _duplicate_ids(self) -> None:
        ids, lines = np.frombuffer(self.ids, dtype=np.uint64), np.frombuffer(self.id_lines, dtype=np.int64)
        order = np.argsort(ids, kind="stable")
        same = np.flatnonzero(ids[order][1:] == ids[order][:-1]) + 1
        first: dict[int, int] = {}
        for at in same:
            here, before = order[at], order[at - 1]
            first[int(here)] = first.get(int(before), int(lines[before]))
            self.note("warning", "duplicate-id", int(lines[here]), f"the id of line {first[int(here)]} again")
