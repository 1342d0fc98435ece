"""Training data in InternVL's format: a meta JSON of named datasets, each a JSONL file of conversations.

    for entry in choose(read_meta("meta.json"), "CASIA2,FR"):
        samples = entry.index(seed=0)   # samples[i] -> Sample; repeat_time is already in it

Not here: one row (``rows``), random access (``index``), opening the media of every row (``check``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_detect.data.conversations.index import AnnotationIndex
from internvl_detect.data.conversations.rows import Sample, Source, read_row
from internvl_detect.data.datasets.choice import ALL, is_name, parse_terms
from internvl_detect.data.findings import Finding, Level, did_you_mean, show
from internvl_detect.data.jsonl import BadJson, atomically, dump, parse, read_lines
from internvl_detect.data.jsonl import write_jsonl as write_jsonl
from internvl_detect.data.storage.stores import is_address, why_not
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.questions import IMAGE_QUESTION, VIDEO_QUESTION

__all__ = ["IMAGE_QUESTION", "VIDEO_QUESTION", "AnnotationIndex", "DatasetEntry", "Sample", "choose", "make_row"]
__all__ += ["parse_meta", "read_meta", "write_jsonl", "write_meta"]

META_KEYS = ("root", "annotation", "data_augment", "max_dynamic_patch", "repeat_time", "length")
TEXT_KEYS = ("domain", "dataset", "split", "questions")
_ALL_KEYS = (*META_KEYS, *TEXT_KEYS)
SCORED = ("verdict", "frames")  # questions whose answer is the score; others are not validated on
MAX_META_BYTES = 64 * 1024 * 1024
MAX_REPEAT = 10_000
MAX_DYNAMIC_PATCH = 256
_PURPOSE = {"train": "train on", "val": "validate on"}


@dataclass(frozen=True)
class DatasetEntry:
    """One named dataset of a meta JSON. ``root`` and ``annotation`` are absolute; ``root`` may be an allowed address.

    ``repeat_time`` may have a fraction: 0.25 is a stable quarter of the rows, 1.5 all of them and a half.
    ``max_tiles`` is the meta's ``max_dynamic_patch``, None where it is not set. ``length`` is what the meta says,
    checked by the check and used for nothing. ``dataset``, ``split`` and ``questions`` say what the rows are of, as
    ``ivdetect data prepare`` writes them. ``notes`` say in words where relative paths were found.
    """

    name: str
    root: str
    annotation: str
    data_augment: bool = False
    max_tiles: int | None = None
    repeat_time: float = 1
    length: int | None = None
    domain: str | None = None
    dataset: str | None = None
    split: str | None = None
    questions: str | None = None
    allow_outside: bool = False
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> Source:
        """What reading one row needs to know."""
        return Source(self.name, self.annotation, self.root, self.data_augment, self.max_tiles, self.allow_outside)

    def rows(self) -> Iterator[tuple[int, Sample | None, list[Finding]]]:
        """(line, Sample or None, findings) of every row once, in file order. Raises DataError if unreadable."""
        source = self.source
        try:
            with open(self.annotation, "rb") as file:
                for line, _, raw in read_lines(file):
                    yield line, *read_row(raw, line, source)
        except OSError as error:
            raise DataError(f"{self.annotation} could not be read: {error.strerror or error}") from None

    def samples(self, strict: bool = True) -> Iterator[Sample]:
        """Every row once. A broken row raises DataError naming file and line, or is passed over when not strict."""
        for _, sample, findings in self.rows():
            if sample is not None:
                yield sample
            elif strict:
                raise next(f for f in findings if f.level == "error").as_error()

    def index(self, seed: int = 0) -> AnnotationIndex:
        """Random access to the rows, ``repeat_time`` applied. One pass over the file. Raises DataError."""
        return AnnotationIndex(self.source, self.repeat_time, seed)


def read_meta(
    path: str | Path,
    choice: str | None = None,
    *,
    allow_outside: bool = False,
    allow_remote: bool = False,
    warn: Callable[[str], None] | None = None,
) -> list[DatasetEntry]:
    """The datasets of a meta JSON named in ``choice`` (see ``choose``), or all, in its order.

    Raises DataError for the first error in one of them, ConfigError for a wrong choice; ``warn`` gets the doubts.
    """
    found = parse_meta(path, allow_outside=allow_outside, allow_remote=allow_remote)
    entries, findings = chosen(*found, choice)
    for finding in findings:
        if finding.level == "error":
            raise finding.as_error()
        if warn is not None:
            warn(finding.format())
    return entries


def parse_meta(
    path: str | Path, *, allow_outside: bool = False, allow_remote: bool = False
) -> tuple[list[DatasetEntry], list[Finding]]:
    """The datasets that can be used, and every finding about the others. Raises nothing.

    ``allow_remote`` lets a ``root`` be an address of object storage (``members.SCHEMES``).
    """
    path = Path(path)
    reader = _MetaReader(path, allow_outside, allow_remote)
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise BadJson("it is no ordinary file")
        with open(path, "rb") as file:
            raw = file.read(MAX_META_BYTES + 1)
        if len(raw) > MAX_META_BYTES:
            raise BadJson("the file is larger than 64 MiB", "is this the meta JSON, or an annotation file?")
        meta = parse(raw)
        if not isinstance(meta, dict) or not meta:
            raise BadJson(f"a meta JSON is an object of named datasets, not {show(meta)}")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reader.note("meta", f"the meta JSON could not be read: {reason}")
        return [], reader.findings
    except BadJson as bad:
        hint = bad.hint
        if "extra data" in bad.problem:
            hint = "this looks like a JSONL annotation file: give the meta JSON that names it"
        reader.note("meta", bad.problem, hint)
        return [], reader.findings
    if "annotation" in meta and not isinstance(meta["annotation"], dict):
        reader.note("meta", "one dataset without a name", 'write {"NAME": {"root": ..., "annotation": ...}}')
        return [], reader.findings
    entries = [entry for name, given in meta.items() if (entry := reader.entry(name, given)) is not None]
    return entries, reader.findings


class _MetaReader:
    """Reads the datasets of one meta JSON; collects findings as it goes."""

    def __init__(self, path: Path, allow_outside: bool, allow_remote: bool) -> None:
        self.allow_remote = allow_remote
        self.file, self.folder, self.allow_outside = str(path), Path(os.path.abspath(path)).parent, allow_outside
        self.findings: list[Finding] = []
        self.name = ""

    def note(self, code: str, problem: str, hint: str = "", level: Level = "error") -> None:
        problem = f"dataset {show(self.name)}: {problem}" if self.name else problem
        self.findings.append(Finding(level, code, self.file, 0, problem, hint, self.name))

    def locate(self, key: str, given: str) -> tuple[str, str | None]:
        """The absolute path of ``root`` or ``annotation``, and a note on how a relative one was found."""
        if os.path.isabs(given):
            return os.path.normpath(given), None
        beside, here = (os.path.normpath(os.path.join(base, given)) for base in (self.folder, os.getcwd()))
        if not os.path.exists(beside) and os.path.exists(here):
            return here, f"{key} {show(given)} found from the working directory: {here}"
        return beside, f"{key} {show(given)} taken from the meta file's folder: {beside}"

    def entry(self, name: str, given: Any) -> DatasetEntry | None:
        self.name = name
        before = sum(f.level == "error" for f in self.findings)
        if not name.strip():
            self.note("meta", "a dataset with an empty name")
            return None
        if not isinstance(given, dict):
            self.note("meta", f"an object is expected, not {show(given)}", 'like {"root": ..., "annotation": ...}')
            return None
        for key in given:
            if key not in _ALL_KEYS:
                self.note("meta-key", f"unknown key {show(key)}", did_you_mean(key, _ALL_KEYS), "warning")
        notes: list[str] = []
        paths: dict[str, str] = {}
        for key in ("root", "annotation"):
            value = given.get(key, "" if key == "root" else None)
            if not isinstance(value, str) or (key == "annotation" and not value) or "\0" in value:
                missing = value is None
                self.note("meta", f'no "{key}"' if missing else f'"{key}" is {show(value)}', "a path is expected")
            elif is_address(value):
                allowed = self.allow_remote and key == "root"
                if hint := why_not(value, allowed=allowed):
                    self.note("meta", f'"{key}" is an address: {show(value)}', hint)
                paths[key] = value.rstrip("/")
            else:
                paths[key], note = self.locate(key, value)
                notes += [note] if note else []
        if "annotation" in paths and not is_address(paths["annotation"]) and not os.path.isfile(paths["annotation"]):
            what = "is a folder" if os.path.isdir(paths["annotation"]) else "is not there"
            tried = "; ".join(n for n in notes if n.startswith("annotation"))
            self.note("meta", f"the annotation file {what}: {paths['annotation']}", tried)
        if "root" in paths and not is_address(paths["root"]) and not os.path.isdir(paths["root"]):
            self.note("meta-root", f"the root folder is not there: {paths['root']}", level="warning")
        repeat, tiles, length = given.get("repeat_time", 1), given.get("max_dynamic_patch"), given.get("length")
        augment, texts = given.get("data_augment", False), {key: given.get(key) for key in TEXT_KEYS}
        if not _number(repeat) or not 0 < repeat <= MAX_REPEAT:
            self.note("meta", f'"repeat_time" is {show(repeat)}', f"a number above 0, at most {MAX_REPEAT}")
        if tiles is not None and (not _number(tiles) or tiles != int(tiles) or not 1 <= tiles <= MAX_DYNAMIC_PATCH):
            self.note("meta", f'"max_dynamic_patch" is {show(tiles)}', f"a whole number, 1 to {MAX_DYNAMIC_PATCH}")
        if not isinstance(augment, bool):
            self.note("meta", f'"data_augment" is {show(augment)}', "true or false")
        if length is not None and (not _number(length) or length != int(length) or length < 0):
            self.note("meta-length", f'"length" is {show(length)}', "the number of rows; it may be left out", "warning")
            length = None
        for key, text in texts.items():
            if text is not None and not isinstance(text, str):
                self.note("meta", f'"{key}" is {show(text)}', "a name is expected")
        if sum(f.level == "error" for f in self.findings) > before:
            return None
        return DatasetEntry(
            name=name,
            root=paths["root"],
            annotation=paths["annotation"],
            data_augment=augment,
            max_tiles=None if tiles is None else int(tiles),
            repeat_time=repeat,
            length=None if length is None else int(length),
            **texts,
            allow_outside=self.allow_outside,
            notes=tuple(notes),
        )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15  # NaN is not


def choose(entries: Iterable[DatasetEntry], choice: str | None, *, split: str = "") -> list[DatasetEntry]:
    """The datasets named in ``choice``, comma separated, case aside, in that order and each once; all when empty.

    ``domain|NAME`` picks NAME only where the meta gives that domain, and the names after it only where it gives no
    other (see ``choice.parse_terms``). A name that is no dataset of the meta JSON picks those whose "dataset" it is, by
    any alias. ``split`` train or val keeps, of what is not named itself, that split and what has none, and for val
    the rows whose answer is the score. Raises ConfigError for a name not there.
    """
    entries = list(entries)
    fitting = [entry for entry in entries if _fits(entry, split)]
    picked: dict[str, DatasetEntry] = {}
    for term in parse_terms(choice or ""):
        name, domain = term.name, term.domain
        same = [e for e in entries if e.name == name] or [e for e in entries if e.name.lower() == name.lower()]
        if not same and name.lower() == ALL:
            picked.update((e.name, e) for e in fitting if not domain or (e.domain or "").lower() == domain)
            continue
        if len(same) > 1:
            raise ConfigError(f"{show(name)} may be any of {', '.join(e.name for e in same)}", do="write it exactly")
        same = same or [e for e in entries if e.dataset and is_name(name, e.dataset, "")]
        if not same:
            hint = did_you_mean(
                name, dict.fromkeys([*(e.dataset or e.name for e in entries), *(e.name for e in entries)])
            )
            raise ConfigError(f"no dataset is called {show(name)}", do=hint)
        has = (same[0].domain or "").lower()
        if domain and has != domain and (has or term.is_stated):  # a domain that goes on asks nothing of sets without
            has = f"domain {show(same[0].domain)}" if has else 'no "domain" in the meta JSON'
            word = show(f"{domain}|{name}")
            raise ConfigError(f"{word}: dataset {same[0].name} has {has}", do=f"write {same[0].name} alone")
        meant = same if same[0].name.lower() == name.lower() else [e for e in same if e in fitting]
        if not meant:
            there = ", ".join(e.name for e in same)
            raise ConfigError(f"{show(name)} has nothing to {_PURPOSE[split]} here", do=f"there is {there}: write one")
        picked.update((e.name, e) for e in meant)
    if not picked and (choice or "").strip(" ,;\t\n"):
        raise ConfigError(f"no dataset in the choice {show(choice)}")
    return list(picked.values()) if picked else fitting


def _fits(entry: DatasetEntry, split: str) -> bool:
    if split and entry.split not in (None, "", split):
        return False
    return split != "val" or entry.questions in (None, "", *SCORED)


def chosen(
    entries: list[DatasetEntry], findings: list[Finding], choice: str | None
) -> tuple[list[DatasetEntry], list[Finding]]:
    """What ``parse_meta`` gave, cut down to a choice; datasets that could not be read may be chosen too."""
    good = [entry.name for entry in entries]
    broken = dict.fromkeys(f.dataset for f in findings if f.dataset and f.dataset not in good)
    if not entries and not broken:
        return [], findings
    picked = choose([*entries, *(DatasetEntry(name, "", "") for name in broken)], choice)
    names = [entry.name for entry in picked]
    return [e for e in picked if e.name in good], [f for f in findings if not f.dataset or f.dataset in names]


def make_row(
    *turns: str,
    image: str | list[str] | None = None,
    video: str | None = None,
    system: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A row as ``write_jsonl`` takes it: ``turns`` are question, answer, question, ...; ``more`` is id, label, ..."""
    said = [{"from": "system", "value": system}] if system is not None else []
    said += [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]
    media = {key: value for key, value in (("image", image), ("video", video)) if value is not None}
    return {**more, **media, "conversations": said}


def write_meta(path: str | Path, datasets: dict[str, dict[str, Any]]) -> Path:
    """A meta JSON of {name: {root, annotation, ...}}. Raises ConfigError for an unknown key, OutputError."""
    for name, given in datasets.items():
        for key in given:
            if key not in _ALL_KEYS:
                raise ConfigError(f"dataset {show(name)}: unknown key {show(key)}", do=did_you_mean(key, _ALL_KEYS))
    lines = [f"  {dump(name)}: {dump(given)}" for name, given in datasets.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    with atomically(path) as file:
        file.write(text.encode("utf-8"))
    return Path(path)
