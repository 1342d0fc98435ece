"""The connected parts of a mask: their boxes and areas, by numpy and a union-find over runs of pixels.

Not here: reading a mask, or putting its parts into words (``data.prepare.regions``).
"""

from __future__ import annotations

import numpy as np

Box = tuple[int, int, int, int]


def part_boxes(mask: np.ndarray) -> list[tuple[Box, int]]:
    """(left, top, right, bottom; ends excluded) and area in pixels of each 8-connected part of (H, W), largest first.

    Runs of each row are joined with the runs of the row above that they touch (union-find).
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    rows, lefts = np.nonzero(steps == 1)
    rights = np.nonzero(steps == -1)[1]
    parent = list(range(len(rows)))

    def find(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first = np.searchsorted(rows, np.arange(height + 1)).tolist()
    starts, ends = lefts.tolist(), rights.tolist()
    for row in range(1, height):
        above = first[row - 1]
        for run in range(first[row], first[row + 1]):
            while above < first[row] and ends[above] < starts[run]:
                above += 1
            touching = above
            while touching < first[row] and starts[touching] <= ends[run]:
                one, other = find(touching), find(run)
                parent[max(one, other)] = min(one, other)
                touching += 1
    roots = np.fromiter((find(run) for run in range(len(rows))), np.int64, len(rows))
    names, at = np.unique(roots, return_inverse=True)
    area = np.bincount(at, rights - lefts, len(names)).astype(int)
    left, right = np.full(len(names), width), np.zeros(len(names), int)
    top, bottom = np.full(len(names), height), np.zeros(len(names), int)
    np.minimum.at(left, at, lefts)
    np.maximum.at(right, at, rights)
    np.minimum.at(top, at, rows)
    np.maximum.at(bottom, at, rows + 1)
    boxes = zip(left.tolist(), top.tolist(), right.tolist(), bottom.tolist(), strict=True)
    return sorted(zip(boxes, area.tolist(), strict=True), key=lambda part: (-part[1], part[0]))
