"""The body of ``ivdetect data prepare``: from a folder of datasets or a manifest, and a choice, to training data.

Everything that could not be used stands in OUT/findings.jsonl. Not here: the work itself (``training_set``).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_detect.data.datasets.choice import Selection, load_selection, parse_choice, select
from internvl_detect.data.datasets.mmtd import with_words
from internvl_detect.data.datasets.readers import FoundSet, find_datasets
from internvl_detect.data.findings import Finding
from internvl_detect.data.folders import Note
from internvl_detect.data.jsonl import atomically, dump
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.prepare.training_set import Prepared, PrepareOptions, claim, prepare_rows
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.files import UNFINISHED, alone_in


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
    source, out = Path(source), Path(out)
    training = wanted.training()
    validating = parse_choice(wanted.val_choice) if wanted.val_choice.strip() else None
    log = out / "findings.jsonl"
    levels: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    first: list[Finding] = []
    with alone_in(out):
        claim(out)
        for left in out.glob(f"{UNFINISHED}*"):  # by a run that was killed
            left.unlink(missing_ok=True)
        with finding_log(log) as write:

            def note(finding: Finding) -> None:
                write(finding)
                levels[finding.level] += 1
                first[:] = first or [finding]

            def counted(finding: Finding) -> None:
                left_out[finding.code] += 1
                note(finding)

            found = with_words(find_datasets(source, note=counted))
            options = dataclasses.replace(options, repeat={**weights(found, training), **options.repeat})
            rows = chosen_rows(found, training, validating, counted)
            root = source if source.is_dir() else source.parent
            try:
                more: dict[str, Any] = {"progress": progress, "facts": facts, "left_out": left_out}
                done = prepare_rows(rows, root, out, options, note=note, **more)
            except DataError as error:
                if not first or first[0].format() in error.found:
                    raise
                raise DataError(f"{error.found}; first finding: {first[0].format()}", do=f"all are in {log}") from None
    if levels:
        done.findings = f"{levels['error']} errors and {levels['warning']} warnings: {log}"
    return done


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
