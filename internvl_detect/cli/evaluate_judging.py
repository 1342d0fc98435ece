"""The half of ``ivdetect evaluate`` that looks at files: which they are, who judges them, and the rows that come out.

Who judges (``detect``) is handed to ``evaluate`` as a function. Not here: grading (``evaluate_run``).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from internvl_detect.data.findings import Finding, show
from internvl_detect.data.jsonl import BadJson, atomically, parse
from internvl_detect.errors import ConfigError
from internvl_detect.evaluate.collect import System
from internvl_detect.evaluate.prediction_file import PredictionsFile, merge_shards, parse_shard, shard_path
from internvl_detect.evaluate.predictions import read_predictions
from internvl_detect.evaluate.run import MASKS, Verdicts, judge, score, side_for
from internvl_detect.evaluate.subjects import Subject, subjects_of
from internvl_detect.files import read_text
from internvl_detect.progress import progress_bar

RUN = "run.json"
SHOWN_ERRORS = 10


@dataclass(frozen=True)
class Judging:
    """The command's options; ``judging`` and ``loading`` are the model's own. ``problems`` and ``notes`` grow."""

    model: str | None
    adapter: str | None
    data: str
    root: Path | None
    choice: str
    split: str
    limit: int
    out: Path | None
    shard: str
    predictions: list[str]
    masks: Path | None
    against: list[Path]
    baselines: list[str]
    fit: str
    equalise: bool
    side: int
    robustness: bool
    faithfulness: bool
    probe_limit: int
    css: str | None
    calibration: Path | None
    threshold: float
    mask_threshold: float | None
    rounds: int
    judging: dict[str, Any]
    loading: dict[str, Any]
    as_json: bool
    problems: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def part(self) -> tuple[int, int] | None:
        """The shard to judge: that of the option, or this rank's under torchrun."""
        if self.shard:
            return parse_shard(self.shard)
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        return (int(os.environ.get("RANK", "0")) + 1, ranks) if ranks > 1 else None

    @property
    def model_name(self) -> str | None:
        """Whom to judge by: the option, the embedded model where there is nothing else, None for nobody."""
        name = self.model or (None if self.predictions else "nano")
        return None if name == "none" else name

    @property
    def judges(self) -> bool:
        """Whether files are judged at all."""
        return bool(self.model_name or self.baselines)

    @cached_property
    def subjects(self) -> tuple[list[Subject], Path]:
        """(the files to judge, the folder that they are named from)."""
        from internvl_detect.evaluate.probes import evenly

        where = {"root": self.root, "choice": self.choice, "split": self.split}
        subjects, root = subjects_of(self.data, note=self.note, **where)
        return (evenly(subjects, self.limit) if self.limit else subjects), root

    @cached_property
    def side_px(self) -> int | None:
        """The side of alike pictures; None where files are judged as they are."""
        return (self.side or side_for(self.subjects[0])) if self.equalise else None

    @cached_property
    def detector(self) -> Any:
        """The model, loaded at first use."""
        from internvl_detect.detect import Detector
        from internvl_detect.detect.calibrate_files import read_calibration

        calibration = read_calibration(self.calibration) if self.calibration else None
        options = {"calibration": calibration, "word_tokens": self.judging["max_words"], "provenance": False}
        return Detector.from_pretrained(self.model_name or "nano", self.adapter, **(self.loading | options))

    def verdicts(self, *, explain: bool) -> Verdicts:
        """The model as ``evaluate`` knows whoever judges."""
        from internvl_detect.detect.question_rows import Asked

        options = {"explain": explain, "frames": self.judging["frames"], "batch_size": self.judging["batch_size"]}
        options["mask"] = self.detector.draws
        return lambda asks: self.detector.detect_many(
            (Asked(*ask) if isinstance(ask, tuple) else ask for ask in asks), **options
        )

    def judge(self) -> list[System]:
        """Judges what has no row yet, by the model and every baseline; gives them to be graded, nothing for a part."""
        subjects, root = self.subjects
        out: Path = self.out  # type: ignore[assignment]
        side = self.side_px
        self._keep_settings(out, root, side)
        mine = subjects if self.part is None else subjects[self.part[0] - 1 :: self.part[1]]
        systems = []
        made: list[tuple[str, Path, Any, float | None]] = []
        if self.model_name:
            verdicts = self.verdicts(explain=self.judging["explain"])
            run = partial(judge, mine, verdicts=verdicts, root=root, masks=out / MASKS, side_px=side)
            made.append((self.detector.loaded.name, out, run, self._map_threshold))
        for name, baseline in self._ready(root, side):
            where = out / "baselines" / name
            run = partial(score, mine, baseline=baseline, root=root, masks=where / MASKS, side_px=side)
            made.append((baseline.name, where, run, getattr(baseline, "map_threshold", None)))
        order = [(s.truth.dataset, s.truth.image) for s in subjects]
        for name, where, run, threshold in made:
            with PredictionsFile(shard_path(where, self.part)) as file:
                if len(file):
                    say(f"{name}: {len(file)} of {len(mine)} files have a prediction already")
                with progress_bar(f"judging by {name}", len(mine)) as step:
                    failed = run(file=file, step=step)
                if failed and self.part is not None:  # else the rows say so themselves
                    self.problems.append({"system": name, "image": "", "error": f"{failed} files failed"})
            if self.part is None:
                merge_shards(where, order)
                rows = read_predictions(shard_path(where, None))
                systems.append(System(name, rows, root, where, True, self.mask_threshold or threshold))
        return systems

    @property
    def _map_threshold(self) -> float | None:
        """That of the model's masks; None where it draws none."""
        return self.detector.looker.masker.threshold if self.detector.draws else None

    def _ready(self, root: Path, side: int | None) -> list[tuple[str, Any]]:
        from internvl_detect.evaluate.probes import ready

        if not self.baselines:
            return []
        fit_on, fit_root = subjects_of(self.fit, root=self.root, note=self.note) if self.fit else ([], root)
        measured = {subject.path for subject in self.subjects[0]}
        sources = {subject.truth.group_id for subject in self.subjects[0]} - {""}
        fit_on = [s for s in fit_on if s.path not in measured and s.truth.group_id not in sources]
        tagger = str(self.loading["tagger"])
        tagger = "nano" if tagger in ("auto", "none") else tagger
        made = ready(self.baselines, fit_on, root=fit_root, side_px=side, tagger=tagger)
        return list(zip(self.baselines, made, strict=True))

    def _keep_settings(self, out: Path, root: Path, side: int | None) -> None:
        """run.json: what decides a row. Raises ConfigError where the folder was begun with other settings."""
        facts = {"model": self.model_name, "adapter": self.adapter, "data": self.data, "choice": self.choice}
        facts |= {"split": self.split, "limit": self.limit, "side_px": side, "root": str(root)}
        facts |= {"calibration": str(self.calibration or ""), "max_tiles": self.loading["max_tiles"], **self.judging}
        facts |= {"tagger": self.loading["tagger"], "answers": self.detector.facts if self.model_name else None}
        del facts["batch_size"]
        facts = json.loads(json.dumps(facts))
        before = settings_of(out)
        facts["fit"] = self.fit or before.get("fit", "")  # a later call may name it for more baselines, no other one
        before |= {"fit": before.get("fit") or facts["fit"]} if before else {}
        other = [key for key in facts if before and before.get(key) != facts[key]]
        if other:
            found = f"{out} was begun with other settings ({', '.join(other)})"
            raise ConfigError(found, do="name another folder, or repeat the command that began it")
        with atomically(out / RUN) as file:
            file.write(json.dumps(facts, indent=1).encode("ascii") + b"\n")

    def probes(self) -> dict[str, Any]:
        """What files must be judged again for: ``robustness``, ``faithfulness``."""
        from internvl_detect.evaluate.clip_probes import clip_lines
        from internvl_detect.evaluate.probes import faithfulness_of, robustness_lines, score_by

        found: dict[str, Any] = {}
        if not (self.robustness or self.faithfulness):
            return found
        subjects, root = self.subjects
        where = {"root": root, "side_px": self.side_px, "limit": self.probe_limit}
        if self.robustness:
            verdicts, name, rounds = self.verdicts(explain=False), self.detector.loaded.name, min(500, self.rounds)
            found["robustness"] = robustness_lines(name, score_by(verdicts), subjects, rounds=rounds, **where)
            found["robustness"] += clip_lines(name, verdicts, subjects, limit=self.probe_limit, rounds=rounds)
        if self.faithfulness:
            level = self.mask_threshold or self._map_threshold or 0.5
            told = faithfulness_of(self.verdicts(explain=True), subjects, map_threshold=level, **where)
            found["faithfulness"] = {self.detector.loaded.name: told}
        return found

    def note(self, finding: Finding) -> None:
        """What is wrong with the data; the first SHOWN_ERRORS are told."""
        if len(self.notes) < SHOWN_ERRORS:
            self.notes.append(finding.format())


def settings_of(folder: Path) -> dict[str, Any]:
    """run.json of a folder; empty where there is none. Raises ConfigError where it is none of this program."""
    if not (folder / RUN).is_file():
        return {}
    try:
        found = parse(read_text(folder / RUN, what="settings of a run").encode("utf-8"))
    except BadJson as error:
        raise ConfigError(f"{folder / RUN}: {error.problem}", do="name another folder") from None
    if not isinstance(found, dict) or not isinstance(found.get("root", ""), str):
        raise ConfigError(f"{folder / RUN} is {show(found)}", expected="the settings of a run")
    return found


def say(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr)
