"""The body of ``ivdetect data prepare``: from a folder of datasets or a manifest, and a choice, to training data.

Everything that could not be used stands in OUT/findings.jsonl. Not here: the work itself (``prepare``).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_detect.data.choice import Selection, load_selection, parse_choice, select
from internvl_detect.data.findings import Finding
from internvl_detect.data.folders import Note
from internvl_detect.data.jsonl import atomically, dump
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.mmtd import with_words
from internvl_detect.data.prepare import DONE, Prepared, PrepareOptions, prepare_rows
from internvl_detect.data.readers import FoundSet, find_datasets
from internvl_detect.errors import ConfigError


@dataclass(frozen=True)
class Wanted:
    """What is chosen of a source to train on, as a choice text or a selection file, and to validate on."""

    choice: str = ""
    val_choice: str = ""
    selection: Path | None = None

    def training(self) -> Selection:
        """Raises ConfigError."""
        if self.selection is None:
            return parse_choice(self.choice)
        if self.choice:
            raise ConfigError("a choice and a selection file", expected="one of them")
        return load_selection(self.selection)


def prepare_source(
    source: str | Path,
    out: str | Path,
    wanted: Wanted,
    options: PrepareOptions,
    *,
    progress: Callable[[int], None] = lambda steps: None,
    facts: Mapping[str, Any] | None = None,
) -> Prepared:
    """Prepares what is ``wanted`` of ``source`` into ``out``; weights of a selection become ``repeat_time``.

    Without a validation choice, files go to the split of their set, or by their source to one of ``options.split``;
    with one, chosen files train, those chosen for validation validate, and what both name validates. A set's own split
    is kept to. Raises ConfigError, DataError, OutputError.
    """
    source = Path(source)
    training = wanted.training()
    validating = parse_choice(wanted.val_choice) if wanted.val_choice.strip() else None
    left_out: Counter[str] = Counter()
    with finding_log(Path(out) / "findings.jsonl") as note:

        def counted(finding: Finding) -> None:
            left_out[finding.code] += 1
            note(finding)

        found = with_words(one for one in find_datasets(source, note=counted) if not _is_ours(one))
        options = dataclasses.replace(options, repeat={**weights(found, training), **options.repeat})
        rows = chosen_rows(found, training, validating, counted)
        root = source if source.is_dir() else source.parent
        more: dict[str, Any] = {"progress": progress, "facts": facts, "left_out": left_out}
        return prepare_rows(rows, root, out, options, note=note, **more)


def _is_ours(found: FoundSet) -> bool:
    """Whether it is what an earlier preparation wrote among the datasets, and none of them."""
    return (found.root / found.folder / DONE).is_file()


def chosen_rows(
    found: list[FoundSet], training: Selection, validating: Selection | None, note: Note
) -> Iterator[ManifestRow]:
    """The rows to validate on, then those to train on, with their splits; as the sets have them where ``validating``
    is None."""
    if validating is None:
        yield from select(found, training, note=note)
        return
    for row in select(found, validating, note=note):
        if row.split != "train":
            yield dataclasses.replace(row, split="val")
    for row in select(found, training, note=note):
        if row.split in ("", "train"):
            yield dataclasses.replace(row, split="train")


def weights(found: list[FoundSet], selection: Selection) -> dict[str, float]:
    """The weight of each chosen dataset, where it is not 1. Raises ConfigError when parts of one differ."""
    made: dict[str, float] = {}
    for one in found:
        names = (one.dataset.name, one.part, one.dataset.domain)
        if selection.pick_of(*names) is None:
            continue
        weight = selection.weight_of(*names)
        if made.setdefault(one.dataset.name, weight) != weight:
            found_weights = f"{made[one.dataset.name]:g} and {weight:g}"
            raise ConfigError(f"parts of {one.dataset.name} weigh {found_weights}", expected="one weight for the set")
    return {name: weight for name, weight in made.items() if weight != 1}


@contextmanager
def finding_log(path: Path) -> Iterator[Note]:
    """Gives a function that writes findings into a JSONL file, which is there when the block ends, well or not."""
    failed: Exception | None = None
    with atomically(path) as file:

        def note(finding: Finding) -> None:
            file.write(dump(finding.to_dict()).encode("utf-8") + b"\n")

        try:
            yield note
        except Exception as error:
            failed = error
    if failed is not None:
        raise failed
