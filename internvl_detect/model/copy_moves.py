"""Where contents of a picture might have been copied to: similarities of the plane on which keypoints of it agree.

SIFT keypoints (Lowe, IJCV 2004; in OpenCV) are matched within one picture, as they are and against their mirror images.
Position, size and direction of the two keypoints of a match give a whole move; moves that carry many matches are
refitted to these. Repeating patterns give moves as well. Not here: whether the pixels agree (``copies``).

    for move in moves_of(grey):
        move.matrix @ (x, y, 1)  # where what stands at (x, y) stands too
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

Array = np.ndarray
MOST_POINTS, MOST_MATCHES = 2500, 700
CONTRAST, EDGE = 0.005, 15.0  # of SIFT: far lower and higher than its defaults, to see faint and small contents
FAR_PX = 16.0  # nearer keypoints see the same content
OTHER_PX = 8.0  # a second neighbour this near to the first is the same place
ALIKE, RATIO = 0.9, 0.9  # least cosine of two descriptors' roots; most share of the second neighbour's distance
SCALES = (0.45, 2.2)
MIRROR = np.diag([-1.0, 1.0])
_ROW, _COLUMN, _BIN = np.meshgrid(np.arange(4), np.arange(4), np.arange(8), indexing="ij")
MIRRORED = ((3 - _ROW) * 32 + _COLUMN * 8 + (8 - _BIN) % 8).ravel()  # of a descriptor: what its mirror image has


@dataclass(frozen=True)
class Move:
    """``matrix`` float64 (2, 3) carries points (x, y) to where the same content stands; ``mirrored`` if it turns left
    into right. ``here`` and ``there`` float64 (n, 2) are the keypoints that agree on it."""

    matrix: Array
    mirrored: bool
    here: Array
    there: Array

    def __len__(self) -> int:
        return len(self.here)

    @property
    def scale(self) -> float:
        """How much larger the content is there."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    def back(self) -> Move:
        """The same from there to here."""
        return Move(inverse(self.matrix), self.mirrored, self.there, self.here)


@dataclass(frozen=True)
class _Points:
    at: Array  # float32 (n, 2), then (n,): px, px, radians
    size: Array
    turn: Array
    traits: Array  # float32 (n, 128) of length 1


def moves_of(grey: Array, most: int = 10) -> list[Move]:
    """Up to ``most`` moves of an uint8 (H, W) picture, of most keypoints first; each once, not also its way back."""
    points = _points(grey)
    if points is None:
        return []
    squares = (points.at**2).sum(1)
    gaps = squares[:, None] + squares - 2 * (points.at @ points.at.T)
    found = [move for mirrored in (False, True) for move in _agreed(points, gaps, mirrored, most)]
    return sorted(found, key=len, reverse=True)[:most]


def inverse(matrix: Array) -> Array:
    """The way back of an affine (2, 3)."""
    back = np.linalg.inv(matrix[:, :2])
    return np.hstack([back, -back @ matrix[:, 2:]])


def carried(matrix: Array, points: Array) -> Array:
    """``points`` (n, 2) by an affine (2, 3)."""
    moved: Array = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def _points(grey: Array) -> _Points | None:
    sift = cv2.SIFT_create(nfeatures=MOST_POINTS, contrastThreshold=CONTRAST, edgeThreshold=EDGE)  # type: ignore[attr-defined]
    found, traits = sift.detectAndCompute(np.ascontiguousarray(grey), None)
    if traits is None or len(found) < 4:
        return None
    found, traits = found[:MOST_POINTS], traits[:MOST_POINTS]
    numbers = np.array([(*p.pt, p.size, p.angle) for p in found], np.float32)
    roots = np.sqrt(traits / np.maximum(traits.sum(1, keepdims=True), 1e-6))  # Arandjelovic and Zisserman, CVPR 2012
    return _Points(numbers[:, :2], numbers[:, 2], np.radians(numbers[:, 3]), roots)


def _matches(points: _Points, gaps: Array, mirrored: bool) -> tuple[Array, Array]:
    """Keypoints and the one each looks like, far from it and more alike than what is second, the most certain ones."""
    alike = points.traits @ (points.traits[:, MIRRORED] if mirrored else points.traits).T
    alike[gaps < FAR_PX**2] = -1
    first = alike.argmax(1)
    rows = np.flatnonzero(alike[np.arange(len(first)), first] > ALIKE)
    first, alike = first[rows], alike[rows]
    best = alike[np.arange(len(rows)), first]
    alike[gaps[first] < OTHER_PX**2] = -1
    distance = np.sqrt(np.maximum(1 - best, 0) / np.maximum(1 - alike.max(1, initial=-1), 1e-9))
    kept = np.flatnonzero(distance < RATIO)
    kept = kept[np.argsort(distance[kept], kind="stable")[:MOST_MATCHES]]
    return rows[kept], first[kept]


def _agreed(points: _Points, gaps: Array, mirrored: bool, most: int) -> list[Move]:
    one, other = _matches(points, gaps, mirrored)
    scale = points.size[other] / points.size[one]
    fits = (scale > SCALES[0]) & (scale < SCALES[1])
    one, other, scale = one[fits], other[fits], np.log(scale[fits])
    if len(one) < 2:
        return []
    here, there = points.at[one].astype(np.float64), points.at[other].astype(np.float64)
    turn = points.turn[other] - (np.pi - points.turn[one] if mirrored else points.turn[one])
    cos, sin = np.exp(scale) * np.cos(turn), np.exp(scale) * np.sin(turn)
    turned = np.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2) @ (MIRROR if mirrored else np.eye(2))
    shift = there - np.einsum("kab,kb->ka", turned, here)

    # (k, l): whether the move of match k carries match l, more loosely the farther away it is
    x = turned[:, 0] @ here.T + shift[:, :1] - there[:, 0]
    y = turned[:, 1] @ here.T + shift[:, 1:] - there[:, 1]
    gap = np.sqrt(np.maximum(gaps[np.ix_(one, one)], 0))
    agree = (x * x + y * y < (3 + 0.12 * gap) ** 2) & (gap < 250)
    agree &= (np.abs(scale[:, None] - scale) < 0.35) & (np.cos(turn[:, None] - turn) > np.cos(0.35))

    found, left = [], np.ones(len(one), bool)
    for _ in range(most):
        votes = (agree & left).sum(1) * left
        k = int(votes.argmax())
        if votes[k] < 2:
            break
        inside = np.flatnonzero(agree[k] & left)
        near = (np.cos(turn - turn[k]) > np.cos(0.5)) & (np.abs(scale - scale[k]) < 0.5) & left
        matrix = None
        for within_px in (5.0, 3.0, 2.5):
            fitted = _fit(here[inside], there[inside], mirrored)
            again = np.flatnonzero(near & (_gap(fitted, here, there) < within_px))
            if len(again) < 2:
                break
            matrix, inside = fitted, again
        left[inside] = left[k] = False
        if matrix is None or len(np.unique(here[inside] // 3, axis=0)) < 2:
            continue
        move = Move(matrix, mirrored, here[inside], there[inside])
        if SCALES[0] < move.scale < SCALES[1]:
            left &= _gap(inverse(matrix), here, there) >= 4
            found.append(move)
    return found


def _gap(matrix: Array, here: Array, there: Array) -> Any:
    return np.hypot(*(carried(matrix, here) - there).T)


def _fit(here: Array, there: Array, mirrored: bool) -> Array:
    """The similarity of least squares from points (n, 2) to points (Umeyama, IEEE PAMI 1991, in the plane)."""
    flip = MIRROR if mirrored else np.eye(2)
    a, b = here @ flip, there
    middle_a, middle_b = a.mean(0), b.mean(0)
    a, b = a - middle_a, b - middle_b
    spread = (a * a).sum() + 1e-9
    cos, sin = (a * b).sum() / spread, (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / spread
    turned = np.array([[cos, -sin], [sin, cos]])
    return np.hstack([turned @ flip, (middle_b - turned @ middle_a)[:, None]])
