"""How fast forgeries are made, and in how much memory: each method alone and the usual mix, on two processes.

The photographs are cuts of those in the package, mirrored and resized at random to 720x720 px JPEG files, so that there
are as many as are wanted, up to 1000; at 512 px, one forgery and its authentic twin of each, or several where
more than 1000 are asked for. Memory is that of all processes
together (proportional set size, looked at five times a second). Writes results/forge.json.

    nice python benchmarks/forge.py --counts 1000 10000 --out results/forge.json
    nice python benchmarks/forge.py --counts 200 --autoencoder ENCODER DECODER --out results/forge.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from internvl_detect.data.forge import METHODS, forge_folder
from internvl_detect.data.forge.plan import USUAL
from internvl_detect.data.samples.sample_set import SAMPLES
from internvl_detect.media.image import open_image

SIDE_PX, SIZE_PX = 720, 512
MOST_PHOTOGRAPHS = 1000  # more forgeries than that are several of each


def make_photographs(folder: Path, count: int) -> None:
    """``count`` different JPEG files of SIDE_PX x SIDE_PX."""
    samples = [open_image(path).rgb for path in sorted(SAMPLES.glob("*.jpg"))]
    for i in range(count):
        rng = np.random.default_rng(i)
        picture = samples[i % len(samples)]
        side = int(min(picture.size) * rng.uniform(0.6, 1.0))
        x, y = (int(rng.integers(n - side + 1)) for n in picture.size)
        cut = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
        if rng.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        cut.save(folder / f"{i:06d}.jpg", quality=92)


def memory_mb() -> float:
    """Proportional set size of this process and those it started, in MB."""
    total = 0
    for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # it has just ended
            continue
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1000


class Peak:
    """The largest ``memory_mb`` while the block runs."""

    def __enter__(self) -> Peak:
        self.mb, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self.mb = max(self.mb, memory_mb())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def cpu_s() -> float:
    """Seconds of processor time of this process and of those that it started and that have ended."""
    of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in of)


def run(photographs: Path, count: int, methods: list[str] | None, workers: int, rebuild: Any) -> dict[str, Any]:
    """One set of ``count`` forgeries and as many twins, timed as a whole: processes started, manifest written."""
    with tempfile.TemporaryDirectory(dir=photographs.parent) as base:
        mine = Path(base, "photographs")
        mine.mkdir()
        files = sorted(photographs.iterdir())[:count]
        for path in files:
            os.link(path, mine / path.name)
        options: dict[str, Any] = {"methods": methods, "rebuild": rebuild, "workers": workers, "size": SIZE_PX}
        began, cpu = time.monotonic(), cpu_s()
        with Peak() as peak:
            result = forge_folder([mine], Path(base, "out"), per_photo=count // len(files), **options)
        seconds = time.monotonic() - began
        while multiprocessing.active_children():
            time.sleep(0.05)
        cpu = cpu_s() - cpu
        size = sum(f.stat().st_size for f in Path(base, "out").rglob("*") if f.is_file())
    row = {
        "methods": ", ".join(methods or USUAL),
        "asked_for": count,
        "photographs": len(files),
        "forgeries": result.made,
    }
    row |= {"seconds": round(seconds, 1), "forgeries_per_s": round(result.made / seconds, 1)}
    row |= {"cpu_s": round(cpu, 1), "forgeries_per_cpu_s": round(result.made / cpu, 1)}
    row |= {"peak_memory_mb": round(peak.mb), "problems": len(result.problems)}
    row |= {"bytes_per_forgery": round(size / max(1, result.made)), "load_average_after": round(os.getloadavg()[0], 1)}
    print(row, flush=True)
    return row


def main() -> None:
    """The command line; see the docstring of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1000], help="forgeries; the first for each method alone too"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--autoencoder", nargs=2, metavar=("ENCODER", "DECODER"), help="measure its methods only")
    parser.add_argument("--out", type=Path, help="results so far are kept there, by what was run")
    args = parser.parse_args()
    rebuild = None
    alone = [m for m, about in METHODS.items() if not about.rebuild and m != "face_swap"]
    if args.autoencoder:
        from internvl_detect.train.rebuild import Rebuilder

        rebuild = Rebuilder(*args.autoencoder).checked()
        alone = [m for m, about in METHODS.items() if about.rebuild]
    plan: list[tuple[int, list[str] | None]] = [(args.counts[0], [method]) for method in alone]
    plan += [] if rebuild else [(count, None) for count in args.counts]
    result: dict[str, Any] = {
        "what": f"forgeries at {SIZE_PX} px, each with its authentic twin and mask, written to disk; a forgery is two"
        " pictures. cpu_s is processor time of all processes: seconds hang on what else the machine was doing",
        "command": "nice python benchmarks/forge.py --counts 1000 10000 --out results/forge.json",
        "machine": f"{platform.processor() or platform.machine()}, two cores that other work shared, under nice, "
        f"{args.workers} processes",
        "opencv": cv2.__version__,
    }
    with tempfile.TemporaryDirectory() as base:
        photographs = Path(base, "photographs")
        photographs.mkdir()
        make_photographs(photographs, min(MOST_PHOTOGRAPHS, max(args.counts)))
        for count, methods in plan:
            row = run(photographs, count, methods, args.workers, rebuild)
            if args.out:
                before = json.loads(args.out.read_text())["runs"] if args.out.is_file() else []
                same = ("methods", "asked_for")
                kept = [old for old in before if any(old.get(k) != row[k] for k in same)]
                args.out.write_text(json.dumps({**result, "runs": [*kept, row]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
