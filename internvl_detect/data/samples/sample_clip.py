"""A short clip made from one photograph: the camera pans and zooms over it, and a stretch in the middle is edited.

For demonstrations and tests; nothing is filmed. Not here: how regions are forged (``forge``), reading clips
(``media.video``).

    python -m internvl_detect.data.samples.sample_clip photograph.jpg clip.mp4
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

from internvl_detect.data.forge.finish import Array
from internvl_detect.data.forge.plain import make_edited


def pan(rgb: Array, count: int, size_wh: tuple[int, int]) -> list[Array]:
    """``count`` frames (h, w, 3): a window that moves from left to right and closes in, resampled to ``size_wh``."""
    picture = Image.fromarray(rgb)
    width, height = size_wh
    widest = min(picture.width, picture.height * width / height)
    frames = []
    for i in range(count):
        t = i / max(1, count - 1)
        w = widest * (0.9 - 0.25 * t)
        h = w * height / width
        x, y = (picture.width - w) * (0.1 + 0.7 * t), (picture.height - h) * (0.6 - 0.3 * t)
        box = (x, y, x + w, y + h)
        frames.append(np.asarray(picture.resize(size_wh, Image.Resampling.BICUBIC, box=box)))
    return frames


def make_clip(
    rgb: Array,
    path: str | Path,
    *,
    donor: Array | None = None,
    seconds: float = 4.0,
    fps: int = 12,
    size_wh: tuple[int, int] = (448, 320),
    edited_s: tuple[float, float] = (1.5, 2.75),
    seed: int = 0,
) -> Path:
    """Writes an H.264 clip of the photograph; between the two times of ``edited_s`` a region of the scene is forged.

    The region is a splice from ``donor``, or resampled without one, and stays on the same part of the scene.
    """
    method = "splice" if donor is not None else "resample"
    forged, _, _ = make_edited(rgb, np.random.default_rng(seed), method, donor=donor)
    count = round(seconds * fps)
    plain, edited = pan(rgb, count, size_wh), pan(forged, count, size_wh)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "20", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = *size_wh, "yuv420p"
        for i in range(count):
            inside = edited_s[0] <= i / fps < edited_s[1]
            frame = av.VideoFrame.from_ndarray((edited if inside else plain)[i], format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return Path(path)


if __name__ == "__main__":
    with Image.open(sys.argv[1]) as source:
        make_clip(np.asarray(source.convert("RGB")), sys.argv[2])
