"""One file of a manifest made into its rows of conversations: what ``training_set`` does in processes.

Opens what must be opened: a mask for its boxes, a clip for its length or its frames. Whatever a file does, the outcome
is its rows and findings. Not here: which questions (``asking``), the files written (``training_set``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_detect.data.findings import Finding, printable, show
from internvl_detect.data.labels import verity
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.prepare.asking import conversation_of
from internvl_detect.data.prepare.clip_rows import clip_stretches, write_frames
from internvl_detect.data.prepare.regions import read_mask, region_answer
from internvl_detect.errors import MediaError
from internvl_detect.media.image import open_image

FRAMES = "frames"


@dataclass(frozen=True)
class Job:
    """A file and the kinds of question that it is asked."""

    row: ManifestRow
    kinds: tuple[str, ...]


@dataclass
class Made:
    """A file's annotation rows as (kind of question, row), and what was wrong with it. ``frames``: they are pictures
    of a clip, below FRAMES."""

    row: ManifestRow
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    frames: bool = False

    @classmethod
    def lost(cls, job: Job, why: str) -> Made:
        """What stands in the place of a file that ended its process."""
        return cls(
            job.row, findings=[Finding("error", "lost", printable(job.row.path), 0, why, dataset=job.row.dataset)]
        )

    def say(self, code: str, problem: str, hint: str = "", *, usable: bool = False) -> None:
        level = "warning" if usable else "error"
        self.findings.append(Finding(level, code, printable(self.row.path), 0, problem, hint, self.row.dataset))  # type: ignore[arg-type]


def convert_file(
    job: Job, *, root: str, frames_dir: str, frames: int, clip_s: float, frame_format: str, seed: int
) -> Made:
    """The rows of one file. Clips become pictures in ``frames_dir`` where one is given."""
    made = Made(job.row)
    try:
        if job.row.is_video:
            path = os.path.join(root, job.row.path)
            if frames_dir:
                names = write_frames(path, job.row.path, Path(frames_dir), frames, frame_format)
                made.frames = True
                for name in names if "verdict" in job.kinds else ():
                    number = f"#{Path(name).stem.lstrip('0') or 0}"
                    made.rows.append(("verdict", conversation_of(job.row, "verdict", {"image": name}, number=number)))
            else:
                for stretch in clip_stretches(path, clip_s):
                    _ask_clip(made, job, stretch)
        else:
            _ask_picture(made, job, root, seed)
    except MediaError as error:
        made.rows.clear()
        made.say("unreadable-media", error.found, error.do or error.expected)
    return made


def _ask_clip(made: Made, job: Job, stretch: tuple[float, float] | None) -> None:
    """A stretch is asked for its verdict; words are about the whole clip."""
    media: dict[str, Any] = {"video": job.row.path}
    number = ""
    if stretch is not None:
        media["clip"] = list(stretch)
        number = f"#{stretch[0]:g}-{stretch[1]:g}"
    for kind in job.kinds:
        if kind == "verdict" or (kind == "explain" and stretch is None):
            made.rows.append((kind, conversation_of(job.row, kind, media, number=number)))


def _ask_picture(made: Made, job: Job, root: str, seed: int) -> None:
    for kind in job.kinds:
        region = ""
        if kind == "mask" and verity(job.row.label) == "fake":
            region = _region(made, root)
            if not region:
                continue
        asked = conversation_of(job.row, kind, {"image": job.row.path}, seed=seed, region=region)
        made.rows.append((kind, asked))


def _region(made: Made, root: str) -> str:
    """Where the mask says the picture was edited; empty, with a finding, for a mask that does not fit its picture."""
    picture, mask_path = (os.path.join(root, name) for name in (made.row.path, made.row.mask))
    try:
        mask = read_mask(mask_path)
    except MediaError as error:
        made.say("bad-mask", error.found, error.expected, usable=True)
        return ""
    opened = open_image(picture)
    height, width = mask.shape
    if abs(width * opened.height - height * opened.width) > 0.01 * width * opened.height:
        said = f"mask {show(made.row.mask, 300)} has {width}x{height} px, the picture {opened.width}x{opened.height}"
        made.say("mask-size", said, "no question about where is asked", usable=True)
        return ""
    return region_answer(mask)
