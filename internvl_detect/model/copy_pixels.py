"""Where the pixels of a picture agree with those that a move lays over them, after the move was fitted to them.

A copy is its source pixel by pixel, up to interpolation and JPEG; windows, bricks and tiles only resemble each other.
Not here: the moves tried (``copy_moves``), which of what agrees is a copy (``copies``).

    look = Look(rgb)
    for pair in pairs_of(look):
        pair.region, pair.box  # what stands elsewhere in the picture too
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from internvl_detect.model.copy_moves import Array, Move, carried, inverse, moves_of

WINDOW_PX, AGREE = 9, 0.5  # a window that shares half of its texture with another agrees with it
NOISE, TEXTURE = (
    24.0,
    40.0,
)  # squared grey levels of all channels: what JPEG may leave, what a window must hold to count
LEAST_AREA_PX, TRIED, FITTED = 60, 8, 2  # of a region; moves looked at, moves fitted
SAME, OTHER = 12.0, 100.0  # least difference that is expected of a copy; what other contents differ by beside texture
GROWN_PX, CLOSED_PX = 5, 12  # beyond its textured parts, and between them, is what a region may take in
Box = tuple[int, int, int, int]


class Look:
    """A picture as it is compared: slightly smoothed, and what its windows hold."""

    def __init__(self, rgb: Array) -> None:
        self.given = rgb
        self.rgb = cv2.GaussianBlur(rgb.astype(np.float32), (0, 0), 0.8)
        self.height, self.width = rgb.shape[:2]
        self.texture = _texture(self.rgb)

    @cached_property
    def grey(self) -> Array:
        return cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY)

    @cached_property
    def slopes(self) -> tuple[Array, Array]:
        return cv2.Sobel(self.grey, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(self.grey, cv2.CV_32F, 0, 1, scale=1 / 8)

    @cached_property
    def fine(self) -> Array:
        """What interpolation takes away."""
        return cv2.Laplacian(cv2.cvtColor(self.given, cv2.COLOR_RGB2GRAY).astype(np.float32), cv2.CV_32F)


@dataclass(frozen=True)
class Pair:
    """A move with the boolean ``region`` (h, w) of ``box`` (x0, y0, x1, y1) in which the contents agree."""

    move: Move
    box: Box
    region: Array
    agreement: Array
    texture: Array

    @property
    def weight(self) -> float:
        """Nats that the two contents share, were they Gaussian: -ln(1 - r^2) / 2 of windows that do not overlap."""
        shared = -0.5 * np.log(1 - np.clip(self.agreement[self.region], 0, 0.99))
        return float(shared.sum() / WINDOW_PX**2)


def _texture(rgb: Array) -> Array:
    mean = _mean(rgb)
    return np.maximum((_mean(rgb * rgb) - mean * mean).sum(2), 0)


def _mean(values: Array) -> Array:
    return cv2.blur(values, (WINDOW_PX, WINDOW_PX), borderType=cv2.BORDER_REFLECT)


def _warped(values: Array, matrix: Array, box: Box, how: int = cv2.INTER_CUBIC, outside: int | None = None) -> Array:
    """What the affine ``matrix`` finds for each pixel of ``box``; beyond its edge that edge, or ``outside``."""
    x0, y0, x1, y1 = box
    start = matrix[:, :2] @ np.array([[x0], [y0]]) + matrix[:, 2:]
    edge = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    from_here, size = np.hstack([matrix[:, :2], start]), (x1 - x0, y1 - y0)
    return cv2.warpAffine(
        values, from_here, size, flags=how | cv2.WARP_INVERSE_MAP, borderMode=edge, borderValue=outside or 0
    )


def _pair(look: Look, move: Move, box: Box) -> Pair:
    """Where in ``box`` the picture and the moved picture agree, grown from the keypoints."""
    x0, y0, x1, y1 = box
    here, there = look.rgb[y0:y1, x0:x1], _warped(look.rgb, move.matrix, box)
    theirs = _texture(there)
    ours = look.texture[y0:y1, x0:x1]
    apart = _mean(((here - there) ** 2).sum(2))
    agreement = 1 - apart / (ours + theirs + NOISE)
    x, y = np.meshgrid(np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32))
    (a, b, c), (d, e, f) = move.matrix.astype(np.float32)
    u, v = a * x + b * y + c, d * x + e * y + f
    out = (u < 0) | (v < 0) | (u > look.width - 1) | (v > look.height - 1) | (np.hypot(u - x, v - y) < 12)
    agreement[out] = -1
    texture = np.minimum(ours, theirs)
    on = cv2.morphologyEx(
        ((agreement > AGREE) & (texture > TEXTURE)).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5))
    )
    parts = cv2.connectedComponents(on, connectivity=4)[1]
    at = np.clip(np.rint(move.here).astype(int) - (x0, y0), 0, (x1 - x0 - 1, y1 - y0 - 1))
    seeds = np.unique(parts[at[:, 1], at[:, 0]])
    return Pair(move, box, np.isin(parts, seeds[seeds > 0]), agreement, texture)


def _around(look: Look, points: Array, margin: float) -> Box:
    low, high = np.floor(points.min(0) - margin).astype(int), np.ceil(points.max(0) + margin).astype(int) + 1
    return max(0, low[0]), max(0, low[1]), min(look.width, high[0]), min(look.height, high[1])


def _fitted(look: Look, pair: Pair) -> Move:
    """The move fitted to the grey levels of the region (Lucas and Kanade, 1981, affine, with weights against what
    differs); as it was where it would go far."""
    y, x = np.nonzero(pair.region)
    step = max(1, len(x) // 6000)
    points = np.stack([x[::step] + pair.box[0], y[::step] + pair.box[1]], 1).astype(np.float64)
    middle, spread = points.mean(0), max(4.0, float(points.std(0).max()))
    basis = np.hstack([(points - middle) / spread, np.ones((len(points), 1))])
    ours = look.grey[points[:, 1].astype(int), points[:, 0].astype(int)].astype(np.float64)
    matrix = pair.move.matrix.copy()
    for _ in range(6):
        u, v = carried(matrix, points).astype(np.float32).T[:, None]
        theirs, right, down = (
            cv2.remap(values, u, v, how, borderMode=cv2.BORDER_REPLICATE)[0].astype(np.float64)
            for values, how in ((look.grey, cv2.INTER_CUBIC), *((s, cv2.INTER_LINEAR) for s in look.slopes))
        )
        error = ours - theirs - (ours - theirs).mean()
        slopes = np.hstack([basis * right[:, None], basis * down[:, None]])
        weighed = slopes / (1 + (error / 8) ** 2)[:, None]
        change = np.linalg.solve(weighed.T @ slopes + 0.01 * len(points) * np.eye(6), weighed.T @ error).reshape(2, 3)
        turn = change[:, :2] / spread
        matrix += np.hstack([turn, (change[:, 2] - turn @ middle)[:, None]])
        if np.abs(change).max() < 0.02:
            break
    gone = carried(matrix - pair.move.matrix, middle[None])
    if np.abs(matrix - pair.move.matrix)[:, :2].max() > 0.15 or np.hypot(*gone[0]) > 5:
        return pair.move
    return replace(pair.move, matrix=matrix)


def pairs_of(look: Look) -> list[Pair]:
    """The pairs that share most, fitted to the pixels and grown as far as they agree."""
    tried = []
    for move in moves_of(cv2.cvtColor(look.given, cv2.COLOR_RGB2GRAY), TRIED):
        pair = _pair(look, move, _around(look, move.here, 24))
        if np.count_nonzero(pair.region) >= LEAST_AREA_PX:
            tried.append(pair)
    tried.sort(key=lambda pair: pair.weight, reverse=True)
    found = []
    for pair in tried[:FITTED]:
        move = _fitted(look, pair)
        y, x = np.nonzero(pair.region)
        reach = np.stack([x, y], 1) + pair.box[:2]
        pair = _pair(look, move, _around(look, reach, max(48.0, float(np.ptp(reach, 0).max()))))
        if np.count_nonzero(pair.region) >= LEAST_AREA_PX:
            found.append(pair)
    return found


def marked_in(look: Look, pair: Pair) -> Array:
    """The region with what lies between its textured parts and does not differ either, boolean as ``pair.region``.

    A pixel is in where its difference is likelier by that of the region than by that of two contents of such texture.
    """
    x0, y0, x1, y1 = pair.box
    apart = ((look.rgb[y0:y1, x0:x1] - _warped(look.rgb, pair.move.matrix, pair.box)) ** 2).sum(2)
    apart = cv2.GaussianBlur(apart, (0, 0), 1.5)
    same = max(SAME, 2 * float(np.median(apart[pair.region])))
    other = 2 * pair.texture + OTHER + same
    likelier = np.clip(np.log(other / same) - apart / same + apart / other, -6, 6)
    near = closed(cv2.dilate(pair.region.astype(np.uint8), np.ones((2 * GROWN_PX + 1,) * 2)), CLOSED_PX)
    on = (cv2.GaussianBlur(likelier, (0, 0), 1.5) > 0) & near & (pair.agreement > -1)
    on |= pair.region
    parts = cv2.connectedComponents(on.astype(np.uint8), connectivity=4)[1]
    return np.isin(parts, np.unique(parts[pair.region])) & on


def laid_here(look: Look, pair: Pair, marked: Array) -> Array:
    """What is ``marked`` in the pair's box, boolean (H, W)."""
    laid = np.zeros((look.height, look.width), bool)
    x0, y0, x1, y1 = pair.box
    laid[y0:y1, x0:x1] = marked
    return laid


def laid_there(look: Look, pair: Pair, marked: Array) -> Array:
    """Where the move carries it, boolean (H, W)."""
    here = laid_here(look, pair, marked).astype(np.uint8)
    return _warped(here, inverse(pair.move.matrix), (0, 0, look.width, look.height), cv2.INTER_NEAREST, outside=0) > 0


def closed(region: Array, radius_px: int) -> Array:
    """The boolean region and what no disc of ``radius_px`` outside it reaches."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1,) * 2)
    wide = 2 * radius_px
    padded = cv2.copyMakeBorder(region.astype(np.uint8), wide, wide, wide, wide, cv2.BORDER_CONSTANT, value=0)
    return cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc)[wide:-wide, wide:-wide] > 0
