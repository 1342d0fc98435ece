"""What ``ivdetect data forge`` does and prints. Not here: the work (``folder``), the options (``cli``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from internvl_detect.data.findings import did_you_mean, show
from internvl_detect.data.forge.folder import ForgeResult, forge_folder
from internvl_detect.data.forge.methods import METHODS
from internvl_detect.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError

SHOWN = 20  # problems that are printed; all of them are in forge.json


def run_forge(
    photographs: Sequence[Path],
    out: Path,
    methods: str,
    echo: Callable[[str], None],
    *,
    as_json: bool = False,
    **options: Any,
) -> int:
    """Forges and says what came of it; the exit code: 1 when some photographs could not be used.

    ``methods`` are names by commas, empty for the usual ones; the options are those of ``forge_folder``.
    """
    names = [name.strip().lower().replace("-", "_") for name in methods.split(",") if name.strip()]
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"forging method {show(name)}", do=did_you_mean(name, METHODS))
    result = forge_folder(photographs, out, methods=names or None, **options)
    echo(json.dumps(result.to_dict(), ensure_ascii=False) if as_json else in_words(result))
    return EXIT_SOME_FAILED if result.problems else EXIT_OK


def in_words(result: ForgeResult) -> str:
    """The result for a terminal."""
    counts = ", ".join(f"{name} {n}" for name, n in result.by_method.items())
    lines = [f"{result.made} forgeries made" + (f", {result.passed_over} were there" if result.passed_over else "")]
    lines += [f"in all: {counts}", "splits: " + ", ".join(f"{name} {n}" for name, n in result.by_split.items())]
    shown = [f"{show(f.file, 300)}: {show(f.problem, 300)[1:-1]}" for f in result.problems[:SHOWN]]
    if result.problems:
        lines += [f"{len(result.problems)} problems:", *(f"  {line}" for line in shown)]
    if len(result.problems) > SHOWN:
        lines.append("  ... all of them are in forge.json")
    return "\n".join([*lines, f"manifest: {result.manifest}"])
