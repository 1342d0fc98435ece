"""Which files are copies of each other, byte for byte or to the eye, and what is wrong with that.

    for copy in near_copies(table):
        print(table.path(copy.file), copy.kind, table.path(copy.earlier))

Copies to the eye are pictures whose difference hashes (64 signs to the right, 64 downwards) differ in at most
``MOST_BITS`` bits. They are found by parts: of 8 parts of 16 bits at least one then differs in one bit at most, so only
files that share such a part are compared, and time does not grow with the square of the files. Not here: the hashes
(``facts``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from internvl_detect.data.survey.table import FINE, SurveyTable

MOST_BITS = 10
MOST_PAIRS = 2_000_000_000  # comparisons
MOST_KEPT = 4_000_000  # pairs that are alike
_PARTS = tuple((word, shift) for word in (0, 1) for shift in (0, 16, 32, 48))
_AT_ONCE = 4_000_000
_TOO_ALIKE = "so many pictures look alike that not every pair of them was compared"
Kind = Literal["leak", "label", "plain"]


@dataclass(frozen=True)
class Copy:
    """``file`` is like ``earlier``, one of those before it: in another split ("leak"), with another verdict ("label"),
    or neither ("plain"). ``bits`` is how far their hashes are apart, 0 where bytes were compared."""

    kind: Kind
    file: int
    earlier: int
    bits: int = 0


def exact_copies(table: SurveyTable) -> Iterator[Copy]:
    """Files of the same bytes, in order. Each file is told at most once a kind, with the first file that shows it."""
    usable = np.flatnonzero(table["state"] == FINE)
    _, classes = np.unique(table["sha"][usable], return_inverse=True)
    return _copies(table, usable, classes, lambda row: [], lambda a, b: 0, near=False)


def near_copies(table: SurveyTable, note: Callable[[str], None] = lambda text: None) -> Iterator[Copy]:
    """Pictures that look the same, of different bytes and groups, in order; flat pictures are left out.

    ``note`` is told when so many look alike that not all pairs were compared or kept.
    """
    usable = np.flatnonzero((table["state"] == FINE) & (table["flat"] == 0))
    words = np.stack([table["across"][usable], table["down"][usable]], axis=1)
    distinct, classes = np.unique(words, axis=0, return_inverse=True)
    neighbours = _neighbours(alike(distinct, note), len(distinct), note)

    def bits(a: int, b: int) -> int:
        return int(np.bitwise_count(words[a] ^ words[b]).sum())

    return _copies(table, usable, classes.reshape(-1), neighbours, bits, near=True)


def alike(
    hashes: np.ndarray, note: Callable[[str], None] = lambda text: None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Arrays (i, j), i < j, of all rows of (N, 2) uint64 that differ in ``MOST_BITS`` bits at most; some repeatedly."""
    left = MOST_PAIRS
    for word, shift in _PARTS:
        part = (hashes[:, word] >> np.uint64(shift)).astype(np.uint16)
        order = np.argsort(part, kind="stable")
        sizes = np.bincount(part, minlength=65_536)
        starts = np.cumsum(sizes) - sizes
        for flip in (0, *(1 << bit for bit in range(16))):
            partner = part[order] ^ np.uint16(flip)
            counts = sizes[partner]
            at = 0
            while at < len(order):  # a stretch of rows with all their partners, as many as fit into memory
                total = np.cumsum(counts[at : at + _AT_ONCE])
                more = max(1, int(np.searchsorted(total, _AT_ONCE, side="right")))
                some = slice(at, at + more)
                at += more
                left -= int(total[min(more, len(total)) - 1])
                if left < 0:
                    note(_TOO_ALIKE)
                    return
                one = np.repeat(order[some], counts[some])
                skipped = np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
                two = order[np.repeat(starts[partner[some]], counts[some]) + np.arange(len(one)) - skipped]
                one, two = one[one < two], two[one < two]
                near = np.bitwise_count(hashes[one] ^ hashes[two]).sum(axis=1) <= MOST_BITS
                yield one[near], two[near]


def _neighbours(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], size: int, note: Callable[[str], None]
) -> Callable[[int], list[int]]:
    """For each row those that are near to it, in order. At most ``MOST_KEPT`` pairs are held."""
    kept = np.zeros(0, np.int64)
    for one, two in pairs:
        if len(one):
            kept = np.unique(np.append(kept, one * size + two))
        if len(kept) > MOST_KEPT:
            note(_TOO_ALIKE)
            break
    one, two = kept // max(1, size), kept % max(1, size)
    both, other = np.append(one, two), np.append(two, one)
    order = np.lexsort((other, both))
    other = other[order]
    ends = np.cumsum(np.bincount(both, minlength=size))
    return lambda row: other[ends[row - 1] if row else 0 : ends[row]].tolist()


def _copies(
    table: SurveyTable,
    usable: np.ndarray,
    classes: np.ndarray,
    neighbours: Callable[[int], list[int]],
    bits: Callable[[int, int], int],
    *,
    near: bool,
) -> Iterator[Copy]:
    """The copies among files of one class and its neighbour classes, by a table of what each class holds.

    ``usable`` are the files in order, ``classes`` their classes. A class keeps the first two files of each (split,
    verdict) that differ in group (or, where bytes are compared, the first), so that size does not matter.
    """
    if not len(classes):
        return
    sizes = np.bincount(classes)
    crowded = np.array([size > 1 or bool(neighbours(row)) for row, size in enumerate(sizes.tolist())])
    places = np.flatnonzero(crowded[classes])
    split, group, sha, name = table["split"], table["group"], table["sha"], table["name"]
    real = np.array([text == "real" for text in table.texts("label")])[table["label"]]
    held: dict[int, dict[tuple[int, bool], list[int]]] = {}

    def is_no_news(kind: Kind, file: int, before: int) -> bool:
        """One file in two rows; and, of pictures that look alike, the same bytes or one group in one split."""
        if name[file] == name[before]:
            return True
        return near and bool(sha[file] == sha[before] or (kind != "leak" and group[file] == group[before]))

    for place in places.tolist():
        file, one = int(usable[place]), int(classes[place])
        traits = (int(split[file]), bool(real[file]))
        told: set[Kind] = set()
        for other_traits, earlier in _held(held, one, neighbours(one)):
            kind: Kind = _kind(traits, other_traits, table)
            before = int(usable[earlier])
            if kind in told or is_no_news(kind, file, before):
                continue
            told.add(kind)
            if kind != "plain":
                yield Copy(kind, file, before, bits(place, earlier))
            else:
                plain = Copy(kind, file, before, bits(place, earlier))
        if told == {"plain"}:
            yield plain
        firsts = held.setdefault(one, {}).setdefault(traits, [])
        if not firsts or (near and len(firsts) < 2 and group[usable[firsts[0]]] != group[file]):
            firsts.append(place)


def _held(
    held: dict[int, dict[tuple[int, bool], list[int]]], one: int, others: Iterable[int]
) -> Iterator[tuple[tuple[int, bool], int]]:
    for name in (one, *others):
        for traits, firsts in held.get(name, {}).items():
            for place in firsts:
                yield traits, place


def _kind(traits: tuple[int, bool], other: tuple[int, bool], table: SurveyTable) -> Kind:
    """Splits differ only where both are named: number 0 is the empty text."""
    if traits[0] != other[0] and traits[0] and other[0]:
        return "leak"
    return "label" if traits[1] != other[1] else "plain"
