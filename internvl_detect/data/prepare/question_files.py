"""Question files for testing, as FakeShield has them: a JSONL of {"image", "text"}; written from folders, and read.

    write_questions("test.jsonl", ["pictures"], tag="photoshop")
    for question in read_questions("test.jsonl"): question.image, question.text, question.problem

Not here: asking them (``detect``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_detect.data.datasets.pairing import mask_stems
from internvl_detect.data.findings import did_you_mean, show
from internvl_detect.data.folders import Note, Walk, is_media, joined
from internvl_detect.data.json_stream import Element, read_elements
from internvl_detect.data.jsonl import well_formed, write_jsonl
from internvl_detect.data.labels import normalise_label
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.questions import IMAGE_QUESTION, TAG_SENTENCES, tagged

_IMAGE = ("image", "image_path", "img", "path", "file", "filename", "video")
_TEXT = ("text", "question", "prompt", "query")
_MASKS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_MARKERS = ("<image>", "<video>")


@dataclass(frozen=True)
class Question:
    """One row: the file as the row names it, and its question (empty: the standard one). A row that cannot be used
    has a ``problem``; ``line`` counts from 1. ``label`` (canonical) and ``mask`` are the truth, where it is there."""

    line: int
    image: str = ""
    text: str = ""
    problem: str = ""
    label: str = ""
    mask: str = ""


def read_questions(path: str | Path) -> Iterator[Question]:
    """The rows of a question file: JSONL, or one JSON list. Raises DataError when the file cannot be read.

    Takes the usual names of the two keys (image, img, path; text, question, prompt), a conversation's first question
    under ``conversations``, and leaves ``<image>`` out of a text, since where the picture stands is not the text's.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise DataError(f"the question file {path} is no ordinary file", expected="JSONL")
        with open(path, "rb") as file:
            for element in read_elements(file):
                yield _question(element)
    except OSError as error:
        raise DataError(f"the question file {path} could not be read: {error.strerror or error}") from None


def _question(element: Element) -> Question:
    row, line = element.value, element.line
    if element.problem or not isinstance(row, dict):
        return Question(line, problem=element.problem or f"an object is expected, not {show(row)}")
    image = next((row[key] for key in _IMAGE if row.get(key)), None)
    if image is None:
        return Question(line, problem=f'no "image"; {did_you_mean("image", row)}' if row else 'no "image"')
    if not isinstance(image, str) or "\0" in image or not well_formed(image):
        return Question(line, problem=f'"image" is {show(image)}, and a path is expected')
    text = next((row[key] for key in _TEXT if row.get(key)), None) or _first_turn(row.get("conversations"))
    if not isinstance(text, str) or not well_formed(text):
        return Question(line, image, problem=f"the question is {show(text)}, and text is expected")
    for marker in _MARKERS:
        text = text.replace(marker, "")
    mask = row.get("mask") or ""
    if not isinstance(mask, str) or "\0" in mask or not well_formed(mask):
        return Question(line, image, problem=f'"mask" is {show(mask)}, and a path is expected')
    label = row.get("label")
    known = "" if label in (None, "") else normalise_label(label)
    if known is None:
        return Question(line, image, problem=f"unknown label {show(label)}")
    return Question(line, image, text.strip(), label=known, mask=mask)


def _first_turn(turns: Any) -> Any:
    first = turns[0] if isinstance(turns, list) and turns else None
    return first.get("value", "") if isinstance(first, dict) else ""


def write_questions(
    out: str | Path,
    folders: Sequence[str | Path],
    *,
    tag: str = "",
    mask_root: str | Path | None = None,
    note: Note = lambda finding: None,
) -> int:
    """One row for each picture or clip below ``folders``, in name order, with the standard question; gives their
    number.

    ``tag``: a domain tag, whose sentence is put in front of the question. ``mask_root``: a folder in which masks lie
    as the pictures do in theirs, named by a usual habit; rows that have one name it under ``mask``. Paths are
    relative to the folder of ``out``. ``note`` is told of what could not be read. Raises ConfigError, OutputError, and
    DataError when there is no file.
    """
    if tag and tag not in TAG_SENTENCES:
        raise ConfigError(f"no tag {show(tag)}", do=did_you_mean(tag, TAG_SENTENCES))
    missing = [str(folder) for folder in folders if not os.path.isdir(folder)]
    if missing or not folders:
        raise ConfigError(f"no folder {', '.join(missing)}" if missing else "no folder was named", do="check the path")
    base = Path(os.path.abspath(out)).parent
    written = 0

    def rows() -> Iterator[dict[str, str]]:
        nonlocal written
        for folder in folders:
            walk = Walk(folder, note)
            for path in _media(walk):
                row = {"image": _shown(walk.full(path), base), "text": tagged(tag, IMAGE_QUESTION)}
                mask = _mask(Path(mask_root), path) if mask_root else None
                yield row | ({"mask": _shown(mask, base)} if mask else {})
                written += 1
        if not written:
            raise DataError(f"no picture or clip in {', '.join(map(str, folders))}", expected="at least one")

    write_jsonl(out, rows())
    return written


def _media(walk: Walk, folder: str = "") -> Iterator[str]:
    """Paths of pictures and clips from the walk's root."""
    if not walk.enter(folder):
        return
    folders, files = walk.read(folder)
    yield from (joined(folder, name) for name in files if is_media(name))
    for name in folders:
        yield from _media(walk, joined(folder, name))


def _shown(path: str | Path, base: Path) -> str:
    try:
        return Path(os.path.relpath(path, base)).as_posix()
    except ValueError:  # another drive
        return Path(os.path.abspath(path)).as_posix()


def _mask(root: Path, path: str) -> Path | None:
    folder, _, name = path.rpartition("/")
    places = (root / folder / f"{stem}{suffix}" for stem in mask_stems(name) for suffix in _MASKS)
    return next((place for place in places if place.is_file()), None)
