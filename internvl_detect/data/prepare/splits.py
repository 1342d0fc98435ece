"""Which part a file goes to: its set's own split where there is one, else by its source; no source in two parts.

    places = Places({"train": 0.8, "val": 0.1, "test": 0.1}, seed=0)
    for row in rows: places.learn(row)
    places.settle()
    for row in rows: row = places.put(row)      # None: its source lies in another part already

Two passes, because a file without a split may share its source with one that has. Holds 8 bytes a file, and 9 more for
one whose set has a split.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Mapping

import numpy as np

from internvl_detect.data.draws import number_of
from internvl_detect.data.findings import show
from internvl_detect.data.manifest import ManifestRow, check_fractions, place_group
from internvl_detect.errors import ConfigError, DataError

MAX_SPLITS = 255
_NAMES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


def parse_split(text: str) -> dict[str, float]:
    """``train=0.8,val=0.1,test=0.1`` as a mapping. Raises ConfigError for anything else."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        try:
            shares[split_name(name)] = float(share)
        except ValueError:
            raise ConfigError(f"split {show(text)}", expected="like train=0.8,val=0.1,test=0.1") from None
    return check_fractions(shares)


def split_name(given: str) -> str:
    """One name for the usual names of a split; others as they are, in lower case."""
    word = given.strip().lower()
    return _NAMES.get(word, word)


class Places:
    """Knows the split of each source that has one of its own, and the files that are named more than once."""

    def __init__(self, shares: Mapping[str, float], seed: int = 0) -> None:
        self.shares, self.seed = check_fractions(shares), seed
        self.names: list[str] = []
        self._keys, self._splits, self._paths = array("Q"), array("B"), array("Q")
        self._known, self._known_splits = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
        self._repeated: dict[int, set[str]] = {}

    def learn(self, row: ManifestRow) -> None:
        """Takes note of a row; of a source's own splits the first one counts. Raises DataError for too many splits."""
        self._paths.append(number_of(row.path))
        name = split_name(row.split)
        if not name:
            return
        if name not in self.names:
            if len(self.names) == MAX_SPLITS:
                raise DataError(f"more than {MAX_SPLITS} splits: {show(row.split)} is one more")
            self.names.append(name)
        self._keys.append(number_of(row.group))
        self._splits.append(self.names.index(name))

    def settle(self) -> None:
        """Ends the first pass."""
        self._known, first = np.unique(np.frombuffer(self._keys, np.uint64), return_index=True)
        self._known_splits = np.frombuffer(self._splits, np.uint8)[first]
        paths, counts = np.unique(np.frombuffer(self._paths, np.uint64), return_counts=True)
        self._repeated = {path: set() for path in paths[counts > 1].tolist()}
        self._keys, self._splits, self._paths = array("Q"), array("B"), array("Q")

    def put(self, row: ManifestRow) -> ManifestRow | None:
        """The row with its split; None for one whose own split is another than that of its source."""
        name, key = split_name(row.split), number_of(row.group)
        at = int(np.searchsorted(self._known, np.uint64(key)))
        if at < len(self._known) and int(self._known[at]) == key:
            there = self.names[int(self._known_splits[at])]
        else:
            there = place_group(row.group, self.shares, self.seed)
        return None if name and name != there else dataclasses.replace(row, split=there)

    def is_repeated(self, row: ManifestRow) -> bool:
        """Whether its file is named by another row, too."""
        return number_of(row.path) in self._repeated

    def is_first(self, row: ManifestRow, kind: str) -> bool:
        """Whether its file is asked this kind of question for the first time."""
        asked = self._repeated.get(number_of(row.path))
        if asked is None:
            return True
        first = kind not in asked
        asked.add(kind)
        return first
