"""What ``ivdetect data check`` does and prints for a meta JSON. Not here: the check itself (``check``), surveys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from internvl_detect.data.conversations.check import check


def run_check(
    meta_path: str | Path,
    echo: Callable[[str], None] = print,
    progress: Callable[[int, int], None] | None = None,
    *,
    as_json: bool = False,
    **options: Any,
) -> int:
    """Checks, says what was found through ``echo``, gives the exit code."""
    report = check(meta_path, progress=progress, **options)
    echo(report.to_json() if as_json else report.format_text())
    return report.exit_code
