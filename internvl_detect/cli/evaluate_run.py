"""The half of ``ivdetect evaluate`` that grades: its own run's rows and those of others, into tables and a page.

What came out is handed to ``report`` as plain values. Not here: judging files (``evaluate_judging``), any figure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_detect.cli.evaluate_judging import SHOWN_ERRORS, Judging, say, settings_of
from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError, DataError
from internvl_detect.evaluate.collect import System
from internvl_detect.evaluate.prediction_file import shard_path
from internvl_detect.evaluate.predictions import Prediction, read_predictions
from internvl_detect.evaluate.subjects import truth_of
from internvl_detect.evaluate.truth import Truth, find_mask
from internvl_detect.files import alone_in


@dataclass(frozen=True)
class Evaluation(Judging):
    """One call of the command."""

    def run(self) -> int:
        """Everything; gives the exit code: 0, or 1 when some rows could not be judged or graded."""
        self._check()
        with contextlib.ExitStack() as held:
            if self.out is not None:
                held.enter_context(alone_in(self.out if self.part is None else shard_path(self.out, self.part).parent))
            systems = self.judge() if self.judges else []
            if self.part is not None:
                say("this part is judged; the same command without --shard grades all of them")
                return EXIT_SOME_FAILED if self.problems else EXIT_OK
            systems += [self._theirs(given) for given in self.predictions]
            systems += [self._other_run(folder) for folder in self.against]
            return self._grade(_named_apart(systems))

    def _check(self) -> None:
        if not self.data and not self.predictions:
            raise ConfigError("nothing to measure", expected="--data, or --predictions", do="see --help")
        if self.judges and (not self.data or self.out is None):
            raise ConfigError("judging needs files and a folder", expected="--data and --out")
        if self.masks is not None and len(self.predictions) != 1:
            raise ConfigError("--masks", expected="one --predictions with it")
        if self.part is not None and not self.judges:
            raise ConfigError("--shard without a model", do="leave it out")
        if (self.robustness or self.faithfulness) and not self.model_name:
            raise ConfigError("--robustness and --faithfulness judge again", expected="--model")

    def _theirs(self, given: str) -> System:
        """Rows of others, with their truth from the data where that is named; then its paths are the data's own."""
        name, equals, path = given.partition("=")
        file = Path(path if equals else given)
        name = name if equals else file.stem
        root, truth = self.root or file.parent, None
        if self.data:
            rows, root = truth_of(self.data, root=self.root, choice=self.choice, split=self.split, note=self.note)
            truth = Truth(rows)
        ours = truth is not None
        return System(name, self._read(file, name, truth), root, self.masks or file.parent, ours, self.mask_threshold)

    def _read(self, file: Path, name: str, truth: Truth | None) -> Iterator[Prediction]:
        bad = 0

        def tell(error: DataError) -> None:
            nonlocal bad
            bad += 1
            if bad <= SHOWN_ERRORS:
                self.problems.append({"system": name, "image": "", "error": str(error)})

        fine = 0
        for row in read_predictions(file, on_error=tell):
            fine += 1
            if truth is not None:
                truth.fill(row)
            if self.masks is not None and not row.mask:
                row.mask = find_mask(self.masks, row.image)
            yield row
        if bad and not fine:
            raise DataError(self.problems[-1]["error"].rstrip("."), do="no row of the file can be used")
        if bad:
            self.notes.append(f"{bad} rows of {name} cannot be used and are left out")
        for dataset, n in (truth.missing() if truth else {}).items():
            self.notes.append(f"{name}: {n} files of {dataset or 'the data'} have no prediction")

    def _other_run(self, folder: Path) -> System:
        file = shard_path(folder, None)
        if not file.is_file():
            raise DataError(f"{folder} holds no {file.name}", expected="the folder of a run")
        root = Path(settings_of(folder).get("root") or folder)
        same = self.judges and root == self.subjects[1]
        return System(folder.resolve().name, read_predictions(file), root, folder, same, self.mask_threshold)

    def _grade(self, systems: list[System]) -> int:
        from internvl_detect.evaluate.grade import Settings, grade
        from internvl_detect.evaluate.table import in_short, tables_of, to_markdown, write_tables

        embeddings = None if self.css is None else "" if self.css == "offline" else self.css
        settings = Settings(threshold=self.threshold, rounds=self.rounds, embeddings=embeddings)
        report = grade(systems, settings, say if sys.stderr.isatty() else lambda what: None)
        if not any(system["n"] for system in report["systems"]):
            first = [error["error"] for error in [*self.problems, *report["errors"]]][:1]
            raise DataError("no row could be graded: " + "".join(first).rstrip("."), do="see docs/evaluation.md")
        report |= self.probes()
        report["errors"] = self.problems + report["errors"]
        report["notes"] = self._told(report)
        report["made_with"] = self._made_with()
        if self.out is not None:
            tables = write_tables(report, self.out)
            page = self._page(report, systems)
            say(f"tables: {tables}\npage: {page}")
        if self.as_json:
            sys.stdout.write(json.dumps(report, ensure_ascii=True, allow_nan=False) + "\n")
        else:
            sys.stdout.write(to_markdown([in_short(tables_of(report)[0])]))
            sys.stdout.write("".join(f"note: {n}\n" for n in report["notes"]))
        n = len(self.problems) + sum(system["n_errors"] for system in report["systems"])
        for error in report["errors"][:SHOWN_ERRORS]:
            say(f"{error['system']}: {error['image']} {error['error']}".encode("unicode_escape").decode("ascii"))
        return EXIT_SOME_FAILED if n else EXIT_OK

    def _told(self, report: dict[str, Any]) -> list[str]:
        from internvl_detect.evaluate.equalise import RULE

        notes = list(self.notes)
        if self.judges and self.equalise:
            notes.append(f"both classes were made alike before they were judged: {RULE}; side {self.side_px} px")
        for system in report["systems"]:
            if not system["n_made_alike"]:
                notes.append(
                    f"{system['name']}: files were judged as they are, so size and format may give labels away"
                )
        return notes

    def _made_with(self) -> dict[str, Any]:
        told = {"model": self.model_name, "adapter": self.adapter, "data": self.data, "split": self.split}
        told |= {"predictions": ", ".join(self.predictions), "css": self.css, "threshold": self.threshold}
        return {key: value for key, value in told.items() if value not in (None, "", [])}

    def _page(self, report: dict[str, Any], systems: list[System]) -> Path:
        from internvl_detect.cli.evaluate_pictures import Pictures
        from internvl_detect.evaluate.table import shown, tables_of
        from internvl_detect.report.evaluation import write_evaluation

        tables = [
            dataclasses.asdict(table)
            | {"heads": table.heads(), "texts": [[shown(c) for c in row] for row in table.rows]}
            for table in tables_of(report)
        ]
        pictures = Pictures({system.name: system for system in systems})
        to: Path = self.out  # type: ignore[assignment]
        return write_evaluation(report, tables, to / "evaluation.html", picture=pictures.picture, masks=pictures.masks)


def show_published(out: Path | None, *, as_json: bool) -> None:
    """Prints the published tables redrawn, and writes them to ``out``."""
    from internvl_detect.evaluate.published import redrawn, to_markdown

    cells = json.dumps([dataclasses.asdict(cell) for cell in redrawn()], indent=1)
    text = cells + "\n" if as_json else to_markdown()
    if out is not None:
        for name, content in (("published.md", to_markdown()), ("published.json", cells + "\n")):
            with atomically(out / name) as file:
                file.write(content.encode("utf-8"))
    sys.stdout.write(text)


def _named_apart(systems: list[System]) -> list[System]:
    taken: dict[str, int] = {}
    for system in systems:
        taken[system.name] = taken.get(system.name, 0) + 1
        if taken[system.name] > 1:
            system.name = f"{system.name} ({taken[system.name]})"
    return systems
