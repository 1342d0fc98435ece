"""How long a million predictions take to be read and graded with intervals, and how much memory that needs.

Eight datasets, twenty generators, half a million source groups, 1000 bootstrap rounds: the figures of each dataset and
of all together, each with its interval, and slices by dataset and generator. ``two`` grades two systems of a tenth
of the rows against each other. In a fresh process each; memory is the kernel's high-water mark of the whole process.
Linux only.

    python benchmarks/evaluate.py            # writes results/evaluate.json; some minutes
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[1] / "results" / "evaluate.json"
CHILD = """
import json, pathlib, sys, time
from internvl_detect.evaluate.collect import System
from internvl_detect.evaluate.grade import Settings, grade
from internvl_detect.evaluate.predictions import read_predictions
began, cpu, at = time.monotonic(), time.process_time(), {}
def step(what): at[what] = round(time.monotonic() - began, 1)
files = sys.argv[1:]
report = grade([System(f"system {i}", read_predictions(f)) for i, f in enumerate(files)], Settings(), step)
status = pathlib.Path("/proc/self/status").read_text()
lines = report["lines"]
print(json.dumps({"systems": len(files), "rows": report["systems"][0]["n"], "lines": len(lines),
    "slices": len(report["slices"]), "rounds": report["rounds"], "began_s": at,
    "wall_s": round(time.monotonic() - began, 1), "cpu_s": round(time.process_time() - cpu, 1),
    "peak_mib": int(status.split("VmHWM:")[1].split()[0]) // 1024, "auc_of_all": lines[-1]["figures"]["auc"]}))
"""


def write(path: Path, n: int, seed: int) -> None:
    """``n`` rows: half of them real, two files to a group."""
    rng = np.random.default_rng(seed)
    fake = np.arange(n) % 2
    score = 1 / (1 + np.exp(-rng.normal(1.2 * (fake - 0.5), 1)))
    with open(path, "w", encoding="utf-8") as file:
        for i, (y, s) in enumerate(zip(fake.tolist(), score.tolist(), strict=True)):
            decision = "fake" if s > 0.7 else "authentic" if s < 0.3 else "unsure"
            row = {"image": f"set{i % 8}/{i:07d}.jpg", "label": "fake" if y else "real", "score": s}
            row |= {"decision": decision, "dataset": f"set{i % 8}", "group_id": f"g{i // 2}"}
            row["facts"] = {"generator": f"gen{i % 20}" if y else "", "width": 512, "height": 512, "format": "JPEG"}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Each case in its own process."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for sizes in ((1_000_000,), (100_000, 100_000)):
            files = [Path(temporary) / f"{seed}-{n}.jsonl" for seed, n in enumerate(sizes)]
            for seed, (file, n) in enumerate(zip(files, sizes, strict=True)):
                write(file, n, seed)
            command = [sys.executable, "-c", CHILD, *map(str, files)]
            found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            print(json.dumps(found[-1]), flush=True)
    about = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    OUT.write_text(json.dumps({"about": about, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
