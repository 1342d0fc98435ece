"""Forgeries made as they are drawn: every crop of a training is one that no step saw before.

A window of a photograph, made smaller and perhaps compressed as pictures are that were posted before, is edited by a
method of ``data.forge``, rebuilt by a decoder, or stays untouched: forged and untouched windows have the same history.
Not here: crops (``tag_data``), batches (``tagger``), decoders (``rebuild``).

    fresh = FreshEdits(rows, faces=("aligned_faces",), rebuilders=[Rebuilder("ae.safetensors")])
    crop = fresh.crop("photoshop", 224, np.random.default_rng(0))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from internvl_detect.data.forge.edits import Rebuild
from internvl_detect.data.forge.methods import METHODS, forge
from internvl_detect.data.forge.opencv import need_cv2
from internvl_detect.errors import DataError, IvdetectError
from internvl_detect.train.tag_data import Crop, TagRow, crop_of, pixels, worn

T = TypeVar("T")
LEAST_PX = 128  # shorter side of a window
SHRINK = 0.9  # a photograph is made smaller by this or more, which blurs the grid of its own compression
WORN = 0.5  # share of the windows that were compressed before
QUICK_KINDS = ("blob", "colour")  # the others take several times longer to find
ALL_KINDS = 0.3  # share of the regions that may be of any kind but GrabCut's, which takes as long as all else
BY_HAND = {"splice": 0.34, "copy_move": 0.32, "poisson": 0.17, "removal": 0.17}


class FreshEdits:
    """Of the photographs of sources that hold nothing else; ``faces`` names the sources of aligned faces.

    ``methods`` are those of each tag that there is something to make of. Raises ConfigError without OpenCV.
    """

    def __init__(
        self, rows: Sequence[TagRow], *, faces: Sequence[str] = (), rebuilders: Sequence[Rebuild] = ()
    ) -> None:
        forged = {row.source for row in rows if row.tag != "authentic"}
        own: dict[str, list[TagRow]] = {}
        for row in rows:
            if row.tag == "authentic" and row.source not in forged:
                own.setdefault(row.source, []).append(row)
        self.photographs, self.faces = Drawn(own), Drawn({k: v for k, v in own.items() if k in faces})
        self.rebuilders = rebuilders
        methods = {"authentic": ("",), "photoshop": tuple(BY_HAND)}
        if rebuilders:
            methods |= {"ai_generated": ("rebuild_whole",), "aigc_editing": ("rebuild", "decoder_removal")}
        if self.faces:
            methods["deepfake"] = ("face_swap",)
        self.methods = methods if self.photographs else {}
        if self.methods:
            need_cv2("forging while training")

    def crop(self, tag: str, size_px: int, rng: np.random.Generator, *, strength: float = 1.0) -> Crop:
        """A crop of a tag that it has ``methods`` for. Raises MediaError and DataError."""
        known = self.methods[tag]
        shares = [BY_HAND.get(method, 1.0) for method in known]
        method = str(rng.choice(known, p=np.divide(shares, sum(shares))))
        rgb, mask = self._made(method, size_px, rng)
        return crop_of(TagRow("", tag, method=method), rgb, mask, size_px, rng, strength=strength)

    def _made(self, method: str, size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        if method == "face_swap":
            rgb, donor = (worn(pixels(self.faces(rng).path), rng, WORN) for _ in range(2))
            return forge(rgb, method, rng, donor=donor)[:2]
        rgb = self._window(size_px, rng)
        if not method:
            return rgb, None
        donor = self._window(size_px, rng) if METHODS[method].donor else None
        rebuild = self.rebuilders[int(rng.integers(len(self.rebuilders)))] if METHODS[method].rebuild else None
        kinds = (*QUICK_KINDS, "superpixels") if rng.random() < ALL_KINDS else QUICK_KINDS
        forged, mask, _ = forge(rgb, method, rng, donor=donor, rebuild=rebuild, kinds=kinds)
        return forged, None if METHODS[method].whole else mask

    def _window(self, size_px: int, rng: np.random.Generator) -> np.ndarray:
        """A part of a photograph, larger than a crop, made smaller, in a part of the cases compressed after that."""
        rgb = pixels(self.photographs(rng).path)
        side = max(LEAST_PX, round(size_px * rng.uniform(1.0, 1.25)))
        scale = SHRINK if rng.random() < 0.5 else float(rng.uniform(0.4, SHRINK))
        scale = min(SHRINK, max(scale, side / min(rgb.shape[:2])))
        want = [min(n, round(side / scale)) for n in rgb.shape[:2]]
        y, x = (int(rng.integers(n - k + 1)) for n, k in zip(rgb.shape[:2], want, strict=True))
        to = (max(LEAST_PX, round(want[1] * scale)), max(LEAST_PX, round(want[0] * scale)))
        part = Image.fromarray(rgb[y : y + want[0], x : x + want[1]])
        return worn(np.asarray(part.resize(to, Image.Resampling.LANCZOS)), rng, WORN)


def one_usable(draw: Callable[[], T]) -> T:
    """What ``draw`` makes of a picture that it draws; where that one cannot be used, of the next. Raises DataError."""
    for _ in range(20):
        try:
            return draw()
        except IvdetectError as error:
            problem = error
    raise DataError(f"twenty pictures in a row could not be used; the last: {problem}")


class Drawn:
    """Draws one of the rows of a source, a source by the root of how many it has; false where there are none."""

    def __init__(self, by_source: Mapping[str, Sequence[TagRow]]) -> None:
        self.parts = [part for _, part in sorted(by_source.items()) if part]
        weights = np.sqrt([len(part) for part in self.parts])
        self.edges = np.cumsum(weights / weights.sum()) if self.parts else weights

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __call__(self, rng: np.random.Generator) -> TagRow:
        part = self.parts[min(int(np.searchsorted(self.edges, rng.random())), len(self.parts) - 1)]
        return part[int(rng.integers(len(part)))]
