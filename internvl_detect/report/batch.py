"""A report of many files as a folder: ``index.html`` (a table to sort and filter), ``report.json``, ``report.md``.

    write_batch(rows, Path("report"), made_with={"version": "0.1.0"}, each=True)   # and files/0001_name.html, ...

The page is one file and loads nothing; its script, a few lines that sort and search the table, is the only one its
policy lets run, by hash. Rows are written one by one, so thousands need the memory of one. Not here: the page of one
file (``html``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import IvdetectError
from internvl_detect.media.image import open_image
from internvl_detect.media.video import open_video
from internvl_detect.report import words
from internvl_detect.report.html import template, thumbnail, write_report
from internvl_detect.report.markdown import to_markdown
from internvl_detect.report.overlay import thumbnails
from internvl_detect.verdict import Failure, Verdict

SIDE_PX = 96
_QUALITY = 70
_ORDER = ("fake", "unsure", "authentic", words.FAILED)


def write_batch(
    rows: Sequence[words.Row],
    folder: Path,
    *,
    made_with: Mapping[str, Any],
    each: bool = False,
    title: str = "",
    layers: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the report into ``folder`` and give its index; ``each`` adds a page for every file, with its mask.

    Pictures are shown where they can still be read. Raises OutputError when the folder cannot be written.
    """
    title = title or "Detection report"
    links = [_page_name(i, row) if each else "" for i, row in enumerate(rows, 1)]
    with atomically(folder / "index.html") as file:
        for piece in render_index(rows, made_with=made_with, title=title, links=links):
            file.write(piece.encode("utf-8"))
    if each:
        for row, link in zip(rows, links, strict=True):
            shown = {"thumbnails": thumbnails([row]), "layers": layers}
            write_report([row], folder / link, title=title, made_with=made_with, **shown)  # type: ignore[arg-type]
    with atomically(folder / "report.json") as file:
        for piece in _json_pieces(rows, made_with):
            file.write(piece.encode("utf-8"))
    with atomically(folder / "report.md") as file:
        file.write(to_markdown(rows, title=title, made_with=made_with).encode("utf-8"))
    return folder / "index.html"


def render_index(
    rows: Sequence[words.Row], *, made_with: Mapping[str, Any], title: str, links: Sequence[str]
) -> Iterator[str]:
    """The pieces of ``index.html``, one after the other."""
    counts = words.count_outcomes(rows)
    verdicts = [row for row in rows if isinstance(row, Verdict)]
    page = template("batch.html.j2")
    script = resources.files(__package__).joinpath("batch.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return page.generate(
        title=words.visible(title, 200),
        made_at=words.visible(made_with.get("made at", ""), 80),
        summary=words.summary(counts),
        counts=[(name, words.OUTCOMES[name], n) for name, n in counts.items()],
        n_files=len(rows),
        banners=list(dict.fromkeys(note for v in verdicts for note in words.model_notes(v)))[:5],
        uncalibrated=any(not v.calibrated for v in verdicts),
        rows=(_row(i, row, link) for i, (row, link) in enumerate(zip(rows, links, strict=True), 1)),
        how_to_read=words.HOW_TO_READ,
        facts=words.facts(made_with),
        script=Markup(script),  # ours, and no text of a stranger
        script_hash=digest,
    )


def _row(number: int, row: words.Row, link: str) -> dict[str, Any]:
    path = words.visible(row.path, 1000)
    cut = max(path.rfind("/"), path.rfind("\\")) + 1
    made: dict[str, Any] = {
        "number": number,
        "outcome": words.outcome(row),
        "rank": _ORDER.index(words.outcome(row)),
        "headline": words.headline(row),
        "folder": path[:cut],
        "name": path[cut:] or path,
        "link": link,
        "picture": "",
    }
    if isinstance(row, Failure):
        return made | {"share": -1, "figure": "", "evidence": [], "more": words.visible(row.error, 400)}
    telling = [e for e in row.evidence if e.details.get("strength") in ("decides", "strong", "weak")]
    figure = words.percent(row.probability) if row.calibrated else words.number(row.score, 2)
    return made | {
        "share": words.number(row.probability, 6) if row.probability == row.probability else -1,
        "figure": "signed record" if words.deciding(row) else figure,
        "picture": _picture(row),
        "evidence": [(words.evidence_name(e), words.visible(e.summary, 300), words.strength(e)) for e in telling[:3]],
        "more": words.stretch_words(row) or (f'"{words.visible(row.words, 200)}"' if row.words else ""),
    }


def _picture(row: Verdict) -> str:
    """A data URI; "" for a file that can no longer be read."""
    try:
        if row.kind == "image":
            picture = open_image(row.path).rgb
        else:
            picture = open_video(row.path, frames=1).frames[0]
    except IvdetectError:
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(thumbnail(picture, SIDE_PX, _QUALITY)).decode("ascii")


def _json_pieces(rows: Sequence[words.Row], made_with: Mapping[str, Any]) -> Iterator[str]:
    head = {"made_with": dict(made_with), "counts": words.count_outcomes(rows), "how_to_read": words.HOW_TO_READ}
    yield json.dumps(head, ensure_ascii=True, default=str)[:-1] + ', "rows": ['
    for i, row in enumerate(rows):
        yield (",\n" if i else "\n") + json.dumps(row.to_dict(), ensure_ascii=True, default=str)
    yield "\n]}\n"


def _page_name(number: int, row: words.Row) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(row.path).stem)[:60].strip("._") or "file"
    return f"files/{number:05d}_{plain}.html"
