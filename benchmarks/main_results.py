"""The main table: the detector, its two parts and every baseline on the same equalised files, with intervals.

DATA is the README's tree of datasets, whatever part of it is there, published folders, or a folder with manifest.csv.
Files with a split keep it; the others are divided by group, one half is the test of every row of the table. What is
fitted is fitted twice: on forged twins of the other half's photographs (both classes have the same content), and on
that half itself with its own labels. Besides the files of the test, twins of its photographs are scored: they say
whether a system sees forging at all, and their masks are exact. Clips are measured by the mean of their frames.

Writes OUT/main.json, main.md, main.svg (robustness). What is done is kept under STATE: the same command goes on after
a kill, and with another tagger or model only what these say is measured again.

    python benchmarks/main_results.py DATA --limit 60 --out results
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from main_parts import (
    DECODERS,
    DETECTOR,
    FILES,
    TAGGER,
    TWINS,
    Embedded,
    answers_of,
    keep,
    train_decoder,
    write_rows,
    write_true_masks,
    write_twin_rows,
)
from main_tables import Measured, write_results
from PIL import Image

from internvl_detect import __version__
from internvl_detect.data.draws import number_of
from internvl_detect.errors import ConfigError, IvdetectError
from internvl_detect.evaluate.baselines import BASELINES, Baseline
from internvl_detect.evaluate.faithfulness import faithfulness
from internvl_detect.evaluate.gather import Item, gather
from internvl_detect.evaluate.robustness import severity_curves
from internvl_detect.evaluate.twins import twins
from internvl_detect.model.embedded import FOLDER as EMBEDDED_FILES
from internvl_detect.train.rebuild import Rebuilder

OWN, FORGED = "this set's other half", "forged twins"
EMBEDDED = "detector"
Stage = tuple[str, Callable[[], None]]


class Run:
    """One measurement: what was gathered, and the stages of the work. A stage is done when its file is there."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.only = args, args.only or [EMBEDDED, *BASELINES]
        self.missing: list[str] = []
        began = time.monotonic()
        found = gather(args.data, limit=args.limit, side_px=args.side, frames=args.frames)
        self.seconds: dict[str, Any] = {"gather": round(time.monotonic() - began, 1)}
        self.fit = [item for item in found.items if item.fits]
        self.test = [item for item in found.items if not item.fits]
        self.missing += found.missing
        if not self.test or not self.fit:
            raise ConfigError(f"{len(self.test)} files to test and {len(self.fit)} to fit on", do="see what is missing")
        what = [[item.row.path, item.row.label, item.row.split, item.row.group] for item in found.items]
        what += [__version__, args.side, args.frames, args.per_photo, args.decoder_seconds]
        self.state = args.state / _short(what)
        self.other_ended: Callable[[], bool] = lambda: False
        self.embedded: Embedded | None = None
        self.key = ""
        if EMBEDDED in self.only:
            self.embedded = Embedded(args.model, args.adapter, args.tagger)
            self.key = _short([self.embedded.detector.facts, args.model, *_bytes_of(args.adapter or EMBEDDED_FILES)])
            if not self.embedded.detector.draws:
                self.missing.append("no domain tagger: the model alone is measured, and no masks")
            elif self.embedded.detector.looker.fusion is None:
                self.missing.append("the adapter has no weights to fuse by: the detector's score is the model's alone")

    def decoder_stages(self) -> list[Stage]:
        """Training of each decoder."""
        folder, seconds = self.state / "decoders", self.args.decoder_seconds
        kinds = DECODERS if seconds and any(i.window is not None for i in self.fit) else ()
        return [
            (f"decoders/{kind}", lambda kind=kind: train_decoder(kind, self.fit, folder, seconds)) for kind in kinds
        ]

    def make_twins(self) -> None:
        """Twins of both halves' photographs, by the decoders that are there; the same every time."""
        began = time.monotonic()
        nets = [self.state / f"{name}.safetensors" for name, _ in self.decoder_stages()]
        rebuilds = [Rebuilder(str(path)) for path in nets if path.exists()]
        self.decoders = [json.loads(path.with_suffix(".json").read_text()) for path in nets if path.exists()]
        made = []
        for items, per_photo in ((self.fit, self.args.per_photo), (self.test, 1)):
            photographs = [(item.row.path, item.window) for item in items if item.window is not None]
            qualities = [item.outside.info["file"].get("quality") for item in items]
            options = {"rebuilds": rebuilds, "qualities": qualities, "per_photo": per_photo}
            made.append(twins(photographs, side_px=self.args.side, **options))
        self.twins, self.unseen = made
        self.seconds["twins"] = round(time.monotonic() - began, 1)

    def stages(self) -> list[Stage]:
        """All else, the longest first."""
        found: list[Stage] = []
        if self.embedded is not None:
            names = ("curves",) if self.args.curves else ()
            names += (FILES, TWINS) if self.unseen.pictures else (FILES,)
            names += ("faithful",) if self.args.faithful else ()
            found += [(f"{EMBEDDED}_{self.key}/{name}", getattr(self, f"embedded_{name}")) for name in names]
        order = sorted((name for name in self.only if name in BASELINES), key=lambda name: name != "npr")
        for name in order:
            fits = BASELINES[name]().fits
            parts = [(FORGED, False), (OWN, False)] if fits else [("", False)]
            parts = [(OWN, False), (OWN, True)] if name == "shortcut" else parts  # twins' outsides are the same
            for fitted, outside in parts:
                if name != "tagger" or self.embedded is None:  # which has a row of its own as the detector's part
                    found.append(self._baseline(name, fitted, outside))
        return found

    def _baseline(self, name: str, fitted: str, outside: bool) -> Stage:
        key = re.sub(r"\W+", "_", f"{name} {fitted}{' outside' if outside else ''}".strip())
        return f"baselines/{key}", lambda: self.baseline(name, fitted, outside, f"baselines/{key}")

    def pictures(self, items: Sequence[Item], outside: bool = False) -> list[Image.Image]:
        """All squares of some files one after the other, or what stands for the files as they are."""
        return [p for item in items for p in ([item.outside] if outside else item.pictures)]

    def made(self, name: str) -> Baseline:
        """A baseline, unfitted."""
        if name != "tagger":
            return BASELINES[name]()
        from internvl_detect.evaluate.baselines.tagger import Tagger

        return Tagger("nano" if self.args.tagger in ("auto", "none") else self.args.tagger)

    def baseline(self, name: str, fitted: str, outside: bool, key: str) -> None:
        """Fits one of BASELINES where it fits, and writes its rows of the test and of the twins."""
        system = self.made(name)
        if fitted == FORGED:
            system.fit(self.twins.pictures, self.twins.fake, self.twins.group)
        elif fitted:
            files = [item for item in self.fit for _ in ([0] if outside else item.pictures)]
            system.fit(self.pictures(self.fit, outside), [i.fake for i in files], [i.row.group for i in files])
        where = self.state / key
        if self.unseen.pictures and not outside:
            write_twin_rows(self.unseen, answers_of(system, self.unseen.pictures), where / TWINS)
        write_rows(self.test, answers_of(system, self.pictures(self.test, outside)), where / FILES, outside=outside)
        title = system.name + (", files as they are" if outside else "")
        self.describe(where, title, fitted, getattr(system, "map_threshold", None))

    def describe(self, where: Path, title: str, fitted: str, threshold: float | None) -> None:
        """Whose rows lie in a folder."""
        keep(where / "system.json", {"system": title, "fitted": fitted, "map_threshold": threshold})

    def _embedded(self, name: str) -> tuple[Embedded, dict[str, Path]]:
        one: Embedded = self.embedded  # type: ignore[assignment]
        return one, {system: self.state / f"{EMBEDDED}_{self.key}" / system / name for system in one.names}

    def embedded_files(self) -> None:
        """The rows of the test by the detector and its parts."""
        one, where = self._embedded(FILES)
        found = list(one.answers(self.pictures(self.test)))
        for name, path in where.items():
            decide = None if name == TAGGER else one.detector.calibration.decide
            write_rows(self.test, [each[name] for each in found], path, decide=decide)
            looker = one.detector.looker
            thresholds = {DETECTOR: looker.masker.threshold, TAGGER: looker.tagger.map_threshold} if looker else {}
            self.describe(path.parent, name, "", thresholds.get(name))

    def embedded_twins(self) -> None:
        """The same of the twins."""
        one, where = self._embedded(TWINS)
        found = list(one.answers(self.unseen.pictures))
        for name, path in where.items():
            write_twin_rows(self.unseen, [each[name] for each in found], path)

    def embedded_curves(self) -> None:
        """Severity curves over some pictures of each class."""
        one, _ = self._embedded("")
        one = Embedded(self.args.model, self.args.adapter, self.args.tagger, self.state / f"said_{self.key}.jsonl")
        still = [item for item in self.test if not item.times_s]
        chosen = [i for y in (0, 1) for i in drawn([i for i in still if i.fake == y], self.args.curves)]
        pictures, fake = [i.pictures[0] for i in chosen], [i.fake for i in chosen]
        names, groups = [i.row.path for i in chosen], [i.row.group for i in chosen]
        for name in one.names:
            curve = severity_curves(one.by(name), pictures, fake, groups, names)
            keep(self.state / f"{EMBEDDED}_{self.key}" / name / "curves.json", [at.to_dict() for at in curve])

    def embedded_faithful(self) -> None:
        """Whether words and masks hold, over tampered pictures."""
        one, where = self._embedded("faithful.json")
        pictures = [i.pictures[0] for i in drawn([i for i in self.test if i.row.mask], self.args.faithful)]
        forged = [p for p, m in zip(self.unseen.pictures, self.unseen.method, strict=True) if not m.endswith("_whole")]
        pictures += forged[1::2][: max(0, self.args.faithful - len(pictures))]
        told = faithfulness(one.said, pictures).to_dict() if pictures else {}
        keep(where[one.names[0]], told | {"tampered": len(pictures)})

    def work(self, stages: Sequence[Stage]) -> None:
        """Does what nobody has done or begun, and waits for what the other process has begun."""
        for name, stage in stages:
            claim = self.state / "claims" / name.replace("/", "+")
            claim.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                if not self.done(name).exists():
                    claim.touch(exist_ok=False)
                    self._do(name, stage)
        while not all(self.done(name).exists() for name, _ in stages):
            if self.other_ended():
                raise ConfigError("the other process ended early", do="repeat the command: it goes on")
            time.sleep(0.2)

    def _do(self, name: str, stage: Callable[[], None]) -> None:
        began, computing, problem = time.monotonic(), time.process_time(), ""
        try:
            stage()
        except (IvdetectError, ImportError) as error:
            problem = f"{name}: {error}"
        seconds, cpu = round(time.monotonic() - began, 1), round(time.process_time() - computing, 1)
        print(f"{name}: {problem or 'done'} ({seconds} s, {cpu} s of a core)", flush=True)
        keep(self.done(name), {"seconds": seconds, "of_a_core": cpu, "problem": problem})

    def begin_anew(self) -> None:
        """Forgets what an ended run had begun, and what could not be done."""
        for path in [*self.state.glob("claims/*"), *self.state.glob("done/*/*.json")]:
            if path.parent.name == "claims" or json.loads(path.read_text())["problem"]:
                path.unlink()

    def tell(self, stages: Sequence[Stage]) -> None:
        """Takes in how long each stage took, and what could not be done."""
        for name, _ in stages:
            told = json.loads(self.done(name).read_text())
            self.seconds[name] = {"seconds": told["seconds"], "of_a_core": told.get("of_a_core")}
            self.missing += [told["problem"]] if told["problem"] else []

    def done(self, stage: str) -> Path:
        """The file that says that a stage was done, and how long it took."""
        return self.state / "done" / f"{stage}.json"


def drawn(items: Sequence[Item], most: int) -> list[Item]:
    """Those of lowest hash, so that no folder comes before the others."""
    return sorted(items, key=lambda item: number_of(item.row.path))[:most]


def _bytes_of(folder: str | Path) -> list[str]:
    """A digest of each weight and settings file: an adapter that was trained again is another one."""
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix in (".json", ".safetensors"))
    return [hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() for path in files]


def _short(what: Any) -> str:
    return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=6).hexdigest()


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--state", type=Path, default=Path("runs/main_results"), help="what is done; may be deleted")
    parser.add_argument("--model", default="nano", help="model folder, or nano")
    parser.add_argument("--adapter", help="LoRA adapter; nano has its own")
    parser.add_argument("--tagger", default="auto", help="a domain tagger's folder, nano, none; auto: the embedded one")
    parser.add_argument("--limit", type=int, default=120, help="files of each dataset, label and kind")
    parser.add_argument("--side", type=int, default=256, help="px of the square that is looked at")
    parser.add_argument("--frames", type=int, default=4, help="of a clip")
    parser.add_argument("--per-photo", type=int, default=3, help="pairs of twins of a photograph, for fitting")
    parser.add_argument("--decoder-seconds", type=float, default=45, help="training of each of four decoders; 0: none")
    parser.add_argument("--curves", type=int, default=25, help="pictures of each class for robustness; 0: none")
    parser.add_argument("--faithful", type=int, default=30, help="tampered pictures for faithfulness; 0: none")
    parser.add_argument("--rounds", type=int, default=500, help="bootstrap draws for the intervals")
    parser.add_argument("--alone", action="store_true", help="one process, not two")
    parser.add_argument("--second", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", choices=[EMBEDDED, *BASELINES], help="leave out all others")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    began = time.monotonic()
    run = Run(args)
    other = None
    if args.second:
        first = os.getppid()
        run.other_ended = lambda: os.getppid() != first
    else:
        run.begin_anew()
        if not args.alone:
            given = sys.argv[1:] if argv is None else list(argv)
            other = subprocess.Popen([sys.executable, __file__, *given, "--second"])
            run.other_ended = lambda: other.poll() is not None
    run.work(run.decoder_stages())
    run.make_twins()
    if not args.second:
        write_true_masks(run.unseen, run.state / TWINS)
        print(f"{len(run.test)} files and {len(run.unseen.pictures)} twins to measure on", flush=True)
    run.work(run.stages())
    if args.second:
        return
    if other is not None:
        other.wait()
    run.tell([*run.decoder_stages(), *run.stages()])
    folders = [run.state / f"{EMBEDDED}_{run.key}" / name for name in run.embedded.names] if run.embedded else []
    folders += [run.state / name for name, _ in run.stages() if name.startswith("baselines/")]
    about = {
        "command": f"bash benchmarks/main_results.sh DATA OUT --limit {args.limit}",
        "side_px": args.side,
        "seconds": round(time.monotonic() - began, 1),
        "seconds_of_stages": run.seconds,
        "files": {"test": len(run.test), "fit": len(run.fit), "twins": len(run.unseen.pictures)},
        "decoders": run.decoders,
        "answers": run.embedded.detector.facts if run.embedded else None,
    }
    measured = Measured([f for f in folders if (f / "system.json").exists()], args.data, run.state / TWINS, args.rounds)
    write_results(measured, about, run.missing, args.out)
    print(*(["missing:", *run.missing] if run.missing else []), sep="\n  ")


if __name__ == "__main__":
    main()
