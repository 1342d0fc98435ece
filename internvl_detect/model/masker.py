"""What draws a picture's mask: the light head of a loaded adapter, or the domain tagger's map where there is none.

    masker = Masker.of(loaded, tagger)
    probability = masker.draw(picture, tagged, seg, tokens, boxes)
    regions = regions_of(probability, masker.threshold)

Not here: the head itself and its files (``mask``), the hidden states that it is given (``answer``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from internvl_detect.media.connected import part_boxes
from internvl_detect.model.mask import Box
from internvl_detect.model.seg import MaskParts, parts_of
from internvl_detect.verdict import Region


@dataclass(frozen=True)
class Masker:
    """``kind`` "tagger" or "light"; ``threshold`` is fitted on validation; ``needs_seg``: draws from a ``<SEG>``."""

    tagger: Any
    parts: MaskParts | None
    threshold: float

    @classmethod
    def of(cls, loaded: Any, tagger: Any) -> Masker:
        """By what the loaded adapter holds; ``loaded`` None is the tagger alone."""
        parts = parts_of(loaded.model) if loaded is not None else None
        return cls(tagger, parts, parts.threshold if parts is not None else float(tagger.map_threshold))

    @property
    def kind(self) -> str:
        return "tagger" if self.parts is None else "light"

    @property
    def needs_seg(self) -> bool:
        return self.parts is not None

    @torch.inference_mode()
    def draw(
        self,
        picture: Image.Image,
        tagged: Any,
        seg: torch.Tensor | None,
        tokens: torch.Tensor | None,
        boxes: Sequence[Box],
    ) -> np.ndarray:
        """P(edited), float32 (H, W) in the picture's own pixels.

        ``seg`` (D,): hidden state at ``<SEG>``; None draws the tagger's map. ``tokens`` (T, n, D): the projector's
        output for the tiles at ``boxes``, the thumbnail left out.
        """
        grid = np.asarray(tagged.map, np.float32)
        if self.parts is not None and seg is not None:
            features = self.tagger.features(picture).to(seg.device)
            given = torch.from_numpy(grid).to(seg.device)
            boxes = [(int(a), int(b), int(c), int(d)) for a, b, c, d in boxes]
            made = self.parts.head(given, features, seg, tokens, boxes, picture.size)
            grid = made.sigmoid().float().cpu().numpy()
        resized = Image.fromarray(grid).resize(picture.size, Image.Resampling.BILINEAR)
        return np.asarray(resized, np.float32).clip(0, 1)


def regions_of(
    probability: np.ndarray, threshold: float, *, least_share: float = 0.001, most: int = 12
) -> tuple[Region, ...]:
    """The 8-connected parts of (H, W) at or above ``threshold``, largest first: box, mean score, area in pixels.

    Parts under ``least_share`` of the picture are left out. The score is the mean over what is marked inside the box.
    """
    marked = probability >= threshold
    found = []
    for box, area in part_boxes(marked)[:most] if marked.any() else ():
        left, top, right, bottom = box
        inside = probability[top:bottom, left:right][marked[top:bottom, left:right]]
        if area >= least_share * marked.size:
            found.append(Region(box, float(inside.mean()), area))
    return tuple(found)
