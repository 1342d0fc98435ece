"""What each choice in the training of the domain tagger is worth, and what tagger and InternVL2 are worth together.

One small tagger for each row of VARIANTS, all from the same start, with the same steps, batch and crop size; the test
are sources that none of them saw: decoders (on photographs held out of training), generators, and, where they are
given, sources that the shipped weights never saw either (``--never-...``). The shipped tagger and model are then
measured on the same files, alone and fused: beside the last slice theirs is the advantage of having been trained on
those sources. Pictures taken as they are get one size rule and one compression first. Intervals draw whole source
photographs; a difference is paired, by the same draws. A killed run goes on, row by row; WORK holds every score.

    python benchmarks/ablation.py --material work --generated flux=DIR --real cameras=DIR --never-real kodak=DIR \
        --work runs/ablation --out results/ablation.json
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from internvl_detect.data.draws import share_of
from internvl_detect.data.jsonl import atomically
from internvl_detect.detect import Detector
from internvl_detect.errors import DataError, IvdetectError
from internvl_detect.evaluate.detection import FIGURES, Ranked
from internvl_detect.evaluate.equalise import equalise, rng_of
from internvl_detect.evaluate.intervals import paired
from internvl_detect.media.image import open_image
from internvl_detect.model.domain_tag import DomainTagger
from internvl_detect.model.tagger_net import Shape, TaggerNet
from internvl_detect.train.material import all_rows, as_they_are, named
from internvl_detect.train.tag_data import TagRow
from internvl_detect.train.tagger import TagTraining, train_tagger
from internvl_detect.train.tagger_run import drawn
from internvl_detect.verdict import Verdict

SIDE_PX = 224
SHAPE = Shape(widths=(16, 24, 48, 96, 128), blocks=(1, 2, 2, 1), map_width=32)
Rows = list[TagRow]


def is_forged_set(row: TagRow) -> bool:
    """Whether the row is of a set that forging made, twins included."""
    return row.source == "edits" or row.source.startswith("by_")


def no_generators(rows: Rows) -> Rows:
    """Fakes are of our own decoders and edits alone."""
    return [row for row in rows if is_forged_set(row) or row.tag == "authentic"]


def one_decoder(rows: Rows) -> Rows:
    """The same with the decoder alone that forged most."""
    sizes = Counter(row.source for row in rows if row.source.startswith("by_"))
    most = max(sorted(sizes), key=sizes.__getitem__)
    return [row for row in no_generators(rows) if not row.source.startswith("by_") or row.source == most]


def unaligned(rows: Rows) -> Rows:
    """No twins, and no photograph both forged and authentic."""

    def stays(row: TagRow) -> bool:
        first = share_of(f"aligned/{row.group}") < 0.5
        return first and not is_forged_set(row) if row.tag == "authentic" else not (first and is_forged_set(row))

    return [row for row in rows if stays(row)]


COLOURS = (0, 4, 8)  # of the input, each before the three residuals of its colour
RESIDUALS = tuple(at for at in range(12) if at not in COLOURS)


@dataclass(frozen=True)
class Variant:
    """``rows``: what is trained on, of all that may be; ``inputs``: those of the stem's 12 channels that are
    seen; ``resized``: whole pictures at 224 px instead of native crops."""

    says: str
    rows: Callable[[Rows], Rows] = list
    inputs: tuple[int, ...] = (*COLOURS, *RESIDUALS)
    resized: bool = False


FULL = "all choices"
VARIANTS = {
    FULL: Variant("native crops, colours and residuals, many decoders and generators, twins"),
    "resized": Variant("whole pictures resized to 224 px", resized=True),
    "colours alone": Variant("no residuals", inputs=COLOURS),
    "residuals alone": Variant("no colours", inputs=RESIDUALS),
    "unaligned": Variant("no twins: fakes and authentic ones of different photographs", rows=unaligned),
    "no generators": Variant("fakes of our own decoders and edits alone", rows=no_generators),
    "one decoder": Variant("the same with one decoder instead of many", rows=one_decoder),
}
SHIPPED = {"tagger alone": "the shipped tagger", "nano alone": "the shipped InternVL2", "fused": "both, as shipped"}


@dataclass(frozen=True)
class Shot:
    """One file of the test."""

    part: str
    path: str
    fake: int
    group: str


def network(variant: Variant) -> TaggerNet:
    """Drawn from the same seed for all; what the variant does not see is 0."""
    torch.manual_seed(0)
    net = TaggerNet(SHAPE)
    net.filters[[at for at in range(12) if at not in variant.inputs]] = 0
    return net


def stored(picture: Image.Image, name: str, folder: Path) -> str:
    """The picture as a PNG whose name follows from ``name``."""
    path = folder / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:20]}.png"
    if not path.exists():
        coded = io.BytesIO()
        picture.save(coded, "PNG", compress_level=1)
        with atomically(path) as file:
            file.write(coded.getvalue())
    return str(path)


def small(row: TagRow, folder: Path) -> TagRow | None:
    """The row with its picture, and mask, resized as a whole; None where they cannot be read."""
    try:
        picture, size = open_image(row.path).rgb, (SIDE_PX, SIDE_PX)
        mask = stored(open_image(row.mask).rgb.resize(size, Image.Resampling.BOX), row.mask, folder) if row.mask else ""
    except IvdetectError:
        return None
    return dataclasses.replace(
        row, path=stored(picture.resize(size, Image.Resampling.BICUBIC), row.path, folder), mask=mask
    )


def tests(rows: Rows, never: Rows, left_out: Sequence[str], most: int, folder: Path) -> list[Shot]:
    """Up to ``most`` fakes of each slice and as many authentic pictures, from photographs that were not trained on."""
    held = [row for row in rows if row.split != "train"]
    real = [row for row in held if not is_forged_set(row) and row.tag == "authentic"]
    decoders = [row for row in held if row.source in left_out and is_forged_set(row)]
    generators = [row for row in rows if row.source in left_out and not is_forged_set(row)]
    known = [row for row in held if row.source not in left_out]
    parts = {"decoders left out": decoders, "generators left out": [*generators, *real], "known sources": known}
    found = []
    for part, own in {**parts, "never seen by any": never}.items():
        for fake in (1, 0):
            chosen = drawn([row for row in own if (row.tag != "authentic") == fake], most)
            for row in chosen:
                path = row.path
                if not is_forged_set(row):
                    try:
                        path = stored(equalise(open_image(path).rgb, rng_of(row.group)), row.path, folder)
                    except IvdetectError as error:
                        print(f"left out: {error}", flush=True)
                        continue
                found.append(Shot(part, path, fake, row.group))
    return found


def trained(name: str, rows: Rows, shots: Sequence[Shot], how: TagTraining, most: int, work: Path) -> dict[str, Any]:
    """Scores by path of one variant, from its file where that was made with the same settings."""
    variant = VARIANTS[name]
    own = drawn(variant.rows(rows), most)
    settings = f"{variant.says} {how} {SHAPE} {[r.path for r in own]} {[s.path for s in shots]}"

    def made() -> dict[str, Any]:
        began = time.monotonic()
        seen = [row for row in (small(row, work / "small") for row in own) if row] if variant.resized else own
        resized = time.monotonic()
        net = train_tagger(seen, work / name.replace(" ", "_"), how, start=network(variant))
        middle, tagger = time.monotonic(), DomainTagger(net)
        scores = {}
        for path in dict.fromkeys(shot.path for shot in shots):
            picture = open_image(path).rgb
            if variant.resized:
                picture = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
            scores[path] = float(1 / (1 + np.exp(-tagger.look(picture).log_odds)))
        times = {"resize": resized - began, "train": middle - resized, "look": time.monotonic() - middle}
        times = {k: round(v, 1) for k, v in times.items()}
        sources = sorted({row.source for row in own if row.tag != "authentic"})
        return {"scores": scores, "seconds": times, "rows": len(seen), "sources_of_fakes": sources}

    return kept(work / f"{name.replace(' ', '_')}.json", settings, made)


def shipped(shots: Sequence[Shot], model: str, adapter: str | None, tagger: str, work: Path) -> dict[str, Any]:
    """Scores by path of the shipped parts: {"tagger alone": {path: P(fake)}, ...}, and the seconds."""
    detector = Detector.from_pretrained(model, adapter, tagger=tagger, provenance=False)
    paths = list(dict.fromkeys(shot.path for shot in shots))

    def made() -> dict[str, Any]:
        began, found = time.monotonic(), {name: {} for name in SHIPPED}
        for path, verdict in zip(paths, detector.detect_many(paths), strict=True):
            if not isinstance(verdict, Verdict):
                raise DataError(f"{path}: {verdict.error}")
            said = {one.source: one.score for one in verdict.evidence}
            found["tagger alone"][path] = said["domain_tag"]
            found["nano alone"][path] = said.get("internvl2", verdict.score)
            if "internvl2" in said:
                found["fused"][path] = verdict.score
        return {"scores": found, "seconds": {"look": round(time.monotonic() - began, 1)}}

    return kept(work / "shipped.json", f"{detector.facts} {detector.loaded.settings.fusion} {paths}", made)


def kept(path: Path, settings: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, from ``path`` where it was made with these ``settings``."""
    key = hashlib.sha256(settings.encode("utf-8", "surrogateescape")).hexdigest()
    if path.is_file() and (found := json.loads(path.read_text("utf-8"))).get("key") == key:
        return found
    found = {**make(), "key": key}
    with atomically(path) as file:
        file.write(json.dumps(found).encode())
    return found


def figures(scores: dict[str, float], first: dict[str, float], shots: Sequence[Shot]) -> dict[str, Any]:
    """By slice: AUC, its interval, and the interval of what it is more than ``first``'s."""
    found, at = {}, list(FIGURES).index("auc")
    for part in dict.fromkeys(shot.part for shot in shots):
        own = [shot for shot in shots if shot.part == part]
        group = np.unique([shot.group for shot in own], return_inverse=True)[1]
        fake = [shot.fake for shot in own]
        if len(set(fake)) == 2:
            pair = [Ranked([s[shot.path] for shot in own], fake, None, group) for s in (first, scores)]
            less, more = (paired([a.values, b.values], a.n_groups) for a, b in (pair, pair[::-1]))
            auc = pair[1].values(np.ones(pair[1].n_groups, np.int64))[at]
            ranges = {"auc_95": more[0], "gain_95": less[1]}
            found[part] = {"auc": round(float(auc), 4)}
            found[part] |= {name: [round(float(v[at]), 4) for v in both] for name, both in ranges.items()}
    return found


def main() -> None:
    """The command line; see the docstring of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--material", type=Path, required=True, help="folder of forged sets (train.material)")
    for name in ("--generated", "--real", "--never-generated", "--never-real"):
        parser.add_argument(name, action="append", nargs="+", default=[], metavar="NAME=DIR")
    parser.add_argument("--left-out", nargs="+", help="default: every third decoder's set and every seventh generator")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rows", type=int, default=2400, help="pictures that a variant draws its crops from")
    parser.add_argument("--pictures", type=int, default=100, help="of each class, in each slice of the test")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--adapter")
    parser.add_argument("--tagger", help="of the shipped rows; without one they are left out")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--out", type=Path, default=Path("results/ablation.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    given = {
        k: named([v for part in getattr(args, k) for v in part])
        for k in ("generated", "real", "never_generated", "never_real")
    }
    rows = all_rows(args.material, given["generated"], given["real"])
    never = as_they_are(given["never_generated"], "ai_generated") + as_they_are(given["never_real"], "authentic")
    decoders = sorted({row.source for row in rows if row.source.startswith("by_")})
    left_out = args.left_out or [*decoders[1::3], *sorted(given["generated"])[3::7]]
    training = [row for row in rows if row.split == "train" and row.source not in left_out]
    began = time.monotonic()
    shots = tests(rows, never, left_out, args.pictures, args.work / "test")
    how = TagTraining(args.steps, args.batch, (SIDE_PX,), workers=0, save_every=50, shape=SHAPE)
    results: dict[str, dict[str, Any]] = {}
    for name, variant in VARIANTS.items():
        made = trained(name, training, shots, how, args.rows, args.work)
        results[name] = {"says": variant.says, **{k: v for k, v in made.items() if k != "key"}}
        told(name, results[name], results[FULL], shots)
    if args.tagger:
        made = shipped(shots, args.model, args.adapter, args.tagger, args.work)
        for name, scores in made["scores"].items():
            if scores:
                results[name] = {"says": SHIPPED[name], "scores": scores, "seconds": made["seconds"]}
                told(name, results[name], results[FULL], shots)
    counts = Counter((shot.part, "fakes" if shot.fake else "authentic") for shot in shots)
    result = {
        "what": "AUC of P(fake) with 95% intervals; gain_95: what it is more than that of the first row, paired",
        "settings": {"steps": args.steps, "batch": args.batch, "crop_px": SIDE_PX, "rows": args.rows, "seed": how.seed},
        "parameters": sum(p.numel() for p in TaggerNet(SHAPE).parameters()),
        "left_out": left_out,
        "never_seen": sorted(given["never_generated"] | given["never_real"]),
        "pictures": {part: {c: counts[part, c] for c in ("fakes", "authentic")} for part, _ in counts},
        "rows": {name: {k: v for k, v in row.items() if k != "scores"} for name, row in results.items()},
        "machine": f"{platform.processor() or platform.machine()}, 1 thread",
        "seconds": round(time.monotonic() - began, 1),
    }
    with atomically(args.out) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())


def told(name: str, row: dict[str, Any], first: dict[str, Any], shots: Sequence[Shot]) -> None:
    """Adds the figures to the row, and prints them."""
    row["slices"] = figures(row["scores"], first["scores"], shots)
    said = (f"{k} {v['auc']:.3f} ({v['auc_95'][0]:.3f} to {v['auc_95'][1]:.3f})" for k, v in row["slices"].items())
    print(f"{name}: {'; '.join(said)}; {sum(row['seconds'].values()):.0f} s", flush=True)


if __name__ == "__main__":
    main()
