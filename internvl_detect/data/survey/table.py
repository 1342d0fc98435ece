"""One row of numbers for each file of a survey: a million files in some hundred bytes each, instead of objects.

Texts that repeat (formats, datasets) are kept once and their numbers stored; paths lie end to end in one buffer.
Not here: what is made of the columns (``whole``, ``duplicates``).
"""

from __future__ import annotations

import hashlib
from array import array
from typing import Any

import numpy as np

from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.survey.facts import FileFacts

MAX_NAMES = 65_536  # different texts kept of one kind; strangers may write a new one into every file
MISSING, UNREAD, FINE, BAD = 0, 1, 2, 3  # states of a file; UNREAD: there, and not opened

_TYPES = {"B": np.uint8, "I": np.uint32, "Q": np.uint64, "f": np.float32}
_ROW = {"label": "I", "dataset": "I", "split": "I", "group": "Q", "own_group": "B", "name": "Q", "folded": "Q"}
_ROW |= {"video": "B", "has_mask": "B"}
_FACTS = {"state": "B", "n_bytes": "Q", "width": "I", "height": "I", "format": "I", "mode": "I", "tables": "I"}
_FACTS |= {"quality": "B", "sampling": "I", "progressive": "B", "marks": "I", "tag": "I", "sha": "Q", "across": "Q"}
_FACTS |= {"down": "Q", "flat": "B", "codec": "I", "fps": "f", "duration_s": "f"}
_MASK = {"mask_state": "B", "mask_width": "I", "mask_height": "I"}
TEXTS = ("label", "dataset", "split", "format", "mode", "tables", "sampling", "marks", "tag", "codec")


class Names:
    """Texts by number, each kept once; from ``MAX_NAMES`` on they share the last number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.texts: list[str] = []
        self("")

    def __call__(self, text: str) -> int:
        if text not in self.numbers:
            text = text if len(self.texts) < MAX_NAMES else "(others)"
        if text not in self.numbers:
            self.numbers[text] = len(self.texts)
            self.texts.append(text)
        return self.numbers[text]


class SurveyTable:
    """Columns by name (``table["width"]`` is an array of all files); ``names[column]`` are the texts of the numbers.

    ``name`` and ``folded`` are hashes of the path and of the path without upper case; ``group`` one of the group, which
    ``own_group`` files do not share.
    """

    def __init__(self) -> None:
        self.names = {column: Names() for column in TEXTS}
        self._columns = {column: array(kind) for column, kind in (_ROW | _FACTS | _MASK).items()}
        self._paths, self._masks = _Texts(), _Texts()

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, column: str) -> np.ndarray:
        values = self._columns[column]
        return np.array(values, dtype=_TYPES[values.typecode])

    def number(self, column: str, index: int) -> int:
        """One file's entry in a column."""
        return self._columns[column][index]

    def texts(self, column: str) -> list[str]:
        """What the numbers of a column of texts mean."""
        return self.names[column].texts

    def path(self, index: int) -> str:
        """The path of one file, as the row gave it."""
        return self._paths[index]

    def mask(self, index: int) -> str:
        """The path of its mask, or ""."""
        return self._masks[index]

    def add(self, row: ManifestRow) -> int:
        """A file without facts yet; gives its index."""
        values = {
            "label": self.names["label"](row.label),
            "dataset": self.names["dataset"](row.dataset),
            "split": self.names["split"](row.split),
            "group": _hash(row.group_id or "\n" + row.path),
            "own_group": not row.group_id,
            "name": _hash(row.path),
            "folded": _hash(row.path.casefold()),
            "video": row.is_video,
            "has_mask": bool(row.mask),
        }
        for column, numbers in self._columns.items():
            numbers.append(values.get(column, 0))
        self._paths.append(row.path)
        self._masks.append(row.mask)
        return len(self) - 1

    def set_facts(self, index: int, state: int, facts: FileFacts) -> None:
        """What was found of the picture or clip itself."""
        for column in _FACTS:
            value: Any = state if column == "state" else getattr(facts, column)
            self._columns[column][index] = self.names[column](value) if column in self.names else value

    def set_mask(self, index: int, state: int, facts: FileFacts) -> None:
        """What was found of its mask."""
        for column, value in (("state", state), ("width", facts.width), ("height", facts.height)):
            self._columns[f"mask_{column}"][index] = value


class _Texts:
    """Texts that differ, end to end in one buffer."""

    def __init__(self) -> None:
        self.buffer, self.ends = bytearray(), array("Q", [0])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        return self.buffer[self.ends[index] : self.ends[index + 1]].decode("utf-8", "surrogatepass")

    def append(self, text: str) -> None:
        self.buffer += text.encode("utf-8", "surrogatepass")
        self.ends.append(len(self.buffer))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
