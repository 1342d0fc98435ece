"""Detection against the plain way, in one run: pictures per second, seconds to a verdict, and where the time goes.

The plain way is the original script's: one picture at a time, eager attention, logits of every position, 16 greedy
tokens, the answer read from the words. Ours: a score from one prefill, alone or in batches of eight, with or without
16 words. Models: the embedded nano (four tiles a picture), and a random one of about 95 M parameters in the same
classes (one 448 px tile). Rounds are interleaved, ratios are medians of rounds, and the scores of both ways must agree.

    python benchmarks/detect.py [--rounds 5] [--models nano,random] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from internvl_detect.detect.detector import Detector
from internvl_detect.media.image import open_image
from internvl_detect.media.tiles import TileSettings, cut_tiles
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.embedded import FOLDER
from internvl_detect.model.prompts import IMAGE_QUESTION
from internvl_detect.model.score import p_fake

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from original_model import make_config, make_tensors, write_checkpoint  # noqa: E402

WORDS = 16
OUT = Path(__file__).parents[1] / "results" / "detect.json"
SIZE = (448, 448)  # one tile of the random model, four of nano's


def random_model(folder: Path) -> Path:
    """About 95 M parameters: a ViT of 22 M, a language model of 73 M, random weights, nano's tokenizer."""
    config = make_config(
        v_hidden_size=384, v_num_hidden_layers=12, v_num_attention_heads=6, v_intermediate_size=1536, v_image_size=448,
        t_hidden_size=640, t_num_hidden_layers=14, t_num_attention_heads=10, t_num_key_value_heads=2,
        t_intermediate_size=1792, t_vocab_size=8192, t_max_position_embeddings=8192,
    )  # fmt: skip
    write_checkpoint(folder, config, make_tensors(config))
    (folder / "tokenizer.model").write_bytes((FOLDER / "nano" / "tokenizer.model").read_bytes())
    return folder


def pictures(folder: Path, count: int = 8) -> list[Path]:
    """JPEG scenes with smooth shapes and fine grain."""
    made = []
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
        grain = rng.integers(-9, 10, (SIZE[1], SIZE[0], 3))
        path = folder / f"{i}.jpg"
        Image.fromarray(np.clip(np.asarray(coarse).astype(int) + grain, 0, 255).astype(np.uint8)).save(path, quality=92)
        made.append(path)
    return made


class Plain:
    """The original script's way with the same weights."""

    def __init__(self, detector: Detector, model: Any, tiles: TileSettings) -> None:
        self.detector, self.model, self.tiles = detector, model, tiles

    @torch.inference_mode()
    def __call__(self, paths: list[Path]) -> list[float]:
        return [self.one(path) for path in paths]

    def one(self, path: Path) -> float:
        tiles = cut_tiles(open_image(path).rgb, self.tiles)
        ids = torch.tensor([self.detector.asker.encode(IMAGE_QUESTION, [len(tiles)])])
        pixels = torch.from_numpy(tiles.normalised()).to(self.model.dtype)
        out = self.model(input_ids=ids, pixel_values=pixels, use_cache=True)  # logits of every position
        first = out.logits[:, -1]
        token, said = first.argmax(-1, keepdim=True), []
        for _ in range(WORDS):
            said.append(int(token))
            out = self.model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
        self.detector.asker.answerer.tokenizer.decode(said)
        return float(p_fake(first, self.detector.asker.answerer.sets))


def ours(detector: Detector, batch: int, explain: bool) -> Callable[[list[Path]], list[float]]:
    def run(paths: list[Path]) -> list[float]:
        rows = detector.detect_many(paths, batch_size=batch, explain=explain)
        return [row.score for row in rows]  # type: ignore[union-attr]

    return run


def seconds(run: Callable[[list[Path]], list[float]], paths: list[Path]) -> tuple[float, list[float]]:
    began = time.perf_counter()
    scores = run(paths)
    return time.perf_counter() - began, scores


@torch.inference_mode()
def profile(detector: Detector, paths: list[Path]) -> dict[str, float]:
    """Shares of the seconds of one batched, score-only call, stage by stage, each run alone."""
    from internvl_detect.model.answer import Request

    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        best, value = float("inf"), None
        for _ in range(3):
            began = time.perf_counter()
            value = work()
            best = min(best, time.perf_counter() - began)
        return best, value

    opened, pictures_ = timed(lambda: [open_image(p) for p in paths])
    tiled, tiles = timed(lambda: [cut_tiles(p.rgb, detector.tiles) for p in pictures_])
    answerer = detector.asker.answerer
    prompts, requests = timed(
        lambda: [Request(detector.asker.encode(IMAGE_QUESTION, [len(t)]), t.pixels) for t in tiles]
    )
    vision, _ = timed(lambda: answerer._seen([r.tiles for r in requests]))
    whole, _ = timed(lambda: answerer.prefill(requests))
    stages = {"open": opened, "tile": tiled, "prompt": prompts, "vision": vision, "language": max(0.0, whole - vision)}
    total = sum(stages.values())
    return {name: round(value / total, 4) for name, value in stages.items()}


def measure(name: str, folder: str | Path, dtypes: list[str], paths: list[Path], rounds: int) -> dict[str, Any]:
    """All ways in all dtypes, in turns; each is compared with the plain way of its own dtype and of the first."""
    ways: dict[tuple[str, str], Callable[[list[Path]], list[float]]] = {}
    detectors = {}
    for dtype in dtypes:
        detector = detectors[dtype] = Detector.from_pretrained(folder, "none", dtype=dtype, word_tokens=WORDS)
        eager = load_base(folder, adapter="none", dtype=dtype, attn="eager").model
        ways[dtype, "plain"] = Plain(detector, eager, detector.tiles)
        for batch, words in ((1, False), (8, False), (1, True), (8, True)):
            what = "score and words" if words else "score"
            ways[dtype, f"{what}, {'alone' if batch == 1 else f'batches of {batch}'}"] = ours(detector, batch, words)
    spent: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    scores: dict[tuple[str, str], list[float]] = {}
    for run in ways.values():
        run(paths[:2])  # warm
    for _ in range(rounds):
        for way, run in ways.items():
            took, scores[way] = seconds(run, paths)
            spent[way].append(took)
    table = []
    for (dtype, way), each in spent.items():
        same, first = (
            [round(p / t, 2) for p, t in zip(spent[d, "plain"], each, strict=True)] for d in (dtype, dtypes[0])
        )
        row = {
            "dtype": dtype,
            "way": way,
            "pictures_per_s": round(len(paths) / statistics.median(each), 3),
            "seconds_per_picture": round(statistics.median(each) / len(paths), 4),
            "times_plain": statistics.median(same),
            "times_plain_range": [min(same), max(same)],
            f"times_plain_{dtypes[0]}": statistics.median(first),
        }
        table.append(row)
        print(
            f"  {dtype:<9} {way:<30} {row['pictures_per_s']:8.2f} pictures/s {row['seconds_per_picture']:8.3f} s each"
            f"  {row['times_plain']:5.2f} x plain ({min(same)} to {max(same)}), "
            f"{statistics.median(first):5.2f} x plain {dtypes[0]}"
        )
    apart = {
        dtype: max(
            abs(a - b)
            for (d, way), found in scores.items()
            if d == dtype
            for a, b in zip(found, scores[dtype, "plain"], strict=True)
        )
        for dtype in dtypes
    }
    profiles = {dtype: profile(detector, paths) for dtype, detector in detectors.items()}
    for dtype in dtypes:
        print(f"  {dtype}: a score in batches: " + ", ".join(f"{k} {v:.0%}" for k, v in profiles[dtype].items()))
        print(f"  {dtype}: largest difference of a score between the ways: {apart[dtype]:.1e}")
    detector = detectors[dtypes[0]]
    return {
        "model": name,
        "parameters": sum(p.numel() for p in detector.loaded.model.parameters()),
        "tiles": len(cut_tiles(open_image(paths[0]).rgb, detector.tiles)),
        "ways": table,
        "largest_score_difference": apart,
        "profile": profiles,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default="nano,random")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        paths = pictures(Path(temporary))
        for name in given.models.split(","):
            folder = "nano" if name == "nano" else random_model(Path(temporary) / "random")
            print(f"\n{name}")
            results.append(measure(name, folder, given.dtypes.split(","), paths, given.rounds))
    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": given.threads}
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps({"machine": machine, "rounds": given.rounds, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
