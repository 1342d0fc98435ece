"""The elements of a JSON list of any size, or the lines of a JSONL file, one at a time and in bounded memory.

    for element in read_elements(file):
        element.value if not element.problem else ...

The end of each element is found by its brackets and strings alone, so one that is no JSON costs only itself; then it is
parsed as strictly as a line of JSONL. Not here: what an element means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from internvl_detect.data.jsonl import MAX_LINE_BYTES, BadJson, parse, read_lines

CHUNK = 1 << 20
_SPACE = b" \t\r\n"
# A whole string, or a character that opens, closes or divides. A quotation mark alone begins a string that goes on
# behind the bytes at hand; one that no other follows on its line belongs to no string, as JSON's never hold a line end.
_STRUCTURE = re.compile(rb'"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"|["\[\]{},]')
_WITHOUT_STRINGS = re.compile(rb"[\[\]{},]")


@dataclass(frozen=True)
class Element:
    """One element: its number from 0, the line where it begins (from 1), and its value; or why there is none."""

    number: int
    line: int
    value: Any = None
    problem: str = ""
    hint: str = ""


def read_elements(file: BinaryIO, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Element]:
    """Every element of ``file`` (open at its start, seekable): a list when its first character is ``[``, else JSONL.

    Broken elements, ones longer than ``max_bytes`` and a list that breaks off come as elements with a ``problem``.
    """
    head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip(_SPACE)
    file.seek(0)
    if head.startswith(b"["):
        yield from _List(file, max_bytes).elements()
        return
    for number, (line, _, raw) in enumerate(read_lines(file, max_bytes)):
        yield _parsed(number, line, raw, max_bytes)


def _parsed(number: int, line: int, raw: bytes | None, max_bytes: int) -> Element:
    if raw is None:
        return Element(number, line, problem=f"longer than {max_bytes / 2**20:g} MiB", hint="is a bracket left open?")
    try:
        return Element(number, line, parse(raw))
    except BadJson as bad:
        return Element(number, line, problem=bad.problem, hint=bad.hint)


class _List:
    """Reads one list. ``held`` are the bytes at hand, scanned up to ``at``; the element at work begins at ``began``."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self.file, self.max_bytes = file, max_bytes
        self.held, self.at, self.began, self.counted = b"", 0, 0, 0
        self.depth, self.number, self.line = 0, 0, 1
        self.too_long = False

    def elements(self) -> Iterator[Element]:
        while chunk := self.file.read(CHUNK):
            self.held += chunk
            yield from self._scan(last=False)
            if self.depth < 0:
                if self.held[self.at :].strip(_SPACE) or self.file.read(CHUNK).strip(_SPACE):
                    yield Element(self.number, self.line, problem="the list ends and the file goes on")
                return
            self._forget()
        yield from self._scan(last=True)
        if self.depth >= 0:
            rest = self.held[self.began :].strip(_SPACE)
            if self.depth == 1 and rest.endswith((b"}", b"]")) and not self.too_long:
                yield self._element(len(self.held))
            problem = f"the list breaks off after {self.number} elements"
            yield Element(self.number, self.line, problem=problem, hint="was the file cut off? get it again")

    def _scan(self, last: bool) -> Iterator[Element]:
        start, self.at = self.at, len(self.held)
        for match in self._tokens(start):
            token, here = match.group(), match.start()
            if token == b'"':
                if not last and self.held.find(b"\n", here) < 0:
                    self.at = here
                    return
            elif token in b"[{":
                self.depth += 1
                if self.depth == 1:
                    self.began = match.end()
            elif self.depth == 1 and token in b",]}":
                closes = token != b","
                if not closes or self.number or self.held[self.began : here].strip(_SPACE):
                    yield self._element(here)
                self.began = match.end()
                if closes:
                    self.depth, self.at = -1, match.end()
                    return
            elif token in b"]}":
                self.depth -= 1

    def _tokens(self, start: int) -> Iterator[re.Match[bytes]]:
        """Behind a quotation mark that opens no string, each further one on its line is escaped and opens none either:
        they are not looked at again, which would take time in the square of the line's length."""
        opened = True
        while opened:
            opened = False
            for match in _STRUCTURE.finditer(self.held, start):
                yield match
                if match.group() == b'"':
                    start = self.held.find(b"\n", match.end())
                    start = start if start >= 0 else len(self.held)
                    yield from _WITHOUT_STRINGS.finditer(self.held, match.end(), start)
                    opened = True
                    break

    def _element(self, end: int) -> Element:
        raw = self.held[self.began : end]
        start = self.began + len(raw) - len(raw.lstrip(_SPACE))
        self._count(start)
        too_long = self.too_long or len(raw) > self.max_bytes
        made = _parsed(self.number, self.line, None if too_long else raw.strip(_SPACE), self.max_bytes)
        self.number, self.too_long = self.number + 1, False
        return made

    def _count(self, place: int) -> None:
        self.line += self.held.count(b"\n", self.counted, place)
        self.counted = max(place, self.counted)

    def _forget(self) -> None:
        """Lets go of what is read; of an element that grows too long, all but what is not yet scanned."""
        if self.at - self.began > self.max_bytes:
            self.too_long = True
            self.began = self.at
        elif len(self.held) - self.began > self.max_bytes + CHUNK:  # one string without an end
            self.too_long = True
            self.began = self.at = len(self.held)
        cut = self.began
        self._count(cut)
        self.held, self.at, self.began, self.counted = self.held[cut:], self.at - cut, 0, self.counted - cut
