"""What the outer parts of detection and whoever answers know of each other; no torch, no HTTP.

``detector`` opens files and forms verdicts; an ``Asks`` turns questions into requests of its own kind and fills in log
odds: ``jobs.Asker`` by a model in this process, ``openai_asker.OpenAIAsker`` by somebody else's server.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from internvl_detect.detect.aggregate import clip_score
from internvl_detect.errors import IvdetectError
from internvl_detect.media.cuts import Cut, Precut, Shown
from internvl_detect.media.image import Image
from internvl_detect.media.provenance import Provenance
from internvl_detect.media.video import Clip
from internvl_detect.model.calibration import Calibration


@dataclass
class Job:
    """One file on its way: its requests, then their log odds, in the same order.

    ``own`` is the file's own question, where it has one: the words answer it, and the score does not depend on it.
    ``error`` stands where the file could not be asked about.
    """

    name: str
    media: Image | Clip | Cut
    requests: list[Any]
    roles: list[str]  # "picture", "clip", "frame" or "tile"
    boxes: list[tuple[int, int, int, int]]
    timings: dict[str, float]
    odds: list[float] = field(default_factory=list)
    kind_of_fake: str | None = None
    words: str | None = None
    own: Any = None
    notes: list[str] = field(default_factory=list)
    error: IvdetectError | None = None
    origin: Provenance = field(default_factory=Provenance)

    def scores(self, role: str) -> list[float]:
        """P(fake) of the requests of one role, in order."""
        return [sigmoid(odds) for odds, r in zip(self.odds, self.roles, strict=True) if r == role]

    def worst_frame(self) -> int:
        """The place of the frame with the highest log odds among the requests of a clip."""
        return max((i for i, r in enumerate(self.roles) if r == "frame"), key=lambda i: self.odds[i])


class Asks(Protocol):
    """Whoever answers."""

    def question(self, text: str, shown: Sequence[Shown | Precut], *, video: bool = False) -> Any:
        """A request that asks ``text`` about pictures, or about the frames of a clip. Called by several threads."""

    def ask(self, jobs: Sequence[Job], explain: bool) -> None:
        """Fill in log odds, kind of fake, and words where they are wanted; ``error`` of each job that fails.

        Raises IvdetectError only for what no further file would escape.
        """


def score_of(job: Job) -> float:
    """P(fake) of a whole picture or clip from the log odds of its requests."""
    if job.media.kind == "image" or job.roles[0] == "clip":
        return sigmoid(job.odds[0])
    return clip_score(job.scores("frame"))


def looks_fake(job: Job, calibration: Calibration) -> bool:
    """Whether the kind of fake is of interest."""
    return calibration.probability(score_of(job)) >= 0.5


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
