"""The two ends of nano's training: the folder that it starts from, and the folders that the package ships.

    python -m internvl_detect.train.nano_weights start --corpus rows --out nano_start
    python -m internvl_detect.train.nano_weights export --base runs/nano_base/model --tokenizer T --out nano
Not here: the training between them (``ivdetect train``), what the start is (``model.nano``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from internvl_detect.errors import DataError
from internvl_detect.media.image import open_image
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.nano import Shape, initial_state, shape_of, to_original, write_original
from internvl_detect.model.nano_tokenizer import train_tokenizer

PACKAGE = Path(__file__).resolve().parents[1]


def corpus_patches(corpus: Path, *, pictures: int = 400, each: int = 20, side: int = 14, seed: int = 0) -> np.ndarray:
    """uint8 (pictures * each, side, side, 3) drawn from the training pictures of a folder of ``nano_rows``.

    Raises DataError where there are none, and MediaError for a picture that cannot be read.
    """
    parts = [corpus / f"{name}.jsonl" for name in ("train", "train_large")]
    lines = [line for part in parts if part.is_file() for line in part.read_text("utf-8").splitlines()]
    if not lines:
        raise DataError(f"{corpus} holds no training pictures", expected="train.jsonl or train_large.jsonl")
    rng = np.random.default_rng(seed)
    found = []
    for i in rng.integers(len(lines), size=pictures):
        rgb = np.asarray(open_image(corpus / json.loads(lines[i])["image"]).rgb)
        for _ in range(each if min(rgb.shape[:2]) >= side else 0):
            y, x = (int(rng.integers(n - side + 1)) for n in rgb.shape[:2])
            found.append(rgb[y : y + side, x : x + side])
    return np.stack(found)


def make_start(corpus: Path, out: Path, *, tokenizer: Path | None = None, seed: int = 0) -> Path:
    """An untrained nano whose filters fit the corpus; its tokenizer is learned from this package's own texts."""
    if tokenizer is not None:
        pieces = tokenizer.read_bytes()
    else:
        pieces = train_tokenizer([path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))])
    shape = Shape()
    state = initial_state(shape, corpus_patches(corpus, seed=seed), seed)
    return write_original(out, state, shape, pieces, dtype=torch.float32)


def export(base: Path, tokenizer: Path, out: Path) -> Path:
    """A trained native folder in the original format: bf16, config.json, tokenizer.model, ivdetect.json."""
    loaded = load_base(base, dtype="float32", device="cpu", adapter="none")
    shape = shape_of(loaded.config)
    calibration = loaded.settings.calibration
    state = to_original(loaded.model.state_dict(), shape)
    return write_original(out, state, shape, tokenizer.read_bytes(), calibration=calibration)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the docstring of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="an untrained model for a corpus")
    start.add_argument("--corpus", type=Path, required=True)
    start.add_argument("--tokenizer", type=Path, help="tokenizer.model to take instead of training one")
    start.add_argument("--out", type=Path, required=True)
    final = commands.add_parser("export", help="a trained folder in the original format")
    final.add_argument("--base", type=Path, required=True)
    final.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.model of the start")
    final.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    if args.command == "start":
        print(make_start(args.corpus, args.out, tokenizer=args.tokenizer))
    else:
        print(export(args.base, args.tokenizer, args.out))


if __name__ == "__main__":
    main()
