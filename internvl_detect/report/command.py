"""Write a report of the kind that its name asks for: one HTML file, Markdown, or a folder with all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from internvl_detect import __version__
from internvl_detect.errors import ConfigError, OutputError
from internvl_detect.report.batch import write_batch
from internvl_detect.report.html import write_report
from internvl_detect.report.markdown import to_markdown
from internvl_detect.report.overlay import thumbnails
from internvl_detect.verdict import Failure, Verdict


def write(
    rows: Sequence[Verdict | Failure],
    out: Path,
    made_with: dict[str, Any] | None = None,
    *,
    each: bool = False,
    layers: Mapping[str, bytes] | None = None,
) -> Path:
    """Write ``rows`` to ``out`` (.html, .htm, .md, or a folder) and give the path of the page.

    ``each``: into a folder, also a page for every file; ``layers``: masks to lay over thumbnails, by path. Raises
    ConfigError for another suffix, OutputError when it cannot be written.
    """
    models = sorted({row.model for row in rows if isinstance(row, Verdict)})
    made_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts = {"made at": made_at, "version": __version__, "model": ", ".join(models), **(made_with or {})}
    suffix = out.suffix.lower()
    if out.is_dir() or not suffix:
        return write_batch(rows, out, made_with=facts, each=each, layers=layers)
    if each:
        raise ConfigError(f"--each with the file {out.name}", expected="a folder for --out")
    if suffix in (".html", ".htm"):
        return write_report(rows, out, thumbnails=thumbnails(rows), made_with=facts, layers=layers)
    if suffix != ".md":
        raise ConfigError(f"a report named {out.name}", expected="a name that ends in .html or .md, or a folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(to_markdown(rows, title="Detection report", made_with=facts), "utf-8")
    except OSError as error:
        raise OutputError(f"{out} could not be written ({error})", do="choose another name") from error
    return out
