"""Rows of many systems made into the main table: JSON, Markdown, and the robustness curves as SVG.

Each system is a folder of ``main_parts``: system.json, files.jsonl, twins.jsonl. All are graded by ``evaluate.grade``,
the first being the one that the others are compared with. Not here: measuring.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from main_parts import FILES, TWINS

from internvl_detect.data.jsonl import atomically
from internvl_detect.evaluate.collect import System
from internvl_detect.evaluate.equalise import RULE
from internvl_detect.evaluate.grade import Settings, grade
from internvl_detect.evaluate.predictions import Prediction, read_predictions
from internvl_detect.evaluate.table import Table, in_short, tables_of, to_markdown
from internvl_detect.report.curves import curves_svg

SLICES, MISTAKES = 12, 8
SHOWN = ("auc", "balanced_accuracy", "real_accuracy", "fake_accuracy")
NOTE = "The first system less each other on the same files, in the same draws. An interval without 0 is a difference."


@dataclass(frozen=True)
class Measured:
    """``folders`` of the systems; ``data``, that files and true masks are named from; ``twins``, those of the twins."""

    folders: Sequence[Path]
    data: Path
    twins: Path
    rounds: int

    def report(self, part: str, change: Callable[[Prediction], Prediction] = lambda row: row) -> dict[str, Any]:
        """The graded rows of one part; ``change`` may put a row into another set."""
        systems = []
        for folder in self.folders:
            file = folder / f"{part}.jsonl"
            if not file.exists():  # files as they are have no twins
                continue
            told = json.loads((folder / "system.json").read_text())
            name = told["system"] + (f", fitted on {told['fitted']}" if told["fitted"] else "")
            rows = (change(row) for row in read_predictions(file))
            root = self.twins if part == TWINS else self.data
            systems.append(System(name, rows, root, folder / part, True, told["map_threshold"]))
        return grade(systems, Settings(rounds=self.rounds, slices=part == FILES)) if systems else {}

    def pairs_won(self) -> Iterator[dict[str, Any]]:
        """Of each system, by method, the share of pairs of twins whose forged one has the higher score."""
        for folder in self.folders:
            if not (folder / f"{TWINS}.jsonl").exists():
                continue
            rows, won = list(read_predictions(folder / f"{TWINS}.jsonl")), {}
            for real, fake in zip(rows[::2], rows[1::2], strict=True):
                if real.score is not None and fake.score is not None:
                    share = (fake.score > real.score) + (fake.score == real.score) / 2
                    won.setdefault(str(fake.facts["method"]), []).append(share)
            told = json.loads((folder / "system.json").read_text())
            name = told["system"] + (f", fitted on {told['fitted']}" if told["fitted"] else "")
            yield {"system": name} | {k: round(float(np.mean(v)), 3) for k, v in sorted(won.items())}


def by_domain(row: Prediction) -> Prediction:
    """The row in a set of its domain."""
    row.dataset = f"domain {row.facts['domain']}" if row.facts.get("domain") else ""
    return row


def turned(line: dict[str, Any]) -> dict[str, Any]:
    """A difference the other way round: the first system less the other."""
    figures = {
        name: {
            "value": _minus(told["value"]),
            "low": _minus(told["high"]),
            "high": _minus(told["low"]),
        }
        for name, told in line["figures"].items()
    }
    return line | {"system": line["less"], "less": line["system"], "figures": figures}


def _minus(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def differences(lines: Sequence[dict[str, Any]]) -> Table:
    """Those of the figures that are shown."""
    rows = tuple((r["system"], r["less"], r["dataset"], r["n"], *(r["figures"][name] for name in SHOWN)) for r in lines)
    return Table("differences", "Paired differences", ("system", "less", "dataset", "n", *SHOWN), rows, NOTE)


def results(measured: Measured) -> tuple[dict[str, Any], list[Table]]:
    """Everything of main.json that the rows say, and the tables of main.md."""
    told: dict[str, Any] = {"systems": []}
    tables: list[Table] = []
    parts = {"files": (FILES, lambda row: row), "domains": (FILES, by_domain), "twins": (TWINS, lambda row: row)}
    titles = {"files": "Detection", "domains": "Detection by domain", "twins": "Twins of the test's photographs"}
    for name, (part, change) in parts.items():
        report = measured.report(part, change)
        sets = {line["dataset"] for line in report.get("lines", ())}
        if not report or (name == "domains" and len(sets) < 2):
            continue
        lines = [turned(line) for line in report["differences"]]
        told[name] = {"lines": report["lines"], "differences": lines, "localization": report["localization"]}
        found = {table.name: table for table in tables_of(report)}
        own = tuple(row for row in found["detection"].rows if row[5] is not None)  # constants are systems here
        if any("always" in row[0] for row in own):
            found["detection"] = replace(found["detection"], rows=own)
        tables += [replace(in_short(found["detection"]), title=titles[name])]
        tables += [replace(differences(lines), title=f"{titles[name]}: paired differences")] if lines else []
        if name == "domains":
            continue
        told["systems"] = told["systems"] or report["systems"]
        told[name]["errors"] = report["errors"]
        mask = found.get("localization")
        if mask and any(line["over"] == "tampered" for line in report["localization"]):
            tables.append(replace(mask, title=f"{titles[name]}: masks"))
        if name == "files":
            names = [system["name"] for system in report["systems"]]
            told["clips"] = report["clips"]
            told["slices"] = {n: [s for s in report["slices"] if s["system"] == n][:SLICES] for n in names}
            told["mistakes"] = {n: [*m[:MISTAKES], *m[-MISTAKES:]] for n, m in report["mistakes"].items()}
            if clips := found.get("clips"):
                tables.append(clips)
            worst = tuple(row for row in found["slices"].rows if row[0] == names[0])[:SLICES] if names else ()
            tables += [replace(found["slices"], rows=worst, title=f"Slices of the {names[0]}")] if worst else []
    won = list(measured.pairs_won())
    told["pairs_won"] = won
    if won:
        columns = tuple(dict.fromkeys(key for line in won for key in line))
        note = "Share of pairs, by how one of them was forged, in which it has the higher score; 0.5 is chance."
        rows = tuple(tuple(line.get(column) for column in columns) for line in won)
        tables.append(Table("pairs", "Twins told apart", columns, rows, note))
    return told, tables


def write_results(measured: Measured, about: dict[str, Any], missing: Sequence[str], out: Path) -> None:
    """OUT/main.json, main.md and main.svg. Raises OutputError."""
    told, tables = results(measured)
    curves, faithful = {}, {}
    for folder in measured.folders:
        name = json.loads((folder / "system.json").read_text())["system"]
        for kept, where in ((curves, "curves.json"), (faithful, "faithful.json")):
            if (folder / where).exists():
                kept[name] = json.loads((folder / where).read_text())
    head = {"what": "detection at 0.5, 95 % intervals by bootstrap over sources", "equalised": RULE, **about}
    result = {**head, "missing": list(missing), **told, "robustness": curves, "faithfulness": faithful}
    files = about["files"]
    text = f"`{about['command']}`: {files['test']} files, {files['twins']} twins. Both classes alike first: {RULE}; "
    text += f"{about['side_px']} px.\n\n{to_markdown(tables)}\n"
    text += "## Missing\n\n" + "".join(f"- {line}\n" for line in missing) if missing else ""
    for name, content in (
        ("main.json", json.dumps(result, indent=1, allow_nan=False) + "\n"),
        ("main.md", text),
        ("main.svg", curves_svg(curves)),
    ):
        with atomically(out / name) as file:
            file.write(content.encode("utf-8"))
