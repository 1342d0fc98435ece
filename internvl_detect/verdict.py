"""What a detection says: frozen dataclasses that every room passes on, and their JSON form.

Not here: how a verdict comes about (``detect``) or is shown (``report``). Imports nothing but the standard library.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["image", "video"]
Decision = Literal["authentic", "unsure", "fake"]
Label = Literal["real", "ai_generated", "tampered", "deepfake"]


@dataclass(frozen=True)
class Frame:
    """One frame of a clip that was looked at: its index, its time in seconds and its own P(fake) in [0, 1]."""

    index: int
    time_s: float
    score: float


@dataclass(frozen=True)
class Stretch:
    """The part of a clip whose frames look synthetic: first and last time in seconds, and their mean score."""

    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True)
class Region:
    """A part of the picture: box (left, top, right, bottom) in picture pixels, and its mean score in [0, 1]."""

    box_xyxy: tuple[int, int, int, int]
    score: float


@dataclass(frozen=True)
class Evidence:
    """One independent observation: where it comes from, a sentence, and optionally a score in [0, 1]."""

    source: str
    summary: str
    score: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The answer for one picture or clip.

    ``score`` is the model's raw P(fake) in [0, 1]; ``probability`` the same after calibration; ``decision`` follows
    from ``probability`` and two thresholds. ``label`` is the likeliest kind. ``timings`` are seconds by stage.
    """

    path: str
    kind: Kind
    score: float
    probability: float
    decision: Decision
    label: Label
    model: str
    timings: dict[str, float]
    calibrated: bool = False
    words: str | None = None
    frames: tuple[Frame, ...] = ()
    stretch: Stretch | None = None
    regions: tuple[Region, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in the order of the fields; floats as they are."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Failure:
    """The row of a file that could not be judged: ``error`` stands where the score would."""

    path: str
    error: str
    exit_code: int
    kind: Kind | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in the order of the fields."""
        return dataclasses.asdict(self)
