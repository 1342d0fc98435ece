"""A finding: one thing that is wrong, or doubtful, in training data, with its file and line.

Readers hand findings on; what to do with them is the caller's choice: the check collects them all, a reader in
strict mode raises the first. Not for errors outside data files: those are exceptions from ``internvl_detect.errors``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from internvl_detect.errors import EXIT_OK, DataError

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """``line`` is 1-based; 0 means the file as a whole. ``code`` is a short stable name of the kind of problem."""

    level: Level
    code: str
    file: str
    line: int
    problem: str
    hint: str = ""
    dataset: str = ""

    def format(self) -> str:
        """``file:line: problem (hint)``, with the word "warning" in front of a warning's problem."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        mark = "warning: " if self.level == "warning" else ""
        return f"{place}: {mark}{self.problem}" + (f" ({self.hint})" if self.hint else "")

    def as_error(self) -> DataError:
        """The same as an exception, for a reader that must stop here."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return DataError(f"{place}: {self.problem}", do=self.hint)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in the order of the fields."""
        return dataclasses.asdict(self)


class Tally:
    """Counts findings, for a report that keeps some of them; a dataclass that inherits it has the three fields."""

    n_errors: int
    n_warnings: int
    by_code: Counter[str]

    @property
    def exit_code(self) -> int:
        """0, or 5 when there are errors."""
        return DataError.exit_code if self.n_errors else EXIT_OK

    def count(self, finding: Finding) -> None:
        """Counts one, by its code and its level."""
        self.by_code[finding.code] += 1
        if finding.level == "error":
            self.n_errors += 1
        else:
            self.n_warnings += 1


def show(value: object, limit: int = 80) -> str:
    """A stranger's value made safe to print: quoted, control characters escaped, cut to ``limit`` characters."""
    try:
        text = value[: limit + 1] if isinstance(value, str) else repr(value)
    except (RecursionError, ValueError):  # too deep, or an integer too long to print
        text = f"<{type(value).__name__}>"
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f'"{printable(text)}"' if isinstance(value, str) else printable(text)


def printable(text: str) -> str:
    """A text that a terminal or a JSON file can hold: control characters and bytes that are no text are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of ``known``, or lists them when none is near."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(word.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if near:
        return "did you mean " + show(next(n for n in names if n.lower() == near[0])) + "?"
    listed = ", ".join(show(n) for n in names[:12]) + (", and more" if len(names) > 12 else "")
    return f"known: {listed}" if names else "none are known here"
