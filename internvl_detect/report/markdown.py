"""Verdicts as Markdown, to paste into a ticket or a wiki.

    Path("report.md").write_text(to_markdown(rows), encoding="utf-8")

File names and models' words are strangers' text: they are escaped, and stand only in table cells or behind a fixed
beginning of a line, so they can start no heading, list, link, picture or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from internvl_detect.report import words
from internvl_detect.verdict import Failure, Verdict

_ACTIVE = re.compile(r"[\\`*_\[\]~|:@$^!#]")  # ":" and "@" occur in bare addresses
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def to_markdown(
    rows: Sequence[words.Row], *, title: str = "Detection report", made_with: Mapping[str, Any] | None = None
) -> str:
    """A summary table of all files, then a section for each verdict with its evidence, then how to read it."""
    verdicts = [row for row in rows if isinstance(row, Verdict)]
    lines = [f"# {escape(title)}", "", f"{words.summary(words.count_outcomes(rows))}.", ""]
    lines += [
        f"> **Note:** {escape(note)}\n" for note in dict.fromkeys(n for v in verdicts for n in words.model_notes(v))
    ]
    lines += ["| | Verdict | Number | File |", "|---:|---|---|---|"]
    for i, row in enumerate(rows, 1):
        shown = words.number_in_short(row) if isinstance(row, Verdict) else ""
        lines.append(f"| {i} | {words.headline(row)} | {shown} | {escape(row.path)} |")
    for i, row in enumerate(rows, 1):
        lines += ["", f"## {i}. {words.headline(row)}", "", f"File: {escape(row.path)}", ""]
        lines += [f"Error: {escape(row.error)}"] if isinstance(row, Failure) else _section(row)
    lines += ["", "## How to read this", "", *[f"- {text}" for text in words.HOW_TO_READ]]
    known = words.facts(made_with or {})
    if known:
        lines += ["", "## Made with", "", "| | |", "|---|---|", *[f"| {escape(k)} | {escape(v)} |" for k, v in known]]
    return "\n".join(lines) + "\n"


def _section(verdict: Verdict) -> list[str]:
    lines = [words.explanation(verdict), "", words.number_meaning(verdict), ""]
    if verdict.stretch:
        lines += [f"Stretch: {words.stretch_words(verdict)}.", ""]
    if verdict.words:
        lines += [f"> The model {words.manner(verdict)}: {escape(verdict.words)}", ""]
    for said in verdict.reasons.contradictions if verdict.reasons else ():
        lines += [f"**Contradiction:** {escape(said)}", ""]
    table = [
        ("score", words.number(verdict.score)),
        ("probability", words.number(verdict.probability)),
        ("decision", escape(verdict.decision)),
        ("likeliest kind", escape(verdict.label)),
        ("model and adapter", escape(verdict.model)),
        ("calibration", "fitted on files of known label" if verdict.calibrated else "none"),
    ]
    if verdict.domain_tag:
        table.append(("first look", escape(words.tag_words(verdict))))
    table += [(escape(name.lower()), escape(value)) for name, value in words.reason_rows(verdict)]
    if verdict.mask_share is not None:
        table.append(("mask", f"marks {verdict.mask_share:.1%} of the picture"))
    if verdict.width and verdict.height:
        table.append(("size", f"{verdict.width} x {verdict.height} px"))
    if verdict.sha256:
        table.append(("sha256", escape(verdict.sha256)))
    table += [("seconds, " + escape(stage), words.number(s, 3)) for stage, s in verdict.timings.items()]
    table += [(f"frame at {words.clock(f.time_s)}", f"score {words.number(f.score, 2)}") for f in verdict.frames]
    for region in verdict.regions:
        box = ", ".join(str(v) for v in region.box_xyxy)
        more = [text for text in (words.area_words(region), escape(region.sentence or "")) if text]
        table.append((f"region {box}", "; ".join([f"score {words.number(region.score, 2)}", *more])))
    for item in verdict.evidence:
        score = "" if item.score is None else f" (score {words.number(item.score, 2)})"
        other = ". **Points the other way.**" if words.disagrees(verdict, item) else ""
        weight = f" ({words.strength(item)})" if words.strength(item) else ""
        table.append(
            (f"evidence, {escape(words.evidence_name(item))}{weight}", f"{escape(item.summary)}{score}{other}")
        )
    table += [("note", escape(note)) for note in [*words.model_notes(verdict), *words.file_notes(verdict)]]
    return [*lines, "| | |", "|---|---|", *[f"| {name} | {value} |" for name, value in table]]


def escape(text: object) -> str:
    """A stranger's text as one line of Markdown that shows exactly its visible characters."""
    safe = _ACTIVE.sub(lambda m: "\\" + m[0], words.visible(text))
    safe = re.sub(r"(?i)www\.", lambda m: m[0][:-1] + "\\.", safe)
    return "".join(_ENTITIES.get(c, c) for c in safe)
