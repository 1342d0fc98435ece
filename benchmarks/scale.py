"""The same pictures judged in this process, on Ray with two workers, and by a stand-in server: pictures per second.

The model is the embedded nano, merged with its adapter. Starting is measured apart: Ray's and its actors' until the
first row, against loading the model here. The stand-in (``tests/openai_stand_in.py``) answers one request at a time by
the same model in this process: its figure is the cost of the protocol, not what vLLM would give. The scores must agree.

    nice python benchmarks/scale.py [--pictures 64] [--workers 2]      # writes results/scale.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parent)]
from detect import pictures  # noqa: E402
from openai_stand_in import OpenAIStandIn  # noqa: E402
from stand_in import serving  # noqa: E402

from internvl_detect.detect.detector import Detector  # noqa: E402
from internvl_detect.detect.engine_ray import OnRay  # noqa: E402
from internvl_detect.detect.engines import OfDetector  # noqa: E402
from internvl_detect.detect.served import open_served  # noqa: E402
from internvl_detect.model.adapter import merge  # noqa: E402
from internvl_detect.model.checkpoint import load_base  # noqa: E402
from internvl_detect.model.embedded import FOLDER  # noqa: E402

OUT = Path(__file__).parents[1] / "results" / "scale.json"
ASK = {"explain": False, "frames": 8, "regions": False, "batch_size": 8, "workers": 1}


def timed(open_it: Callable[[], Any], paths: list[str]) -> tuple[dict[str, float], list[float]]:
    """Seconds until the first row, pictures per second after it, and the scores in the order of ``paths``."""
    began = time.perf_counter()
    rows: Iterator[Any] = open_it().rows(paths, **ASK)
    at, first = next(rows)
    opened = time.perf_counter()
    scores = {at: first.score} | {at: row.score for at, row in rows}
    spent = time.perf_counter() - opened
    found = {"seconds_to_first_row": opened - began, "pictures_per_s": (len(paths) - 1) / spent}
    return {k: round(v, 2) for k, v in found.items()}, [scores[i] for i in range(len(paths))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)  # as Ray gives each actor
    with tempfile.TemporaryDirectory() as temporary:
        paths = [str(p) for p in pictures(Path(temporary), given.pictures)]
        served = merge("nano", FOLDER / "nano_lora", Path(temporary) / "served")
        ways: dict[str, tuple[dict[str, float], list[float]]] = {}
        ways["local"] = timed(lambda: OfDetector(Detector.from_pretrained(served)), paths)
        with serving(OpenAIStandIn(load_base(served))) as server:
            ways["stand-in"] = timed(lambda: OfDetector(open_served(f"{server.url}/v1", model=served)), paths)
        ways["ray"] = timed(lambda: OnRay(given.workers, str(served), None, {"device": "cpu"}), paths)
    base = ways["local"][1]
    apart = {name: max(abs(a - b) for a, b in zip(base, scores, strict=True)) for name, (_, scores) in ways.items()}
    for name, (found, _) in ways.items():
        print(f"{name:<9} {found}  largest difference of a score {apart[name]:.1e}")
    load = [round(v, 1) for v in os.getloadavg()]
    machine = {"python": platform.python_version(), "cores": len(os.sched_getaffinity(0)), "load_average": load}
    content = {"machine": machine, "pictures": given.pictures, "ray_workers": given.workers}
    content |= {"ways": {name: found for name, (found, _) in ways.items()}, "largest_score_difference": apart}
    given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
