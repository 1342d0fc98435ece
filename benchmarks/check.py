"""``ivdetect data check`` on growing folders: files a second, and the most memory that its processes hold together.

The folders hold hard links to 300 made pictures (512 px JPEG, one in five with a PNG mask); the cache goes by path, so
each link is looked at. Every size runs twice: with no cache, and with that of the first run. The same
command is used as by a user, in processes of its own; memory is the sum of their proportional set sizes, sampled ten
times a second. Links repeat few pictures, so the search for copies that look alike is timed apart, on random hashes.

    nice python benchmarks/check.py            # prints a table, writes results/check.json; --files 1000,10000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL
from PIL import Image

from internvl_detect.data.survey.duplicates import alike

OUT = Path(__file__).parents[1] / "results" / "check.json"
PICTURES = 300
MASK_EVERY = 5


def make_pictures(folder: Path) -> None:
    """Smooth scenes with fine grain, so that files have the size of photographs, and a mask for some."""
    for i in range(PICTURES):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (13, 13, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((512, 512), Image.Resampling.BICUBIC), np.int16)
        scene = np.clip(smooth + rng.integers(-9, 10, (512, 512, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(scene).save(folder / f"{i}.jpg", quality=int(rng.integers(80, 95)))
        if i % MASK_EVERY == 0:
            y, x = np.mgrid[:512, :512]
            disc = np.hypot(y - rng.integers(512), x - rng.integers(512)) < rng.integers(40, 200)
            Image.fromarray(disc).save(folder / f"{i}.png")


def link(pictures: Path, root: Path, files: int) -> None:
    lines = ["path,label,mask,group_id,split"]
    for n in range(files):
        i = n % PICTURES
        folder = root / f"{n // 1000:03}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{folder.name}/{n}.jpg"
        os.link(pictures / f"{i}.jpg", root / name)
        mask = ""
        if i % MASK_EVERY == 0:
            mask = f"{folder.name}/{n}.png"
            os.link(pictures / f"{i}.png", root / mask)
        label = "tampered" if mask else "real" if i % 2 else "ai_generated"
        lines.append(f"{name},{label},{mask},{i},train")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def pss_mb(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has just ended
        return 0.0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def run(root: Path, out: Path, workers: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "internvl_detect.cli", "data", "check", str(root), "--out", str(out)]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([*command, "--workers", str(workers)], stdout=subprocess.DEVNULL)
    peak = first = 0.0
    while process.poll() is None:
        each = [pss_mb(pid) for pid in tree(process.pid)]
        peak, first = max(peak, sum(each)), max(first, each[0])
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads((out / "check.json").read_text())
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "peak_mb": round(peak),
        "peak_mb_first_process": round(first),
        "usable": report["usable"],
        "by_code": report["by_code"],
    }


def search_alike(files: int) -> dict[str, Any]:
    hashes = np.random.default_rng(0).integers(0, 2**64, (files, 2), dtype=np.uint64)
    start = time.perf_counter()
    found = sum(len(one) for one, _ in alike(hashes))
    return {"hashes": files, "seconds": round(time.perf_counter() - start, 2), "pairs_found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", default="1000,10000,100000")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to make the links; default: the system's temporary folder")
    given = parser.parse_args()
    rows = []
    print(f"{'files':>8} {'run':>7} {'seconds':>8} {'cpu s':>8} {'files/s':>8} {'peak MB':>8}")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        pictures = Path(name) / "pictures"
        pictures.mkdir()
        make_pictures(pictures)
        for files in map(int, given.files.split(",")):
            root = Path(name) / f"root{files}"
            link(pictures, root, files)
            masks = sum(1 for n in range(files) if n % PICTURES % MASK_EVERY == 0)
            for kind in ("first", "cached"):
                row = {"files": files, "masks": masks, "run": kind, **run(root, Path(name) / "out", given.workers)}
                row["files_per_s"] = round(files / row["seconds"], 1)
                rows.append(row)
                figures = f"{row['seconds']:8} {row['cpu_seconds']:8} {row['files_per_s']:8} {row['peak_mb']:8}"
                print(f"{files:8} {kind:>7} {figures}", flush=True)
        sizes = [p.stat().st_size for p in pictures.glob("*.jpg")]
    facts = {
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "av": av.__version__,
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "workers": given.workers,
        "pictures": PICTURES,
        "mean_kb": round(float(np.mean(sizes)) / 1024, 1),
        "load_average_at_end": round(os.getloadavg()[0], 2),
    }
    searches = [search_alike(n) for n in (10_000, 100_000)]
    OUT.write_text(json.dumps({"facts": facts, "rows": rows, "alike": searches}, indent=1) + "\n")
    print(f"alike: {searches}; written to results/{OUT.name}")


if __name__ == "__main__":
    main()
