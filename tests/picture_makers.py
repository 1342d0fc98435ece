"""Small pictures in every format, made in memory, for the tests of ``media``. Not a test itself."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image as PILImage


def base(width: int = 61, height: int = 47) -> PILImage.Image:
    y, x = np.mgrid[:height, :width]
    return PILImage.fromarray(np.stack([x * 4 % 256, y * 5 % 256, (x * y) % 256], -1).astype(np.uint8))


def encode(picture: PILImage.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(parts: list[tuple[bytes, bytes]]) -> bytes:
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


VALID = {
    "JPEG": encode(base(), "JPEG", quality=90),
    "PNG": encode(base(), "PNG"),
    "WEBP": encode(base(), "WEBP"),
    "GIF": encode(base().convert("P"), "GIF"),
    "BMP": encode(base(), "BMP"),
    "TIFF": encode(base(), "TIFF"),
    "AVIF": encode(base(), "AVIF"),
}
MORE = {
    "progressive": encode(base(), "JPEG", progressive=True),
    "lzw": encode(base(), "TIFF", compression="tiff_lzw"),
    "palette": encode(base().convert("P"), "PNG"),
    "lossless": encode(base(), "WEBP", lossless=True),
    "animation": encode(base(), "WEBP", save_all=True, append_images=[base().rotate(90)]),
    "gif": encode(base(), "GIF", save_all=True, append_images=[base().rotate(90)]),
    "cmyk": encode(base().convert("CMYK"), "JPEG"),
}
