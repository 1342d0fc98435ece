"""Pictures for the page of an evaluation: a row's file as it was looked at, its drawn and its true mask.

Paths of strangers stay in their folders; what cannot be opened is not shown. Not here: the page (``report``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image as PILImage

from internvl_detect.errors import IvdetectError
from internvl_detect.evaluate.collect import System, drawn_mask, file_of, true_mask
from internvl_detect.evaluate.equalise import square
from internvl_detect.evaluate.predictions import Prediction, as_prediction
from internvl_detect.media.image import open_image
from internvl_detect.media.video import open_video


class Pictures:
    """Of the systems of one report, by name."""

    def __init__(self, systems: Mapping[str, System]) -> None:
        self.systems = systems

    def picture(self, system: str, row: Mapping[str, Any]) -> PILImage.Image | None:
        """RGB, cut as it was judged; of a clip its first frame. Raises MediaError."""
        made = as_prediction(dict(row))
        path = file_of(self.systems[system], made.image)
        if str(made.facts.get("kind") or "").startswith("video"):
            return open_video(path, frames=1).frames[0]
        rgb = open_image(path).rgb
        side = made.facts.get("side_px")
        return square(rgb, side) if isinstance(side, int) and side > 0 else rgb

    def masks(self, system: str, row: Mapping[str, Any]) -> list[tuple[str, PILImage.Image]]:
        """("drawn", ...) and ("true", ...), as far as they are there and can be opened."""
        made, found = as_prediction(dict(row)), []
        for name, path, opened in (("drawn", made.mask, drawn_mask), ("true", made.truth_mask, _true)):
            try:
                if path:
                    found.append((name, PILImage.fromarray(opened(self.systems[system], made))))
            except IvdetectError:
                continue
        return found


def _true(system: System, row: Prediction) -> np.ndarray:
    return true_mask(system, row).astype(np.uint8) * 255
