"""The tables of a report in CSV, JSON, Markdown and LaTeX: one line for a system on a dataset, constant answers below.

    write_tables(report, Path("out"))     # out/tables/detection.csv, .md, .tex, ...; out/evaluation.json

A number stands with its interval. What others published has columns of its own, marked "published". Not here: the page.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_detect.data.findings import printable
from internvl_detect.data.jsonl import atomically
from internvl_detect.evaluate.published import figure_of, published

TITLES = {
    "auc": "AUC", "ap": "AP", "accuracy": "ACC", "balanced_accuracy": "balanced ACC", "real_accuracy": "real ACC",
    "fake_accuracy": "fake ACC", "precision": "precision", "f1": "F1", "eer": "EER", "tpr_at_1_fpr": "TPR@1%FPR",
    "tpr_at_5_fpr": "TPR@5%FPR", "ece": "ECE", "brier": "Brier", "coverage": "coverage",
    "decided_accuracy": "ACC of decided", "pixel_f1": "pixel F1", "pixel_iou": "pixel IoU", "pixel_mcc": "pixel MCC",
    "pixel_auc": "pixel AUC", "micro_f1": "micro F1", "micro_iou": "micro IoU", "micro_mcc": "micro MCC",
    "rouge_l": "ROUGE-L", "css": "CSS", "temporal_iou": "temporal IoU", "real_with_stretch": "real with a stretch",
    "n_real": "real", "n_fake": "fake", "n_groups": "sources", "n_failed": "failed",
    "fact_fake": "fact: verity", "fact_method": "fact: method", "fact_place": "fact: place", "fact_size": "fact: size",
    "fact_traces": "fact: traces", "fact_claims": "claims that are true",
}  # fmt: skip
_LATEX = {char: "\\" + char for char in "&%$#_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
_SHORT = (
    "system",
    "dataset",
    "n_real",
    "n_fake",
    "n_failed",
    "auc",
    "balanced_accuracy",
    "real_accuracy",
    "fake_accuracy",
)
_MARKDOWN = re.compile(r"[\\`*_\[\]|<>&~:@$^!#]")  # ":" and "@" occur in bare addresses


@dataclass(frozen=True)
class Table:
    """``columns`` are keys, ``rows`` have a cell for each: text, a number, a figure (value, low, high) or None."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""

    def heads(self) -> list[str]:
        """What stands above the columns."""
        return [TITLES.get(column, column.replace("_", " ")) for column in self.columns]


def tables_of(report: Mapping[str, Any]) -> list[Table]:
    """Those that have rows."""
    found = [_detection(report), _differences(report)]
    for name, title, fixed in (
        ("localization", "Localization", ("system", "dataset", "over", "rule", "threshold", "n")),
        ("words", "Words", ("system", "dataset", "n")),
        ("clips", "Clips", ("system", "dataset", "level", "n", "n_real", "n_fake")),
        ("slices", "Slices, the worst first", ("system", "by", "value")),
    ):
        lines = report.get(name) or []
        keys = list(dict.fromkeys(k for line in lines for k in line))
        columns = (*fixed, *(k for k in keys if k not in fixed))
        rows = [tuple(line.get(column) for column in columns) for line in lines]
        found.append(_with_published(Table(name, title, columns, tuple(rows), _NOTES.get(name, "")), lines))
    if lines := report.get("robustness") or []:
        columns = tuple(lines[0])
        found.append(Table("robustness", "Robustness", columns, tuple(tuple(line.values()) for line in lines)))
    return [table for table in found if table.rows]


_NOTES = {
    "localization": "fixed: at 0.5; validation: the threshold chosen before on other files; oracle: the best for these "
    "very files, which nobody has who does not know the truth. over all: pictures without an edit count too.",
    "words": "CSS: cosine of sentence embeddings; the model that gives them changes the number.",
    "slices": "A generator has fakes only and is held against real files of its dataset, or of all; see against.",
}


def _detection(report: Mapping[str, Any]) -> Table:
    metrics = tuple(report["metrics"])
    columns = ("system", "dataset", "n_real", "n_fake", "n_groups", "n_failed", *metrics)
    rows, told = [], set()
    who = published()["reference"]
    for line in report["lines"]:
        head = (line["dataset"], line["n_real"], line["n_fake"])
        printed = tuple(figure_of("detection", line["dataset"], name) for name in ("accuracy", "f1"))
        rows.append((line["system"], *head, line["n_groups"], line["n_failed"],
                     *(line["figures"][name] for name in metrics), *printed))  # fmt: skip
        if head not in told:
            told.add(head)
            for name, figures in line["constant"].items():
                rows.append((name, *head, None, None, *(figures[metric] for metric in metrics), None, None))
    if not any(row[-2] is not None for row in rows):
        return Table("detection", "Detection", columns, tuple(row[:-2] for row in rows), _interval(report))
    columns += (f"{who} ACC (published)", f"{who} F1 (published)")
    return Table("detection", "Detection", columns, tuple(rows), _interval(report))


def _interval(report: Mapping[str, Any]) -> str:
    return (
        f"In brackets: {report['level']:.0%} interval, {report['rounds']} bootstrap draws of source groups. "
        f"Called fake: a score of {report['threshold']:g} and more. "
        "always fake, always real: answers that look at nothing."
    )


def _with_published(table: Table, lines: Sequence[Mapping[str, Any]]) -> Table:
    """Adds what others printed of the same sets, in columns of its own."""
    wanted = {"localization": ("localization", ("pixel_iou", "pixel_f1")), "words": ("explanation", ("css",))}
    if table.name not in wanted:
        return table
    name, metrics = wanted[table.name]
    printed = [tuple(figure_of(name, line["dataset"], metric) for metric in metrics) for line in lines]
    if not any(value is not None for row in printed for value in row):
        return table
    heads = tuple(f"{published()['reference']} {TITLES[metric]} (published)" for metric in metrics)
    rows = tuple((*row, *more) for row, more in zip(table.rows, printed, strict=True))
    return Table(table.name, table.title, (*table.columns, *heads), rows, table.note)


def _differences(report: Mapping[str, Any]) -> Table:
    metrics = tuple(report["metrics"])
    rows = [
        (line["system"], line["less"], line["dataset"], line["n"], *(line["figures"][name] for name in metrics))
        for line in report["differences"]
    ]
    note = "On the files that both have judged, in the same draws. An interval without 0 is a difference."
    return Table("differences", "Differences", ("system", "less", "dataset", "n", *metrics), tuple(rows), note)


def shown(cell: Any, digits: int = 3) -> str:
    """A cell for people: "0.831 [0.790, 0.872]"; "" for what is not known."""
    if isinstance(cell, Mapping):
        value, low, high = (cell.get(k) for k in ("value", "low", "high"))
        if value is None:
            return ""
        return f"{value:.{digits}f}" + ("" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]")
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.{digits}f}"
    return "" if cell is None else printable(str(cell))


def to_markdown(tables: Iterable[Table]) -> str:
    """All tables; texts of strangers can start nothing."""
    lines = []
    for table in tables:
        lines += [f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        lines += ["| " + " | ".join(table.heads()) + " |", "|" + "---|" * len(table.columns)]
        for row in table.rows:
            lines.append("| " + " | ".join(_markdown(cell) for cell in row) + " |")
        lines.append("")
    return "\n".join(lines)


def _markdown(cell: Any) -> str:
    text = shown(cell)
    return _MARKDOWN.sub(lambda m: "\\" + m[0], text) if isinstance(cell, str) else text


def in_short(table: Table) -> Table:
    """Of the detection table what fits a terminal."""
    at = [i for i, name in enumerate(table.columns) if name in _SHORT or "published" in name]
    columns = tuple(table.columns[i] for i in at)
    return Table(table.name, table.title, columns, tuple(tuple(row[i] for i in at) for row in table.rows), table.note)


def to_latex(table: Table, columns: Sequence[str] = ()) -> str:
    """A ``tabular`` without packages; ``columns`` keeps some of them."""
    at = [i for i, name in enumerate(table.columns) if not columns or name in columns]
    heads = table.heads()
    lines = [r"\begin{tabular}{" + "l" * len(at) + "}", r"\hline"]
    lines += [" & ".join(_latex(heads[i]) for i in at) + r" \\", r"\hline"]
    lines += [" & ".join(_latex(shown(row[i])) for i in at) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def to_csv(table: Table) -> str:
    """With three columns (NAME, NAME_low, NAME_high) for what has an interval. A text that a spreadsheet would run as a
    formula gets an apostrophe in front."""
    wide = [any(isinstance(row[i], Mapping) for row in table.rows) for i in range(len(table.columns))]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    heads = [
        [name, f"{name}_low", f"{name}_high"] if w else [name] for name, w in zip(table.columns, wide, strict=True)
    ]
    writer.writerow([head for group in heads for head in group])
    for row in table.rows:
        cells: list[Any] = []
        for cell, w in zip(row, wide, strict=True):
            if w:
                told = cell if isinstance(cell, Mapping) else {"value": cell}
                cells += [told.get(k) for k in ("value", "low", "high")]
            else:
                cells.append("'" + cell if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell)
        writer.writerow(["" if cell is None else printable(cell) if isinstance(cell, str) else cell for cell in cells])
    return out.getvalue()


def write_tables(report: Mapping[str, Any], out: Path) -> Path:
    """``evaluation.json`` and a folder ``tables``; gives the path of the Markdown. Raises OutputError."""
    tables = tables_of(report)
    texts = {out / "evaluation.json": json.dumps(report, indent=1, ensure_ascii=True, allow_nan=False) + "\n"}
    texts[out / "tables" / "tables.md"] = to_markdown(tables)
    for table in tables:
        texts[out / "tables" / f"{table.name}.csv"] = to_csv(table)
        texts[out / "tables" / f"{table.name}.tex"] = to_latex(table)
    for path, text in texts.items():
        with atomically(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    return out / "tables" / "tables.md"
