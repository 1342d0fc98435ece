"""Tag, verdict, words and mask in one process, against the same stages in processes of their own that load anew.

FakeShield runs its parts as two programs: one tags and explains, one draws, each loading what it needs; its
``cli_demo.sh`` does so for one picture, its ``test.sh`` for a question file. Here the same model, tagger and pictures
go three ways, interleaved, each timed from the start of its process to its end:

    one process    'ivdetect detect --explain --masks': one look, one cache, batches
    two processes  the first tags and explains all pictures one by one, the second reads its rows and draws
    per picture    the two processes for every picture, as the demo does (measured on a few, and scaled)

Seconds within the one process without loading are told too. The scores of all ways must agree. Without an embedded
domain tagger one of random weights and the same shape takes its place; that is said in the result.

    python benchmarks/pipeline.py [--pictures 16] [--rounds 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from internvl_detect.detect.detector import Detector
from internvl_detect.model.domain_tag import DomainTagger, save
from internvl_detect.model.embedded import resolve_tagger
from internvl_detect.model.tagger_net import Shape, TaggerNet
from internvl_detect.verdict import Verdict

OUT = Path(__file__).parents[1] / "results" / "pipeline.json"
SIZES = ((640, 480), (1024, 768), (800, 1000), (1600, 1200))
ALONE = 2  # pictures that get two processes each


def pictures(folder: Path, count: int) -> list[str]:
    """JPEG scenes of smooth shapes and fine grain, of four sizes in turn."""
    made = []
    for i in range(count):
        rng, (width, height) = np.random.default_rng(i), SIZES[i % len(SIZES)]
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        grain = rng.integers(-9, 10, (height, width, 3))
        path = folder / f"{i}.jpg"
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=92)
        made.append(str(path))
    return made


def stage(name: str, job: dict[str, Any]) -> None:
    """What one process does: load, then its part of every picture; rows go to ``job["rows"]``."""
    torch.set_num_threads(job["threads"])
    began = time.perf_counter()
    detector = Detector.from_pretrained(job["model"], job["adapter"], tagger=job["tagger"])
    loaded_s = time.perf_counter() - began
    files = job["files"]
    if name == "draw":  # its input are the rows of the words' process
        files = [row["path"] for row in json.loads(Path(job["words"]).read_text())["rows"]]
    asked = {"words": {"explain": True}, "draw": {"mask": True}, "whole": {"explain": True, "mask": True}}[name]
    rows = []
    for row in detector.detect_many(files, batch_size=job["batch_size"] if name == "whole" else 1, **asked):
        if not isinstance(row, Verdict):
            raise SystemExit(row.error)
        if row.mask is not None:
            Image.fromarray(row.mask).save(Path(job["masks"]) / f"{Path(row.path).stem}.png")
        rows.append(row.to_dict())
    facts = {"load_s": loaded_s, "work_s": time.perf_counter() - began - loaded_s, "rows": rows}
    Path(job["rows"]).write_text(json.dumps(facts))


def run(name: str, job: dict[str, Any], folder: Path) -> tuple[float, dict[str, Any]]:
    """(seconds, what it wrote) of one process."""
    mine = folder / f"{name}.json"
    mine.write_text(json.dumps(job | {"rows": str(folder / f"{name}_rows.json")}))
    env = os.environ | {"OMP_NUM_THREADS": str(job["threads"])}
    began = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--stage", name, str(mine)], check=True, env=env)
    return time.perf_counter() - began, json.loads((folder / f"{name}_rows.json").read_text())


def two_processes(job: dict[str, Any], folder: Path) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of both, and the rows of the words."""
    first, words = run("words", job, folder)
    second, _ = run("draw", job | {"words": str(folder / "words_rows.json")}, folder)
    return first + second, words["rows"]


def measure(job: dict[str, Any], folder: Path, rounds: int) -> dict[str, Any]:
    """Medians over the rounds, in seconds a picture, and how far the scores of the ways lie apart."""
    count = len(job["files"])
    found: dict[str, list[float]] = {"one process": [], "two processes": [], "per picture": [], "without loading": []}
    apart = 0.0
    stages: dict[str, list[float]] = {}
    for number in range(rounds):
        spent, whole = run("whole", job, folder)
        found["one process"].append(spent / count)
        found["without loading"].append(whole["work_s"] / count)
        spent, words = two_processes(job, folder)
        found["two processes"].append(spent / count)
        each = [two_processes(job | {"files": [file]}, folder)[0] for file in job["files"][:ALONE]]
        found["per picture"].append(statistics.mean(each))
        apart = max(apart, *(abs(a["score"] - b["score"]) for a, b in zip(whole["rows"], words, strict=True)))
        for row in whole["rows"]:
            for key, value in row["timings"].items():
                stages.setdefault(key, []).append(value)
        print(f"round {number + 1}: " + ", ".join(f"{k} {v[-1]:.3f} s" for k, v in found.items()), flush=True)
    one = found["one process"]
    ratios = {k: [b / a for a, b in zip(one, found[k], strict=True)] for k in ("two processes", "per picture")}
    return {
        "seconds_a_picture": {k: round(statistics.median(v), 4) for k, v in found.items()},
        "times_one_process": {
            k: {"median": round(statistics.median(v), 2), "range": [round(min(v), 2), round(max(v), 2)]}
            for k, v in ratios.items()
        },
        "stages_s": {k: round(statistics.mean(v), 4) for k, v in stages.items()},
        "largest_score_difference": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", default="nano")
    parser.add_argument("--adapter")
    parser.add_argument("--tagger", default="auto")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        stage(given.stage[0], json.loads(Path(given.stage[1]).read_text()))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tagger, weights = resolve_tagger(given.tagger, given.model), "its own"
        if tagger is None:
            torch.manual_seed(0)
            net = TaggerNet(Shape())
            tagger, weights = save(net, DomainTagger(net).settings(), folder / "tagger"), "random, of its shape"
        (folder / "masks").mkdir()
        job = {"model": given.model, "adapter": given.adapter, "tagger": str(tagger), "masks": str(folder / "masks")}
        job |= {"threads": given.threads, "batch_size": given.batch_size}
        job["files"] = pictures(folder, given.pictures)
        results = measure(job, folder, given.rounds)
    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": given.threads}
    asked = {"pictures": given.pictures, "sizes": SIZES, "rounds": given.rounds, "batch_size": given.batch_size}
    content = {"machine": machine, **asked, "model": given.model, "tagger_weights": weights, **results}
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
