"""What provenance costs a file, how often the trace of double compression errs, and what a report of 5,000 files takes.

    python benchmarks/provenance.py --pictures FOLDER    # prints tables, writes results/provenance.json

Error rates: up to ``--most`` pictures of FOLDER (any folder of photographs), made smaller by Lanczos so that traces of
earlier compressions go, then saved as JPEG by Pillow once, or twice, at every pair of qualities. Cost: one core, the
median of 30 rounds, on a scene with grain, the picture opened already as in detection.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("benchmarks", "tests")]

from c2pa_makers import created, manifest, signed  # noqa: E402
from media import clip, encoded, scene  # noqa: E402
from PIL import Image as PILImage  # noqa: E402

from internvl_detect.errors import MediaError  # noqa: E402
from internvl_detect.media.image import open_image  # noqa: E402
from internvl_detect.media.provenance import provenance_of  # noqa: E402
from internvl_detect.media.provenance.double_jpeg import double_compression  # noqa: E402
from internvl_detect.media.source import PICTURE_SUFFIXES  # noqa: E402
from internvl_detect.media.video import open_video  # noqa: E402
from internvl_detect.report.command import write  # noqa: E402
from internvl_detect.verdict import Verdict  # noqa: E402

OUT = Path(__file__).parents[1] / "results" / "provenance.json"
FIRST, SECOND = (50, 60, 70, 75, 80, 85, 90, 95), (60, 70, 75, 80, 85, 90, 95)
ROUNDS, SHRINK, FILES = 30, 0.55, 5000


def photographs(folder: Path, most: int) -> list[PILImage.Image]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    random.Random(0).shuffle(paths)
    found = []
    for path in paths:
        try:
            rgb = open_image(path).rgb
        except MediaError:
            continue
        size = round(rgb.width * SHRINK), round(rgb.height * SHRINK)
        if min(size) >= 128:
            found.append(rgb.resize(size, PILImage.Resampling.LANCZOS))
        if len(found) == most:
            break
    return found


def saved(picture: PILImage.Image, quality: int) -> PILImage.Image:
    return PILImage.open(io.BytesIO(encoded(picture, "JPEG", quality=quality)))


def share_called_double(pictures: list[PILImage.Image], quality: int) -> float:
    called = 0
    for picture in pictures:
        last = saved(picture, quality)
        trace = double_compression(last.convert("RGB"), list(last.quantization[0]))  # type: ignore[attr-defined]
        called += trace is not None and trace.score >= 0.5
    return round(called / len(pictures), 3)


def error_rates(pictures: list[PILImage.Image]) -> list[dict[str, object]]:
    rows = []
    print("share called double; columns: first quality, 'once' is the false alarms")
    print("second  once  " + "  ".join(f"{q:5}" for q in FIRST))
    firsts = {q: [saved(p, q).convert("RGB") for p in pictures] for q in FIRST}
    for second in SECOND:
        row: dict[str, object] = {"second": second, "once": share_called_double(pictures, second)}
        row |= {str(first): share_called_double(firsts[first], second) for first in FIRST}
        rows.append(row)
        print(f"{second:6} {row['once']:5}  " + "  ".join(f"{row[str(q)]:5}" for q in FIRST), flush=True)
    return rows


def costs() -> list[dict[str, object]]:
    record = manifest(created("trainedAlgorithmicMedia"))
    files = {
        f"JPEG {w}x{h}": encoded(scene(w, h), "JPEG", quality=88) for w, h in ((640, 480), (1920, 1080), (4000, 3000))
    }
    exif = PILImage.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110] = 6, "Canon", "Canon EOS R5"
    files["JPEG 1920x1080, turned, camera EXIF"] = encoded(scene(1920, 1080), "JPEG", quality=88, exif=exif)
    files["PNG 1920x1080"] = encoded(scene(1920, 1080), "PNG")
    files["JPEG 1920x1080, signed"] = signed(files["JPEG 1920x1080"], "image/jpeg", record)
    moving = clip(80, 512, 512)
    files["MP4 512x512, 80 frames"] = moving
    files["MP4 512x512, 80 frames, signed"] = signed(moving, "video/mp4", record)
    rows = []
    for name, data in files.items():
        opened = open_video(data, frames=1) if name.startswith("MP4") else open_image(data, keep_bytes=True)
        spent = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            provenance_of(data, opened=opened)
            spent.append((time.perf_counter() - start) * 1e3)
        rows.append({"case": name, "file_kb": len(data) // 1024, "median_ms": round(statistics.median(spent), 2),
                     "first_ms": round(spent[0], 2)})  # fmt: skip
        print(f"{name:40} {rows[-1]['median_ms']:8} ms  (first {rows[-1]['first_ms']})", flush=True)
    return rows


def report_of_many() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for i in range(FILES):
            path = Path(folder) / f"{i % 500:03}.jpg"
            if i < 500:
                path.write_bytes(encoded(scene(640, 480, i), "JPEG", quality=88))
                found = provenance_of(path)
                facts = {"evidence": found.evidence, "sha256": found.facts["sha256"], "width": 640, "height": 480}
                rows.append(Verdict(str(path), "image", i / 500, i / 500, "unsure", "real", "nano", {}, True, **facts))
            else:
                rows.append(rows[i - 500])
        start = time.perf_counter()
        write(rows, Path(folder) / "report")
        seconds = round(time.perf_counter() - start, 1)
        sizes = {p.name: round(p.stat().st_size / 2**20, 1) for p in (Path(folder) / "report").iterdir()}
    memory = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(f"report of {FILES} files of 640x480: {seconds} s, MiB {sizes}, process at most {memory} MiB")
    return {"files": FILES, "seconds": seconds, "mib": sizes, "max_rss_mib": memory}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--most", type=int, default=200)
    given = parser.parse_args()
    made = {"report": report_of_many(), "cost": costs()}
    pictures = photographs(given.pictures, given.most)
    print(f"{len(pictures)} pictures, shrunk to {SHRINK}")
    made |= {"pictures": len(pictures), "shrink": SHRINK, "double_compression": error_rates(pictures)}
    made["facts"] = {
        "python": platform.python_version(),
        "pillow": PILImage.__version__,
        "cores_used": 1,
        "rounds": ROUNDS,
    }
    OUT.write_text(json.dumps(made, indent=1) + "\n")
    print(f"written to results/{OUT.name}")


if __name__ == "__main__":
    main()
