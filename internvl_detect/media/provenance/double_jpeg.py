"""Was a JPEG compressed once, or twice on the same 8x8 grid? Told by the histograms of its DCT coefficients.

A first compression with step q1 leaves only multiples of q1; the second, with the file's own step q2, then fills some
bins too often and others too seldom, periodically. For each low frequency two models of the counts are fitted and
compared by likelihood: a mixture of Laplace (texture) and normal (grain) distributions quantised by q2 alone, and the
same quantised by q1 first
(the model of Bianchi and Piva, IEEE TIFS 7(3), 2012, with the smooth part fitted and not assumed).

Not seen: q1 = q2 (saved again with the same settings), q1 a divisor of q2 (a much better first quality), a crop or
resize between the two (the grids differ). Not here: the tables themselves (``jpeg_tables``).

    double_compression(rgb, table)  # (score in [0, 1], gain in nats, (q1, q2) of the frequencies)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image as PILImage

# (row, column), AC only, lowest first; of these the first _LOOKED_AT whose step can be told from rounding are used.
_FREQUENCIES = tuple((row, total - row) for total in range(1, 6) for row in range(total + 1))
_LOOKED_AT = 9
_MOST_BLOCKS = 2048
_FEWEST_BLOCKS = 64
_BINS = 30  # of the absolute quantised value
_STEPS = tuple(range(2, 41))  # first steps that are tried
_SCALES = tuple(0.75 * 2.4**k for k in range(7))  # of the Laplace distributions, in units of a coefficient
_SIGMAS = tuple(2.0 * 1.7**k for k in range(7))  # of the normal ones
_NOISE = 0.5  # standard deviation that rounding to 8 bit RGB between the two leaves on a coefficient
_ROUNDS = 12
_TURN = PILImage.Transpose
_TURNED_BACK = {  # EXIF orientation: (what undoes it, whether x and y were mirrored, whether they were swapped)
    2: (_TURN.FLIP_LEFT_RIGHT, True, False, False),
    3: (_TURN.ROTATE_180, True, True, False),
    4: (_TURN.FLIP_TOP_BOTTOM, False, True, False),
    5: (_TURN.TRANSPOSE, False, False, True),
    6: (_TURN.ROTATE_90, False, True, True),
    7: (_TURN.TRANSVERSE, True, True, True),
    8: (_TURN.ROTATE_270, True, False, True),
}
# The score is logistic in the gain per frequency; both numbers were read off the benchmark's own pictures.
_MIDDLE_NATS, _WIDTH_NATS = 5.0, 1.5


@dataclass(frozen=True)
class Trace:
    """``score`` in [0, 1], high for compressed twice; ``gain`` the mean gain in log likelihood (nats a frequency);
    ``steps`` the likeliest (first, file's own) step of each frequency looked at."""

    score: float
    gain: float
    steps: tuple[tuple[int, int], ...]


def double_compression(rgb: PILImage.Image, table: list[int], orientation: int = 1) -> Trace | None:
    """``table``: the luminance steps in raster order; ``orientation`` (EXIF, 1 to 8): what ``rgb`` was turned by.

    None where nothing can be said: fewer than 64 blocks with some content, or steps too small to be told from rounding.
    """
    own = [table[8 * row + column] for row, column in _FREQUENCIES]
    usable = [i for i, step in enumerate(own) if 2 <= step <= 255][:_LOOKED_AT]
    blocks = _blocks(rgb, orientation)
    if len(usable) < 3 or len(blocks) < _FEWEST_BLOCKS:
        return None
    coefficients = _dct(blocks, usable)  # (blocks, frequencies)
    steps = np.array([own[i] for i in usable])
    counts = _histograms(np.abs(np.rint(coefficients / steps)).astype(np.int64))
    once = np.stack([_once(int(step)) for step in steps])  # (F, bins, scales)
    base = _likelihood(counts[:, None], once[:, None])[:, 0]
    twice = np.stack([_twice(int(step)) for step in steps])  # (F, first steps, bins, scales)
    gains = _likelihood(counts[:, None], twice) - base[:, None]
    gains[steps[:, None] % np.array(_STEPS) == 0] = 0.0  # nothing to see there, by construction
    best = gains.argmax(1)
    gain = float(np.median(np.maximum(gains.max(1), 0.0)))
    score = 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, (gain - _MIDDLE_NATS) / _WIDTH_NATS))))
    return Trace(score, gain, tuple((_STEPS[b], int(s)) for b, s in zip(best, steps, strict=True)))


def _blocks(rgb: PILImage.Image, orientation: int) -> np.ndarray:
    """Luminance of whole 8x8 blocks of the stored grid from bands spread over the picture: (N, 8, 8)."""
    width, height = rgb.size if orientation < 5 else rgb.size[::-1]
    columns, rows = min(width // 8, 256), height // 8
    if columns < 1 or rows < 1:
        return np.zeros((0, 8, 8), np.float32)
    wanted = min(rows, max(1, _MOST_BLOCKS // columns))
    left = 8 * ((width // 8 - columns) // 2)
    parts = []
    for at in np.unique(np.linspace(0, rows - 1, wanted).astype(int)).tolist():
        box = (left, 8 * at, left + 8 * columns, 8 * at + 8)
        band = np.asarray(_stored_part(rgb, box, (width, height), orientation), np.float32)
        luma = band @ np.array([0.299, 0.587, 0.114], np.float32) - 128.0
        parts.append(luma.reshape(8, columns, 8).transpose(1, 0, 2))
    blocks = np.concatenate(parts)
    flat = blocks.reshape(len(blocks), 64)
    low, high = flat.min(1), flat.max(1)
    clipped = (high > 126.5) | (low < -127.5)  # the decoder cut these off: they are no multiples any more
    return blocks[(high - low > 2) & ~clipped]


def _stored_part(
    rgb: PILImage.Image, box: tuple[int, int, int, int], stored: tuple[int, int], orientation: int
) -> PILImage.Image:
    """The part that lay at ``box`` before the picture was turned upright, turned back."""
    if orientation not in _TURNED_BACK:
        return rgb.crop(box)
    turn, mirrored_x, mirrored_y, swapped = _TURNED_BACK[orientation]
    xs = [stored[0] - x if mirrored_x else x for x in (box[0], box[2])]
    ys = [stored[1] - y if mirrored_y else y for y in (box[1], box[3])]
    across, down = (ys, xs) if swapped else (xs, ys)
    return rgb.crop((min(across), min(down), max(across), max(down))).transpose(turn)


def _dct(blocks: np.ndarray, which: list[int]) -> np.ndarray:
    """Orthonormal DCT-II of each block (ITU-T T.81, A.3.3) at ``which`` of ``_FREQUENCIES``: (N, F)."""
    k, x = np.mgrid[:8, :8]
    basis = np.cos((2 * x + 1) * k * np.pi / 16) * np.where(k == 0, math.sqrt(1 / 8), 0.5)
    wanted = (_FREQUENCIES[i] for i in which)
    patterns = np.stack([np.outer(basis[row], basis[column]).ravel() for row, column in wanted], 1)
    return blocks.reshape(len(blocks), 64) @ patterns.astype(np.float32)


def _histograms(values: np.ndarray) -> np.ndarray:
    """(F, bins) counts of 0, 1, ... and, last, of everything above."""
    kept = np.minimum(values, _BINS)
    return np.stack([np.bincount(column, minlength=_BINS + 1) for column in kept.T]).astype(np.float32)


def _likelihood(counts: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Log likelihood of ``counts`` (..., bins) under the best mixture of ``shapes`` (..., bins, scales), by EM."""
    total = counts.sum(-1)[..., None]
    weights = np.full((*shapes.shape[:-2], shapes.shape[-1]), 1 / shapes.shape[-1], np.float32)
    for _ in range(_ROUNDS):
        mixed = (shapes @ weights[..., None])[..., 0]
        weights = weights * ((counts / mixed)[..., None, :] @ shapes)[..., 0, :] / total
    mixed = (shapes @ weights[..., None])[..., 0]
    return (counts * np.log(mixed)).sum(-1, dtype=np.float64)


@lru_cache(maxsize=256)
def _once(step: int) -> np.ndarray:
    """(bins, scales): chance of each absolute quantised value, by each distribution."""
    edges = (np.arange(_BINS + 1) + 0.5) * step
    below = _below(edges)
    below[-1] = 1.0
    return (np.diff(below, axis=0, prepend=0.0) + 1e-9).astype(np.float32)


@lru_cache(maxsize=256)
def _twice(step: int) -> np.ndarray:
    """(first steps, bins, scales): the same after quantisation by each of ``_STEPS`` and rounding between."""
    return np.stack([_after(first, step) for first in _STEPS])


def _after(first: int, step: int) -> np.ndarray:
    most = math.ceil((_BINS + 1) * step / first) + 1
    m = np.arange(most + 1)
    edges = (m + 0.5) * first
    below = _below(edges)
    chance = np.diff(below, axis=0, prepend=0.0)  # of |first quantised value| = m
    limits = (np.arange(_BINS + 1) + 0.5) * step
    limits[-1] = 1e9
    reach = _normal((limits[None, :] - (m * first)[:, None]) / _NOISE)
    other = _normal((-limits[None, :] - (m * first)[:, None]) / _NOISE)
    within = reach - other  # (m, bins): |value after rounding| below each limit
    moved = np.diff(within, axis=1, prepend=0.0)
    return (moved.T @ chance + 1e-9).astype(np.float32)


def _below(edges: np.ndarray) -> np.ndarray:
    """(edges, scales): chance that the absolute value of each distribution lies below each edge."""
    laplace = 1 - np.exp(-edges[:, None] / np.array(_SCALES))
    return np.concatenate([laplace, 2 * _normal(edges[:, None] / np.array(_SIGMAS)) - 1], 1)


def _normal(x: np.ndarray) -> np.ndarray:
    """Distribution function of the standard normal, by its logistic form (Bowling et al. 2009; within 1.4e-4)."""
    return 1 / (1 + np.exp(-np.clip(0.07056 * x**3 + 1.5976 * x, -500, 500)))
