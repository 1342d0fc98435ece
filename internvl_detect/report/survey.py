"""A survey of a dataset for people and for programs: JSON with stable keys, one HTML page, some lines of text.

    report = survey_report(found, comparisons, root="set")
    write_survey(report, Path("out"), sheet=contact_sheet(found, "set"))   # out/check.html, out/check.json

The page loads nothing and runs no script; every text of a stranger passes ``visible`` and the template's autoescape.
Not here: measuring (``data.survey``, ``evaluate.shortcuts``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from internvl_detect import __version__
from internvl_detect.data.jsonl import atomically
from internvl_detect.data.survey.whole import MAX_KEPT, Survey
from internvl_detect.report.contact_sheet import Cell
from internvl_detect.report.html import template
from internvl_detect.report.survey_words import summary
from internvl_detect.report.words import visible

SHOWN, SHOWN_IN_TEXT = 20, 3  # findings of one code on the page and in the text; the JSON has MAX_KEPT
_STRONGEST = 3  # shortcuts of one comparison that are told in words in the text
HTML_NAME, JSON_NAME = "check.html", "check.json"
_FEATURES = ("all", "size", "aspect", "format", "tables", "quality", "compression", "metadata", "kind", "clip")
HOW_TO_READ = (
    "A shortcut is a difference between the classes that has nothing to do with forgery. A model finds it first, "
    "scores well on this set, and fails on others.",
    "The AUC says how often a fake is told from a real file by that alone, on files not learnt from: 0.5 is chance, "
    "1.0 gives the label away. An interval that contains 0.5 is no shortcut that can be shown.",
    "A test on this set means something only as far as it lies above the AUC of all features together.",
    "Files look alike when at most 10 bits of their 128 bit hashes differ; see them before leaving any out.",
)


def survey_report(found: Survey, comparisons: Sequence[Mapping[str, Any]] = (), *, root: str = "") -> dict[str, Any]:
    """Everything as plain JSON types. ``comparisons`` are those of ``evaluate.shortcut_words``, as dicts."""
    findings = sorted(found.findings, key=lambda finding: finding.level)
    report = {
        "version": __version__,
        "root": root,
        "files": len(found.table),
        "usable": int(found.usable().sum()),
        "n_errors": found.n_errors,
        "n_warnings": found.n_warnings,
        "exit_code": found.exit_code,
        "shortcuts": list(comparisons),
        "counts": found.counts(),
        "by_code": dict(sorted(found.by_code.items())),
        "findings": [finding.to_dict() for finding in findings],
        "findings_kept_of_a_code": MAX_KEPT,
        "notes": list(found.notes),
    }
    return {**report, "summary": summary(report)}


def to_json(report: Mapping[str, Any]) -> str:
    """JSON text in ASCII: a file name that is not UTF-8 stays readable."""
    return json.dumps(report, indent=1, allow_nan=False)


def to_text(report: Mapping[str, Any]) -> str:
    """For a terminal: shortcuts, counts, ``SHOWN_IN_TEXT`` findings of each code, and last what it comes to."""
    lines: list[str] = []
    to_do: list[str] = []
    for comparison in map(_comparison, report["shortcuts"]):
        told = comparison["told"]
        if told:
            lines.append(f"Shortcuts, {comparison['title']} ({comparison['n_real']} and {comparison['n_fake']} files):")
            lines += [f"  {text}" for _, _, text in told[:_STRONGEST]]
            if more := [f"{'all together' if name == 'all' else name} {auc}" for name, auc, _ in told[_STRONGEST:]]:
                lines.append(f"  also by: {', '.join(more)}")
            to_do += comparison["to_do"]
    lines += [f"  What to do: {'; '.join(dict.fromkeys(to_do))}."] if to_do else []
    for row in report["counts"]:
        name = ", ".join(visible(row[k], 80) for k in ("dataset", "split", "label") if row[k])
        lines.append(f"{name}: {row['usable']} of {row['files']} files usable, {row['masks']} masks")
    for code, rows, left in _by_code(report, SHOWN_IN_TEXT):
        lines += [f"{code}: {_place(row)}{visible(row['problem'])}{_hint(row)}" for row in rows]
        lines += [f"{code}: ... and {left} more"] if left else []
    lines += [f"note: {visible(note)}" for note in report["notes"]]
    lines += ["", *(_line(one) for one in report["summary"])] if report["summary"] else []
    lines.append(f"{report['files']} files, {report['n_errors']} errors, {report['n_warnings']} warnings")
    return "\n".join(lines)


def write_survey(report: Mapping[str, Any], folder: Path, *, sheet: Sequence[Cell] = ()) -> Path:
    """Writes ``check.json`` and ``check.html`` into ``folder``, whole or not at all; gives the page's path.

    Raises OutputError.
    """
    with atomically(folder / JSON_NAME) as file:
        file.write(to_json(report).encode("ascii") + b"\n")
    with atomically(folder / HTML_NAME) as file:
        for piece in render(report, sheet=sheet):
            file.write(piece.encode("utf-8"))
    return folder / HTML_NAME


def render(report: Mapping[str, Any], *, sheet: Sequence[Cell] = ()) -> Iterator[str]:
    """The pieces of the page, one after the other."""
    comparisons = [_comparison(one) for one in report["shortcuts"]]
    levels = {one["code"]: one for one in report["summary"]}
    return template("survey.html.j2").generate(
        root=visible(report["root"] or "the rows given", 300),
        files=report["files"],
        usable=report["usable"],
        n_errors=report["n_errors"],
        n_warnings=report["n_warnings"],
        version=report["version"],
        notes=[visible(note) for note in report["notes"]],
        features=_FEATURES,
        comparisons=comparisons,
        to_do=list(dict.fromkeys(text for one in comparisons for text in one["to_do"])),
        summary=report["summary"],
        counts=[{k: visible(v, 80) if isinstance(v, str) else v for k, v in row.items()} for row in report["counts"]],
        sheet=sheet,
        findings=[
            (
                levels[code],
                [(_place(row), visible(row["problem"], 600), visible(row["hint"], 600)) for row in rows],
                left,
            )
            for code, rows, left in _by_code(report, SHOWN)
        ],
        how_to_read=HOW_TO_READ,
    )


def _comparison(given: Mapping[str, Any]) -> dict[str, Any]:
    name = visible(given["dataset"], 80)
    title = f"real against {visible(given['label'], 40)}" + (f" in {name}" if name else "")
    cells = []
    for name in _FEATURES:
        figures = given["features"].get(name) or {}
        value, low, high = (figures.get(k) for k in ("auc", "low", "high"))
        told = "" if value is None else f"{value:.2f}"
        tone = "" if low is None else "strong" if low > 0.7 else "weak" if low > 0.55 else ""
        cells.append({"value": told, "range": "" if low is None else f"{low:.2f}–{high:.2f}", "tone": tone})
    auc = {name: cell["value"] for name, cell in zip(_FEATURES, cells, strict=True)}
    warnings = sorted(given["warnings"], key=lambda told: told["feature"] == "all")  # it names no values: last
    return {
        "title": title,
        "n_real": given["n_real"],
        "n_fake": given["n_fake"],
        "cells": cells,
        "is_judged": any(auc.values()),
        "told": [(told["feature"], auc[told["feature"]], visible(told["text"])) for told in warnings],
        "to_do": list(dict.fromkeys(visible(told["to_do"]) for told in warnings if told["to_do"])),
    }


def _by_code(report: Mapping[str, Any], shown: int) -> list[tuple[str, list[Mapping[str, Any]], int]]:
    """(code, its first findings, how many more there are); shortcuts are told elsewhere."""
    first: dict[str, list[Mapping[str, Any]]] = {
        one["code"]: [] for one in report["summary"] if one["code"] != "shortcut"
    }
    for row in report["findings"]:
        if row["code"] in first and len(first[row["code"]]) < shown:
            first[row["code"]].append(row)
    return [(code, rows, report["by_code"][code] - len(rows)) for code, rows in first.items() if rows]


def _place(row: Mapping[str, Any]) -> str:
    """``file:line: ``, as far as they are known."""
    line = f":{row['line']}" if row["line"] else ""
    return f"{visible(row['file'], 300)}{line}: " if row["file"] else ""


def _hint(row: Mapping[str, Any]) -> str:
    return f" ({visible(row['hint'])})" if row["hint"] else ""


def _line(one: Mapping[str, Any]) -> str:
    do = "see the first lines" if one["code"] == "shortcut" else one["do"]
    return f"{one['level']:<7} {one['n']:>7} {one['what']}" + (f" -> {do}" if do else "") + f" [{one['code']}]"
