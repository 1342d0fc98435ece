"""Frames of a clip compressed again by H.264 or H.265 at a given crf, in memory.

What sharing does to clips, as ``degrade`` is for pictures. Not here: writing a clip that somebody keeps
(``data.forge.clips``), nor the sound.

    content = encoded(clip.frames, codec="h264", crf=28)
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image as PILImage

from internvl_detect.errors import ConfigError

CODECS = {"h264": "libx264", "h265": "libx265"}
_ONE_THREAD = {
    "h264": {"x264-params": "mbtree=0"},
    "h265": {"x265-params": "pools=none:frame-threads=1:log-level=none"},
}


def encoded(frames: Sequence[PILImage.Image], *, codec: str, crf: int, fps: Fraction | int = 25) -> bytes:
    """A Matroska file of the frames, of one size; odd sides get one pixel more for 4:2:0.

    ``codec`` is one of CODECS, ``crf`` 0 (near lossless) to 51. The frames count as following each other, so frames
    sampled far apart cost more bits than the clip would. Raises ConfigError.
    """
    if codec not in CODECS:
        raise ConfigError(f"codec {codec!r}", expected=", ".join(CODECS))
    if not 0 <= crf <= 51:
        raise ConfigError(f"crf {crf}", expected="0 to 51")
    if not frames:
        raise ConfigError("no frames", expected="one or more")
    width, height = frames[0].size
    if any(frame.size != (width, height) for frame in frames):
        raise ConfigError("frames of several sizes", expected="frames of one size")
    pad = [(0, height % 2), (0, width % 2), (0, 0)]
    file = io.BytesIO()
    options = {"crf": str(crf), "preset": "veryfast", "threads": "1", **_ONE_THREAD[codec]}
    with av.open(file, "w", format="matroska") as container:
        try:
            stream: Any = container.add_stream(CODECS[codec], rate=fps, options=options)
        except (ValueError, av.error.FFmpegError) as error:
            raise ConfigError(
                f"this PyAV has no {CODECS[codec]} ({error})", do="install a PyAV wheel of PyPI"
            ) from None
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        for frame in frames:
            pixels = np.ascontiguousarray(np.pad(np.asarray(frame.convert("RGB")), pad, mode="edge"))
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file.getvalue()
