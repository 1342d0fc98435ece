"""The domain tagger's part of detection: a look at every picture before the model is asked, and its mask afterwards.

A picture is also searched for copies within it (``model.copies``); a found one counts as the tagger's finding.

    looker = Looker(tagger, loaded, calibration)
    looker.look(jobs, wanted); asker.ask(jobs, wanted); looker.draw(jobs)

Not here: the tagger's network and what draws (``model.domain_tag``, ``model.masker``), verdicts (``forming``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from internvl_detect.data.forge.words import place_of, place_seen
from internvl_detect.detect.interface import Drawn, Job, Mark, Wanted, to_draw
from internvl_detect.errors import CheckpointError, IvdetectError, ResourceError
from internvl_detect.media.cuts import own_pictures
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.copies import find_copy
from internvl_detect.model.fusion import Fusion
from internvl_detect.model.masker import Masker, regions_of
from internvl_detect.model.seg import parts_of
from internvl_detect.model.tagger_net import CELL_PX

KEPT_BYTES = 2**28


class Looker:
    """A tagger with what draws from its map: the mask head of ``loaded``, or else the map itself."""

    def __init__(self, tagger: Any, loaded: Any, calibration: Calibration) -> None:
        self.tagger, self.loaded, self.calibration = tagger, loaded, calibration
        self.fusion = Fusion.from_dict(loaded.settings.fusion)

    @cached_property
    def masker(self) -> Masker:
        """What draws, loaded when first wanted. Raises AdapterError where the head belongs to another tagger or SAM."""
        return Masker.of(self.loaded if hasattr(self.loaded, "model") else None, self.tagger)

    @property
    def draws(self) -> bool:
        """Whether there is something to draw with: a map of the tagger's, or a head that needs none."""
        parts = parts_of(self.loaded.model) if hasattr(self.loaded, "model") else None
        return self.tagger.channels > 0 or (parts is not None and parts.head.kind == "sam")

    def look(self, jobs: Sequence[Job], wanted: Wanted) -> None:
        """Fill in looks, places and fusion; ``error`` where that fails.

        Features that a mask will be drawn from are kept, up to ``KEPT_BYTES`` of all jobs; beyond, a second look
        follows.
        """
        room = KEPT_BYTES
        for job in jobs:
            if job.error is not None:
                continue
            began = time.perf_counter()
            try:
                pictures = own_pictures(job.media)
                for picture in pictures:
                    size = -(-picture.width // CELL_PX) * -(-picture.height // CELL_PX) * self.tagger.channels * 4
                    features = None
                    if wanted.mask and self.masker.kind == "light" and size <= room:
                        look, features = self.tagger.look_with_features(picture)
                        room -= size
                    else:
                        look = self.tagger.look(picture)
                    if not math.isfinite(look.log_odds):
                        raise CheckpointError(f"the domain tagger's answer for {job.name} is not a number")
                    job.looks.append(look)
                    job.features.append(features)
                    job.places.append(place_seen(look.map))
                if job.media.kind == "image":
                    self._search(job, pictures[0])
                job.fusion = self.fusion if all(look.tells for look in job.looks) else None
            except (torch.OutOfMemoryError, MemoryError):
                job.error = ResourceError(f"memory ran out on {job.name}", do="use a smaller file, or --tagger none")
            except IvdetectError as error:
                job.error = error
            job.add_s("tag_s", time.perf_counter() - began)

    @staticmethod
    def _search(job: Job, picture: PILImage.Image) -> None:
        """Search for a copy, and let the look know of it."""
        copied = find_copy(picture, job.looks[0].map)
        job.looks[0] = copied.told(job.looks[0])
        if copied.found:
            job.copied, job.places[0] = copied, place_of(copied.copy)

    def draw(self, jobs: Sequence[Job]) -> None:
        """Fill in the masks of those that get one."""
        for job in jobs:
            if job.error is not None:
                continue
            began = time.perf_counter()
            try:
                pictures, size = own_pictures(job.media), (job.media.width, job.media.height)
                for k in to_draw(job, self.calibration):
                    job.drawn[k] = self._drawn(job, k, pictures[k], size if job.media.kind == "image" else None)
            except (torch.OutOfMemoryError, MemoryError):
                job.error = ResourceError(f"memory ran out on {job.name}", do="use a smaller file, or --no-mask")
            except IvdetectError as error:
                job.error = error
            job.marks.clear()
            job.features.clear()
            job.add_s("mask_s", time.perf_counter() - began)

    def _drawn(self, job: Job, k: int, picture: PILImage.Image, size: tuple[int, int] | None) -> Drawn:
        at = job.looked[k]
        mark = job.marks.get(at, Mark(None, None))
        width, height = size or picture.size
        across, down = picture.width / width, picture.height / height  # less than 1 for a copy that was made smaller
        boxes = mark.boxes
        if boxes is None:
            boxes = [
                (int(a * across), int(b * down), int(c * across), int(d * down))
                for a, b, c, d in job.tile_boxes.get(at, [])
            ]
        made = self.masker.draw(picture, job.looks[k], mark.seg, mark.tokens, boxes, job.features[k])
        if job.copied is not None:
            marks = min(1.0, max(job.copied.score, self.masker.threshold + 1 / 255))
            made = np.maximum(made, job.copied.mask(picture.size) * np.float32(marks))
        drawn = PILImage.fromarray((made * 255).round().astype(np.uint8))
        mask = np.asarray(drawn if drawn.size == (width, height) else drawn.resize((width, height)))
        probability = mask.astype(np.float32) / 255
        regions = regions_of(probability, self.masker.threshold)
        return Drawn(mask, regions, float((probability >= self.masker.threshold).mean()))
