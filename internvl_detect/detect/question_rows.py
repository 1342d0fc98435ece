"""The files of a question file on their way to a verdict: where each lies, and what it is asked beside the score.

The score always comes from the standard question, on which a calibration is fitted and which makes rows comparable; a
row's own question is answered in words. Not here: the format of question files (``data.prepare.question_files``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from internvl_detect.data.prepare.question_files import Question, read_questions
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.questions import IMAGE_QUESTION, VIDEO_QUESTION
from internvl_detect.verdict import Failure


@dataclass(frozen=True)
class Asked:
    """A file and the question of its row, as it stands there; empty where it has none."""

    path: str
    question: str = ""

    @property
    def own(self) -> str:
        """The question, where it is another than the standard ones."""
        return "" if self.question in (IMAGE_QUESTION, VIDEO_QUESTION) else self.question

    @property
    def key(self) -> str:
        """What tells a row of results apart: the same file may be asked twice."""
        return row_key(self.path, self.question)


def row_key(path: str, question: str = "") -> str:
    """The key of a row of results by its path and, for a row of a question file, its question."""
    return f"{path}\0{question}" if question else path


def asked_rows(file: str | Path, image_root: str | Path | None = None) -> list[Asked | Failure]:
    """The rows of a question file in their order; one that cannot be used is a Failure that names its line.

    Paths are taken from ``image_root``, and must then stay inside it; else from the file's folder, or, where the file
    is not there, from the working directory. Raises ConfigError for a missing folder, DataError for a file without
    rows or one that cannot be read.
    """
    if image_root is not None and not os.path.isdir(image_root):
        raise ConfigError(f"--image-root {image_root} is no folder", do="check the path")
    rows = list(_rows(Path(file), image_root))
    if not rows:
        raise DataError(f"the question file {file} is empty", expected='rows like {"image": "a.jpg", "text": "..."}')
    return rows


def _rows(file: Path, image_root: str | Path | None) -> Iterator[Asked | Failure]:
    for question in read_questions(file):
        problem, path = question.problem, ""
        if not problem:
            path, problem = _place(question, file, image_root)
        yield (
            Failure(f"{file}:{question.line}", problem, DataError.exit_code) if problem else Asked(path, question.text)
        )


def _place(question: Question, file: Path, image_root: str | Path | None) -> tuple[str, str]:
    """(path, problem)."""
    given = question.image
    if "://" in given[:12]:
        return "", "an address: download the file and give its path"
    if image_root is not None:
        base = os.path.normpath(image_root)
        path = os.path.normpath(os.path.join(base, given))
        inside = path.startswith(base.rstrip(os.sep) + os.sep) or (base == "." and not given.startswith(("/", "..")))
        return (path, "") if inside else ("", f"its path leads out of --image-root: {given!r:.200}")
    beside = os.path.normpath(file.parent / given)
    return (given, "") if not os.path.exists(beside) and os.path.exists(given) else (beside, "")
