"""What provenance finds: the result, and the small helpers with which every examiner words an observation.

An observation is a ``verdict.Evidence``. Its ``details["strength"]`` is one of "decides" (a valid signed record says
so), "strong" (a plain statement that anyone could have written or removed), "weak" (a hint) and "none" (nothing
follows).
``details["says"]`` is what it speaks for: "ai_generated", "tampered", "camera" or "".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from internvl_detect.verdict import Evidence

Strength = Literal["decides", "strong", "weak", "none"]
Says = Literal["ai_generated", "tampered", "camera", ""]
MAX_SHOWN = 300  # characters of a stranger's text in one value
ABSENCE = (
    "Absence proves nothing: most sites and programs remove such records when they store or send a file, and anyone "
    "can write or remove one that is not signed."
)


@dataclass(frozen=True)
class Provenance:
    """What a file says about where it comes from.

    ``evidence``: the observations, strongest first. ``decides``: the one that settles the verdict by itself, a valid
    C2PA manifest that says "made by AI"; else None. ``error_level``: a PNG, when it was asked for. ``facts``: plain
    values behind the evidence. ``notes``: what could not be examined, and why.
    """

    evidence: tuple[Evidence, ...] = ()
    decides: Evidence | None = None
    error_level: bytes | None = field(default=None, repr=False)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The whole in a sentence or two."""
        if self.decides:
            return self.decides.summary
        telling = [e for e in self.evidence if e.details.get("strength") in ("strong", "weak")]
        if not telling:
            return f"Nothing here says where the file comes from. {ABSENCE}"
        strong = sum(e.details["strength"] == "strong" for e in telling)
        weight = f"{strong} of them strong" if strong else "none of them strong"
        count = "1 observation" if len(telling) == 1 else f"{len(telling)} observations"
        return f"{count}, {weight}; none is signed proof. {ABSENCE}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; without the error level picture."""
        decided = None if self.decides is None else self.decides.source
        shown = [{"source": e.source, "summary": e.summary, "details": e.details} for e in self.evidence]
        return {
            "summary": self.summary,
            "decides": decided,
            "evidence": shown,
            "facts": self.facts,
            "notes": list(self.notes),
        }


def observed(source: str, summary: str, strength: Strength, says: Says = "", **details: Any) -> Evidence:
    """An Evidence with its strength and what it speaks for; details that are empty are left out."""
    kept = {k: v for k, v in details.items() if v not in ("", None, [], {}, ())}
    return Evidence(source, summary, None, {"strength": strength, "says": says} | kept)


def clean(text: object, most: int = MAX_SHOWN) -> str:
    """A stranger's text as one short line of printable characters, which can always be written as UTF-8."""
    shown = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * most])
    words = " ".join(shown.split())
    return words if len(words) <= most else words[: most - 1] + "…"


def strongest_first(evidence: list[Evidence]) -> tuple[Evidence, ...]:
    order = ("decides", "strong", "weak", "none")
    return tuple(sorted(evidence, key=lambda e: order.index(e.details["strength"])))
