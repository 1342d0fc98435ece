"""Which source a file comes from, by its name: files of one source must never lie in both training and test data.

    sources = Sources(dataset); sources.link(texts); sources.group("Tp/Tp_D_CRN_M_N_pla00035_pla00033_10997", "")

A splice has two sources, so it ties them together: all files that sources connect get one group. Not here: the
splitting (``manifest.split_by_group``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from internvl_detect.data.datasets.catalog import Dataset

_COUNTER = re.compile(r"[^\W\d_]*[\s_-]*\d+(?:\s*\(\d+\))?")  # 0001, img_12, "0000 (2)": begins anew in each folder
_FRAME = re.compile(r"(?:frame|image|img)?[\s_-]*\d+", re.IGNORECASE)


class Sources:
    """The sources that a dataset's own rule finds, and what ties them together."""

    def __init__(self, dataset: Dataset) -> None:
        self._name = dataset.name
        self._rule = re.compile(dataset.sources) if dataset.sources else None
        self._above: dict[str, str] = {}

    @property
    def has_rule(self) -> bool:
        """Whether names can tie sources together, so that ``link`` has to see all of them first."""
        return self._rule is not None

    def link(self, texts: Iterable[str]) -> None:
        """Ties together the sources that one text names; ``texts`` are paths without suffix."""
        for text in texts:
            found = self._found(text)
            for other in found[1:]:
                first, second = sorted((self._top(found[0]), self._top(other)))
                if first != second:  # the smaller name stands for both, whatever the order of the files
                    self._above[second] = first

    def group(self, text: str, inside: str, *, split: str = "", is_clip: bool = False) -> str:
        """The ``group_id`` of a file: its source by the rule, else its stem, or its folder when its name is a number.

        ``text`` is its path from the set's folder, without suffix; ``inside`` the folder it lies in, below that of the
        pictures, so that numbered frames in one folder are one source. Clips go by their stem. Numbers count anew in
        each ``split`` of the set, so one number in two splits says nothing of one source.
        """
        found = self._found(text)
        if found:
            return f"{self._name}:{self._top(found[0])}"
        stem = text.rpartition("/")[2]
        name = inside if inside and not is_clip and _FRAME.fullmatch(stem) else stem
        counts = split and _COUNTER.fullmatch(name.rpartition("/")[2])
        return f"{self._name}:{split}/{name}" if counts else f"{self._name}:{name}"

    def _found(self, text: str) -> list[str]:
        if self._rule is None:
            return []
        found = ("-".join(g for g in m.groups() if g is not None) for m in self._rule.finditer(text))
        return list(dict.fromkeys(filter(None, found)))

    def _top(self, source: str) -> str:
        while (above := self._above.get(source)) is not None:
            source = above
        return source
