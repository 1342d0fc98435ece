"""What a detection says: frozen dataclasses that every room passes on, and their JSON form.

Not here: how a verdict comes about (``detect``) or is shown (``report``). Imports the standard library, and what words
say (``explanations``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from internvl_detect.explanations import Basis, Reasons, Where

Kind = Literal["image", "video"]
Decision = Literal["authentic", "unsure", "fake"]
Label = Literal["real", "ai_generated", "tampered", "deepfake", "fake"]


@dataclass(frozen=True)
class Frame:
    """One frame of a clip that was looked at: its index, its time in seconds and its own P(fake) in [0, 1].

    ``mask_share``: the share of its pixels that the mask marks, of a frame that a mask was drawn for. ``mask`` as in
    Verdict.
    """

    index: int
    time_s: float
    score: float
    mask_share: float | None = None
    mask: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Stretch:
    """The part of a clip whose frames look synthetic: first and last time in seconds, and their mean score."""

    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True)
class Region:
    """A part of the picture: box (left, top, right, bottom) in picture pixels, and its mean score in [0, 1].

    ``area_px``: its pixels, where a mask was drawn; ``sentence``: of the words, the one that names its place.
    """

    box_xyxy: tuple[int, int, int, int]
    score: float
    area_px: int | None = None
    sentence: str | None = None


@dataclass(frozen=True)
class Evidence:
    """One independent observation: where it comes from, a sentence, and optionally a score in [0, 1].

    ``details["strength"]``, where it is given, is "decides", "strong", "weak" or "none"; ``details["says"]`` what it
    speaks for: "ai_generated", "tampered", "camera" or "".
    """

    source: str
    summary: str
    score: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The answer for one picture or clip.

    ``score`` is the model's raw P(fake) in [0, 1]; ``probability`` the same after calibration; ``decision`` follows
    from ``probability`` and two thresholds, unless a piece of evidence decides (``notes`` say so). ``label`` is the
    likeliest kind, "fake" where whoever answered could not tell which. ``timings`` are seconds by stage. ``reasons``
    are the words, read; they decide nothing. ``domain_tag`` is the tagger's likeliest tag (of a clip: of its worst
    frame), ``tag_probabilities`` those of all. ``mask_share`` is the share of the picture that the mask marks; ``mask``
    the mask itself, uint8 (H, W), probability times 255 in the picture's own pixels, which no row of JSON holds; it
    marks what is at least ``mask_threshold`` (times 255).
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
    reasons: Reasons | None = None
    domain_tag: str | None = None
    tag_probabilities: dict[str, float] = field(default_factory=dict)
    mask_share: float | None = None
    mask_threshold: float | None = None
    mask: Any = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in the order of the fields; floats as they are. ``mask`` is left out."""
        frames = tuple(dataclasses.replace(frame, mask=None) for frame in self.frames)
        row = dataclasses.asdict(dataclasses.replace(self, mask=None, frames=frames))
        del row["mask"]
        for frame in row["frames"]:
            del frame["mask"]
        return row


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


def from_row(row: Mapping[str, Any]) -> Verdict | Failure:
    """The way back from ``to_dict``; unknown keys are left out. Raises ValueError for what is no such row."""
    try:
        if not isinstance(row["path"], str):
            raise ValueError(f"path {row['path']!r:.80}")
        if row.get("error") is not None:
            kind = row.get("kind") if row.get("kind") in get_args(Kind) else None
            return Failure(row["path"], str(row["error"]), int(_number(row.get("exit_code") or 1)), kind)
        known = {f.name for f in dataclasses.fields(Verdict)} - {"mask"}
        made = {key: value for key, value in row.items() if key in known}
        for key in ("model", "label"):
            made[key] = str(row[key])
        made["frames"] = tuple(
            Frame(int(_number(f["index"])), _number(f["time_s"]), _number(f["score"]), _maybe(f.get("mask_share")))
            for f in row["frames"]
        )
        stretch = row.get("stretch")
        made["stretch"] = (
            Stretch(**{k: _number(stretch[k]) for k in ("start_s", "end_s", "score")}) if stretch else None
        )
        made["regions"] = tuple(_region(r) for r in row["regions"])
        made["evidence"] = tuple(
            Evidence(
                str(e["source"]),
                str(e["summary"]),
                None if e.get("score") is None else _number(e["score"]),
                dict(e["details"]),
            )
            for e in row["evidence"]
        )
        made["notes"] = tuple(str(note) for note in row["notes"])
        made["score"], made["probability"] = _number(row["score"]), _number(row["probability"])
        for key in ("mask_share", "mask_threshold"):
            made[key] = _maybe(row.get(key))
        made["reasons"] = _reasons(row.get("reasons"))
        made["domain_tag"] = None if row.get("domain_tag") is None else str(row["domain_tag"])
        made["tag_probabilities"] = {str(k): _number(v) for k, v in (row.get("tag_probabilities") or {}).items()}
        made["timings"] = {str(k): _number(v) for k, v in row["timings"].items()}
        if row["kind"] not in get_args(Kind) or row["decision"] not in get_args(Decision):
            raise ValueError(f"kind {row['kind']!r:.80}, decision {row['decision']!r:.80}")
        return Verdict(**made)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise ValueError(f"{value!r:.80} where a number belongs")
    return float(value)


def _region(row: Mapping[str, Any]) -> Region:
    left, top, right, bottom = (int(_number(v)) for v in row["box_xyxy"])
    area, said = row.get("area_px"), row.get("sentence")
    return Region(
        (left, top, right, bottom),
        _number(row["score"]),
        None if area is None else int(_number(area)),
        None if said is None else str(said),
    )


def _maybe(value: Any) -> float | None:
    return None if value is None else _number(value)


def _reasons(row: Mapping[str, Any] | None) -> Reasons | None:
    if row is None:
        return None
    where, whether = row.get("where"), row.get("whether")
    if whether not in (True, False, None):
        raise ValueError(f"whether {whether!r:.80}")
    return Reasons(
        whether,
        None if where is None else Where(str(where["place"]), str(where["sentence"])),
        tuple(Basis(str(b["aspect"]), str(b["sentence"])) for b in row.get("basis") or ()),
        tuple(str(said) for said in row.get("contradictions") or ()),
    )
