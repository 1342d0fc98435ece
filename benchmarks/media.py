"""Decode and tile, pictures and clips, against the plain way of the reference on one core in the same run.

Plain way, pictures: Pillow opens, ``convert("RGB")``, resizes, crops, then each tile goes through ToTensor's and
Normalize's arithmetic in torch by itself. Plain way, clips: PyAV reads every frame and keeps the wanted ones. Ours
does more (limits, hash, metadata, truncation check) and must still not be slower. Both sides must give equal arrays.

    python benchmarks/media.py            # prints a table, writes results/media.json
"""

from __future__ import annotations

import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

if hasattr(os, "sched_setaffinity"):  # before torch and FFmpeg count the cores
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["OMP_NUM_THREADS"] = "1"

import av  # noqa: E402
import numpy as np  # noqa: E402
import PIL  # noqa: E402
import torch  # noqa: E402
from PIL import Image as PILImage  # noqa: E402

from internvl_detect.media.image import open_image  # noqa: E402
from internvl_detect.media.tiles import MEAN, STD, TileSettings, best_grid, cut_tiles, normalise  # noqa: E402
from internvl_detect.media.video import VideoLimits, frame_indices, open_video  # noqa: E402

ROUNDS = 15
SETTINGS = TileSettings(max_tiles=12)
OUT = Path(__file__).parents[1] / "results" / "media.json"


def scene(width: int, height: int, shift: int = 0) -> PILImage.Image:
    """A smooth scene with fine grain, so that files have the size of photographs."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8)
    smooth = np.asarray(PILImage.fromarray(coarse).resize((width, height), PILImage.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-9, 10, (height, width, 3), dtype=np.int16)
    return PILImage.fromarray(np.clip(np.roll(smooth + grain, shift, 1), 0, 255).astype(np.uint8))


def encoded(picture: PILImage.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def clip(frames: int, width: int, height: int, codec: str = "libx264", container: str = "mp4", gop: int = 250) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options={"preset": "medium"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", gop
        for i in range(frames):
            for packet in stream.encode(av.VideoFrame.from_image(scene(width, height, 3 * i))):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return buffer.getvalue()


def plain_picture(path: Path) -> np.ndarray:
    rgb = PILImage.open(path).convert("RGB")
    columns, rows = best_grid(*rgb.size, SETTINGS)
    side = SETTINGS.tile_px
    whole = rgb.resize((side * columns, side * rows), PILImage.Resampling.BICUBIC)
    tiles = [
        whole.crop((c * side, r * side, (c + 1) * side, (r + 1) * side)) for r in range(rows) for c in range(columns)
    ]
    if len(tiles) > 1:
        tiles.append(rgb.resize((side, side), PILImage.Resampling.BICUBIC))
    return torch.stack([plain_tensor(tile) for tile in tiles]).numpy()


def plain_tensor(tile: PILImage.Image) -> torch.Tensor:
    """What ToTensor and Normalize compute, in their order."""
    values = torch.from_numpy(np.array(tile)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    return values.sub_(mean).div_(std)


def our_picture(path: Path) -> np.ndarray:
    return cut_tiles(open_image(path).rgb, SETTINGS).normalised()


def plain_clip(path: Path, count: int = 8) -> np.ndarray:
    with av.open(str(path)) as container:
        total = container.streams.video[0].frames or sum(1 for p in container.demux(video=0) if p.size)
        container.seek(0)
        wanted = set(frame_indices(total, count))
        frames = [frame for i, frame in enumerate(container.decode(video=0)) if i in wanted]
        side = (SETTINGS.tile_px,) * 2
        small = [frame.to_image().resize(side, PILImage.Resampling.BICUBIC) for frame in frames]
    return torch.stack([plain_tensor(tile) for tile in small]).numpy()


def our_clip(path: Path, count: int = 8) -> np.ndarray:
    opened = open_video(path, frames=count, limits=VideoLimits(threads=1))
    one = TileSettings(max_tiles=1)
    return normalise(np.concatenate([cut_tiles(frame, one).pixels for frame in opened.frames]))


def compare(name: str, path: Path, ours: Callable, plain: Callable) -> dict[str, object]:
    """Medians in milliseconds and the median of the rounds' ratios ours / plain (below 1: ours is faster)."""
    if not np.array_equal(ours(path), plain(path)):
        raise SystemExit(f"{name}: the two ways do not give equal arrays")
    spent: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in range(ROUNDS):
        for key, way in sorted((("ours", ours), ("plain", plain)), reverse=bool(turn % 2)):
            start = time.perf_counter()
            way(path)
            spent[key].append((time.perf_counter() - start) * 1e3)
    ratios = sorted(a / b for a, b in zip(spent["ours"], spent["plain"], strict=True))
    low, middle, high = (ratios[len(ratios) * q // 4] for q in (1, 2, 3))
    row = {"case": name, "file_kb": path.stat().st_size // 1024}
    row |= {f"{key}_ms": round(statistics.median(values), 2) for key, values in spent.items()}
    row |= {"ratio": round(middle, 3), "ratio_quartiles": [round(low, 3), round(high, 3)]}
    print(f"{name:34} {row['ours_ms']:9.2f} {row['plain_ms']:9.2f} {middle:7.3f}  ({low:.3f}..{high:.3f})", flush=True)
    return row


def main() -> None:
    import tempfile

    torch.set_num_threads(1)
    rows = []
    print(f"{'case':34} {'ours ms':>9} {'plain ms':>9} {'ratio':>7}  (quartiles)")
    with tempfile.TemporaryDirectory() as folder:
        for width, height in ((256, 256), (500, 333), (1024, 768), (1920, 1080), (4000, 3000)):
            for kind, options in (("JPEG", {"quality": 88}), ("PNG", {}), ("WEBP", {"quality": 85})):
                if kind != "JPEG" and width not in (500, 1920):
                    continue
                path = Path(folder) / f"{width}.{kind}"
                path.write_bytes(encoded(scene(width, height), kind, **options))
                rows.append(compare(f"{kind} {width}x{height}", path, our_picture, plain_picture))
        clips = {
            "H.264 512x512 80 frames, one GOP": clip(80, 512, 512),
            "H.264 1280x720 150 frames, one GOP": clip(150, 1280, 720),
            "H.264 640x360 600 frames, GOP 50": clip(600, 640, 360, gop=50),
            "H.264 all keyframes 640x360 100": clip(100, 640, 360, gop=1),
            "VP9 640x360 60 frames, WebM": clip(60, 640, 360, "libvpx-vp9", "webm"),
            "MPEG-4 AVI 640x360 100 frames": clip(100, 640, 360, "mpeg4", "avi", 12),
            "H.264 MPEG-TS 640x360 100 frames": clip(100, 640, 360, "libx264", "mpegts", 25),
        }
        for i, (name, data) in enumerate(clips.items()):
            path = Path(folder) / f"clip{i}"
            path.write_bytes(data)
            rows.append(compare(name, path, our_clip, plain_clip))
    facts = {
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "av": av.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "cores_used": 1,
        "rounds": ROUNDS,
        "tile_settings": SETTINGS.to_dict(),
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    print(f"slowest ratio {max(row['ratio'] for row in rows)}; written to results/{OUT.name}")


if __name__ == "__main__":
    main()
