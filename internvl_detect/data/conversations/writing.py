"""Conversations on disk: one JSONL file a dataset and the meta JSON that names them all, whole or not at all.

    write_conversations(((name, row), ...), "sets", root="pictures")

The meta JSON is written last, so a folder that has one is complete. Not here: what a row says (``asking``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from internvl_detect.data.conversations.meta import write_meta
from internvl_detect.data.findings import show
from internvl_detect.data.jsonl import atomically, dump
from internvl_detect.errors import ConfigError, DataError

MAX_DATASETS = 500  # each holds a file open


def write_conversations(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    out_dir: str | Path,
    *,
    root: str | Path,
    settings: Callable[[str], Mapping[str, Any]] | None = None,
) -> Path:
    """Writes ``(dataset, row)`` pairs as OUT/DATASET.jsonl and OUT/meta.json; gives the path of the latter.

    ``root`` is what the rows' paths are relative to. ``settings`` gives more meta keys of a dataset, or other ones,
    and is asked once its rows are there. The same rows give the same bytes. Raises OutputError, DataError, and
    ConfigError for a name that can be none.
    """
    out = Path(out_dir)
    lengths: dict[str, int] = {}
    files: dict[str, BinaryIO] = {}
    with ExitStack() as stack:
        for dataset, row in rows:
            if dataset not in files:
                if any(c in dataset for c in '/\\,|:\0"') or dataset.startswith(".") or not dataset.strip():
                    raise ConfigError(f"{show(dataset)} cannot name a dataset and its file", expected="letters, digits")
                if len(files) == MAX_DATASETS:
                    raise ConfigError(f"more than {MAX_DATASETS} datasets", do="give related files one dataset name")
                files[dataset] = stack.enter_context(atomically(out / f"{dataset}.jsonl"))
                lengths[dataset] = 0
            files[dataset].write(dump(row).encode("utf-8") + b"\n")
            lengths[dataset] += 1
        if not files:
            raise DataError("a source without rows", do="nothing was written")
    shown = relative_root(root, out)
    meta: dict[str, dict[str, Any]] = {}
    for name in sorted(lengths):
        entry = {"root": shown, "annotation": f"{name}.jsonl", "data_augment": False, "repeat_time": 1}
        meta[name] = {**entry, **(settings(name) if settings else {}), "length": lengths[name]}
    return write_meta(out / "meta.json", meta)


def relative_root(root: str | Path, out: str | Path) -> str:
    """``root`` as a meta JSON in ``out`` names it: relative, so that both may move together."""
    try:
        return Path(os.path.relpath(root, out)).as_posix()
    except ValueError:  # another drive
        return Path(os.path.abspath(root)).as_posix()
