"""Severity curves of clips: a second of each, compressed by H.264 and H.265 at every crf, and judged as a clip.

    clip_lines("ours", verdicts, subjects, limit=20)

A clip is held no longer than it is asked about. The first line is the same second at crf 0 of H.264, so that all are
cut alike. Not here: pictures (``probes``), the compression (``media.clip_reencode``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from internvl_detect.errors import IvdetectError
from internvl_detect.evaluate.probes import evenly, judged_files
from internvl_detect.evaluate.robustness import CLIP_SEVERITIES, NONE, point
from internvl_detect.evaluate.run import Verdicts
from internvl_detect.evaluate.subjects import Subject
from internvl_detect.media.clip_reencode import encoded
from internvl_detect.media.video import open_video
from internvl_detect.verdict import Failure

FRAMES = 24  # of the first second
LEVELS = ((NONE, 0), *((codec, crf) for codec, crfs in CLIP_SEVERITIES.items() for crf in crfs))


def clip_lines(
    name: str, verdicts: Verdicts, subjects: Sequence[Subject], *, limit: int, rounds: int = 500
) -> list[dict[str, Any]]:
    """A dict for each of LEVELS, on ``limit`` clips of each class; none where there are no clips. A clip that cannot be
    read, compressed or judged counts as failed."""
    chosen = evenly(subjects, limit, clips=True)
    scores: list[list[float | None]] = [[None] * len(chosen) for _ in LEVELS]
    asked: list[tuple[int, int]] = []

    def files() -> Iterator[bytes]:
        for at, subject in enumerate(chosen):
            for level, coded in enumerate(_coded(subject.path)):
                asked.append((level, at))
                yield coded

    for number, said in enumerate(judged_files(verdicts, files(), ".mkv")):
        level, at = asked[number]
        scores[level][at] = None if isinstance(said, Failure) else said.probability
    if not chosen:
        return []
    fake, groups = [s.truth.fake or 0 for s in chosen], [s.truth.group for s in chosen]
    lines = []
    for (codec, crf), found in zip(LEVELS, scores, strict=True):
        told = point(codec, "clips" if codec == NONE else crf, found, fake, groups, rounds=rounds)
        lines.append({"system": f"{name}, clips", **told.to_dict()})
    return lines


def _coded(path: str) -> Iterator[bytes]:
    """The clip's first second at each of LEVELS; what cannot be had ends it."""
    try:
        frames = open_video(path, frames=FRAMES, bound=(0.0, 1.0)).frames
        for codec, crf in LEVELS:
            yield encoded(frames, codec="h264" if codec == NONE else codec, crf=crf)
    except IvdetectError:
        return
