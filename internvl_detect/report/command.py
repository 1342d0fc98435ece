"""Write a report of the kind that a file's name asks for: HTML, or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from internvl_detect import __version__
from internvl_detect.errors import ConfigError, OutputError
from internvl_detect.report.html import write_report
from internvl_detect.report.markdown import to_markdown
from internvl_detect.report.overlay import thumbnails
from internvl_detect.verdict import Failure, Verdict


def write(rows: Sequence[Verdict | Failure], out: Path, made_with: dict[str, Any] | None = None) -> Path:
    """Write ``rows`` to ``out`` (.html, .htm or .md) and give its path.

    Raises ConfigError for another suffix, OutputError when it cannot be written.
    """
    models = sorted({row.model for row in rows if isinstance(row, Verdict)})
    facts = {"version": __version__, "model": ", ".join(models), **(made_with or {})}
    if out.suffix.lower() in (".html", ".htm"):
        return write_report(rows, out, thumbnails=thumbnails(rows), made_with=facts)
    if out.suffix.lower() != ".md":
        raise ConfigError(f"a report named {out.name}", expected="a name that ends in .html or .md")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(to_markdown(rows, title="Detection report", made_with=facts), "utf-8")
    except OSError as error:
        raise OutputError(f"{out} could not be written ({error})", do="choose another name") from error
    return out
