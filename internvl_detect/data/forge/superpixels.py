"""Superpixels of a small picture, and regions grown from them: SLIC in plain numpy, so that no OpenCV is needed.

For copies of a picture of some 160 px; a full frame would take seconds. Not here: how a region becomes a mask of the
picture (``regions``).

    labels = superpixels(small)
    region = grow(labels, small, rng, pixels=900)
"""

from __future__ import annotations

import numpy as np

from internvl_detect.data.forge.finish import Array


def superpixels(rgb: Array, *, count: int = 120, rounds: int = 4, compactness: float = 20.0) -> Array:
    """(H, W) labels from 0 of about ``count`` segments of like colour in the (H, W, 3) picture.

    SLIC (Achanta et al., 2012): k-means over colour and place, where a pixel looks at the nine grid cells around it
    only. ``compactness`` weighs place against colour, in grey levels a grid step. Specks may be left over.
    """
    h, w = rgb.shape[:2]
    step = float(np.sqrt(h * w / count))
    rows, columns = max(1, round(h / step)), max(1, round(w / step))
    y, x = np.divmod(np.arange(h * w, dtype=np.int32), w)
    cell_y, cell_x = y * rows // h, x * columns // w
    place = np.stack([y, x], 1).astype(np.float32) * np.float32(compactness / step)
    features = np.concatenate([rgb.reshape(-1, 3).astype(np.float32), place], 1)  # (H*W, 5)
    labels = cell_y * columns + cell_x
    around = [
        np.clip(cell_y + dy, 0, rows - 1) * columns + np.clip(cell_x + dx, 0, columns - 1)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    for _ in range(rounds):
        sizes = np.maximum(np.bincount(labels, minlength=rows * columns), 1)
        sums = [np.bincount(labels, weights=column, minlength=rows * columns) for column in features.T]
        centres = (np.stack(sums, 1) / sizes[:, None]).astype(np.float32)
        nearest = np.full(h * w, np.inf, np.float32)
        for candidate in around:
            difference = features - centres[candidate]
            distance = np.einsum("nf,nf->n", difference, difference)
            better = distance < nearest
            nearest[better] = distance[better]
            labels = np.where(better, candidate, labels)
    return labels.reshape(h, w)


def grow(labels: Array, rgb: Array, rng: np.random.Generator, *, pixels: int) -> Array:
    """A boolean (H, W) region of whole segments: one drawn, then the neighbour of the most similar colour, and so on,
    until it holds ``pixels`` or more (or every segment). Of segments in several parts, only the part that is connected
    to the drawn pixel."""
    n = int(labels.max()) + 1
    flat = labels.ravel()
    sizes = np.bincount(flat, minlength=n)
    sums = [np.bincount(flat, weights=c, minlength=n) for c in rgb.reshape(-1, 3).T]
    colours = np.stack(sums, 1) / np.maximum(sizes, 1)[:, None]
    touching = np.zeros((n, n), bool)
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        touching[a, b] = touching[b, a] = True
    taken = np.zeros(n, bool)
    start = int(rng.integers(flat.size))
    taken[int(flat[start])] = True
    liking = rng.uniform(0, 12, n)  # or the same start would always grow to the same region
    while sizes[taken].sum() < pixels:
        beside = touching[taken].any(0) & ~taken
        if not beside.any():
            break
        mean = np.average(colours[taken], axis=0, weights=sizes[taken])
        distance = np.abs(colours - mean).sum(1) + liking
        taken[int(np.where(beside, distance, np.inf).argmin())] = True
    return connected(taken[labels], *divmod(start, labels.shape[1]))


def connected(mask: Array, y: int, x: int) -> Array:
    """The part of a boolean (H, W) mask that can be reached from (y, x), a pixel of it, by steps to the four sides."""
    part = np.zeros_like(mask)
    part[y, x] = True
    size = 0
    while size != (size := int(np.count_nonzero(part))):
        for _ in range(8):  # a few steps for each count
            wider = part.copy()
            wider[1:] |= part[:-1]
            wider[:-1] |= part[1:]
            wider[:, 1:] |= part[:, :-1]
            wider[:, :-1] |= part[:, 1:]
            part = wider & mask
    return part
