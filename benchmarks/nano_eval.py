"""How well the embedded nano model tells photographs from forgeries: AUC with intervals by photograph, part by part.

Reads the corpus of ``internvl_detect.train.nano_corpus`` (held-out photographs, a source never seen, a decoder left
out) and, where given, folders of generated pictures beside folders of real ones; those are cut and re-encoded alike,
because their own sizes and formats would tell them apart. Writes results/nano.json.

    python benchmarks/nano_eval.py --corpus CORPUS --pair stylegan2_faces FAKE_DIR REAL_DIR --out results/nano.json
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from internvl_detect.data.forge.finish import Finish
from internvl_detect.evaluate.metrics import auc, balanced_accuracy, counts_at, fake_accuracy, real_accuracy
from internvl_detect.media.tiles import cut_tiles, normalise
from internvl_detect.model.checkpoint import LoadedModel, load_base
from internvl_detect.model.prompts import IMAGE_QUESTION, encode_question
from internvl_detect.model.score import p_fake
from internvl_detect.model.yes_no import yes_no_sets


@torch.inference_mode()
def scores(loaded: LoadedModel, pictures: Sequence[Image.Image]) -> list[float]:
    """Raw P(fake) of each picture, by the tiling that the adapter was trained with; batches of equal tile counts."""
    tokenizer = loaded.need_tokenizer()
    sets = yes_no_sets(tokenizer)
    tiles = [cut_tiles(p, loaded.settings.tiles).pixels for p in pictures]
    found = [0.0] * len(pictures)
    for count in sorted({len(t) for t in tiles}):
        ids = encode_question(
            tokenizer, IMAGE_QUESTION, tiles_per_image=[count], tokens_per_tile=loaded.tokens_per_tile
        )
        own = [i for i, t in enumerate(tiles) if len(t) == count]
        step = max(1, 32 // count)
        for at in range(0, len(own), step):
            part = own[at : at + step]
            pixels = torch.from_numpy(normalise(np.concatenate([tiles[i] for i in part]))).to(loaded.dtype)
            logits = loaded.model(
                input_ids=torch.tensor([ids] * len(part)), pixel_values=pixels, use_cache=False, logits_to_keep=1
            ).logits[:, -1]
            for i, score in zip(part, p_fake(logits, sets).tolist(), strict=True):
                found[i] = score
    return found


def interval(score: np.ndarray, fake: np.ndarray, group: np.ndarray, rounds: int = 1000) -> list[float]:
    """95% percentile bootstrap interval of the AUC; whole photographs (groups) are drawn with replacement."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    drawn = []
    for _ in range(rounds):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        if 0 < fake[rows].sum() < len(rows):
            drawn.append(auc(score[rows], fake[rows]))
    return [round(float(q), 4) for q in np.percentile(drawn, [2.5, 97.5])]


def summary(score: Sequence[float], fake: Sequence[int], group: Sequence[str], calibrated: Callable) -> dict[str, Any]:
    """What is stored for one slice: AUC with its interval, and the accuracies at a calibrated probability of 0.5."""
    s, y, g = np.asarray(score), np.asarray(fake), np.asarray(group)
    counts = counts_at(calibrated(s), y, 0.5)
    return {
        "auc": round(auc(s, y), 4),
        "auc_95": interval(s, y, g),
        "balanced_accuracy": round(balanced_accuracy(counts), 4),
        "real_accuracy": round(real_accuracy(counts), 4),
        "fake_accuracy": round(fake_accuracy(counts), 4),
        "pictures": len(s),
        "photographs": len(set(group)),
    }


def corpus_rows(corpus: Path, split: str) -> list[dict[str, Any]]:
    """Rows of one split, each with its decoded picture."""
    rows = [json.loads(line) for line in (corpus / f"{split}.jsonl").read_text().splitlines()]
    for row in rows:
        with Image.open(corpus / row["image"]) as picture:
            row["picture"] = picture.convert("RGB")
    return rows


def equalised(folder: Path, side: int, limit: int, seed: int) -> list[tuple[str, Image.Image]]:
    """Up to ``limit`` pictures of a folder: the middle of the upper left quarter (large pictures may be 2x2 grids)
    or of the whole, made smaller to ``side`` px, and one draw of JPEG like any other's."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    rng = np.random.default_rng(seed)
    found = []
    for i in sorted(rng.permutation(len(files))[:limit]):
        picture = Image.open(files[i]).convert("RGB")
        if min(picture.size) >= 1000:
            picture = picture.crop((0, 0, picture.width // 2, picture.height // 2))
        scale = max(side / min(picture.size), 0.75)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.LANCZOS)
        data = Finish(quality=int(rng.integers(75, 96))).apply(np.asarray(picture), size=(side, side))
        found.append((files[i].name, Image.open(io.BytesIO(data)).convert("RGB")))
    return found


def main() -> None:
    """The command line; see the docstring of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--adapter", help="adapter folder; none: the base alone (default: the embedded one)")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--pair", nargs=3, action="append", default=[], metavar=("NAME", "FAKE_DIR", "REAL_DIR"))
    parser.add_argument("--limit", type=int, default=150, help="pictures of each class in a --pair")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    loaded = load_base(args.model, adapter=args.adapter)
    from internvl_detect.model.calibration import Calibration

    calibration = Calibration.from_dict(loaded.settings.calibration)
    slices: dict[str, Any] = {}

    def add(name: str, rows: list[tuple[float, int, str]]) -> None:
        if {y for _, y, _ in rows} == {0, 1}:
            s, y, g = zip(*rows, strict=True)
            slices[name] = summary(s, y, g, calibration.probabilities)
            print(name, slices[name], flush=True)

    for split in ("val_all", "test_all", "unseen_all", "left_out_all"):
        rows = corpus_rows(args.corpus, split)
        found = scores(loaded, [r["picture"] for r in rows])
        parts: dict[str, list[tuple[float, int, str]]] = {split: []}
        for score, row in zip(found, rows, strict=True):
            names = [split, f"{split}/source={row['source']}", f"{split}/kind={row['pair_kind']}"]
            if row["pair_kind"] == "whole":
                names.append(f"{split}/whole by {row['decoder']}")
            q = row["finish"]["quality"]
            names.append(f"{split}/JPEG {'75-84' if q < 85 else '85-95'}")
            for name in names:
                parts.setdefault(name, []).append((score, int(row["label"] != "real"), row["group_id"]))
        for name in sorted(parts):
            add(name, parts[name])
    for name, fake_dir, real_dir in args.pair:
        rows = []
        for truth, folder in ((1, fake_dir), (0, real_dir)):
            found = equalised(Path(folder), 224, args.limit, truth)
            values = scores(loaded, [p for _, p in found])
            rows += [(v, truth, f"{truth}/{n}") for v, (n, _) in zip(values, found, strict=True)]
        add(name, rows)
    result = {
        "what": "embedded nano model: AUC of raw P(fake), 95% bootstrap interval by photograph",
        "command": "python benchmarks/nano_eval.py --corpus CORPUS --pair NAME FAKE REAL --out results/nano.json",
        "model": loaded.name,
        "base_fingerprint": loaded.fingerprint,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "machine": f"{platform.processor() or platform.machine()}, 1 thread",
        "seconds": round(time.monotonic() - began, 1),
        "slices": slices,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
