"""An evaluation as one self-contained HTML page: tables to sort, curves, slices, and the most confident mistakes.

    write_evaluation(report, tables, Path("out/evaluation.html"), picture=picture_of, masks=masks_of)

``report`` is what ``evaluate.grade`` gives, ``tables`` what ``evaluate.table`` makes of it; both as plain values. The
page loads nothing; its script, a few lines that sort tables, is the only one its policy lets run, by hash. Every text
of a stranger passes ``visible`` and the template's autoescape. Not here: any figure.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image as PILImage

from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import IvdetectError
from internvl_detect.report.curves import curves_svg, faithfulness_html
from internvl_detect.report.html import template, thumbnail
from internvl_detect.report.plots import COLOURS, Series, plot
from internvl_detect.report.words import as_words, visible

SIDE_PX = 224
MISTAKES = 12  # of each kind and system
ERRORS = 50
KINDS = {"false alarm": "real files called fake", "missed": "fake files called real"}
HOW_TO_READ = (
    "A number in brackets is a 95% interval by bootstrap over sources: what other draws of such files would give.",
    '"always fake" and "always real" look at nothing. A row that is no better than they are has learnt nothing.',
    "Accuracy depends on how many files of each class there are; balanced accuracy and AUC do not.",
    "Failed files have no row in any figure; a system that fails on what is hard looks better than it is.",
    "The oracle threshold of masks is chosen with the truth at hand; compare at the fixed or the validation threshold.",
    "Columns marked published were printed by others and not measured here.",
)
Picture = Callable[[str, Mapping[str, Any]], PILImage.Image | None]
Masks = Callable[[str, Mapping[str, Any]], list[tuple[str, PILImage.Image]]]


def write_evaluation(
    report: Mapping[str, Any],
    tables: Sequence[Mapping[str, Any]],
    destination: Path,
    *,
    picture: Picture = lambda system, row: None,
    masks: Masks = lambda system, row: [],
) -> Path:
    """Writes the page, whole or not at all. ``picture`` opens a row's picture, ``masks`` gives (name, picture) of its
    masks for a system; where they raise or give nothing none is shown. Raises OutputError."""
    with atomically(destination) as file:
        for piece in render(report, tables, picture=picture, masks=masks):
            file.write(piece.encode("utf-8"))
    return destination


def render(
    report: Mapping[str, Any],
    tables: Sequence[Mapping[str, Any]],
    *,
    picture: Picture = lambda system, row: None,
    masks: Masks = lambda system, row: [],
) -> Iterator[str]:
    """The pieces of the page, one after the other."""
    script = resources.files(__package__).joinpath("evaluation.js").read_text("utf-8")
    return template("evaluation.html.j2").generate(
        version=report["version"],
        systems=[(visible(s["name"], 120), _extent(s), i % COLOURS) for i, s in enumerate(report["systems"])],
        banners=[visible(note, 400) for note in report.get("notes", ())],
        tables=[_table(table) for table in tables],
        plots=list(_plots(report)),
        confusions=list(_confusions(report)),
        robustness=Markup(curves_svg(_by_system(report.get("robustness") or []))),  # escapes by itself
        faithfulness=Markup(faithfulness_html(report.get("faithfulness") or {})),
        galleries=_galleries(report, picture, masks),
        errors=[(visible(e["system"], 80), visible(e["image"], 300), visible(e["error"], 400))
                for e in report["errors"][:ERRORS]],
        n_errors=sum(s["n_errors"] for s in report["systems"]),
        facts=[(visible(k, 80), as_words(v)) for k, v in (report.get("made_with") or {}).items()],
        how_to_read=HOW_TO_READ,
        script=Markup(script),  # ours, and no text of a stranger
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
    )  # fmt: skip


def _extent(system: Mapping[str, Any]) -> str:
    told = f"{system['n']} files"
    if system["n_failed"]:
        told += f", {system['n_failed']} failed"
    return told + (", both classes made alike first" if system["n_made_alike"] else "")


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    rows = [[_cell(cell, text) for cell, text in zip(row, texts, strict=True)]
            for row, texts in zip(table["rows"], table["texts"], strict=True)]  # fmt: skip
    return {
        "name": table["name"],
        "title": table["title"],
        "note": table["note"],
        "heads": table["heads"],
        "rows": rows,
    }


def _cell(cell: Any, text: str) -> dict[str, Any]:
    """Its text in two parts, and the number that it is sorted by ("" for none, None for text)."""
    value = cell.get("value") if isinstance(cell, Mapping) else cell
    number = None if isinstance(value, str) else "" if value is None else float(value)
    main, _, more = text.partition(" [") if isinstance(cell, Mapping) else (visible(text, 200), "", "")
    return {"text": main, "more": f"[{more}" if more else "", "v": number}


def _plots(report: Mapping[str, Any]) -> Iterator[tuple[str, Markup]]:
    curves: Mapping[str, Any] = report["curves"]
    order = [s["name"] for s in report["systems"]]
    for key, title, x, y in (
        ("roc", "ROC", "false alarms", "fakes found"),
        ("pr", "Precision and recall", "recall", "precision"),
        ("reliability", "Reliability", "P(fake) said", "share of fakes"),
    ):
        drawn = {name: [(p[0], p[1]) for p in curves[name][key]] for name in order if name in curves}
        series = [Series(name, drawn.get(name, []), dots=key == "reliability") for name in order]
        if curves:
            yield title, plot(series, x, y, diagonal=key != "pr")


def _by_system(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        found.setdefault(line["system"], []).append(line)
    return found


def _confusions(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each system on its last set, which is all of them where there are several."""
    last = {line["system"]: line for line in report["lines"]}
    for name, line in last.items():
        rows = [
            (truth, [counts[w] for w in ("authentic", "unsure", "fake")]) for truth, counts in line["confusion"].items()
        ]
        yield {"system": visible(name, 120), "dataset": visible(line["dataset"], 80) or "all files", "rows": rows}


def _galleries(
    report: Mapping[str, Any],
    picture: Picture,
    masks: Masks,
) -> Iterator[dict[str, Any]]:
    for system, mistakes in report["mistakes"].items():
        for kind in dict.fromkeys(row["kind"] for row in mistakes):
            rows = [row for row in mistakes if row["kind"] == kind][:MISTAKES]
            cards = [_card(system, row, picture, masks) for row in rows]
            yield {"title": f"{visible(system, 80)}: {KINDS[kind]}", "cards": cards}


def _card(
    system: str,
    row: Mapping[str, Any],
    picture: Picture,
    masks: Masks,
) -> dict[str, Any]:
    try:
        shown = picture(system, row)
    except IvdetectError:
        shown = None
    try:
        drawn = masks(system, row)
    except IvdetectError:
        drawn = []
    facts = row.get("facts") or {}
    about = [row.get("dataset", ""), row.get("label", ""), facts.get("generator") or facts.get("method") or ""]
    return {
        "picture": _uri(shown),
        "masks": [(name, _uri(mask)) for name, mask in drawn],
        "name": visible(row["image"], 300),
        "short": visible(str(row["image"]).rpartition("/")[2], 40),
        "score": f"{row['score']:.3f}",
        "about": " · ".join(visible(word, 60) for word in about if word),
        "words": visible(row["words"], 400),
    }


def _uri(picture: PILImage.Image | None) -> str:
    if picture is None:
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(thumbnail(picture, SIDE_PX, 74)).decode("ascii")
