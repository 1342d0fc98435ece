"""Shards against loose files: writing them with processes and with Ray, and reading pictures from both, in one run.

Draws pictures of 512 px (JPEG, about 45 KB), writes them into shards in every way (the bytes must be the same), then
reads every picture once in a random order, loose and from shards: its bytes, decoded, and only its size; the best of
three turns each, taken in turn, by CPU time; "cold" asks the kernel to forget the files' pages first and goes by the
clock, as writing does, so other work on the machine shows in these (its load stands in the results). Linux only.

    python benchmarks/shards.py              # writes results/shards.json; about two minutes, 1 GB of disk
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from internvl_detect.data.conversations.meta import make_row, read_meta, write_jsonl, write_meta
from internvl_detect.data.shards.foreign import read_shards
from internvl_detect.data.shards.writing import write_shards
from internvl_detect.data.storage.members import opened
from internvl_detect.media.image import open_image

OUT = Path(__file__).parents[1] / "results" / "shards.json"
N = 2000
PER_SHARD = 100


def draw(folder: Path) -> Path:
    """N pictures with grain, and the meta JSON that names them."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for i in range(N):
        coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((512, 512), 3)
        grain = rng.integers(-14, 15, (512, 512, 3))
        pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i:05d}.jpg", quality=80)
        rows.append(make_row("Is it fake?", "No.", image=f"{i:05d}.jpg"))
    write_jsonl(folder / "rows.jsonl", rows)
    return write_meta(folder / "meta.json", {"loose": {"root": "pictures", "annotation": "rows.jsonl"}})


def digest(folder: Path) -> str:
    names = sorted(folder.iterdir())
    return hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in names)).hexdigest()


def forget(folder: Path) -> None:
    """Asks the kernel to drop the pages of every file."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def rate(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    work()
    return round(N / (clock() - began), 1)


def decode(paths: list[str]) -> None:
    for path in paths:
        with opened(path) as source:
            open_image(source)


def sizes(paths: list[str]) -> None:
    from internvl_detect.train.corpus import picture_size  # torch: not for the workers, which import this file

    for path in paths:
        picture_size(path)


def take_bytes(paths: list[str]) -> None:
    for path in paths:
        with opened(path) as source, open(source, "rb") if isinstance(source, str) else source as file:
            file.read()


def main() -> None:
    found: dict[str, Any] = {
        "pictures": N,
        "per_shard": PER_SHARD,
        "load": round(os.getloadavg()[0], 1),
        "write_samples_per_s": {},
        "read_per_s": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        meta = draw(place / "data")
        ways = (("processes", 1), ("processes", 2), ("ray", 2), ("ray", 2))
        digests = set()
        for number, (engine, workers) in enumerate(ways):
            name = f"{engine}, {workers} workers" + (", Ray already running" if number == 3 else "")
            out = place / f"out{number}"

            def write(out: Path = out, engine: str = engine, workers: int = workers) -> None:
                write_shards(meta, out, max_samples=PER_SHARD, engine=engine, workers=workers)

            found["write_samples_per_s"][name] = rate(write)
            digests.add(digest(out))
        found["same_bytes_in_every_way"] = len(digests) == 1
        sys.modules["ray"].shutdown()
        sharded = place / "out0"
        found["loose_bytes"] = sum(p.stat().st_size for p in (place / "data" / "pictures").iterdir())
        found["tar_bytes"] = sum(p.stat().st_size for p in sharded.glob("*.tar"))
        found["index_bytes"] = sum(p.stat().st_size for p in sharded.glob("*.idx.jsonl"))
        order = np.random.default_rng(1).permutation(N)
        for _ in range(3):
            for name, source in (("loose", meta), ("shards", sharded / "meta.json")):
                samples = [sample.images[0] for sample in read_meta(source)[0].samples()]
                paths = [samples[i] for i in order]
                best = found["read_per_s"].setdefault(name, {})
                for what, work in (("sizes", sizes), ("bytes", take_bytes), ("decoded", decode), ("cold", take_bytes)):
                    clock = time.perf_counter if what == "cold" else time.process_time
                    if what == "cold":
                        forget(place)
                    here = rate(lambda w=work, p=paths: w(p), clock)  # type: ignore[misc]
                    best[what] = max(best.get(what, 0), here)
        tars = sorted(sharded.glob("*.tar"))
        forget(place)
        found["read_per_s"]["shards"]["cold, from end to end"] = rate(lambda: list(map(len_of, read_shards(tars))))
    print(json.dumps(found, indent=1))
    OUT.write_text(json.dumps(found, indent=1) + "\n")


def len_of(sample: Any) -> int:
    return sum(map(len, sample.files.values()))


if __name__ == "__main__":
    main()
