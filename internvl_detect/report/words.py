"""A verdict in words that a checker can defend, and how each number is written. Shared by all report formats.

The words never say that a file "is real": finding no sign is an absence of evidence. Strangers' text (file names, a
model's words) passes through ``visible`` before it is shown anywhere. Not here: any format's own escaping.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from internvl_detect.verdict import Evidence, Failure, Region, Verdict

Row = Verdict | Failure

FAILED = "failed"
OUTCOMES = {  # outcome -> its words for many files, in the order of a summary
    "fake": "likely fake",
    "unsure": "can't tell",
    "authentic": "no sign found",
    FAILED: "not judged",
}
_FAKE_HEADLINES = {
    "ai_generated": "Likely AI-generated",
    "tampered": "Likely edited (tampered)",
    "deepfake": "Likely a deepfake",
}
_FAKE_REASONS = {
    "ai_generated": "The model finds traces in this {thing} that generated ones have.",
    "tampered": "The model finds signs that a part of this {thing} was changed.",
    "deepfake": "The model finds signs that a face in this {thing} was swapped or synthesised.",
}
HOW_TO_READ = (
    "A verdict is a model's estimate from the pixels. It is a reason to look closer, not a proof of either side.",
    '"No sign of manipulation found" does not say that a file is real: new generators, small edits, strong '
    "compression and screenshots hide traces.",
    '"Can\'t tell" is an answer: the score lies between the two thresholds. An earlier or larger copy of the file may '
    "settle it.",
    "What a file says of its own origin is evidence beside the score: only a valid signed record (Content Credentials) "
    "decides by itself, the rest anyone could have written, and its absence proves nothing.",
    "Words and marked regions are the model's account of its answer; it can be right for a wrong reason.",
    "Compare with what does not depend on a model: the source, the date, other copies, the people shown.",
)
EVIDENCE = {  # source -> its name for people; others are shown as they are
    "domain_tag": "First look (domain tagger)",
    "internvl2": "InternVL2 alone",
    "copy_move": "Copied within the picture",
    "c2pa": "Signed record (C2PA)",
    "generator_text": "A generator's text",
    "metadata": "Metadata",
    "jpeg_history": "JPEG history",
    "container": "Container",
}
STRENGTHS = {"decides": "decides", "strong": "strong", "weak": "a hint", "none": "proves nothing"}
_BIDI = set("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LINE_ENDS = set("\u2028\u2029")


def visible(text: object, limit: int = 2000) -> str:
    """One line in which nothing hides or acts: blanks collapsed, control, bidi and broken characters written out.

    Cut to ``limit`` characters. The result can be encoded as UTF-8 and printed to a terminal.
    """
    words = " ".join(str(text)[: 4 * limit].split())
    words = words if len(words) <= limit else words[: limit - 1] + "…"
    return "".join(_escaped(c) if _hides(c) else c for c in words)


def _hides(char: str) -> bool:
    return char in _BIDI or char in _LINE_ENDS or unicodedata.category(char) in ("Cc", "Cs")


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def outcome(row: Row) -> str:
    """One of ``OUTCOMES``. A decision this version does not know counts as "unsure"."""
    if isinstance(row, Failure):
        return FAILED
    return row.decision if row.decision in OUTCOMES else "unsure"


def count_outcomes(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows have each outcome; every outcome is there, in the order of ``OUTCOMES``."""
    found = Counter(map(outcome, rows))
    return {name: found[name] for name in OUTCOMES}


def summary(counts: Mapping[str, int]) -> str:
    """For example "3 files: 1 likely fake, 2 can't tell"."""
    total = sum(counts.values())
    parts = [f"{n} {OUTCOMES[name]}" for name, n in counts.items() if n]
    return f"{total} file{'' if total == 1 else 's'}" + (f": {', '.join(parts)}" if parts else "")


def headline(row: Row) -> str:
    """The verdict in a few words."""
    state = outcome(row)
    if isinstance(row, Failure) or state == FAILED:
        return "Could not be judged"
    if state == "fake":
        return _FAKE_HEADLINES.get(row.label, "Likely fake")
    return "Can't tell" if state == "unsure" else "No sign of manipulation found"


def manner(verdict: Verdict) -> str:
    """What the model does with its words: it "says" them, or "guesses" where nothing was decided."""
    return "guesses" if outcome(verdict) == "unsure" else "says"


def explanation(verdict: Verdict) -> str:
    """What the headline means, in one or two sentences."""
    thing = "clip" if verdict.kind == "video" else "picture"
    state = outcome(verdict)
    if record := deciding(verdict):
        said = f"The {thing} itself says so, in a signed record that holds; that decided, not the score."
        return f"{said} {visible(record.summary)}"
    if state == "fake":
        reason = _FAKE_REASONS.get(verdict.label, "The model finds signs that this {thing} was made or changed.")
        return reason.format(thing=thing)
    if state == "unsure" and disagreement(verdict):
        return f"Its two parts disagree, so this {thing} supports neither answer: see the first look under evidence."
    if state == "unsure":
        return f"The score lies between the two thresholds, so this {thing} supports neither answer."
    return f"The model found nothing it looks for. That does not prove that this {thing} is real."


def disagreement(verdict: Verdict) -> bool:
    """Whether the domain tagger and InternVL2 speak against each other."""
    return any(e.source == "domain_tag" and e.details.get("disagrees") is True for e in verdict.evidence)


def tag_words(verdict: Verdict) -> str:
    """The tags of the first look, likeliest first, with their probabilities; "" without a look."""
    found = sorted(verdict.tag_probabilities.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{visible(tag, 40).replace('_', ' ')} {percent(share)}" for tag, share in found[:8])


def reason_rows(verdict: Verdict) -> list[tuple[str, str]]:
    """What the words say, as (name, value): whether, where, and each ground with its sentence; [] where not read."""
    reasons = verdict.reasons
    if reasons is None or (reasons.whether is None and reasons.where is None and not reasons.basis):
        return []
    whether = {True: "made or edited", False: "authentic", None: "not said"}[reasons.whether]
    rows = [("Words: whether", whether)]
    if reasons.where:
        rows.append(("Words: where", f"{visible(reasons.where.place, 40)}: {visible(reasons.where.sentence, 400)}"))
    return rows + [(f"Words: {visible(b.aspect, 40)}", visible(b.sentence, 400)) for b in reasons.basis[:20]]


def area_words(region: Region) -> str:
    """The pixels of a region of a mask; "" for another region."""
    return "" if region.area_px is None else f"{region.area_px:,} pixels"


def deciding(verdict: Verdict) -> Evidence | None:
    """The evidence that decided by itself, whatever the score; None where the score did."""
    if outcome(verdict) != "fake":
        return None
    return next((e for e in verdict.evidence if e.details.get("strength") == "decides"), None)


def number_meaning(verdict: Verdict) -> str:
    """What the number behind the verdict says, and what it does not."""
    if deciding(verdict):
        return f"The score of the pixels alone is {number(verdict.score)}; the file's signed record decided, not it."
    if not verdict.calibrated:
        return (
            f"Not calibrated: {number(verdict.score)} is the model's raw score. It puts files in order, but does not "
            "say what share of such files is fake. `ivdetect calibrate` with about 100 of your own files mends that."
        )
    return (
        f"Calibrated: among validation files scored like this one, about {percent(verdict.probability)} were fake. "
        "Files of another kind than those can behave differently."
    )


def number_in_short(verdict: Verdict) -> str:
    """The number for one line: "97% probability" when calibrated, else "score 0.97, uncalibrated"."""
    if deciding(verdict):
        return "decided by its signed record"
    if verdict.calibrated:
        return f"{percent(verdict.probability)} probability of fake"
    return f"score {number(verdict.score, 2)}, uncalibrated"


def percent(share: float) -> str:
    """A share in [0, 1] as a whole percentage that never claims certainty."""
    if not math.isfinite(share):
        return "unknown"
    if share < 0.01:
        return "under 1%"
    return "over 99%" if share > 0.99 else f"{share:.0%}"


def number(value: float | None, digits: int = 4) -> str:
    """A number with fixed digits; "unknown" where there is none."""
    return "unknown" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, "1:02.5"; with hours where there are any."""
    if not math.isfinite(seconds):
        return "unknown"
    tenths = max(0, round(seconds * 10))
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def stretch_words(verdict: Verdict) -> str:
    """Where a clip looks synthetic, or most so; "" when no stretch was found."""
    part = verdict.stretch
    if part is None:
        return ""
    seems = "looks synthetic" if outcome(verdict) == "fake" else "is the most suspicious part"
    return f"{clock(part.start_s)} to {clock(part.end_s)} {seems} (mean score {number(part.score, 2)})"


def model_notes(verdict: Verdict) -> list[str]:
    """The notes about the model itself ("embedded nano model: ..."), which every format shows prominently."""
    return [n for n in map(visible, verdict.notes) if _about_model(n)]


def file_notes(verdict: Verdict) -> list[str]:
    """The notes about the file: conversions, limits. "not calibrated" is left out: ``number_meaning`` says more."""
    return [n for n in map(visible, verdict.notes) if not _about_model(n) and not n.startswith("not calibrated")]


def _about_model(note: str) -> bool:
    return any(word in note.lower() for word in ("model", "adapter", "checkpoint"))


def disagrees(verdict: Verdict, evidence: Evidence) -> bool:
    """Whether a piece of evidence points clearly the other way than the decision: by its score, or by what it says."""
    score, state = evidence.score, outcome(verdict)
    if evidence.details.get("strength") in ("decides", "strong"):
        says = evidence.details.get("says")
        if (state == "authentic" and says in ("ai_generated", "tampered")) or (state == "fake" and says == "camera"):
            return True
    if score is None or not math.isfinite(score):
        return False
    return (state == "fake" and score <= 0.3) or (state == "authentic" and score >= 0.7)


def evidence_name(evidence: Evidence) -> str:
    """What to call a piece of evidence."""
    return EVIDENCE.get(evidence.source) or visible(evidence.source, 80)


def strength(evidence: Evidence) -> str:
    """How much a piece of evidence says, in words; "" where it is not known."""
    return STRENGTHS.get(str(evidence.details.get("strength")), "")


def thresholds(made_with: Mapping[str, Any]) -> tuple[float, float] | None:
    """(low, high) in probability, from ``made_with["calibration"]`` or ``["thresholds"]``; None when not given."""
    for key in ("calibration", "thresholds"):
        stored = made_with.get(key)
        if isinstance(stored, Mapping):
            stored = (stored.get("low"), stored.get("high"))
        if isinstance(stored, tuple | list) and len(stored) == 2 and all(isinstance(v, int | float) for v in stored):
            low, high = float(stored[0]), float(stored[1])
            if 0 <= low <= high <= 1:
                return low, high
    return None


def facts(made_with: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) in words of everything the report was made with; nested values as compact JSON."""
    told = {k: calibration_words(v) if k == "calibration" else as_words(v) for k, v in made_with.items()}
    return [(visible(k, 80).replace("_", " "), value) for k, value in told.items() if value not in ("", "None")]


def calibration_words(stored: object) -> str:
    """A stored calibration (``Calibration.to_dict()``) as one sentence; anything else as it is."""
    if not isinstance(stored, Mapping) or "method" not in stored:
        return as_words(stored)
    low, high = thresholds({"calibration": stored}) or (math.nan, math.nan)
    limits = f"no sign below {number(low, 2)}, likely fake above {number(high, 2)}"
    if stored["method"] == "none":
        return f"none: the probability is the raw score; {limits} by default"
    files = f"{as_words(stored.get('n_real', '?'))} real and {as_words(stored.get('n_fake', '?'))} fake files"
    where = f" of {as_words(stored['fitted_on'])}" if stored.get("fitted_on") else ""
    note = f" ({as_words(stored['note'])})" if stored.get("note") else ""
    return f"{as_words(stored['method'])}, fitted on {files}{where}; {limits}{note}"


def as_words(value: object) -> str:
    """Any stored value as one visible line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping | list | tuple):
        try:
            return visible(json.dumps(value, ensure_ascii=False, default=str))
        except (ValueError, TypeError, RecursionError):
            return visible(f"a {type(value).__name__} that cannot be shown")
    return visible(value)
