"""What a clip's container says beside its frames: how to turn them upright, and whether its index is there."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from PIL import Image as PILImage


def upright(frame: Any) -> tuple[PILImage.Transpose | None, str]:
    """How to turn a frame by its display matrix (ISO 14496-12: right angles and mirrors), and that in words."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None, ""
    values = memoryview(bytes(memoryview(matrix))).cast("i")
    a, b, c, d = ((values[i] > 0x8000) - (values[i] < -0x8000) for i in (0, 1, 3, 4))
    turn = {
        (0, 1, -1, 0): (PILImage.Transpose.ROTATE_270, "rotated by 90 degrees clockwise"),
        (-1, 0, 0, -1): (PILImage.Transpose.ROTATE_180, "rotated by 180 degrees"),
        (0, -1, 1, 0): (PILImage.Transpose.ROTATE_90, "rotated by 90 degrees counter-clockwise"),
        (-1, 0, 0, 1): (PILImage.Transpose.FLIP_LEFT_RIGHT, "mirrored"),
        (1, 0, 0, -1): (PILImage.Transpose.FLIP_TOP_BOTTOM, "flipped upside down"),
        (0, 1, 1, 0): (PILImage.Transpose.TRANSPOSE, "mirrored and rotated by 90 degrees"),
        (0, -1, -1, 0): (PILImage.Transpose.TRANSVERSE, "mirrored and rotated by 270 degrees"),
    }.get((a, b, c, d))
    if turn is None:
        return None, "" if (a, b, c, d) == (1, 0, 0, 1) else "a display rotation that is no right angle was not applied"
    return turn[0], f"{turn[1]} (display matrix)"


def lacks_moov(file: BinaryIO) -> bool:
    """Whether the top-level boxes of an MP4 or MOV hold no ``moov``: one that was cut short while it was written."""
    at, end = 0, file.seek(0, io.SEEK_END)
    for _ in range(1000):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return True
        if head[4:8] == b"moov":
            return False
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if size < 8 or at + size > end:
            return True
        at += size
    return True
