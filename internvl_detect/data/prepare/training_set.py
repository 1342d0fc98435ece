"""From rows of a manifest to what training reads: split by source, asked questions, written as meta JSON and JSONL.

    done = prepare_rows(read_manifest("manifest.csv"), "pictures", "sets", PrepareOptions(), note=print)

OUT holds manifest.csv (every file used, with its split), NAME_SPLIT.jsonl, meta.json, frames/ and, written last,
prepared.json. The same rows, options and seed give the same bytes. Rows are held on disk, not in memory. Not here:
finding and choosing rows (``readers``, ``choice``), the command (``command``).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from internvl_detect.data.conversations.writing import write_conversations
from internvl_detect.data.engine import run_ordered
from internvl_detect.data.findings import Finding, printable, show
from internvl_detect.data.folders import DONE, Note
from internvl_detect.data.jsonl import atomically, well_formed
from internvl_detect.data.labels import verity
from internvl_detect.data.manifest import ManifestRow, read_manifest, write_manifest
from internvl_detect.data.prepare.asking import Questions, Shares, parse_questions, questions_for
from internvl_detect.data.prepare.clip_rows import FORMATS
from internvl_detect.data.prepare.one_file import FRAMES, Job, Made, convert_file
from internvl_detect.data.prepare.splits import Places
from internvl_detect.errors import ConfigError, DataError, OutputError
from internvl_detect.files import UNFINISHED

MIN_CLIP_S = 0.1  # shorter than the frames of a clip are apart, a minute would be rows without end
_SPOOL = f"{UNFINISHED}rows.jsonl"


@dataclass(frozen=True)
class PrepareOptions:
    """What is made of the rows.

    ``questions``: see ``parse_questions``. ``split``: shares for rows whose set has no split of its own. ``video``
    "clips" keeps clips, long ones in stretches of at most ``clip_s`` seconds (0: uncut); "frames" makes ``frames``
    pictures of each, as ``frame_format`` png or jpg. ``repeat``: how often an epoch visits the training rows of a
    dataset. ``workers`` 0 takes the cores there are.
    """

    questions: Questions = field(default_factory=lambda: parse_questions([]))
    split: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1})
    video: str = "clips"
    frames: int = 8
    clip_s: float = 30.0
    frame_format: str = "png"
    repeat: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    engine: str = "processes"
    workers: int = 0

    def __post_init__(self) -> None:
        if self.video not in ("clips", "frames"):
            raise ConfigError(f"video {self.video!r}", expected="clips or frames")
        if self.frame_format not in FORMATS:
            raise ConfigError(f"frame format {self.frame_format!r}", expected=" or ".join(FORMATS))
        if not (self.clip_s == 0 or self.clip_s >= MIN_CLIP_S):
            raise ConfigError(f"stretches of {self.clip_s:g} s", expected=f"{MIN_CLIP_S:g} s or more, or 0: uncut")


@dataclass
class Prepared:
    """What was made: ``files`` by (set, split, real or fake), the meta JSON's ``datasets`` with their set, split, kind
    (verdict, explain, mask, frames) and number of rows, ``left_out`` by the code of the reason, and ``findings`` in
    words: how many there were while datasets were read too, and where they stand."""

    meta: Path
    files: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    findings: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        files = [{"set": d, "split": s, "class": c, "files": n} for (d, s, c), n in sorted(self.files.items())]
        more = {"datasets": dict(sorted(self.datasets.items())), "left_out": dict(sorted(self.left_out.items()))}
        return {"meta": str(self.meta), "files": files, **more}

    def format_text(self) -> str:
        """A table: a line a set and split with its files by class, then rows by question, then what was left out."""
        lines = [f"{'set':<24} {'split':<8} {'real':>9} {'fake':>9}"]
        for name, split in sorted({(d, s) for d, s, _ in self.files}):
            real, fake = (self.files[name, split, truth] for truth in ("real", "fake"))
            lines.append(f"{name:<24} {split:<8} {real:>9} {fake:>9}")
        by_kind: Counter[str] = Counter()
        for dataset in self.datasets.values():
            by_kind[dataset["kind"]] += dataset["rows"]
        said = ", ".join(f"{n} {kind}" for kind, n in sorted(by_kind.items()))
        lines.append(f"{sum(by_kind.values())} rows of conversations: {said}")
        lines += [f"left out or mended: {n} x {code}" for code, n in sorted(self.left_out.items())]
        return "\n".join(filter(None, [*lines, self.findings, str(self.meta)]))


def prepare_rows(
    rows: Iterable[ManifestRow],
    root: str | Path,
    out: str | Path,
    options: PrepareOptions,
    *,
    note: Note = lambda finding: None,
    progress: Callable[[int], None] = lambda steps: None,
    facts: Mapping[str, Any] | None = None,
    left_out: Counter[str] | None = None,
) -> Prepared:
    """Writes everything into ``out``, a new folder or one of an earlier preparation; ``root`` is where paths start.

    What cannot be used is told to ``note`` and left out. ``facts`` are stored in prepared.json. ``left_out`` is what
    whoever finds the rows leaves out, counted while they are read. Raises ConfigError, OutputError; DataError when
    nothing is left.
    """
    out, root = Path(out), Path(os.path.abspath(root))
    earlier = _begin(out)
    done = Prepared(out / "meta.json", left_out=Counter() if left_out is None else left_out)

    told: list[Finding] = []

    def say(finding: Finding) -> None:
        done.left_out[finding.code] += 1
        told[:] = told or [finding]
        note(finding)

    spool = out / _SPOOL
    try:
        places = Places(options.split, options.seed)
        write_manifest(spool, _usable(rows, root, places, say))
        if not spool.stat().st_size:
            first = f"; the first: {told[0].format()}" if told else ""
            raise DataError(f"no file can be used{first}", do="nothing was written")
        places.settle()
        shares = Shares()
        write_manifest(out / "manifest.csv", _placed(read_manifest(spool), places, shares, options, done, say))
        names = _Names(options, done)
        converted = _converted(out, root, places, shares, options, progress)
        done.meta = write_conversations(names.pairs(converted, say), out, root=root, settings=names.settings)
    except OSError as error:
        raise OutputError(f"{out} could not be written: {error.strerror or error}", do="free space") from None
    finally:
        spool.unlink(missing_ok=True)
    for name in set(earlier) - set(done.datasets):
        (out / f"{name}.jsonl").unlink(missing_ok=True)
    done.files, done.left_out = +done.files, +done.left_out
    _mark(out, {"finished": True, **done.to_dict(), "meta": "meta.json", "facts": dict(facts or {})})
    return done


def _begin(out: Path) -> list[str]:
    """Makes ``out`` ours; gives the names of the datasets of an earlier preparation."""
    claim(out)
    try:
        for left in (out / FRAMES).glob(f"{UNFINISHED}*"):  # by a run that was killed
            shutil.rmtree(left)
        earlier = list(json.loads((out / DONE).read_text("utf-8"))["datasets"]) if (out / DONE).is_file() else []
    except OSError as error:
        raise OutputError(f"{out} cannot be used ({error.strerror})", do="choose another folder") from None
    except (ValueError, KeyError, TypeError):
        earlier = []
    _mark(out, {"finished": False, "datasets": dict.fromkeys(earlier)})
    return [name for name in earlier if isinstance(name, str) and "/" not in name and "\\" not in name]


def claim(out: Path) -> None:
    """Makes sure that ``out`` is new, or a preparation's, before anything is written there. Raises ConfigError,
    OutputError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        inside = [name for name in os.listdir(out) if not name.startswith(UNFINISHED)]
    except OSError as error:
        raise OutputError(f"{out} cannot be used ({error.strerror})", do="choose another folder") from None
    if inside and DONE not in inside and inside != ["findings.jsonl"]:
        raise ConfigError(f"{out} holds other files", expected="a new folder, or one of an earlier preparation")


def _mark(out: Path, facts: Mapping[str, Any]) -> None:
    with atomically(out / DONE) as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())


def _usable(rows: Iterable[ManifestRow], root: Path, places: Places, say: Note) -> Iterator[ManifestRow]:
    """The rows whose file is there, inside ``root`` and can be named in JSON; a missing mask costs only the mask."""
    for row in rows:
        broken = [name for name, value in vars(row).items() if not well_formed(value)]
        if broken:
            problem = f"its {' and '.join(broken)} cannot be written as text"
            say(Finding("error", "not-text", printable(row.path), 0, problem, "rename the file"))
            continue
        code, problem = _misplaced(root, row.path)
        if code:
            say(Finding("error", code, printable(row.path), 0, problem, dataset=row.dataset))
            continue
        if row.mask and (missing := _misplaced(root, row.mask)[1]):
            problem = f"mask {show(row.mask, 300)}: {missing}"
            say(Finding("warning", "missing-mask", printable(row.path), 0, problem, dataset=row.dataset))
            row = dataclasses.replace(row, mask="")
        places.learn(row)
        yield row


def _misplaced(root: Path, path: str) -> tuple[str, str]:
    """(code, problem) of a path that is no file below ``root``; two empty texts where it is one."""
    whole = os.path.normpath(os.path.join(root, path))
    if "\0" in path or not whole.startswith(str(root).rstrip(os.sep) + os.sep):
        return "outside-root", f"leads out of {show(str(root), 200)}"
    return ("", "") if os.path.isfile(whole) else ("missing-file", "there is no such file")


def _placed(
    rows: Iterable[ManifestRow], places: Places, shares: Shares, options: PrepareOptions, done: Prepared, say: Note
) -> Iterator[ManifestRow]:
    for row in rows:
        placed = places.put(row)
        if placed is None and places.is_repeated(row):  # chosen to validate on, and to train on
            done.left_out["validated-on"] += 1
            continue
        if placed is None:
            problem = f"its source {show(row.group)} lies in another split than {show(row.split)}"
            say(Finding("error", "split-crossed", printable(row.path), 0, problem, dataset=row.dataset))
            continue
        shares.count(placed, options.questions)
        done.files[file_class(placed)] += 1
        yield placed


def file_class(row: ManifestRow) -> tuple[str, str, str]:
    """What a file counts as: (dataset, split, real or fake)."""
    return row.dataset or "data", row.split, verity(row.label)


def _converted(
    out: Path, root: Path, places: Places, shares: Shares, options: PrepareOptions, progress: Callable[[int], None]
) -> Iterator[Made]:
    """Every file of OUT/manifest.csv with its rows, in order; where media are opened, in processes.

    A file that several sets name is asked once, but for explanations, of which each set may have its own.
    """

    def jobs() -> Iterator[Job]:
        for row in read_manifest(out / "manifest.csv"):
            kinds = questions_for(row, options.questions, shares, options.seed)
            yield Job(row, tuple(kind for kind in kinds if kind == "explain" or places.is_first(row, kind)))

    work = partial(
        convert_file,
        root=str(root),
        frames_dir=str(out / FRAMES) if options.video == "frames" else "",
        frames=options.frames,
        clip_s=options.clip_s,
        frame_format=options.frame_format,
        seed=options.seed,
    )
    workers = options.workers if shares.opens or options.engine != "processes" else 1
    for made in run_ordered(work, jobs(), on_lost=Made.lost, engine=options.engine, workers=workers):
        progress(1)
        yield made


class _Names:
    """The datasets of the meta JSON, so that each can be chosen or weighed by itself: SET_SPLIT for verdicts,
    SET_explain_SPLIT and SET_mask_SPLIT for the other questions, SET_frames_SPLIT for pictures of clips."""

    def __init__(self, options: PrepareOptions, done: Prepared) -> None:
        self.options, self.done = options, done
        self.known: dict[str, str] = {}
        self.domains: dict[str, str] = {}

    def pairs(self, made: Iterable[Made], say: Note) -> Iterator[tuple[str, dict[str, Any]]]:
        for one in made:
            for finding in one.findings:
                say(finding)
            if not one.rows:
                self.done.files[file_class(one.row)] -= 1
                self.done.left_out["no-question"] += not one.findings
            for kind, row in one.rows:
                name = self._name(one.row, "frames" if one.frames else kind)
                self.done.datasets[name]["rows"] += 1
                yield name, row

    def _name(self, row: ManifestRow, kind: str) -> str:
        wanted = "_".join(filter(None, (row.dataset or "data", kind if kind != "verdict" else "", row.split)))
        name = "".join("_" if c in '/\\,|:"' or not c.isprintable() else c for c in wanted).lstrip(". ")[:100]
        # Two spellings of one name would be one file where upper and lower case are alike.
        name = self.known.setdefault(name.casefold(), name)
        if name in self.domains and self.domains[name] != row.domain:
            self.domains[name] = ""
        if name not in self.done.datasets:
            self.domains[name] = row.domain
            self.done.datasets[name] = {"set": row.dataset or "data", "split": row.split, "kind": kind, "rows": 0}
        return name

    def settings(self, name: str) -> dict[str, Any]:
        about = self.done.datasets[name]
        made: dict[str, Any] = {"domain": self.domains[name]} if self.domains[name] else {}
        made |= {"dataset": about["set"], "split": about["split"], "questions": about["kind"]}
        if about["split"] == "train" and (repeat := self.options.repeat.get(about["set"])) is not None:
            made["repeat_time"] = repeat
        return {**made, **({"root": FRAMES} if about["kind"] == "frames" else {})}
