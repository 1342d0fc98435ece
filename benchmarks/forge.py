"""How fast forgeries are made, and in how much memory: each method alone and the usual mix, on two processes.

The photographs are cuts of those in the package, mirrored and resized at random to 720x720 px JPEG files, so that there
are as many as are wanted; at 512 px, one forgery and its authentic twin of each. Memory is that of all processes
together (proportional set size, looked at five times a second). Writes results/forge.json.

    nice python benchmarks/forge.py --counts 1000 10000 --out results/forge.json
    nice python benchmarks/forge.py --counts 1000 --autoencoder ENCODER DECODER --add results/forge.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from internvl_detect.data.forge import METHODS, forge_folder
from internvl_detect.data.sample_set import SAMPLES
from internvl_detect.media.image import open_image

SIDE_PX, SIZE_PX = 720, 512


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


def run(count: int, methods: list[str] | None, workers: int, rebuild: Any) -> dict[str, Any]:
    """One set of ``count`` forgeries and as many twins, timed as a whole: processes started, manifest written."""
    with tempfile.TemporaryDirectory() as base:
        mine = Path(base, "photographs")
        mine.mkdir()
        make_photographs(mine, count)
        options: dict[str, Any] = {"methods": methods, "rebuild": rebuild, "workers": workers, "size": SIZE_PX}
        began = time.monotonic()
        with Peak() as peak:
            result = forge_folder([mine], Path(base, "out"), per_photo=1, **options)
        seconds = time.monotonic() - began
        size = sum(f.stat().st_size for f in Path(base, "out").rglob("*") if f.is_file())
    row = {"methods": methods or "splice, copy_move, removal, poisson", "photographs": count, "made": result.made}
    row |= {"seconds": round(seconds, 1), "forgeries_per_s": round(result.made / seconds, 1)}
    row |= {"pictures_written_per_s": round(2 * result.made / seconds, 1), "peak_memory_mb": round(peak.mb)}
    row |= {"problems": len(result.problems), "bytes_per_forgery": round(size / max(1, result.made))}
    row["load_average_after"] = round(os.getloadavg()[0], 1)
    print(row, flush=True)
    return row


def main() -> None:
    """The command line; see the docstring of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--autoencoder", nargs=2, metavar=("ENCODER", "DECODER"), help="measure its methods only")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--add", type=Path, help="add the runs to those of this file")
    args = parser.parse_args()
    rebuild = None
    alone = [m for m, about in METHODS.items() if not about.rebuild and m != "face_swap"]
    if args.autoencoder:
        from internvl_detect.train.rebuild import Rebuilder

        rebuild = Rebuilder(*args.autoencoder).checked()
        alone = [m for m, about in METHODS.items() if about.rebuild]
    runs = [run(args.counts[0], [method], args.workers, rebuild) for method in alone]
    if rebuild is None:
        runs += [run(count, None, args.workers, None) for count in args.counts]
    before = json.loads(args.add.read_text()) if args.add else {}
    result = {
        "what": f"forgeries at {SIZE_PX} px, each with its authentic twin and mask, written to disk",
        "command": "nice python benchmarks/forge.py --counts 1000 10000 --out results/forge.json",
        "machine": f"{platform.processor() or platform.machine()}, {args.workers} processes, "
        "under nice on two cores that other work shared",
        "opencv": cv2.__version__,
        "runs": before.get("runs", []) + runs,
    }
    if args.out or args.add:
        (args.out or args.add).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
