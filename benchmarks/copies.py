"""Copies within a picture: how many are found, how well they are marked, how many untouched photographs are called.

FORGED is a folder of `ivdetect data forge`; PHOTOGRAPHS one of untouched photographs, a folder each source. ``--fit``
prints the weights of ``model.copies``, of the training and validation forgeries and half of the sources, ``--lift``
what a found copy counts; without either the test forgeries, all methods, and the other half are measured.

    python benchmarks/copies.py FORGED [FORGED ...] --photographs PHOTOGRAPHS --tagger nano
"""

from __future__ import annotations

import argparse
import json
import random
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from internvl_detect.model import copies
from internvl_detect.model.copy_pixels import Look, laid_here, laid_there, marked_in, pairs_of
from internvl_detect.model.domain_tag import DomainTagger, spread

LEAST_IOU = 0.2  # of a candidate that is the forged copy


def forged(
    folders: list[Path], split: str, most: int, method: str | None = "copy_move"
) -> list[tuple[Path, Path, Path, str]]:
    """(picture, untouched twin, mask, method) of stills, drawn in a fixed order."""
    rows = [
        (folder / row["path"], folder / row["authentic"], folder / row["mask"], row["method"])
        for folder in folders
        for row in map(json.loads, (folder / "records.jsonl").read_text("utf-8").splitlines())
        if row["split"] == split and row["kind"] == "image" and method in (None, row["method"])
    ]
    random.Random(0).shuffle(rows)
    return rows[:most]


def photographs(folder: Path, fit: bool, most: int) -> list[Path]:
    """Untouched ones of the sources that belong to fitting, or of the others."""
    found = [p for p in sorted(folder.glob("*/*")) if (zlib.crc32(p.parent.name.encode()) % 2 == 0) == fit]
    random.Random(0).shuffle(found)
    return found[:most]


def opened(paths: list[Path]) -> Iterator[tuple[Path, Image.Image]]:
    for path in paths:
        try:
            yield path, Image.open(path).convert("RGB")
        except OSError:
            print("left out:", path)


def fit(args: argparse.Namespace) -> None:
    """Prints ``COPY``, its constant such that 1 % of the photographs reach a score of 0.5, and ``SIDE``."""
    tagger = DomainTagger.load(args.tagger, "cpu")
    rows: list[tuple[list[float], int]] = []
    turned: list[tuple[list[float], int]] = []
    for split in ("train", "val"):
        for path, _, mask, _ in forged(args.forged, split, args.most):
            picture = Image.open(path).convert("RGB")
            look = Look(np.asarray(copies.scaled(picture)))
            true = np.asarray(Image.open(mask).resize((look.width, look.height), Image.Resampling.NEAREST)) > 127
            for pair in pairs_of(look):
                marked = marked_in(look, pair)
                here, there = laid_here(look, pair, marked), laid_there(look, pair, marked)
                iou = [(each & true).sum() / max(1, (each | true).sum()) for each in (here, there)]
                if max(iou) < LEAST_IOU:
                    continue
                if split == "train":
                    rows.append((list(copies.traits(look, pair).values()), 1))
                else:  # the tagger knows the training forgeries too well
                    told = copies.sides(look, pair, here, there, tagger.look(picture).map)
                    turned.append((list(told.values()), int(iou[0] > iou[1])))
    pictures = []
    untouched = [twin for _, twin, _, _ in forged(args.forged, "train", args.most // 2)]
    for path, picture in opened(photographs(args.photographs, True, args.most) + untouched):
        look = Look(np.asarray(copies.scaled(picture)))
        found = [list(copies.traits(look, pair).values()) for pair in pairs_of(look)]
        rows += [(each, 0) for each in found]
        pictures += [found] if path not in untouched else []
    model = LogisticRegression(C=10, max_iter=5000).fit(*map(np.array, zip(*rows, strict=True)))
    odds = sorted(max(model.decision_function(found), default=-99.0) if found else -99.0 for found in pictures)
    constant = model.intercept_[0] - odds[-max(1, round(0.01 * len(odds)))]
    print("COPY =", dict(zip([*copies.COPY], [*model.coef_[0].round(3), round(constant, 3)], strict=True)))
    told, which = (np.array(each) for each in zip(*turned, strict=True))
    side = LogisticRegression(C=10, fit_intercept=False).fit(np.vstack([told, -told]), np.hstack([which, 1 - which]))
    print(
        "SIDE =", dict(zip(copies.SIDE, side.coef_[0].round(3), strict=True)), f"right in {side.score(told, which):.3f}"
    )
    print(f"{len(rows)} pairs, {len(which)} copies with sides, {len(pictures)} photographs")


def lift(args: argparse.Namespace) -> None:
    """Prints ``LIFT`` that makes the tags of found copies likeliest: validation forgeries of all methods and twins."""
    tagger = DomainTagger.load(args.tagger, "cpu")
    rows = forged(args.forged, "val", args.most, None)
    labelled = [(path, int(method != "face_swap")) for path, _, _, method in rows]
    labelled += [(twin, 0) for _, twin, _, _ in rows] + [
        (path, 0) for path in photographs(args.photographs, True, args.most)
    ]
    labels = dict(labelled)
    told = []
    for path, picture in opened([*labels]):
        found = copies.find_copy(picture)
        if found.found:
            share = tagger.look(picture).probabilities[copies.EDITED]
            told.append((labels[path], np.log(share / (1 - share)), found.odds))
    truth, tag, odds = (np.array(each) for each in zip(*told, strict=True))
    best = max(
        ((a, b) for a in np.arange(0, 8, 0.25) for b in np.arange(0, 2.1, 0.1)),
        key=lambda ab: (
            -np.logaddexp(0, (1 - 2 * truth) * (tag + np.minimum(ab[0] + ab[1] * odds, copies.MOST_LIFT))).sum()
        ),
    )
    print(f"LIFT = {best}, of {len(truth)} found, {int(truth.sum())} edited, of {len(labels)}")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of the test forgeries (``--split``) and of photographs of other sources."""
    tagger = None if args.tagger == "none" else DomainTagger.load(args.tagger, "cpu")
    out: dict[str, Any] = {"split": args.split}
    seconds, pixels = 0.0, 0

    def look(picture: Image.Image) -> tuple[copies.Copied, np.ndarray]:
        nonlocal seconds, pixels
        cells = tagger.look(picture).map if tagger else np.zeros((1, 1), np.float32)
        began = time.perf_counter()
        found = copies.find_copy(picture, cells if tagger else None)
        seconds, pixels = seconds + time.perf_counter() - began, pixels + picture.width * picture.height
        return found, spread(cells, picture.size) if tagger else np.zeros((picture.height, picture.width), np.float32)

    scores: dict[str, list[float]] = {}
    f1, area, before, right = [], [], [], []
    for path, twin, mask, method in forged(args.forged, args.split, args.most, None):
        picture = Image.open(path).convert("RGB")
        found, edited = look(picture)
        scores.setdefault(method, []).append(found.score)
        if method != "copy_move":
            continue
        scores.setdefault("twins", []).append(look(Image.open(twin).convert("RGB"))[0].score)
        true = np.asarray(Image.open(mask)) > 127
        copy = found.mask(picture.size) if found.found else np.zeros(true.shape, np.float32)
        f1.append(f1_score(true.ravel(), copy.ravel() > 0, zero_division=0.0))
        area.append(roc_auc_score(true.ravel(), np.maximum(edited, copy).ravel()))
        before.append(roc_auc_score(true.ravel(), edited.ravel()))
        if found.found:
            right.append(f1[-1] > 0.2)
    out |= {"pixel_f1": np.mean(f1), "pixel_auc": np.mean(area), "pixel_auc_without": np.mean(before)}
    out |= {"found_and_marked_right": np.mean(right), "seconds_per_megapixel_forged": seconds / pixels * 1e6}
    seconds, pixels, searched = 0.0, 0, []
    for _, picture in opened(photographs(args.photographs, False, args.most)):
        scores.setdefault("photographs", []).append(look(picture)[0].score)
        searched.append(min(picture.width * picture.height, copies.MOST_PX))
    out |= {"seconds_a_photograph": seconds / len(searched), "megapixels_a_photograph": pixels / len(searched) / 1e6}
    out["called"] = {name: f"{np.mean(np.array(s) >= 0.5):.4f} of {len(s)}" for name, s in scores.items()}
    for against in ("twins", "photographs"):
        both = scores["copy_move"] + scores[against]
        out[f"auc_{against}"] = roc_auc_score([1] * len(scores["copy_move"]) + [0] * len(scores[against]), both)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("forged", nargs="+", type=Path)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--tagger", default="nano")
    parser.add_argument("--split", default="test")
    parser.add_argument("--most", type=int, default=10**9)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--lift", action="store_true")
    chosen = parser.parse_args()
    if chosen.fit:
        fit(chosen)
    elif chosen.lift:
        lift(chosen)
    else:
        print(json.dumps(measure(chosen), indent=1, default=lambda value: round(float(value), 4)))
