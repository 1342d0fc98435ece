"""What ``ivdetect data shards`` does and prints. Not here: the work (``writing``, ``foreign``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from internvl_detect.data.conversations.meta import parse_meta
from internvl_detect.data.shards.foreign import shards_to_meta
from internvl_detect.data.shards.writing import write_shards
from internvl_detect.errors import EXIT_OK, DataError

MAX_PROBLEMS = 100_000  # kept to be printed; all are counted


def run_shards(meta: str | Path, out: str | Path, echo: Callable[[str], None], *, as_json: bool, **options: Any) -> int:
    """Makes shards, says what was done through ``echo``, gives the exit code."""
    report = write_shards(meta, out, **options)
    echo(report.to_json() if as_json else report.format_text())
    return report.exit_code


def run_shards_to_meta(tars: list[str], out: Path, echo: Callable[[str], None], *, as_json: bool = False) -> int:
    """Makes a training set of others' tars, says what was left out, gives the exit code."""
    problems: list[str] = []
    n_problems = 0

    def tell(error: DataError) -> None:
        nonlocal n_problems
        n_problems += 1
        if len(problems) < MAX_PROBLEMS:
            problems.append(str(error))

    meta = str(shards_to_meta(tars, out, on_error=tell))
    code = DataError.exit_code if n_problems else EXIT_OK
    samples = sum(entry.length or 0 for entry in parse_meta(meta, allow_remote=True)[0])
    if as_json:
        said = {"meta": meta, "samples": samples, "left_out": n_problems, "problems": problems, "exit_code": code}
        echo(json.dumps(said, indent=2))
    else:
        echo("\n".join([*problems, f"{meta}: {samples} samples; {n_problems} samples or tars left out"]))
    return code
