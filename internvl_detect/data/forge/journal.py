"""What has been made so far, so that a killed run goes on: ``records.jsonl`` grows by a line when files are whole.

At the end the lines stand in the plan's order, and the manifest follows from them. Memory holds names and offsets only.
Not here: making anything.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from internvl_detect.data.forge.plan import SUMMARY, Settings, Task
from internvl_detect.data.jsonl import MAX_LINE_BYTES, BadJson, atomically, dump, parse
from internvl_detect.data.manifest import ManifestRow, write_manifest
from internvl_detect.errors import ConfigError, OutputError
from internvl_detect.files import UNFINISHED, is_new, read_text

RECORDS, MANIFEST = "records.jsonl", "manifest.csv"
DOMAINS = {"photoshop": "ps", "deepfake": "df", "aigc_editing": "aigc", "ai_generated": "aigc"}
DATASET = "forged"
FILES = ("path", "authentic", "mask")


class Journal:
    """The records of one folder, opened to go on. Raises ConfigError when it was begun with other settings or holds
    something else, OutputError when it cannot be written."""

    def __init__(self, out: Path, tasks: Sequence[Task], settings: Settings) -> None:
        self.out, self.tasks = out, tasks
        self.facts = _facts(tasks, settings)
        self.places: dict[tuple[str, int], int] = {}  # (photograph, number) -> offset of its line
        self._check_folder()
        try:
            out.mkdir(parents=True, exist_ok=True)
            for left_over in out.glob(f"**/{UNFINISHED}*"):  # of a run that was killed while it wrote
                left_over.unlink(missing_ok=True)
            self.write_summary({"finished": False})  # first: it tells a run that goes on that the folder is ours
            self.file: BinaryIO = open(out / RECORDS, "a+b")  # noqa: SIM115 - closed by close()
            self._read()
        except OSError as error:
            raise OutputError(f"{out} could not be written: {error.strerror or error}") from None

    def _check_folder(self) -> None:
        if is_new(self.out):
            return
        records = self.out / RECORDS
        if (self.out / SUMMARY).is_file() and records.is_file() and records.stat().st_size == 0:
            return  # begun, and nothing made
        do = "name another folder, or repeat the command that began this one"
        if not (self.out / SUMMARY).is_file():
            raise ConfigError(f"{self.out} is not empty and holds no {SUMMARY}", expected="a new folder", do=do)
        try:
            before = parse(read_text(self.out / SUMMARY, what="summary").encode())["settings"]
        except (BadJson, KeyError, TypeError):
            raise ConfigError(f"{self.out / SUMMARY} is not one of this program", do=do) from None
        other = [k for k in self.facts if not isinstance(before, dict) or before.get(k) != self.facts[k]]
        if other:
            raise ConfigError(f"{self.out} was begun with other settings ({', '.join(other)})", do=do)

    def _read(self) -> None:
        """Finds what is whole; a line cut off by a kill is cut away."""
        self.file.seek(0)
        offset = 0
        while (raw := self.file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
            try:
                record = parse(raw)
                if all((self.out / record[name]).is_file() for name in FILES if record[name]):
                    self.places[record["name"], record["number"]] = offset
            except (BadJson, KeyError, TypeError):
                pass
            offset += len(raw)
        self.file.truncate(offset)

    def has(self, task: Task) -> bool:
        """Whether all of a task's forgeries are whole."""
        return all((task.source.name, number) in self.places for number in range(task.count))

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        """Records whose files are whole. Raises OutputError."""
        try:
            for record in records:
                self.places[record["name"], record["number"]] = self.file.seek(0, os.SEEK_END)
                self.file.write(dump(record).encode("utf-8") + b"\n")
            self.file.flush()
        except OSError as error:
            raise OutputError(f"{self.out / RECORDS} could not be written: {error.strerror or error}") from None

    def finish(self) -> tuple[Counter[str], Counter[str]]:
        """Brings the records into the plan's order and writes the manifest; counts by method and by split."""
        order = [key for task in self.tasks for n in range(task.count) if (key := (task.source.name, n)) in self.places]
        methods: Counter[str] = Counter()
        splits: Counter[str] = Counter()

        def lines() -> Iterator[bytes]:
            for key in order:
                self.file.seek(self.places[key])
                yield self.file.readline()

        def rows() -> Iterator[ManifestRow]:
            for line in lines():
                record = json.loads(line)
                methods[record["method"]] += 1
                splits[record["split"]] += 1
                yield from manifest_rows(record)

        write_manifest(self.out / MANIFEST, rows())
        offsets = [self.places[key] for key in order]
        if offsets != sorted(offsets) or len(order) != sum(1 for _ in self._all_lines()):
            with atomically(self.out / RECORDS) as file:
                file.writelines(lines())
        return methods, splits

    def _all_lines(self) -> Iterator[bytes]:
        self.file.seek(0)
        yield from self.file

    def write_summary(self, more: dict[str, Any]) -> None:
        """forge.json: the settings, and what else is known."""
        with atomically(self.out / SUMMARY) as file:
            file.write(json.dumps({"settings": self.facts, **more}, indent=1, ensure_ascii=False).encode("utf-8"))

    def close(self) -> None:
        self.file.close()


def manifest_rows(record: dict[str, Any]) -> tuple[ManifestRow, ManifestRow]:
    """The authentic twin's row and the forgery's, both of the forgery's domain: a choice by domain gets both."""
    shared = {"kind": record["kind"], "source": record["root"], "group_id": record["name"], "split": record["split"]}
    shared |= {"dataset": DATASET, "domain": DOMAINS[record["domain_tag"]]}
    real = ManifestRow(record["authentic"], "real", domain_tag="authentic", words=record["authentic_words"], **shared)
    fake = ManifestRow(
        record["path"],
        record["label"],
        generator=record["method"],
        mask=record["mask"],
        domain_tag=record["domain_tag"],
        words=record["words"],
        **shared,
    )
    return real, fake


def _facts(tasks: Sequence[Task], settings: Settings) -> dict[str, Any]:
    """What decides the bytes, as plain JSON values."""
    facts = {name: value for name, value in vars(settings).items() if name not in ("out", "rebuild")}
    facts["rebuild"] = repr(settings.rebuild) if settings.rebuild else ""
    names = hashlib.sha256("\0".join(sorted(task.source.name for task in tasks)).encode())
    facts |= {"sources": len(tasks), "sources_sha256": names.hexdigest()}
    return json.loads(json.dumps(facts))
