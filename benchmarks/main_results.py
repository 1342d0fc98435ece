"""The main table: the embedded detector and every baseline on the same equalised pictures, with intervals.

DATA is the README's tree of datasets, whatever part of it is there, published folders, or a folder with manifest.csv.
Files with a split keep it; the others are divided by group, one half is the test of every row of the table. What is
fitted is fitted twice: on forged twins of the other half's photographs (both classes have the same content), and on
that half itself with its own labels. Besides the files of the test, twins of its photographs are scored: they say
whether a system sees forging at all. Clips are measured by the mean of their frames.

Writes OUT/main.json, main.md, main.svg (robustness) and OUT/predictions/*.jsonl, one row a file.

    python benchmarks/main_results.py DATA --limit 60 --out results
"""

from __future__ import annotations

import argparse
import io
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from internvl_detect.data.forge.edits import Rebuild
from internvl_detect.data.jsonl import atomically, write_jsonl
from internvl_detect.detect import Detector
from internvl_detect.errors import IvdetectError
from internvl_detect.evaluate.baselines import BASELINES, Baseline, scored
from internvl_detect.evaluate.detection import FIGURES, Ranked
from internvl_detect.evaluate.equalise import RULE
from internvl_detect.evaluate.faithfulness import faithfulness
from internvl_detect.evaluate.gallery import mistakes
from internvl_detect.evaluate.gather import Gathered, Item, gather
from internvl_detect.evaluate.intervals import intervals
from internvl_detect.evaluate.predictions import Prediction
from internvl_detect.evaluate.robustness import severity_curves
from internvl_detect.evaluate.slices import slices_of
from internvl_detect.evaluate.twins import Twins, twins
from internvl_detect.report.curves import curves_svg
from internvl_detect.train.rebuild import UPSAMPLERS, new_autoencoder, rebuild, train_autoencoder

DETECTOR, OWN, TWINS, UNSEEN = "detector", "half of this set", "forged twins", "twins of the test's photographs"


class Embedded:
    """The embedded detector as it answers users, behind the interface of baselines: its calibrated probability."""

    name, fits = "ivdetect nano", False

    def __init__(self) -> None:
        self.detector = Detector.from_pretrained("nano", provenance=False)

    def scores(self, pictures: Sequence[Image.Image]) -> list[float]:
        """P(fake), calibrated."""
        return [self.detector.detect(_png(picture)).probability for picture in pictures]

    def said(self, pictures: Sequence[Image.Image]) -> list[tuple[float, np.ndarray | None, str]]:
        """(P(fake), mask in [0, 1] or None, words) of each."""
        verdicts = (self.detector.detect(_png(picture), explain=True) for picture in pictures)
        return [(v.probability, None if v.mask is None else v.mask / 255, v.words or "") for v in verdicts]


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def decoders(items: Sequence[Item], seconds: float) -> tuple[list[Rebuild], list[dict[str, Any]]]:
    """Small decoders of our own, trained here on the fitting half's photographs; and how close each comes."""
    windows = [np.asarray(item.window) for item in items if item.window is not None]
    made: list[Rebuild] = []
    about = []
    for at, kind in enumerate(UPSAMPLERS if seconds and windows else ()):
        factor = (4, 8)[at % 2]
        net = new_autoencoder(kind, factor)
        quality = train_autoencoder(net, windows, seconds=seconds, seed=at)
        made.append(lambda rgb, net=net: rebuild(net, rgb))
        about.append({"upsampling": kind, "factor": factor, "psnr_db": round(quality, 1)})
    return made, about


def twins_of(items: Sequence[Item], rebuilds: Sequence[Rebuild], side_px: int, per_photo: int) -> Twins:
    """Twins of the photographs among the items, saved as files of the set are."""
    photographs = [(item.row.path, item.window) for item in items if item.window is not None]
    qualities = [item.outside.info["file"].get("quality") for item in items]
    return twins(photographs, side_px=side_px, rebuilds=rebuilds, qualities=qualities, per_photo=per_photo)


def by_file(items: Sequence[Item], found: Sequence[tuple[float | None, str]]) -> list[tuple[float | None, str]]:
    """Scores of pictures to those of files: the mean over a clip's frames that have one."""
    at, files = 0, []
    for item in items:
        own = found[at : at + len(item.pictures)]
        at += len(own)
        values = [score for score, _ in own if score is not None]
        files.append((float(np.mean(values)), "") if values else own[0])
    return files


def figures(scores: Sequence[float | None], fake: Sequence[int], groups: Sequence[str]) -> dict[str, Any]:
    """What stands in a line: every figure of detection at 0.5, two intervals by source group, counts."""
    kept = [i for i, score in enumerate(scores) if score is not None]
    y = np.array([fake[i] for i in kept], int)
    group = np.unique(np.array([groups[i] for i in kept], str), return_inverse=True)[1]
    rows = Ranked([scores[i] for i in kept], y, None, group)  # type: ignore[list-item]
    low, high = intervals(rows.values, rows.n_groups, rounds=500)
    told: dict[str, Any] = {"n_real": int((y == 0).sum()), "n_fake": int(y.sum()), "failed": len(scores) - len(kept)}
    told |= {name: None if v != v else round(v, 4) for name, v in rows.figures().items()}
    for name, least, most in zip(FIGURES, low.tolist(), high.tolist(), strict=True):
        if name in ("auc", "balanced_accuracy"):
            told[f"{name}_95"] = None if least != least else [round(least, 4), round(most, 4)]
    return told


def parts_of(items: Sequence[Item]) -> dict[str, list[int]]:
    """The rows of everything, of each domain and of each dataset; what is the same as the whole once only."""
    parts: dict[str, list[int]] = {"all": list(range(len(items)))}
    for i, item in enumerate(items):
        for name in (f"domain {item.row.domain}" if item.row.domain else "", item.row.dataset):
            if name:
                parts.setdefault(name, []).append(i)
    return {name: rows for name, rows in parts.items() if name == "all" or len(rows) < len(items)}


def row_of(item: Item, score: float | None, error: str) -> dict[str, Any]:
    """One row of predictions.jsonl, as ``ivdetect evaluate --predictions`` reads it."""
    row, file = item.row, item.outside.info["file"]
    facts = {k: file.get(k) for k in ("width", "height", "format", "quality")}
    facts |= {"generator": row.generator, "domain": row.domain, "kind": row.kind, "side_px": item.pictures[0].width}
    facts = {k: v for k, v in facts.items() if v}
    return Prediction(
        row.path, row.label, score, "", row.dataset, row.group_id, truth_mask=row.mask, error=error, facts=facts
    ).to_row()


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown; a dash where one class is missing."""
    head = ("system", "fitted on", "measured on", "real", "fake", "AUC", "95 %", "balanced acc.", "real acc.")
    text = f"| {' | '.join((*head, 'fake acc.', 'failed'))} |\n|{'---|' * 11}\n"
    for r in lines:
        f = {k: "-" if v is None else f"{v:.3f}" for k, v in r.items() if v is None or isinstance(v, float)}
        both = "-" if r["auc_95"] is None else "{:.3f} to {:.3f}".format(*r["auc_95"])
        cells = (r["system"], r["fitted"] or "-", r["part"], r["n_real"], r["n_fake"], f["auc"], both)
        cells += (f["balanced_accuracy"], f["real_accuracy"], f["fake_accuracy"], r["failed"])
        text += f"| {' | '.join(map(str, cells))} |\n"
    return text


class Run:
    """One measurement: what was gathered, and the lines so far."""

    def __init__(self, found: Gathered, out: Path, decoder_seconds: float, side_px: int, per_photo: int) -> None:
        self.out, self.missing = out, list(found.missing)
        self.fit = [item for item in found.items if item.fits]
        self.test = [item for item in found.items if not item.fits]
        rebuilds, self.decoders = decoders(self.fit, decoder_seconds)
        self.twins = twins_of(self.fit, rebuilds, side_px, per_photo)
        self.unseen = twins_of(self.test, rebuilds, side_px, 1)
        self.lines: list[dict[str, Any]] = []
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.seconds: dict[str, float] = {}

    def sets(self, outside: bool) -> dict[str, tuple[list[Image.Image], list[int], list[str]]]:
        """(pictures, fake, groups) to fit on, by name."""
        pairs = [(p, i) for i in self.fit for p in ([i.outside] if outside else i.pictures)]
        own = [p for p, _ in pairs], [i.fake for _, i in pairs], [i.row.group for _, i in pairs]
        if outside:
            return {OWN: own}
        return {TWINS: (self.twins.pictures, self.twins.fake, self.twins.group), OWN: own}

    def add(self, system: Baseline, fitted: str, *, outside: bool = False) -> None:
        """Scores the test by one system and adds its lines."""
        began, before = time.monotonic(), len(self.lines)
        pictures = [p for item in self.test for p in ([item.outside] if outside else item.pictures)]
        found = scored(system, pictures)
        files = found if outside else by_file(self.test, found)
        name = f"{system.name}, files as they are" if outside else system.name
        fake, groups = [item.fake for item in self.test], [item.row.group for item in self.test]
        for part, at in parts_of(self.test).items():
            told = figures([files[i][0] for i in at], [fake[i] for i in at], [groups[i] for i in at])
            self.lines.append({"system": name, "fitted": fitted, "part": part, **told})
        if self.unseen.pictures and not outside:
            scores = [score for score, _ in scored(system, self.unseen.pictures)]
            told = figures(scores, self.unseen.fake, self.unseen.group) | {"pairs_won": self.won(scores)}
            self.lines.append({"system": name, "fitted": fitted, "part": UNSEEN, **told})
        key = re.sub(r"\W+", "_", f"{name} {fitted}".strip())
        self.rows[key] = [row_of(item, *file) for item, file in zip(self.test, files, strict=True)]
        write_jsonl(self.out / "predictions" / f"{key}.jsonl", self.rows[key])
        self.seconds[key] = round(time.monotonic() - began, 1)
        print(table(self.lines[before:]).split("\n", 2)[2], end="", flush=True)

    def won(self, scores: Sequence[float | None]) -> dict[str, float]:
        """By method, the share of pairs of twins whose forged one has the higher score, ties counting half."""
        by_method: dict[str, list[float]] = {}
        for real, fake, method in zip(scores[::2], scores[1::2], self.unseen.method[::2], strict=True):
            if real is not None and fake is not None:
                by_method.setdefault(method, []).append((fake > real) + (fake == real) / 2)
        return {method: round(float(np.mean(won)), 3) for method, won in sorted(by_method.items())}

    def baseline(self, name: str) -> None:
        """One of BASELINES, fitted on each set where it fits; what cannot be done is said under ``missing``."""
        for outside in (False, True) if name == "shortcut" else (False,):
            system = BASELINES[name]()
            for fitted, (pictures, fake, groups) in self.sets(outside).items() if system.fits else [("", ([], [], []))]:
                try:
                    system = BASELINES[name]()
                    if fitted:
                        system.fit(pictures, fake, groups)
                    self.add(system, fitted, outside=outside)
                except (IvdetectError, ImportError) as error:
                    self.missing.append(f"{system.name}: {error}")


def robustness(system: Baseline, items: Sequence[Item], most: int) -> list[dict[str, Any]]:
    """Severity curves over at most ``most`` pictures of each class."""
    some = [[i for i in items if i.fake == y and len(i.pictures) == 1][:most] for y in (0, 1)]
    chosen = some[0] + some[1]
    names, groups = [i.row.path for i in chosen], [i.row.group for i in chosen]
    pictures, fake = [i.pictures[0] for i in chosen], [i.fake for i in chosen]
    curve = severity_curves(lambda p: [s for s, _ in scored(system, p)], pictures, fake, groups, names)
    return [at.to_dict() for at in curve]


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--limit", type=int, default=120, help="files of each dataset, label and kind")
    parser.add_argument("--side", type=int, default=256, help="px of the square that is looked at")
    parser.add_argument("--frames", type=int, default=4, help="of a clip")
    parser.add_argument("--per-photo", type=int, default=3, help="pairs of twins of a photograph, for fitting")
    parser.add_argument("--decoder-seconds", type=float, default=45, help="training of each of four decoders; 0: none")
    parser.add_argument("--curves", type=int, default=30, help="pictures of each class for robustness; 0: none")
    parser.add_argument("--faithful", type=int, default=30, help="tampered pictures for faithfulness; 0: none")
    parser.add_argument("--only", action="append", choices=[DETECTOR, *BASELINES], help="leave out all others")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began, only = time.monotonic(), args.only or [DETECTOR, *BASELINES]
    found = gather(args.data, limit=args.limit, side_px=args.side, frames=args.frames)
    run = Run(found, args.out, args.decoder_seconds, args.side, args.per_photo)
    extra: dict[str, Any] = {"robustness": {}, "slices": {}, "mistakes": {}}
    for name in only:
        if name != DETECTOR:
            run.baseline(name)
            continue
        system = Embedded()
        run.add(system, "")  # type: ignore[arg-type]
        if args.curves:
            extra["robustness"][system.name] = robustness(system, run.test, args.curves)  # type: ignore[arg-type]
        if args.faithful:
            pictures = [i.pictures[0] for i in run.test if i.row.label == "tampered"][: args.faithful]
            extra["faithfulness"] = faithfulness(system.said, pictures).to_dict() | {"tampered": len(pictures)}
    if args.curves and "tagger" in only and any("tagger" in key for key in run.rows):
        extra["robustness"]["domain tagger"] = robustness(BASELINES["tagger"](), run.test, args.curves)
    for key, rows in run.rows.items():
        extra["slices"][key] = [s.to_dict() for s in slices_of(rows)[:12]]
        extra["mistakes"][key] = [m.to_dict() for m in mistakes(rows, most=8)]
    command = f"python benchmarks/main_results.py DATA --limit {args.limit} --out OUT"
    result = {"what": "detection at 0.5, 95 % intervals by source group", "command": command}
    result |= {"equalised": RULE, "side_px": args.side, "seconds": round(time.monotonic() - began, 1)}
    result |= {"files": {"test": len(run.test), "fit": len(run.fit)}, "decoders": run.decoders}
    result |= {"twins": len(run.twins.pictures), "seconds_scoring": run.seconds, "missing": run.missing}
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("main.json", json.dumps({**result, "lines": run.lines, **extra}, indent=1) + "\n"),
        ("main.md", table(run.lines)),
        ("main.svg", curves_svg(extra["robustness"])),
    ):
        with atomically(args.out / name) as file:
            file.write(text.encode())
    print(*(["missing:", *run.missing] if run.missing else []), sep="\n  ")


if __name__ == "__main__":
    main()
