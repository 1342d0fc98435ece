"""Masks to pictures, by the naming habits of the datasets; in time linear in the number of files.

    index = MaskIndex(names_in_the_mask_folder)
    index.mask_of("Tp_S_1.jpg")   # "Tp_S_1_gt.png"
    index.orphans()               # masks that no picture asked for

Names only; whether a mask has the picture's size is the check's business. Names are compared exactly, then case aside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from internvl_detect.data.folders import suffix_of
from internvl_detect.media.source import PICTURE_SUFFIXES

FOLDERS = frozenset(("mask", "masks", "gt", "groundtruth", "ground_truth", "ground-truth", "edgemask"))
# What stands behind (or before) a picture's stem in the name of its mask: CASIA "_gt", IMD2020 "_mask", Columbia
# "_edgemask", and what people add by themselves.
_BEHIND = ("", "_gt", "_mask", "-mask", "_edgemask", "_groundtruth", "_ground_truth", "-gt", ".mask")
_BEFORE = ("mask_", "gt_", "mask-")


def is_mask_folder(name: str) -> bool:
    """Whether a folder of that name holds masks."""
    return name.lower() in FOLDERS


def mask_stems(name: str, habit: tuple[str, ...] = ()) -> Iterator[str]:
    """The stems that the mask of a picture may have, likeliest first. ``habit`` is a part's own ``mask_of``."""
    stem = os.path.splitext(name)[0]
    if habit:
        found = re.fullmatch(habit[0], stem, re.IGNORECASE)
        if found:
            yield found.expand(habit[1])
    for behind in _BEHIND:
        yield stem + behind
    for before in _BEFORE:
        yield before + stem
    yield name  # photo.jpg.png


class MaskIndex:
    """The masks of one folder by stem. ``aside`` is a regular expression of stems that are masks of no picture."""

    def __init__(self, names: Iterable[str], habit: tuple[str, ...] = (), aside: str = "") -> None:
        self._habit = habit
        self._by_stem: dict[str, str] = {}
        self._folded: dict[str, str] = {}
        self._used: set[str] = set()
        rule = re.compile(aside, re.IGNORECASE) if aside else None
        self.n_other = 0
        for name in sorted(names, key=lambda n: (suffix_of(n) != ".png", n)):
            stem = os.path.splitext(name)[0]
            if suffix_of(name) not in PICTURE_SUFFIXES:
                self.n_other += 1
            elif rule is None or not rule.fullmatch(stem):
                self._by_stem.setdefault(stem, name)
                self._folded.setdefault(stem.casefold(), name)

    def __len__(self) -> int:
        return len(self._by_stem)

    def mask_of(self, name: str) -> str | None:
        """The mask of a picture, by their file names; None where there is none."""
        candidates = list(mask_stems(name, self._habit))
        found = next((self._by_stem[stem] for stem in candidates if stem in self._by_stem), None)
        if found is None:
            found = next((self._folded[s] for stem in candidates if (s := stem.casefold()) in self._folded), None)
        if found is not None:
            self._used.add(found)
        return found

    def orphans(self) -> list[str]:
        """The masks that no picture has asked for so far, by name."""
        return sorted(name for name in self._by_stem.values() if name not in self._used)


def masks_beside(names: Iterable[str]) -> dict[str, str]:
    """{picture: mask} of the pictures of one folder whose mask lies beside them, like IMD2020's ``c8_mask.png``."""
    pictures = [name for name in names if suffix_of(name) in PICTURE_SUFFIXES]
    marked = {name for name in pictures if _is_marked(os.path.splitext(name)[0].lower())}
    if not marked:
        return {}
    index = MaskIndex(marked)
    pairs = ((name, index.mask_of(name)) for name in pictures if name not in marked)
    return {name: mask for name, mask in pairs if mask is not None}


def _is_marked(stem: str) -> bool:
    return any(b and stem.endswith(b) for b in _BEHIND) or stem.startswith(_BEFORE)
