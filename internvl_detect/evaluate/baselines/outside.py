"""Baselines that look at no pixel: the two constant answers, and the label read from size and compression alone.

A detector that does no better than these has learnt the set's outside. The outside of a file is what its loader noted
in ``picture.info["file"]`` (``note_outside``, ``outside_of``). ``equalise`` notes the outside that it makes: one size
rule, one format, a quality that knows nothing of the class.

    picture = note_outside(open_image(path))
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from PIL import Image as PILImage

from internvl_detect.errors import DataError
from internvl_detect.evaluate.baselines import both_classes
from internvl_detect.evaluate.shortcuts import Column, ShortcutModel, fit
from internvl_detect.media.image import Image
from internvl_detect.media.provenance.jpeg_tables import describe_tables
from internvl_detect.media.video import Clip

_KEYS = ("format", "mode")


class Constant:
    """The same answer to every picture: ``answer`` 1 for fake, 0 for real."""

    fits = False

    def __init__(self, answer: int) -> None:
        self.answer = float(answer)
        self.name = "always fake" if answer else "always real"

    def fit(
        self, pictures: Iterable[PILImage.Image], fake: Sequence[int], groups: Sequence[Hashable] | None = None
    ) -> None:
        """Nothing to learn."""

    def scores(self, pictures: Sequence[PILImage.Image]) -> list[float]:
        """1.0 or 0.0 of each."""
        return [self.answer] * len(pictures)

    def maps(self, pictures: Sequence[PILImage.Image]) -> list[np.ndarray] | None:
        """None: it draws nothing."""


class ShortcutBaseline:
    """``evaluate.shortcuts`` on size, aspect, format, JPEG quality and bytes per pixel; its P(fake), not calibrated."""

    name, fits = "size and JPEG only", True

    def __init__(self) -> None:
        self._model: ShortcutModel | None = None

    def fit(
        self, pictures: Iterable[PILImage.Image], fake: Sequence[int], groups: Sequence[Hashable] | None = None
    ) -> None:
        """Learn the evidence of each value. Raises DataError without both classes."""
        y = both_classes(fake, self.name)
        self._model = fit(_features([_outside(picture) for picture in pictures]), y)

    def scores(self, pictures: Sequence[PILImage.Image]) -> list[float]:
        """P(fake) by the outside alone. Raises DataError before ``fit``."""
        if self._model is None:
            raise DataError(f"{self.name} was not fitted", do="call fit first")
        return self._model.score(_features([_outside(picture) for picture in pictures])).tolist()

    def maps(self, pictures: Sequence[PILImage.Image]) -> list[np.ndarray] | None:
        """None: it draws nothing."""


def note_outside(image: Image) -> PILImage.Image:
    """The picture's pixels with what is known of its file in ``info["file"]``."""
    rgb = image.rgb
    rgb.info = {**rgb.info, "file": _facts(image)}
    return rgb


def outside_of(media: Image | Clip) -> PILImage.Image:
    """The same without pixels: a picture of 1 px that stands for the file."""
    stand_in = PILImage.new("RGB", (1, 1))
    stand_in.info = {"file": _facts(media)}
    return stand_in


def _facts(media: Image | Clip) -> dict[str, object]:
    facts: dict[str, object] = {"width": media.width, "height": media.height, "n_bytes": media.n_bytes}
    if isinstance(media, Image):
        return facts | {
            "format": media.format,
            "mode": media.mode,
            "quality": describe_tables(media.metadata).get("quality"),
        }
    return facts | {"format": media.codec, "n_bytes": media.n_bytes / max(1, media.total_frames)}


def _outside(picture: PILImage.Image) -> dict[str, object]:
    return {"width": picture.width, "height": picture.height, **picture.info.get("file", {})}


def _features(rows: Sequence[dict[str, object]]) -> dict[str, list[Column]]:
    def numbers(name: str) -> np.ndarray:
        return np.array([float(r[name]) if r.get(name) else np.nan for r in rows])  # type: ignore[arg-type]

    def text(of: list[str]) -> Column:
        names, codes = np.unique(np.array(of, str), return_inverse=True)
        return Column(codes.reshape(-1), [str(name) for name in names])

    width, height = numbers("width"), numbers("height")
    return {
        "size": [text([f"{r['width']}x{r['height']}" for r in rows]), Column(np.sqrt(width * height))],
        "aspect": [Column(np.round(width / height, 2))],
        "format": [text([" ".join(str(r.get(key) or "") for key in _KEYS) for r in rows])],
        "quality": [Column(numbers("quality"))],
        "compression": [Column(numbers("n_bytes") / (width * height))],
    }
