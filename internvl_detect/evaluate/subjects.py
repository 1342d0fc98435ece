"""What an evaluation is about: the files of a selection, a manifest or a question file, each with its truth.

    subjects, root = subjects_of("test.csv", note=print)
    subjects[0].path, subjects[0].truth.label

Not here: judging them (``run``), which datasets there are (``data.datasets``).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from internvl_detect.data.datasets.choice import load_selection, parse_choice, select
from internvl_detect.data.datasets.listings import SPLITS
from internvl_detect.data.datasets.readers import find_datasets
from internvl_detect.data.findings import Finding, show
from internvl_detect.data.jsonl import BadJson, parse
from internvl_detect.data.manifest import SUFFIXES, ManifestRow
from internvl_detect.data.prepare.question_files import Question, read_questions
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.evaluate.predictions import Prediction
from internvl_detect.evaluate.truth import of_manifest
from internvl_detect.media.source import CLIP_SUFFIXES

ROOT = "dataset"  # where the README's tree lies
Note = Callable[[Finding], None]


@dataclass(frozen=True)
class Subject:
    """A file to judge: its truth (nothing said yet), where it lies, and a question of its own, "" for the standard."""

    truth: Prediction
    path: str
    question: str = ""
    is_video: bool = False


def rows_of(
    data: str, *, root: Path | None = None, choice: str = "", split: str = "", note: Note
) -> tuple[Iterator[ManifestRow], Path]:
    """(rows, root) of a manifest, a folder of datasets, a YAML selection or a choice text like ``ps|CASIA2,FR``.

    The two last, and a manifest's paths, are taken from ``root`` (default: ``dataset``, and the manifest's folder).
    ``choice`` takes some datasets, ``split`` the files of one split. Raises ConfigError, DataError.
    """
    path = Path(data)
    if path.suffix.lower() in (".yaml", ".yml"):
        selection, where = load_selection(path), root or Path(ROOT)
    elif path.is_dir() or path.suffix.lower() in SUFFIXES:
        selection, where = parse_choice(choice), path
    elif path.exists():
        raise ConfigError(f"{path} is neither a manifest nor a selection", expected=f"{', '.join(SUFFIXES)} or .yaml")
    elif path.suffix and "|" not in data and "," not in data:
        raise DataError(f"{show(data, 300)} is not there", do="check the path")
    else:
        selection, where = parse_choice(data), root or Path(ROOT)
    if split:
        if split.lower() not in SPLITS:
            raise ConfigError(f"split {split!r}", expected="train, val or test")
        selection = dataclasses.replace(selection, split=SPLITS[split.lower()])
    found = find_datasets(where, note=note)
    if not found:
        raise DataError(f"no dataset found in {show(str(where), 300)}", do="see docs/datasets.md")
    base = where if where.is_dir() else root or where.parent
    return select(found, selection, note=note), base


def subjects_of(
    data: str, *, root: Path | None = None, choice: str = "", split: str = "", note: Note
) -> tuple[list[Subject], Path]:
    """(subjects, root); see ``rows_of``. A question file (JSONL or JSON of ``image``, ``text``) works too where its
    rows have a ``label``, or a ``mask`` for what is tampered. Raises DataError when there is no file to judge."""
    if is_question_file(data):
        base = root or Path(data).parent
        subjects = [_asked(question, Path(data), base, inside=root is not None) for question in read_questions(data)]
    else:
        rows, base = rows_of(data, root=root, choice=choice, split=split, note=note)
        subjects = [Subject(of_manifest(row), os.path.join(base, row.path), is_video=row.is_video) for row in rows]
    once = {(s.truth.dataset, s.truth.image): s for s in reversed(subjects)}
    if len(once) < len(subjects):
        twice = f"{len(subjects) - len(once)} rows name a file again; the first of each is taken"
        note(Finding("warning", "twice", data, 0, twice))
        subjects = [s for s in subjects if once[s.truth.dataset, s.truth.image] is s]
    if not subjects:
        raise DataError(f"no file to judge in {show(data, 300)}", do="check the selection and the split")
    return subjects, base


def is_question_file(data: str) -> bool:
    """Whether a file is a JSON or JSONL whose first row has no ``label`` and ``path`` of a manifest."""
    path = Path(data)
    if path.suffix.lower() not in (".json", ".jsonl") or not path.is_file():
        return False
    if path.suffix.lower() == ".json":
        return True
    with open(path, "rb") as file:
        head = file.readline(1 << 20)
    try:
        first = parse(head)
    except BadJson:
        return False
    names = {str(name).strip().lower() for name in first} if isinstance(first, dict) else set()
    return bool(names & {"text", "question", "prompt", "query", "conversations"}) and "path" not in names


def truth_of(
    data: str, *, root: Path | None = None, choice: str = "", split: str = "", note: Note
) -> tuple[Iterator[ManifestRow], Path]:
    """(rows, root) like ``rows_of``, of a question file too: its rows whose truth is known."""
    if not is_question_file(data):
        return rows_of(data, root=root, choice=choice, split=split, note=note)
    subjects, base = subjects_of(data, root=root, note=note)
    known = (s.truth for s in subjects if not s.truth.error)
    return (ManifestRow(t.image, t.label, mask=t.truth_mask, dataset=t.dataset) for t in known), base


def _asked(question: Question, file: Path, base: Path, *, inside: bool) -> Subject:
    line, image, problem = question.line, question.image, question.problem
    label, mask = question.label, question.mask
    path = os.path.normpath(os.path.join(base, image)) if image else ""
    if image and inside and os.path.relpath(path, base).startswith(".."):
        problem = problem or "its path leads out of the folder"
    label = label or ("tampered" if mask else "")
    problem = problem or ("" if label else "no label and no mask: what is true is not known")
    truth = Prediction(image or f"line {line}", label, truth_mask=mask, dataset=file.stem, line=line)
    if problem:
        truth.error = f"{file.name}:{line}: {problem}"
    return Subject(truth, path, question.text, is_video=path.lower().endswith(tuple(CLIP_SUFFIXES)))
