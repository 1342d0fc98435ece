"""The most confident mistakes, for people to look at: what was said, how surely, and what is known of the file.

    for mistake in mistakes(read_predictions("predictions.jsonl"), most=12):
        mistake.kind, mistake.image, mistake.score, mistake.words, mistake.mask

Rows are mappings or objects with the fields of a prediction. Streams: only what is shown is held. Not here: opening or
drawing the files (``report``); escaping, which each format does for itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from internvl_detect.data.labels import normalise_label, verity
from internvl_detect.errors import ConfigError
from internvl_detect.evaluate.predictions import value_of

MOST = 200
WORDS, FACTS = 400, 16  # characters of words, and facts, that are kept of one mistake
KINDS = ("false alarm", "missed")


@dataclass(frozen=True)
class Mistake:
    """A real file called fake ("false alarm") or a fake one called authentic ("missed"). ``sureness`` is the distance
    of the score from the threshold as a share of what it could be, 0 to 1. ``mask`` and ``truth_mask`` are paths, empty
    for none; ``facts`` what is known of the file (generator, size, quality)."""

    kind: str
    image: str
    label: str
    score: float
    sureness: float
    decision: str
    dataset: str
    group: str
    domain_tag: str
    words: str
    mask: str
    truth_mask: str
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def mistakes(rows: Iterable[Any], *, most: int = 24, threshold: float = 0.5) -> list[Mistake]:
    """At most ``most`` (1 to 200) of each kind, false alarms first, the surest first; one of each source group.

    A row's decision counts where it has one ("unsure" is no mistake), else whether its score reaches ``threshold``.
    Rows without a score or a label are left out. Raises ConfigError.
    """
    if not 1 <= most <= MOST:
        raise ConfigError(f"a gallery of {most}", expected=f"1 to {MOST}")
    if not 0 < threshold < 1:
        raise ConfigError(f"threshold {threshold}", expected="above 0 and below 1")
    kept: dict[str, dict[str, Mistake]] = {kind: {} for kind in KINDS}
    floor = dict.fromkeys(KINDS, -1.0)
    for row in rows:
        found = _sureness(row, threshold)
        if found is None or found[1] <= floor[found[0]]:
            continue
        kind, sure = found
        mine = kept[kind]
        group = str(value_of(row, "group_id") or value_of(row, "image"))
        if group in mine and mine[group].sureness >= sure:
            continue
        mine[group] = _mistake(row, kind, sure, group)
        if len(mine) > most:
            del mine[min(mine, key=lambda g: mine[g].sureness)]
        if len(mine) == most:
            floor[kind] = min(m.sureness for m in mine.values())
    return [m for kind in KINDS for m in sorted(kept[kind].values(), key=lambda m: (-m.sureness, m.image))]


def _sureness(row: Any, threshold: float) -> tuple[str, float] | None:
    """(kind, sureness) of a mistake; None for what is right, undecided or unknown."""
    score, label = value_of(row, "score"), normalise_label(value_of(row, "label"))
    if score is None or label is None or not math.isfinite(score):
        return None
    fake = verity(label) == "fake"
    said = {"fake": True, "authentic": False, "unsure": fake}.get(value_of(row, "decision") or "", score >= threshold)
    if said == fake:
        return None
    away = (score - threshold) / (1 - threshold) if said else (threshold - score) / threshold
    return KINDS[int(fake)], min(1.0, max(0.0, float(away)))


def _mistake(row: Any, kind: str, sure: float, group: str) -> Mistake:
    facts = {str(k): v for k, v in list((value_of(row, "facts") or {}).items())[:FACTS]}
    texts = {name: str(value_of(row, name) or "") for name in ("image", "label", "dataset", "domain_tag")}
    decision = str(value_of(row, "decision") or ("fake" if kind == KINDS[0] else "authentic"))
    words = str(value_of(row, "outputs") or "")
    words = words if len(words) <= WORDS else words[: WORDS - 1] + "…"
    masks = {name: str(value_of(row, name) or "") for name in ("mask", "truth_mask")}
    return Mistake(
        kind=kind, score=float(value_of(row, "score")), sureness=sure, group=group, decision=decision, words=words,
        facts=facts, **texts, **masks,
    )  # fmt: skip
