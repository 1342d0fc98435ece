"""A tiny InternVL2 with its own tokenizer and a small data set of drawn pictures, for the tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from internvl_detect.data.conversations.meta import make_row, write_jsonl, write_meta

QUESTION = "Is it fake?"
FULL = ["train.language=full", "train.vision=full", "train.projector=full"]


def write_base(folder: Path, *, tile_px: int = 28, seed: int = 0, **over: Any) -> Path:
    """An original-format model folder of about 0.1 M parameters; one tile is (tile_px / 28)² tokens."""
    from internvl_detect.model.nano import Shape, initial_state, write_original
    from internvl_detect.model.nano_tokenizer import train_tokenizer

    tokenizer = train_tokenizer([QUESTION, "Yes. Painted by a test.", "No. Nothing to see."], pieces=560)
    sizes = {"vision_width": 32, "vision_layers": 1, "vision_heads": 2, "vision_mlp": 64}
    sizes |= {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp": 48}
    shape = Shape(tokens=569, tile_px=tile_px, **{**sizes, **over})
    patches = np.random.default_rng(seed).integers(0, 255, (64, 14, 14, 3), dtype=np.uint8)
    return write_original(folder, initial_state(shape, patches, seed), shape, tokenizer)


def draw(rng: np.random.Generator, fake: bool, size: tuple[int, int]) -> Image.Image:
    """A grey ramp with a cast of colour: reddish when real, bluish when fake."""
    width, height = size
    ramp = np.linspace(0, 150, width)[None, :, None] + rng.integers(0, 40, (1, 1, 3))
    pixels = np.broadcast_to(ramp, (height, width, 3)).copy()
    pixels[..., 2 if fake else 0] += 60
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_data(folder: Path, n: int = 12, *, seed: int = 0, sizes: Any = None, **entry: Any) -> Path:
    """meta.json with the datasets "pictures" (n rows, half of them fake), "held" (n rows) and "words" (text only)."""
    rng = np.random.default_rng(seed)
    root = folder / "pictures"
    root.mkdir(parents=True, exist_ok=True)
    sizes = sizes or [(40, 30), (60, 20), (28, 28), (90, 30), (30, 64)]
    meta = {}
    for name in ("pictures", "held"):
        rows = []
        for i in range(n):
            fake = bool(i % 2)
            draw(rng, fake, sizes[i % len(sizes)]).save(root / f"{name}{i}.png")
            answer = "Yes. Painted by a test." if fake else "No."
            rows.append(make_row(QUESTION, answer, image=f"{name}{i}.png", id=str(i)))
        write_jsonl(folder / f"{name}.jsonl", rows)
        meta[name] = {"root": "pictures", "annotation": f"{name}.jsonl", **entry}
    words = [make_row(f"What is {i} and {i}?", f"No. {2 * i}", "Sure?", "Yes.", id=str(i)) for i in range(3)]
    write_jsonl(folder / "words.jsonl", words)
    meta["words"] = {"root": "pictures", "annotation": "words.jsonl"}
    write_meta(folder / "meta.json", meta)
    return folder / "meta.json"


def tiny_settings(base: Path, meta: Path, out: Path) -> list[str]:
    """--set items of a run that takes a second or two."""
    return [
        f"weight_path={base}",
        f"data_path={meta}",
        f"output_dir={out}",
        "train_data_choice=pictures",
        "precision=fp32",
        "batch_size=4",
        "max_tokens=256",
        "max_tiles=4",
        "workers=0",
        "learning_rate=1e-3",
        "tensorboard=false",
        "gradient_checkpointing=false",
        "max_steps=6",
        "save_steps=3",
        "lora.r=4",
    ]


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without their times."""
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time_s"} for line in lines]


def losses(folder: Path) -> list[float]:
    """The training loss of every logged step."""
    return [line["loss"] for line in log_of(folder) if "loss" in line]
