"""A dataset looked at as a whole: what is broken, copied, out of balance or on both sides of a split.

    found = survey(read_manifest("set/manifest.csv"), "set", cache=Path("set/.ivdetect-cache.sqlite"))
    found.n_errors, found.by_code, found.table["width"]

Streams: a file costs some hundred bytes, so a million fit. Not here: finding the files of a folder, shortcuts that give
the label away (``evaluate.shortcuts``, which reads ``found.table``), the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from internvl_detect.data.findings import Finding, Level, Tally, printable, show
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.survey.duplicates import Copy, exact_copies, near_copies
from internvl_detect.data.survey.facts import FileFacts
from internvl_detect.data.survey.facts_cache import open_cache
from internvl_detect.data.survey.measure import Asked, measure
from internvl_detect.data.survey.table import BAD, FINE, MISSING, UNREAD, SurveyTable

MAX_KEPT = 1000  # findings kept of one code; all are counted
_FEW = 20
_LOPSIDED = 0.05
_NOT_BINARY = 0.02
_HINTS = {
    "missing-file": "paths are read from the root",
    "missing-mask": "paths are read from the root",
    "outside-root": "copy or link the files into the root",
    "damaged-media": "get the file again, or leave it out",
}


@dataclass
class Survey(Tally):
    """What was found. ``findings`` holds at most ``MAX_KEPT`` of a code, ``by_code`` counts them all."""

    table: SurveyTable = field(default_factory=SurveyTable)
    findings: list[Finding] = field(default_factory=list)
    by_code: Counter[str] = field(default_factory=Counter)
    n_errors: int = 0
    n_warnings: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Counts a finding, and keeps it while there is room for its kind."""
        self.count(finding)
        if self.by_code[finding.code] <= MAX_KEPT:
            self.findings.append(finding)

    def note(self, text: str) -> None:
        """Something about the survey itself, said once."""
        if text not in self.notes:
            self.notes.append(text)

    def counts(self) -> list[dict[str, Any]]:
        """``dataset``, ``split``, ``label``, ``files``, ``usable`` (opened, or there, without a problem), ``masks``."""
        table = self.table
        columns = [table[name].astype(np.int64) for name in ("dataset", "split", "label")]
        cells, where = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
        where = where.reshape(-1)
        sums = [np.bincount(where, weights=values) for values in (self.usable(), table["mask_state"] == FINE)]
        files = np.bincount(where, minlength=len(cells))
        texts = [table.texts(name) for name in ("dataset", "split", "label")]
        rows = []
        for at, cell in enumerate(cells.tolist()):
            named = {k: t[n] for k, t, n in zip(("dataset", "split", "label"), texts, cell, strict=True)}
            rows.append({**named, "files": int(files[at]), "usable": int(sums[0][at]), "masks": int(sums[1][at])})
        return sorted(rows, key=lambda row: (row["dataset"], row["split"], row["label"] != "real", row["label"]))

    def usable(self) -> np.ndarray:
        """(N,) bool: files without a problem, and whose mask, if one is named, has none."""
        fine = np.isin(self.table["state"], (FINE, UNREAD))
        return fine & ((self.table["has_mask"] == 0) | np.isin(self.table["mask_state"], (FINE, UNREAD)))


def survey(
    rows: Iterable[ManifestRow],
    root: str | Path,
    *,
    findings: Iterable[Finding] = (),
    cache: Path | None = None,
    workers: int = 0,
    open_media: bool = True,
    progress: Callable[[int], None] = lambda files: None,
) -> Survey:
    """Looks at every file that ``rows`` name, and compares them all; never stops at the first problem.

    ``findings`` are those of whoever found the rows; they may still be added to while the rows are read. ``cache`` is
    a file to remember facts in: a run that was killed goes on from there, and gives the same survey. ``workers``
    processes (0: as many as cores) open the files; without ``open_media`` it is only looked whether they are there.
    ``progress`` is told how many are done.
    """
    found = Survey()
    with open_cache(cache if open_media else None, found.note) as known:
        desk = _Desk(found, progress)
        measure(desk.ask(rows), desk.settle, root=root, cache=known, workers=workers, open_them=open_media)
    for finding in [*findings, *_compared(found, open_media)]:
        found.add(finding)
    if not len(found.table):
        found.add(Finding("error", "no-rows", printable(str(root)), 0, "there is no file to look at"))
    return found


class _Desk:
    """Hands files out to be looked at, and takes up what was found."""

    def __init__(self, found: Survey, progress: Callable[[int], None]) -> None:
        self.found, self.table, self.progress = found, found.table, progress

    def ask(self, rows: Iterable[ManifestRow]) -> Iterator[Asked[tuple[int, str]]]:
        for row in rows:
            index = self.table.add(row)
            role = "video" if row.is_video else "image"
            yield Asked(row.path, role, (index, ""))
            if row.mask:
                yield Asked(row.mask, "mask", (index, row.mask))

    def settle(self, about: tuple[int, str], facts: FileFacts) -> None:
        index, mask = about
        state = _state(facts)
        if mask:
            self.table.set_mask(index, state, facts)
        else:
            self.table.set_facts(index, state, facts)
            self.progress(1)
        if state in (BAD, MISSING):
            name = f"its mask {show(mask, 200)}" if mask else "the file"
            self._say("error", facts.code, index, f"{name} {facts.problem}", _HINTS.get(facts.code, ""))
        elif mask and state == FINE:
            self._judge_mask(index, mask, facts)

    def _judge_mask(self, index: int, mask: str, facts: FileFacts) -> None:
        name = f"its mask {show(mask, 200)}"
        if facts.brightest == 0:
            self._say("warning", "mask-empty", index, f"{name} is all black: nothing is marked")
            return
        if facts.white >= 1:
            self._say("warning", "mask-full", index, f"{name} is all white", "is the whole picture meant?")
        if facts.brightest < 128:
            problem = f"{name} has no value above {facts.brightest} of 255"
            self._say("warning", "mask-dark", index, problem, "white, 255, marks what was changed")
        if facts.between > _NOT_BINARY:
            problem = f"{name} is not black and white: {facts.between:.0%} of it lies between"
            self._say("warning", "mask-grey", index, problem, "is it a mask at all, or a JPEG of one?")

    def _say(self, level: Level, code: str, index: int, problem: str, hint: str = "") -> None:
        self.found.add(_finding(self.table, level, code, index, problem, hint))


def _state(facts: FileFacts) -> int:
    if not facts.code:
        return FINE
    if facts.code == "unopened":
        return UNREAD
    return MISSING if facts.code.startswith("missing") else BAD


def _finding(table: SurveyTable, level: Level, code: str, index: int, problem: str, hint: str = "") -> Finding:
    dataset = table.texts("dataset")[int(table.number("dataset", index))]
    return Finding(level, code, table.path(index), 0, problem, hint, dataset)


def _compared(found: Survey, opened: bool) -> Iterator[Finding]:
    """What only shows when files are held against each other."""
    table = found.table
    if not len(table):
        return
    yield from _balance(found)
    yield from _names(table)
    yield from _groups(table)
    if not opened:
        return
    off = (table["mask_state"] == FINE) & (table["state"] == FINE)
    off &= (table["mask_width"] != table["width"]) | (table["mask_height"] != table["height"])
    for index in np.flatnonzero(off).tolist():
        size, mask = (f"{table.number(f'{m}width', index)}x{table.number(f'{m}height', index)}" for m in ("", "mask_"))
        problem = f"its mask is {mask} px and the picture {size} px"
        yield _finding(table, "error", "mask-size", index, problem, "is it the mask of another picture?")
    yield from (_copy(table, copy, "") for copy in exact_copies(table))
    yield from (_copy(table, copy, "near-") for copy in near_copies(table, found.note))


def _copy(table: SurveyTable, copy: Copy, near: str) -> Finding:
    other = show(table.path(copy.earlier), 200)
    how = f"looks like {other} ({copy.bits} of 128 bits differ)" if near else f"has the very bytes of {other}"
    level: Level = "warning" if near or copy.kind == "plain" else "error"
    labels, splits = (
        [table.texts(column)[table.number(column, i)] for i in (copy.file, copy.earlier)]
        for column in ("label", "split")
    )
    if copy.kind == "leak":
        problem = f"is in split {show(splits[0], 40)} and {how}, in split {show(splits[1], 40)}"
        problem += f"; one is labelled {labels[0]}, the other {labels[1]}" if labels[0] != labels[1] else ""
        hint = "give copies one group_id and split by group" if near else "leave one out, or a test measures memory"
        return _finding(table, level, f"{near}duplicate-leak", copy.file, problem, hint)
    if copy.kind == "label":
        problem = f"is labelled {labels[0]} and {how}, labelled {labels[1]}"
        hint = "right for an edited picture and its original; give them one group_id" if near else "one label is wrong"
        return _finding(table, level, f"{near}duplicate-label", copy.file, problem, hint)
    return _finding(table, level, f"{near}duplicate", copy.file, how, "copies count double" if not near else "")


def _balance(found: Survey) -> Iterator[Finding]:
    """One verdict missing, or rarer than one in twenty, in the whole or in a (dataset, split) of some size."""
    cells: dict[tuple[str, str], Counter[str]] = {}
    whole: Counter[str] = Counter()
    for row in found.counts():
        side = "real" if row["label"] == "real" else "fake"
        cells.setdefault((row["dataset"], row["split"]), Counter())[side] += row["usable"]
        whole[side] += row["usable"]
    for (dataset, split), sides in {("", ""): whole, **(cells if len(cells) > 1 else {})}.items():
        if sides.total() >= _FEW and min(sides["real"], sides["fake"]) < _LOPSIDED * sides.total():
            is_whole = (dataset, split) == ("", "")
            name = "the whole" if is_whole else f"dataset {show(dataset)}" + (f", split {show(split)}" if split else "")
            problem = f"{name} has {sides['real']} real and {sides['fake']} fake files that can be used"
            hint = "add the missing side" if is_whole else "fine if another dataset of the run makes up for it"
            yield Finding("warning", "label-balance", dataset or "all files", 0, problem, hint, dataset)
    table = found.table
    tampered = np.array([text == "tampered" for text in table.texts("label")])[table["label"]]
    lone = tampered & (table["has_mask"] == 0) & (table["video"] == 0)
    for number, n in sorted(Counter(table["dataset"][lone].tolist()).items()):
        dataset = table.texts("dataset")[number]
        problem = f"{n} tampered pictures have no mask"
        yield Finding(
            "warning", "no-mask", dataset or "all files", 0, problem, "no mask questions come of them", dataset
        )


def _names(table: SurveyTable) -> Iterator[Finding]:
    """Files listed twice, and files whose names differ in upper case only, of which some disks keep one."""
    for column, code in (("name", "listed-twice"), ("folded", "case-clash")):
        for index, first in _again(table[column]):
            same = table.path(index) == table.path(first)
            if (code == "listed-twice") == same:
                other = (
                    "is named by an earlier row too" if same else f"differs from {show(table.path(first), 200)} in case"
                )
                hint = "" if same else "rename one: on Windows and macOS one overwrites the other"
                yield _finding(table, "warning", code, index, other, hint)


def _groups(table: SurveyTable) -> Iterator[Finding]:
    """Groups of which files lie in two splits; told of the first file in each further split."""
    named = np.flatnonzero((table["own_group"] == 0) & (table["split"] != 0))
    pairs = np.stack([table["group"][named], table["split"][named].astype(np.uint64)], axis=1)
    _, firsts = np.unique(pairs, axis=0, return_index=True)
    firsts = np.sort(firsts)
    splits = table.texts("split")
    for at, before in _again(pairs[firsts, 0]):
        index, first = int(named[firsts[at]]), int(named[firsts[before]])
        here, there = (show(splits[table.number("split", i)], 40) for i in (index, first))
        problem = f"is in split {here}, and {show(table.path(first), 200)} of the same group_id in split {there}"
        yield _finding(table, "error", "group-split", index, problem, "split by group: one source, one split")


def _again(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """(index, first index) of every value that was there before, in order."""
    _, first, where = np.unique(values, return_index=True, return_inverse=True)
    for index in np.flatnonzero(first[where] != np.arange(len(values))).tolist():
        yield index, int(first[where[index]])
