"""What draws a picture's mask: the head of a loaded adapter, or the domain tagger's map where there is none.

    masker = Masker.of(loaded, tagger)
    tagged, features = tagger.look_with_features(picture)
    probability = masker.draw(picture, tagged, seg, tokens, boxes, features)
    regions = regions_of(probability, masker.threshold)

Not here: the heads and their files (``mask``, ``sam``, ``mask_files``), the hidden states given (``answer``, ``seg``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from internvl_detect.errors import AdapterError
from internvl_detect.media.connected import Box, part_boxes
from internvl_detect.model.domain_tag import spread
from internvl_detect.model.mask import TaggerEyes
from internvl_detect.model.seg import MaskParts, parts_of
from internvl_detect.verdict import Region


@dataclass(frozen=True)
class Masker:
    """``threshold`` of the drawn probability was fitted on validation; ``eyes`` is what the head sees with."""

    parts: MaskParts | None
    eyes: Any
    threshold: float

    @classmethod
    def of(cls, loaded: Any, tagger: Any, sam_path: str | Path | None = None) -> Masker:
        """By what the loaded adapter holds; ``loaded`` None is the tagger alone. ``sam_path`` is where SAM lies now,
        if it moved since training.

        Raises AdapterError where the tagger or SAM is another one than the head was trained with.
        """
        parts = parts_of(loaded.model) if loaded is not None else None
        if parts is None:
            return cls(None, None, float(tagger.map_threshold))
        if parts.head.kind == "sam":
            from internvl_detect.model.sam import eyes_of

            return cls(parts, eyes_of(parts.about, sam_path, loaded.device), parts.threshold)
        said = parts.about.get("tagger")
        trained = said if isinstance(said, dict) else {}
        fits = tagger is not None and tagger.channels == parts.head.channels
        if not fits or ("weights" in trained and trained["weights"] != tagger.fingerprint):
            has = "none" if tagger is None else f"{tagger.name}, of {tagger.channels} features"
            wanted = f"{trained.get('name', 'one')!s:.80}, of {parts.head.channels} features"
            raise AdapterError(
                f"the domain tagger is {has}, and not the one that the mask of {loaded.name} was trained with",
                expected=f"{wanted} ({trained.get('weights', 'of unknown weights')!s:.80})",
                do="name that one (--tagger)",
            )
        return cls(parts, TaggerEyes(tagger), parts.threshold)

    @property
    def kind(self) -> str:
        """tagger, light or sam."""
        return "tagger" if self.parts is None else str(self.parts.head.kind)

    @property
    def needs_seg(self) -> bool:
        """Whether it draws from the state at a ``<SEG>``."""
        return self.parts is not None

    @torch.inference_mode()
    def draw(
        self,
        picture: Image.Image,
        tagged: Any,
        seg: torch.Tensor | None,
        tokens: torch.Tensor | None,
        boxes: Sequence[Box],
        features: torch.Tensor | None = None,
    ) -> np.ndarray:
        """P(edited), float32 (H, W) in the picture's own pixels.

        ``tagged`` and ``features`` are the tagger's; without the features it looks once more, where they are needed.
        ``seg`` (D,): hidden state at ``<SEG>``, which ``needs_seg`` asks for. ``tokens`` (T, n, D): the projector's
        output for the tiles at ``boxes``, which leave the thumbnail out.
        """
        if self.parts is None:
            return spread(np.asarray(tagged.map, np.float32), picture.size)
        if seg is None:
            raise ValueError("this head draws from the state at a <SEG>: see Masker.needs_seg")
        head = self.parts.head
        if self.kind == "light" and features is not None:
            seen: tuple[torch.Tensor, ...] = (torch.from_numpy(tagged.map), features)
        else:
            seen = self.eyes.see(picture)
        whole = [(int(a), int(b), int(c), int(d)) for a, b, c, d in boxes]
        drawn: np.ndarray = head.drawn(head(seen, seg, tokens, whole, picture.size), picture.size)
        return drawn


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
