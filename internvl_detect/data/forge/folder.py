"""A set of forgeries from folders of photographs: pictures, masks, a manifest, and a record of everything done.

    out/image/*.jpg     each forgery beside its authentic twin, finished alike; out/video/*.mp4 for clips
    out/mask/*.png      0 and 255; none where the whole picture was changed
    out/manifest.csv    two rows a forgery; out/records.jsonl   one line a forgery; out/forge.json   settings, problems

The same photographs, settings and seed give the same bytes, for any number of workers and any engine. A killed run goes
on with the same call. Not here: one photograph (``item``), one clip (``clips``), what is done already (``journal``).

    result = forge_folder(["photographs"], "set", per_photo=4, seed=1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_detect.data.engine import run_ordered
from internvl_detect.data.findings import Finding
from internvl_detect.data.forge.clips import forge_clip_task
from internvl_detect.data.forge.item import Outcome, forge_photograph
from internvl_detect.data.forge.journal import MANIFEST, Journal
from internvl_detect.data.forge.methods import Rebuild
from internvl_detect.data.forge.plan import SHARES, USUAL, Settings, Task, find_sources, plan
from internvl_detect.data.forge.regions import KINDS
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.files import alone_in

CHUNK = 4  # photographs that travel to a process together


@dataclass
class ForgeResult:
    """``made`` counts forgeries of this run, ``passed_over`` those found whole from before; ``by_method`` and
    ``by_split`` both. ``problems`` are photographs, or forgeries of them, that could not be made."""

    manifest: str
    made: int = 0
    passed_over: int = 0
    by_method: dict[str, int] = field(default_factory=dict)
    by_split: dict[str, int] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**vars(self), "problems": [finding.to_dict() for finding in self.problems]}


def forge_folder(
    photographs: Sequence[str | Path],
    out: str | Path,
    *,
    per_photo: int = 2,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    rebuild: Rebuild | None = None,
    faces: Sequence[str | Path] = (),
    clips: Sequence[str | Path] = (),
    size: int = 512,
    kinds: Sequence[str] = KINDS,
    shares: Sequence[tuple[str, float]] = SHARES,
    workers: int = 0,
    engine: str = "processes",
    progress: Callable[[int, int], None] | None = None,
) -> ForgeResult:
    """Make ``per_photo`` forgeries, each with its authentic twin, of every photograph in the folders.

    ``methods`` default to splice, copy_move, removal and poisson; with ``faces`` face_swap too; with ``rebuild``
    rebuild, decoder_removal and rebuild_whole. ``size`` bounds the longer side before post-processing, in px. Each of
    ``clips`` becomes one clip with an edited stretch, and its twin. ``shares`` are those of the splits. ``progress``
    is told (done, in all) photographs and clips. What cannot be used is in the result's ``problems``; the rest goes on.

    Raises ConfigError for settings that make no sense or a folder begun with others, DataError when there is nothing to
    forge or nothing could be forged, OutputError when files cannot be written.
    """
    usual = USUAL + (("face_swap",) if faces else ())
    usual += ("rebuild", "decoder_removal", "rebuild_whole") if rebuild else ()
    chosen = tuple(dict.fromkeys(methods)) if methods else usual
    settings = Settings(str(out), per_photo, chosen, seed, size, rebuild, tuple(kinds), tuple(shares))
    settings.check(faces=bool(faces))
    given = {"photograph": photographs, "face": faces, "clip": clips}
    sources = [source for kind, paths in given.items() if paths for source in find_sources(paths, kind, skip=out)]
    if not sources:
        raise DataError("no photographs and no clips", do="name a folder of photographs")
    if len({source.name for source in sources}) < len(sources):
        raise ConfigError("a photograph is given twice under one name", do="name each folder once")
    tasks = plan(sources, settings)
    with alone_in(out):
        journal = Journal(Path(out), tasks, settings)
        try:
            return _run(tasks, journal, workers, engine, progress)
        finally:
            journal.close()


def _run(
    tasks: list[Task],
    journal: Journal,
    workers: int,
    engine: str,
    progress: Callable[[int, int], None] | None,
) -> ForgeResult:
    left = [task for task in tasks if not journal.has(task)]
    result = ForgeResult(str(journal.out / MANIFEST), passed_over=len(journal.places))
    done = len(tasks) - len(left)
    for outcome in run_ordered(forge_task, left, on_lost=_lost, engine=engine, workers=workers, chunk=CHUNK):
        result.passed_over -= sum((r["name"], r["number"]) in journal.places for r in outcome.records)
        journal.add(outcome.records)
        result.made += len(outcome.records)
        result.problems += [Finding("error", "forge", path, 0, what, hint) for path, what, hint in outcome.problems]
        done += 1
        if progress is not None:
            progress(done, len(tasks))
    if not journal.places:
        first = result.problems[0].format() if result.problems else "no forgery was asked for"
        raise DataError(f"nothing could be forged; first: {first}", do="see the reasons, or give other photographs")
    methods, splits = journal.finish()
    result.by_method, result.by_split = dict(sorted(methods.items())), dict(sorted(splits.items()))
    found = {"problems": [finding.to_dict() for finding in result.problems]}
    journal.write_summary({"finished": True, "by_method": result.by_method, "by_split": result.by_split, **found})
    return result


def forge_task(task: Task) -> Outcome:
    """The work on one photograph or clip, wherever it runs."""
    return forge_clip_task(task) if task.source.kind == "clip" else forge_photograph(task)


def _lost(task: Task, why: str) -> Outcome:
    return Outcome(task.source, problems=[(task.source.path, why, "")])
