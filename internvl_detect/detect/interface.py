"""What the outer parts of detection and whoever answers know of each other; no torch, no HTTP.

``detector`` opens files and forms verdicts; an ``Asks`` turns questions into requests of its own kind and fills in log
odds: ``jobs.Asker`` by a model in this process, ``openai_asker.OpenAIAsker`` by somebody else's server. A ``Looker``
(``looking``) adds what a domain tagger sees before, and the mask after.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from internvl_detect.detect.aggregate import clip_score, logit
from internvl_detect.errors import ConfigError, IvdetectError
from internvl_detect.media.cuts import Box, Cut, Precut, Shown
from internvl_detect.media.image import Image
from internvl_detect.media.provenance import Provenance
from internvl_detect.media.video import Clip
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.fusion import Fusion
from internvl_detect.questions import explain_question, tagged
from internvl_detect.verdict import Region

if TYPE_CHECKING:
    from internvl_detect.model.copies import Copied

MOST_MASKS = 3  # of a clip's frames
_LANGUAGE = re.compile(r"[^\W\d_](?:[^\W\d_]|[ '()-]){1,39}")
_ENGLISH = ("english", "en")


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside the score: words (``explain``), in ``language`` where one is named, and a mask.

    ``tell`` hears the words of a file that is asked about alone, again and again while they grow. Raises ConfigError
    for a language that is no name of one.
    """

    explain: bool = False
    mask: bool = False
    language: str | None = None
    tell: Callable[[str], None] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.language is not None and not _LANGUAGE.fullmatch(self.language):
            raise ConfigError(f"the language {self.language!r:.60}", expected="its name in letters, such as German")

    @property
    def in_english(self) -> bool:
        """Whether the words can be read back."""
        return self.language is None or self.language.lower() in _ENGLISH


@dataclass(frozen=True)
class Drawn:
    """A mask in the picture's own pixels: uint8 (H, W), probability times 255; its parts, and its share of pixels."""

    mask: np.ndarray
    regions: tuple[Region, ...]
    share: float


@dataclass(frozen=True)
class Mark:
    """What a head draws from: the hidden state at ``<SEG>``, the tile tokens, and where the tiles lie in what the
    tagger looked at; ``boxes`` None: as ``Job.tile_boxes`` says."""

    seg: Any
    tokens: Any
    boxes: list[Box] | None = None


@dataclass
class Job:
    """One file on its way: its requests, then their log odds, in the same order.

    ``own`` is the file's own question, where it has one: the words answer it, and the score does not depend on it.
    ``error`` stands where the file could not be asked about. ``tile_boxes`` are, by request, the parts of the picture
    that its tiles show, no thumbnail. ``looks`` are what a domain tagger made of the picture, or of each frame,
    ``places`` where it saw an edit ("" for nowhere), ``features`` its last ones where they were kept for the mask;
    ``copied`` is a copy that was found within the picture, None without one.
    ``marks`` are by request, ``drawn`` the masks by look.
    """

    name: str
    media: Image | Clip | Cut
    requests: list[Any]
    roles: list[str]  # "picture", "clip", "frame" or "tile"
    boxes: list[Box]
    timings: dict[str, float]
    odds: list[float] = field(default_factory=list)
    kind_of_fake: str | None = None
    words: str | None = None
    own: Any = None
    notes: list[str] = field(default_factory=list)
    error: IvdetectError | None = None
    origin: Provenance = field(default_factory=Provenance)
    tile_boxes: dict[int, list[Box]] = field(default_factory=dict)
    looks: list[Any] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    features: list[Any] = field(default_factory=list)
    copied: Copied | None = None
    fusion: Fusion | None = None
    marks: dict[int, Mark] = field(default_factory=dict)
    drawn: dict[int, Drawn] = field(default_factory=dict)

    @property
    def looked(self) -> list[int]:
        """The requests about the pictures of ``looks``, in their order."""
        return [i for i, role in enumerate(self.roles) if role in ("picture", "frame")]

    def fused(self, at: int) -> float:
        """The log odds of one request, fused with the tagger's where weights for that are at hand."""
        if self.fusion is None or not self.looks or self.roles[at] == "tile":
            return self.odds[at]
        if self.roles[at] == "clip":
            tag = logit(tag_score(self))
        else:
            tag = self.looks[self.looked.index(at)].log_odds
        return self.fusion.log_odds(self.odds[at], tag)

    def scores(self, role: str) -> list[float]:
        """P(fake) of the requests of one role, in order."""
        return [sigmoid(self.fused(at)) for at, r in enumerate(self.roles) if r == role]

    def worst_frame(self) -> int:
        """The place of the frame with the highest log odds among the requests of a clip."""
        return max((i for i, r in enumerate(self.roles) if r == "frame"), key=self.fused)

    def worst_look(self) -> int:
        """The number of the look that stands for the file: a picture's only one, a clip's of its worst frame."""
        return 0 if self.media.kind == "image" else self.looked.index(self.worst_frame())

    def add_s(self, stage: str, seconds: float) -> None:
        """Add to the time of a stage."""
        self.timings[stage] = self.timings.get(stage, 0.0) + seconds


class Asks(Protocol):
    """Whoever answers."""

    def question(self, text: str, shown: Sequence[Shown | Precut], *, video: bool = False) -> Any:
        """A request that asks ``text`` about pictures, or about the frames of a clip. Called by several threads."""

    def ask(self, jobs: Sequence[Job], wanted: Wanted) -> None:
        """Fill in log odds, kind of fake, and words where they are wanted; ``error`` of each job that fails.

        Raises IvdetectError only for what no further file would escape.
        """


def score_of(job: Job) -> float:
    """P(fake) of a whole picture or clip from the log odds of its requests, fused where they can be."""
    if job.media.kind == "image" or job.roles[0] == "clip":
        return sigmoid(job.fused(0))
    return clip_score(job.scores("frame"))


def model_score(job: Job) -> float:
    """The same from the model's own log odds alone."""
    if job.media.kind == "image" or job.roles[0] == "clip":
        return sigmoid(job.odds[0])
    return clip_score([sigmoid(job.odds[at]) for at in job.looked])


def tag_score(job: Job) -> float:
    """The domain tagger's P(fake) of a whole picture or clip."""
    return clip_score([look.score for look in job.looks]) if job.media.kind == "video" else job.looks[0].score


def looks_fake(job: Job, calibration: Calibration) -> bool:
    """Whether the kind of fake is of interest."""
    return calibration.probability(score_of(job)) >= 0.5


def to_draw(job: Job, calibration: Calibration) -> list[int]:
    """The looks that get a mask: a picture's always, of a clip's the most suspicious that look edited."""
    if not job.looks or job.media.kind == "image":
        return [0] if job.looks else []
    scores = job.scores("frame")
    edited = [k for k, s in enumerate(scores) if calibration.probability(s) >= 0.5 or job.looks[k].score > 0.5]
    return sorted(sorted(edited, key=lambda k: -scores[k])[:MOST_MASKS])


def reason_question(job: Job, at: int, wanted: Wanted) -> str | None:
    """The second question, for reasons, with what a domain tagger found in front of it: of a picture that is answered
    to be fake, what it would be if it were one.

    None without a tagger or a language: then the words go on from the answer to the standard question.
    """
    if job.looks:
        k = job.looked.index(at)
        look = job.looks[k]
        tag = look.forgery if look.tells and job.fused(at) > 0 else look.tag
        return tagged(tag, explain_question(language=wanted.language), job.places[k], look.method)
    return explain_question(language=wanted.language) if wanted.language else None


def answer_of(log_odds: float) -> str:
    """The answer that the conversation goes on from, of the fused log odds where there are such: words and mask are
    then about the verdict that is given, and not about the doubt of one of its two parts."""
    return "Yes." if log_odds > 0 else "No."


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
