"""Files that end early: what is missing, how large the picture claims to be, and decoding what is there.

Pillow has one process-wide switch for tolerating truncated files. Here it is only ever on while nothing else of this
program decodes, so that another thread's truncated file is not accepted by accident.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from PIL import ImageFile

_turn = threading.Condition()
_strict = 0  # decodes under way with Pillow's switch off
_tolerant = False
_waiting = 0


@contextmanager
def decoding(*, tolerant: bool) -> Iterator[None]:
    """Hold while decoding. Strict decodes run side by side; a tolerant one runs alone, with Pillow's switch on."""
    global _strict, _tolerant, _waiting
    if not tolerant:
        with _turn:
            _turn.wait_for(lambda: not _tolerant and not _waiting)
            _strict += 1
        try:
            yield
        finally:
            with _turn:
                _strict -= 1
                _turn.notify_all()
        return
    with _turn:
        _waiting += 1
        _turn.wait_for(lambda: not _tolerant and not _strict)
        _waiting -= 1
        _tolerant = True
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
        with _turn:
            _tolerant = False
            _turn.notify_all()


def what_is_missing(data: bytes, found: str) -> str:
    """In words, which end of the file is not there; empty when nothing tells."""
    if found == "JPEG" and data.rfind(b"\xff\xd9") < 0:
        return "no end marker FFD9"
    if found == "PNG" and not 0 <= data.rfind(b"IEND") <= len(data) - 8:
        return "no whole IEND chunk"
    if found == "WEBP":
        stated = int.from_bytes(data[4:8], "little") + 8
        if len(data) < stated:
            return f"its header promises {stated} bytes"
    if found == "BMP":
        stated = int.from_bytes(data[2:6], "little")
        if len(data) < stated < 2**31 and int.from_bytes(data[10:14], "little") <= stated:
            return f"its header promises {stated} bytes"
    if found == "TIFF" and data[2:4] in (b"*\0", b"\0*"):
        order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
        at = int.from_bytes(data[4:8], order)
        stated = at + 6 + 12 * int.from_bytes(data[at : at + 2], order)
        if len(data) < stated:
            return f"its directory would end at byte {stated}"
    if found in ("AVIF", "HEIF"):
        stated = _boxes_end(data)
        if len(data) < stated:
            return f"its boxes promise {stated} bytes"
    return ""


def stated_size(data: bytes, found: str) -> tuple[int, int] | None:
    """(width, height) from the header, for formats whose decoder sets its canvas aside as soon as it is made.

    None where Pillow reads the header first and the caller can look before it decodes.
    """
    if found == "GIF" and len(data) >= 10:
        return _le(data, 6, 2), _le(data, 8, 2)
    if found == "WEBP" and len(data) >= 30:
        kind = data[12:16]
        if kind == b"VP8X":
            return _le(data, 24, 3) + 1, _le(data, 27, 3) + 1
        if kind == b"VP8L":
            bits = _le(data, 21, 4)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if kind == b"VP8 ":
            return _le(data, 26, 2) & 0x3FFF, _le(data, 28, 2) & 0x3FFF
    return None


def _le(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _boxes_end(data: bytes) -> int:
    """Where the last top-level box of an ISO base media file ends, by the boxes' own sizes."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1 and at + 16 <= len(data):
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:  # 0: to the end of the file
            return len(data)
        at += size
    return at
