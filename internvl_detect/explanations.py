"""A model's words read back: whether, where, and on what grounds; and where they contradict the verdict or the mask.

    reasons = read("Yes. The picture was edited. In the upper left part a sign was pasted in. Its outline is hard.")
    reasons.whether, reasons.where.place, reasons.basis[0].aspect  # True, "upper left", "edges"

Words never decide: they are read for people and for checks. Any text is read without an error; what is not said stays
None or empty. English only: of an explanation in another language nothing is read. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

ASPECTS = {  # aspect -> what names it; the first that fits is a sentence's
    "flicker": r"flicker\w*|blink\w* in and out|jump\w* from frame|frame to frame",
    "motion": r"motions?|mov(?:es?|ed|ing|ements?)|temporal\w*|trajector\w+",
    "physical laws": r"physic\w*|gravity|impossible|cannot be so|laws? of nature|float(?:s|ing)?",
    "shadow": r"shadow\w*",
    "perspective": r"perspective\w*|vanishing|proportions?|scale of",
    "anatomy": r"anatom\w*|fingers?|hands?|teeth|limbs?|eyes?|ears?|mouth|pupils?|facial|faces?",
    "text": r"letter(?:s|ing)?|writing|text|words?|captions?|typograph\w*|fonts?",
    "lighting": r"light\w*|lit|brightness|illuminat\w*|highlights?|reflections?|glare|exposure|colou?rs?",
    "edges": r"edges?|outlines?|bound\w+y|boundaries|contours?|borders?|halos?|seams?|jagged",
    "resolution": r"resolution\w*|blur\w*|sharp\w*|scaled|pixelat\w*|resampl\w*|compress\w*|focus",
    "texture": r"textur\w*|smooth\w*|grain\w*|noise|detail\w*|pattern\w*|repeat\w*|same content",
}
_ASPECTS = {name: re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE) for name, pattern in ASPECTS.items()}
_SENTENCE = re.compile(r"[^.!?\n]*(?:\.(?=\d)[^.!?\n]*)*[.!?\n]*")
_NO = re.compile(
    r"^\W*no\b|\b(?:authentic|genuine|untouched|unaltered|unedited|not (?:been )?(?:edited|tampered|altered|manipulated"
    r"|generated|forged)|no (?:signs?|traces?|evidence|part)\b)",
    re.IGNORECASE,
)
_YES = re.compile(
    r"^\W*yes\b|\b(?:tampered|edited|altered|manipulat\w+|forge\w*|fake\w*|deepfake\w*|generated|synthe\w+|pasted"
    r"|swapped|rebuilt|erased|copied|repainted)\b",
    re.IGNORECASE,
)
_ROWS = {"upper": "upper", "top": "upper", "lower": "lower", "bottom": "lower"}
_CENTRE = ("middle", "centre", "center")
_PLACE = re.compile(  # "the left" alone may be a verb: one word needs its noun, "upper left" needs none
    r"\b(?:(?P<row>upper|top|lower|bottom)[ -](?P<side>left|right|middle|centre|center)\b"
    r"|(?P<only>upper|top|lower|bottom|left|right|middle|centre|center)(?:[ -]hand)?"
    r" (?:part|area|region|side|corner|field|half|third)s?\b)",
    re.IGNORECASE,
)
_WHOLE = re.compile(
    r"\b(?:whole|entire|all of (?:the|this|it)) ?(?:picture|image|photograph|photo|scene)?\b", re.IGNORECASE
)
_MOST_CHARS = 20_000


@dataclass(frozen=True)
class Where:
    """Where something was changed: one of nine places ("upper left", "middle", ...) or "whole", and its sentence."""

    place: str
    sentence: str


@dataclass(frozen=True)
class Basis:
    """One ground of a judgment: its aspect (see ``explanations.ASPECTS``) and the sentence that names it."""

    aspect: str
    sentence: str


@dataclass(frozen=True)
class Reasons:
    """What a model's words say. ``whether``: true for fake, false for authentic, null where they do not say.

    ``contradictions`` are sentences of this program's own: where the words say another thing than verdict or mask.
    """

    whether: bool | None = None
    where: Where | None = None
    basis: tuple[Basis, ...] = ()
    contradictions: tuple[str, ...] = ()


def read(text: str) -> Reasons:
    """What a text says. Only its first 20,000 characters are read."""
    parts = sentences(text)
    found: list[Basis] = []
    whether: bool | None = None
    where: Where | None = None
    for part in parts:
        said = verity_in(part)
        whether = said if whether is None else whether
        if said is False:  # "no part was replaced" names no place and no ground of a forgery
            continue
        if where is None and (place := place_in(part)):
            where = Where(place, part)
        aspects = (name for name, pattern in _ASPECTS.items() if pattern.search(part))
        found += [Basis(aspect, part) for aspect in aspects]
    return Reasons(whether, None if whether is False else where, tuple(found))


def sentences(text: str) -> list[str]:
    """A text's sentences in order, blanks at their ends left out; a point inside a number ends none."""
    parts = (part.strip() for part in _SENTENCE.findall(text[:_MOST_CHARS]))
    return [part for part in parts if part.strip(" .!?")]


def verity_in(sentence: str) -> bool | None:
    """Whether a sentence says fake (True) or authentic (False); None where it says neither."""
    if _NO.search(sentence):
        return False
    return True if _YES.search(sentence) else None


def place_in(sentence: str) -> str | None:
    """The place that a sentence names, in the nine words of ``places``, or "whole"; None for none."""
    found = _PLACE.search(sentence)
    if found is None:
        return "whole" if _WHOLE.search(sentence) else None
    only = (found["only"] or "").lower()
    row = _ROWS.get((found["row"] or only).lower(), "")
    side = (found["side"] or ("" if row else only)).lower()
    if side in _CENTRE:
        side = "" if row else "middle"
    return f"{row} {side}".strip()


def places_of(box_xyxy: Sequence[int], size_wh: tuple[int, int]) -> set[str]:
    """The nine places that a box touches by more than a tenth of their width and height, its centre's included."""
    (left, top, right, bottom), (width, height) = box_xyxy, size_wh
    columns = _thirds(left, right, width, ("left", "", "right"))
    rows = _thirds(top, bottom, height, ("upper", "", "lower"))
    return {f"{row} {column}".strip() or "middle" for row in rows for column in columns}


def checked(
    reasons: Reasons,
    *,
    decision: str,
    boxes_xyxy: Iterable[Sequence[int]] | None = None,
    size_wh: tuple[int, int] | None = None,
) -> Reasons:
    """The same with its contradictions: against the decision and, where a mask was drawn, against its regions' boxes.

    An unsure decision contradicts nothing. ``boxes_xyxy`` None: no mask was drawn.
    """
    found = []
    if (reasons.whether, decision) in ((True, "authentic"), (False, "fake")):
        says = "made or edited" if reasons.whether else "authentic"
        found.append(f"The words call it {says}, the verdict is {decision}.")
    if boxes_xyxy is not None and size_wh and decision != "authentic":
        marked = set().union(*(places_of(box, size_wh) for box in boxes_xyxy))
        place = reasons.where.place if reasons.where else None
        if place is not None and place != "whole" and marked and not marked & fields_of(place):
            found.append(f"The words name the {place} part, the mask marks {_listed(marked)}.")
        if place is not None and place != "whole" and not marked:
            found.append(f"The words name the {place} part, the mask marks nothing.")
        if reasons.whether is False and marked:
            found.append(f"The words call it authentic, the mask marks {_listed(marked)}.")
    return replace(reasons, contradictions=tuple(found))


def fields_of(place: str) -> set[str]:
    """The nine fields that a place may mean: "left" is the whole left side, "upper left" one field."""
    if place in ("upper", "lower"):
        return {place, f"{place} left", f"{place} right"}
    if place in ("left", "right"):
        return {place, f"upper {place}", f"lower {place}"}
    return {place}


def sentence_for(reasons: Reasons, box_xyxy: Sequence[int], size_wh: tuple[int, int]) -> str | None:
    """The sentence that names where a box lies; None where the words name another place or none."""
    where = reasons.where
    if where is None or where.place == "whole" or not places_of(box_xyxy, size_wh) & fields_of(where.place):
        return None
    return where.sentence


def _thirds(low: float, high: float, length: float, names: tuple[str, str, str]) -> list[str]:
    if length <= 0:
        return [names[1]]
    third = length / 3
    middle = min(2, max(0, int((low + high) / 2 / third)))
    reach = [min(high, (i + 1) * third) - max(low, i * third) for i in range(3)]
    return [name for i, name in enumerate(names) if i == middle or reach[i] > third / 10]


def _listed(places: Iterable[str]) -> str:
    return "the " + ", ".join(sorted(places))
