"""MMTD-Set (FakeShield): explanations in words, joined to the pictures of the other sets that they are about.

    for row in read_mmtd("dataset/MMTD_Set/MMTD-Set-34k.json", pictures, note=findings.append):

Its JSON is one list of {id, image, conversations: [{from: human, value}, {from: gpt, value}]} whose paths are those of
its authors' machine, so pictures are known by their names. The file is read twice as a stream: once for the names, once
for the words. Not here: finding the pictures (``readers``), making conversations of the rows (``asking``).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path, PurePosixPath
from typing import Any

from internvl_detect.data.datasets.readers import FoundSet
from internvl_detect.data.findings import Finding, show
from internvl_detect.data.folders import Note
from internvl_detect.data.json_stream import Element, read_elements
from internvl_detect.data.jsonl import well_formed
from internvl_detect.data.labels import answer_verity, verity
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.errors import DataError

DATASET = "MMTD-Set"
_HEADING = re.compile(r"^\s*1\s*[.)]\s*whether the picture[^:]{0,160}:\s*", re.IGNORECASE)
_EDIT = re.compile(r"\b(un)?(?:tamper|manipulat|alter|edit|forg|modif|doctor)\w*", re.IGNORECASE)
_DENIAL = re.compile(r"\b(?:not|never|no|without|neither|nor|free (?:of|from))\b|n['’]t\b", re.IGNORECASE)
_GENUINE = re.compile(r"\b(?:authentic|genuine|real|untouched|original)\b", re.IGNORECASE)


@dataclass(frozen=True)
class WordSet(FoundSet):
    """MMTD-Set's JSON among the sets that were found: its rows are those of ``pictures`` that it has words for."""

    pictures: tuple[FoundSet, ...] = ()

    def rows(self, note: Note) -> Iterator[ManifestRow]:
        """The explained pictures, in the order of the JSON."""

        def every() -> Iterator[ManifestRow]:
            for one in self.pictures:
                yield from one.rows(lambda finding: None)  # told when those sets themselves are read

        return read_mmtd(self.root / self.folder / self.part, every, note=note)


def with_words(found: Iterable[FoundSet]) -> list[FoundSet]:
    """What was found, with sets of words joined to the pictures of the others, behind which they come."""
    found = list(found)
    pictures = tuple(one for one in found if one.dataset.kind != "text")
    made: list[FoundSet] = list(pictures)
    for one in found:
        if one.dataset.kind == "text":
            made.append(WordSet(one.dataset, one.part, one.folder, one.layout, one.root, pictures=pictures))
    return made


def read_mmtd(path: str | Path, pictures: Callable[[], Iterable[ManifestRow]], *, note: Note) -> Iterator[ManifestRow]:
    """The rows of ``pictures`` that the JSON explains, with the explanation as ``words``, and as of this set.

    An element that cannot be used, whose picture is not there, or whose words say the opposite of its picture's label,
    and a file that breaks off, are told to ``note`` with line and number, and the rest goes on. Holds the rows of the
    pictures that are named, not the words. Raises DataError when the file cannot be read.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no ordinary file", expected="MMTD-Set's JSON")
        named: dict[str, list[ManifestRow]] = {}
        with open(path, "rb") as file:
            for element in read_elements(file):
                if (image := _text(element.value, "image")) is not None:
                    named[_name(image)] = []
        for row in pictures():
            if (name := _name(row.path)) in named:
                named[name].append(row)
        empty = True
        with open(path, "rb") as file:
            for element in read_elements(file):
                empty = False
                try:
                    yield _row(element, named)
                except _Unusable as error:
                    code, problem, hint = error.args
                    said = f"element {element.number}: {problem}"
                    note(Finding("error", code, str(path), element.line, said, hint, DATASET))
        if empty:
            expected = "a list of {image, conversations}; get the file again"
            note(Finding("error", "no-rows", str(path), 0, "there is nothing in it", expected, DATASET))
    except OSError as error:
        raise DataError(f"{path} could not be read: {error.strerror or error}") from None


class _Unusable(Exception):
    """(code, problem, hint) of an element."""


def _row(element: Element, named: dict[str, list[ManifestRow]]) -> ManifestRow:
    if element.problem:
        raise _Unusable("bad-json", element.problem, element.hint)
    image = _text(element.value, "image")
    if image is None:
        raise _Unusable("media-path", f'no path under "image" in {show(element.value)}', "")
    answer = _answer(element.value.get("conversations"))
    if not answer:
        raise _Unusable("conversations", "no answer from gpt", "a list of {from, value}")
    said = verdict_of(answer)
    if said is None:
        raise _Unusable("answer-form", f"the answer says neither tampered nor not: {show(answer)}", "")
    picture = _picture(image, named.get(_name(image), []))
    if verity(picture.label) != said:
        problem = f"the words say {said}, and {show(picture.path, 200)} is labelled {picture.label}"
        raise _Unusable("label-contradiction", problem, "")
    return dataclasses.replace(picture, words=_words(answer), dataset=DATASET)


def verdict_of(answer: str) -> str | None:
    """``real`` or ``fake`` by the first sentence of an explanation, whatever its wording; None when it says neither."""
    text = _HEADING.sub("", answer).strip()
    said = answer_verity(text)
    if said is not None:
        return said
    sentence = re.split(r"(?<=[.!?])\s|\n", text, maxsplit=1)[0][:600]
    claim = _EDIT.search(sentence) or _GENUINE.search(sentence)
    if claim is None:
        return None
    denied = _DENIAL.search(sentence, max(0, claim.start() - 60), claim.start()) is not None
    genuine = claim.re is _GENUINE or claim.group(1) is not None
    return "fake" if denied == genuine else "real"


def _picture(image: str, rows: list[ManifestRow]) -> ManifestRow:
    """The one that is meant: where several have the name, the one whose folders look most like those written."""
    if not rows:
        hint = "pictures are known by their names: are the other sets of the tree there?"
        raise _Unusable("missing-file", f"picture not found: {show(image, 300)}", hint)
    if len(rows) == 1:
        return rows[0]
    likeness = sorted(((_alike(image, row.path), at) for at, row in enumerate(rows)), reverse=True)
    if likeness[0][0] == likeness[1][0]:
        both = " or ".join(show(rows[at].path, 200) for _, at in likeness[:2])
        raise _Unusable("ambiguous-file", f"{show(image, 200)} may be {both}", "keep one of them below the root")
    return rows[likeness[0][1]]


def _alike(one: str, other: str) -> float:
    """How much the last two folders of two paths look like each other, 0 to 1."""
    first, second = (
        "/".join(re.sub(r"[^a-z0-9/]", "", str(PurePosixPath(p).parent).lower()).strip("/").split("/")[-2:])
        for p in (one.replace("\\", "/"), other)
    )
    return SequenceMatcher(None, first, second).ratio()


def _name(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name


def _text(value: Any, key: str) -> str | None:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) and found.strip() and "\0" not in found and well_formed(found) else None


def _answer(turns: Any) -> str:
    said = [t for t in turns if isinstance(t, dict) and t.get("from") == "gpt"] if isinstance(turns, list) else []
    return (_text(said[0], "value") or "") if said else ""


def _words(answer: str) -> str:
    """The explanation without the form's heading, and without a yes or no of its own in front."""
    text = _HEADING.sub("", answer).strip()
    return re.sub(r"^(?:yes|no)\b[\s,.;:]*", "", text, flags=re.IGNORECASE) if answer_verity(text) else text
