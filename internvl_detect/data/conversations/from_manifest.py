"""Conversations made from a manifest: each file is asked the standard question, and answered by its label.

    meta = manifest_to_conversations(read_manifest("manifest.csv"), "sets", root="pictures")

Not here: other questions, masks, shares of a class (``prepare``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from internvl_detect.data.conversations.meta import make_row
from internvl_detect.data.conversations.writing import write_conversations
from internvl_detect.data.labels import verity
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.questions import IMAGE_QUESTION, VIDEO_QUESTION


def manifest_to_conversations(
    rows: Iterable[ManifestRow],
    out_dir: str | Path,
    *,
    root: str | Path = ".",
    name: str = "data",
    explain: Callable[[ManifestRow], str | None] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Writes ``meta.json`` and one JSONL per split into ``out_dir``, and gives the path of ``meta.json``.

    Datasets are called ``NAME_SPLIT``, or ``NAME`` where rows have no split. Each row asks the standard question and
    answers "Yes." or "No."; ``explain`` may give the sentence that follows a yes. ``settings`` adds meta keys
    by split, like {"train": {"data_augment": True, "max_dynamic_patch": 6}}. The same rows give the same bytes.
    ``root`` is what the rows' paths are relative to. Raises OutputError, DataError.
    """
    splits: dict[str, str] = {}

    def pairs() -> Iterator[tuple[str, dict[str, Any]]]:
        for row in rows:
            dataset = f"{name}_{row.split}" if row.split else name
            splits[dataset] = row.split
            yield dataset, conversation(row, explain)

    def meta_keys(dataset: str) -> dict[str, Any]:
        split = splits[dataset]
        return {**({"split": split} if split else {}), **(settings or {}).get(split, {})}

    return write_conversations(pairs(), out_dir, root=root, settings=meta_keys)


def conversation(row: ManifestRow, explain: Callable[[ManifestRow], str | None] | None = None) -> dict[str, Any]:
    """The annotation row of one file: the standard question of its kind, and a yes or no by its label."""
    answer = "No." if verity(row.label) == "real" else "Yes."
    words = explain(row) if explain is not None and answer == "Yes." else None
    if words:
        answer = f"{answer} {words.strip()}"
    more = {"id": row.path, "label": row.label}
    if row.group_id:
        more["group_id"] = row.group_id
    if row.is_video:
        return make_row(f"<video>\n{VIDEO_QUESTION}", answer, video=row.path, **more)
    return make_row(f"<image>\n{IMAGE_QUESTION}", answer, image=row.path, **more)
