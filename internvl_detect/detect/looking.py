"""The domain tagger's part of detection: a look at every picture before the model is asked, and its mask afterwards.

    looker = Looker(tagger, loaded, calibration)
    looker.look(jobs); asker.ask(jobs, wanted); looker.draw(jobs)

Not here: the tagger's network and what draws (``model.domain_tag``, ``model.masker``), verdicts (``forming``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from internvl_detect.detect.interface import Drawn, Job, to_draw
from internvl_detect.errors import CheckpointError, ConfigError, IvdetectError, ResourceError
from internvl_detect.explanations import place_at
from internvl_detect.media.cuts import own_pictures
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.fusion import Fusion
from internvl_detect.model.masker import Masker, regions_of


class Looker:
    """A tagger with what draws from its map: the mask head of ``loaded``, or else the map itself.

    Raises ConfigError for a head that was trained with another tagger.
    """

    def __init__(self, tagger: Any, loaded: Any, calibration: Calibration) -> None:
        self.tagger, self.calibration = tagger, calibration
        self.masker = Masker.of(loaded if hasattr(loaded, "model") else None, tagger)
        parts = self.masker.parts
        if parts is not None and parts.head.channels != tagger.channels:
            raise ConfigError(
                f"the mask head of {loaded.name} takes {parts.head.channels} features, {tagger.name} gives "
                f"{tagger.channels}",
                expected="the domain tagger that it was trained with",
                do="name that one (--tagger)",
            )
        self.fusion = Fusion.from_dict(loaded.settings.fusion)

    def look(self, jobs: Sequence[Job]) -> None:
        """Fill in looks, places and fusion; ``error`` where that fails."""
        for job in jobs:
            if job.error is not None:
                continue
            began = time.perf_counter()
            try:
                job.looks = self.tagger.look_many(own_pictures(job.media))
                if not all(math.isfinite(look.log_odds) for look in job.looks):
                    raise CheckpointError(f"the domain tagger's answer for {job.name} is not a number")
                job.places = [self._place(look.map) for look in job.looks]
                job.fusion = self.fusion
            except (torch.OutOfMemoryError, MemoryError):
                job.error = ResourceError(f"memory ran out on {job.name}", do="use a smaller file, or no --tagger")
            except IvdetectError as error:
                job.error = error
            job.add_s("tag_s", time.perf_counter() - began)

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
            job.marks.clear()
            job.add_s("mask_s", time.perf_counter() - began)

    def _drawn(self, job: Job, k: int, picture: PILImage.Image, size: tuple[int, int] | None) -> Drawn:
        at = job.looked[k]
        seg, tokens = job.marks.get(at, (None, None))
        width, height = size or picture.size
        across, down = picture.width / width, picture.height / height  # less than 1 for a copy that was made smaller
        boxes = [
            (int(a * across), int(b * down), int(c * across), int(d * down))
            for a, b, c, d in job.tile_boxes.get(at, [])
        ]
        drawn = PILImage.fromarray(
            (self.masker.draw(picture, job.looks[k], seg, tokens, boxes) * 255).round().astype("u1")
        )
        mask = np.asarray(drawn if drawn.size == (width, height) else drawn.resize((width, height)))
        probability = mask.astype(np.float32) / 255
        regions = regions_of(probability, self.masker.threshold)
        return Drawn(mask, regions, float((probability >= self.masker.threshold).mean()))

    def _place(self, grid: np.ndarray) -> str:
        found = regions_of(grid, float(self.tagger.map_threshold), most=1)
        return place_at(found[0].box_xyxy, (grid.shape[1], grid.shape[0])) if found else ""
