"""The quantisation tables of a JPEG: the quality setting, where it is one of the IJG's, and hints at the program.

The IJG's library scales two example tables (ITU-T T.81, annex K) by a quality of 1 to 100; most programs, phones and
sites use it, so an exact fit names the setting and not the program. Other tables are an encoder's own: of many cameras
and of Adobe's programs. Not here: whether it was compressed before (``double_jpeg``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import numpy as np

_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    *(99,) * 32,
)  # fmt: skip


def ijg_table(quality: int, chroma: bool = False) -> tuple[int, ...]:
    """64 steps in raster order for a quality of 1 to 100, as libjpeg's ``jpeg_set_quality`` computes them."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(min(255, max(1, (step * scale + 50) // 100)) for step in (_CHROMA if chroma else _LUMA))


def describe_tables(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """``quality`` (1 to 100) and ``exact`` of the luminance table, ``chroma_quality`` where it is another, in words
    ``encoder``; empty for a file without tables."""
    tables = metadata.get("quantization") or {}
    first = tables.get("0") or next(iter(tables.values()), None)
    if not first or len(first) != 64:
        return {}
    exact = _by_table(False).get(tuple(first))
    found: dict[str, Any] = {"quality": exact or nearest_quality(tuple(first)), "exact": exact is not None}
    second = tables.get("1")
    other = _by_table(True).get(tuple(second)) if second else exact
    if exact is not None and other is not None and other != exact:
        found["chroma_quality"] = other
    same = exact is not None and other == exact
    found["encoder"] = "the IJG's tables, which most programs use" if same else "tables of the encoder's own"
    if metadata.get("ducky"):
        found["encoder"] = 'Adobe Photoshop\'s "Save for Web", by its marker'
    return found


@cache
def _by_table(chroma: bool) -> dict[tuple[int, ...], int]:
    return {ijg_table(quality, chroma): quality for quality in range(1, 101)}


@lru_cache(maxsize=1024)
def nearest_quality(table: tuple[int, ...]) -> int:
    """The quality, 1 to 100, whose luminance table in the IJG's scaling is nearest to this one; 0 without a table."""
    if len(table) != 64:
        return 0
    return int(np.abs(_luma_tables() - np.array(table)).sum(axis=1).argmin()) + 1


@cache
def _luma_tables() -> np.ndarray:
    return np.array([ijg_table(quality) for quality in range(1, 101)])  # (100, 64)
