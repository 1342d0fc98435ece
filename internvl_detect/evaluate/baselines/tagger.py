"""The domain tagger alone as a baseline: 1 - P(authentic), and its map of where a picture was edited.

Not fitted here: its weights are those of ``train-tag``. ``path`` is "nano" for the embedded one, or a folder.

    Tagger("nano").scores(pictures)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image as PILImage


class Tagger:
    """``model.domain_tag.DomainTagger`` behind the interface of baselines; loaded when first asked."""

    fits = False

    def __init__(self, path: str = "nano") -> None:
        self.path, self.name = path, f"domain tagger ({path})"
        self._tagger: Any = None

    def fit(
        self, pictures: Iterable[PILImage.Image], fake: Sequence[int], groups: Sequence[Hashable] | None = None
    ) -> None:
        """Nothing to learn here."""

    def scores(self, pictures: Sequence[PILImage.Image]) -> list[float]:
        """1 - P(authentic), calibrated by the tagger. Raises CheckpointError for weights that cannot be loaded."""
        return [float(tagged.score) for tagged in self._look(pictures)]

    def maps(self, pictures: Sequence[PILImage.Image]) -> list[np.ndarray]:
        """P(edited) of each pixel."""
        from internvl_detect.model.domain_tag import spread

        return [spread(tagged.map, p.size) for tagged, p in zip(self._look(pictures), pictures, strict=True)]

    @property
    def map_threshold(self) -> float:
        """From which on its map says "edited", chosen on validation files. Raises CheckpointError."""
        return float(self._loaded().map_threshold)

    def _look(self, pictures: Sequence[PILImage.Image]) -> list[Any]:
        return list(self._loaded().look_many(list(pictures)))

    def _loaded(self) -> Any:
        if self._tagger is None:
            from internvl_detect.model.domain_tag import DomainTagger

            self._tagger = DomainTagger.load(self.path)
        return self._tagger
