"""Parts of a picture that were copied from elsewhere in it: found, told from their source, and marked.

Keypoints propose moves (``copy_moves``). A move counts where the pixels that it lays over each other agree after it was
fitted to them: a copy is its source pixel by pixel, up to interpolation and JPEG, while windows, bricks and tiles only
resemble each other. The weights of both decisions were fitted on forgeries of photographs and on untouched photographs
(``benchmarks/copies.py``). Not here: what a verdict makes of it (``detect``).

    copied = find_copy(picture)
    copied.found, copied.score, copied.mask(picture.size)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from PIL import Image

from internvl_detect.model.copy_moves import Array, carried
from internvl_detect.model.copy_pixels import (
    AGREE,
    TEXTURE,
    Look,
    Pair,
    closed,
    laid_here,
    laid_there,
    marked_in,
    pairs_of,
)

MOST_PX, LEAST_PX = 600_000, 32  # pixels of what is searched; its least side
RIM_PX = 2  # a copy's outline, where half of each window lies outside it

# Weights of a logistic regression each, as `python benchmarks/copies.py ... --fit` makes them: of some 450 forged
# copies against what agrees in 450 photographs and 400 untouched twins; of the two sides of 235 copies of validation.
COPY = {
    "agreement": 4.247, "shared": 0.315, "points": 0.957, "beyond": -7.867, "overlap": -4.543, "corners": 1.239,
    "shift": 0.414, "mirrored": 2.058, "texture": -1.064, "": -6.78,
}  # fmt: skip
SIDE = {"edge": 3.296, "detail": -6.13, "scale": 1.475, "rim": -3.262, "seen": 1.69}
# Log of that odds' factor: constant, and for each nat of the copy's own log odds; at most. Fitted on the 222 copies
# found in 4,379 pictures (203 of them edited): `python benchmarks/copies.py ... --lift`.
LIFT, MOST_LIFT = (2.0, 1.1), 7.0
EDITED, HOW = "photoshop", "copy_move"  # the tag of a copy, and the method
MISSED = 0.4  # about the share of validation copies that are not found: `python benchmarks/copies.py ... --split val`


@dataclass(frozen=True)
class Copied:
    """What was found: ``score`` in [0, 1], at 0.5 for the untouched photograph that looks most copied of a hundred.

    ``copy`` and ``source`` are boolean (h, w), over the picture as it was searched, perhaps smaller; empty where no two
    contents agree. ``certain`` in [0.5, 1] is P(they are not mixed up); ``mirrored`` if left and right changed sides.
    """

    score: float = 0.0
    copy: Array = field(default_factory=lambda: np.zeros((1, 1), bool), repr=False)
    source: Array = field(default_factory=lambda: np.zeros((1, 1), bool), repr=False)
    certain: float = 0.5
    mirrored: bool = False

    @property
    def found(self) -> bool:
        """Whether it counts as a copy."""
        return self.score >= 0.5

    @property
    def odds(self) -> float:
        """Log odds of the score, from -30 to 30."""
        return math.log((self.score + 1e-13) / (1 - self.score + 1e-13))

    def mask(self, size: tuple[int, int]) -> Array:
        """Where the copy is, float32 (H, W) in [0, 1] for ``size`` (width, height) of the picture."""
        return cv2.resize(self.copy.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)

    def told(self, look: Any) -> Any:
        """A domain tagger's look at the same picture, once it knows what the search found.

        With a copy the odds of "photoshop" against every other tag are multiplied (``LIFT``), and the method is
        copy_move. Without one copy_move is less likely than it looked, by ``MISSED``; for the tags that is no news.
        """
        if not self.found:
            return replace(look, methods=_weighted(look.methods, HOW, MISSED)) if look.methods else look
        factor = math.exp(min(LIFT[0] + LIFT[1] * self.odds, MOST_LIFT))
        tags, log_odds = _weighted(look.probabilities, EDITED, factor), look.log_odds
        if look.tells:
            was = sum(p for tag, p in look.probabilities.items() if tag != "authentic")
            fake = was + look.probabilities[EDITED] * (factor - 1)
            log_odds += math.log(max(fake, 1e-12) / max(was, 1e-12))
        return replace(look, probabilities=tags, log_odds=log_odds, methods={HOW: 1.0})


def _weighted(shares: dict[str, float], name: str, factor: float) -> dict[str, float]:
    """Probabilities once the odds of one of them are multiplied."""
    changed = shares | {name: shares.get(name, 0.0) * factor}
    whole = sum(changed.values())
    return {key: share / whole for key, share in changed.items()}


def find_copy(picture: Image.Image, edited: Array | None = None) -> Copied:
    """The likeliest copy in a picture of any mode and size; the same for the same picture.

    ``edited`` (h, w) in [0, 1], P(edited) over the whole picture at any resolution, helps to tell the copy from its
    source. Pictures of more than ``MOST_PX`` are scaled down; in those narrower than ``LEAST_PX`` nothing is found.
    """
    cv2.setNumThreads(1)  # a server has a process a core already
    rgb = scaled(picture)
    if min(rgb.size) < LEAST_PX:
        return Copied()
    look = Look(np.asarray(rgb))
    judged = [(weighed(COPY, traits(look, pair)), pair) for pair in pairs_of(look)]
    if not judged:
        return Copied()
    odds, pair = max(judged, key=lambda each: each[0])
    marked = marked_in(look, pair)
    here, there = laid_here(look, pair, marked), laid_there(look, pair, marked)
    side = weighed(SIDE, sides(look, pair, here, there, edited))
    copy, source = (here, there) if side >= 0 else (there, here)
    copy = cv2.dilate(copy.astype(np.uint8), np.ones((2 * RIM_PX + 1,) * 2)) > 0
    return Copied(_sigmoid(odds), copy, source & ~copy, _sigmoid(abs(side)), pair.move.mirrored)


def scaled(picture: Image.Image) -> Image.Image:
    """In RGB, with ``MOST_PX`` at most."""
    scale = min(1.0, math.sqrt(MOST_PX / (picture.width * picture.height)))
    rgb = picture.convert("RGB")
    if scale == 1:
        return rgb
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return rgb.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def weighed(weights: dict[str, float], traits: dict[str, float]) -> float:
    """Log odds."""
    return weights.get("", 0.0) + sum(weights[name] * value for name, value in traits.items())


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, x))))


def traits(look: Look, pair: Pair) -> dict[str, float]:
    """What tells a copy from contents that resemble each other; the names are those of ``COPY``."""
    x0, y0, x1, y1 = pair.box
    region, agreement, move = pair.region, pair.agreement, pair.move
    judged, wide = (pair.texture > TEXTURE) & (agreement > -1), closed(region, 12)
    rim = judged & (cv2.dilate(region.astype(np.uint8), np.ones((25, 25))) > 0) & ~wide
    beyond = float((agreement[rim] > AGREE).mean()) if np.count_nonzero(rim) > 30 else 0.0
    overlap = float(laid_there(look, pair, region)[y0:y1, x0:x1][region].mean())
    gx, gy = (s[y0:y1, x0:x1][region] for s in look.slopes)
    xx, yy, xy = (float((a * b).mean()) for a, b in ((gx, gx), (gy, gy), (gx, gy)))
    y, x = np.nonzero(region)
    middle = np.array([[x.mean() + x0, y.mean() + y0]])
    shift = float(np.hypot(*(carried(move.matrix, middle) - middle)[0]))
    return {
        "agreement": -math.log(1.02 - float(agreement[region].mean())),
        "shared": math.log(pair.weight + 1),
        "points": math.log(len(move)),
        "beyond": beyond,
        "overlap": overlap,
        "corners": 1 - math.sqrt((xx - yy) ** 2 + 4 * xy * xy) / (xx + yy + 1e-6),
        "shift": math.log(shift / math.sqrt(len(x)) + 0.1),
        "mirrored": float(move.mirrored),
        "texture": math.log(float(pair.texture[region].mean())),
    }


def sides(look: Look, pair: Pair, here: Array, there: Array, edited: Array | None) -> dict[str, float]:
    """What tells the copy from its source, the other way round where it is ``there``; the names are those of ``SIDE``.

    A copy has a seam, was interpolated, and ends before the picture does.
    """
    edited = None if edited is None or not edited.size else edited
    if edited is not None:
        edited = cv2.resize(edited.astype(np.float32), (look.width, look.height))
    detail, edge, rim, seen = [], [], [], []
    for side in (here, there):
        soft = cv2.GaussianBlur(side.astype(np.float32), (0, 0), 1.5)
        nx, ny = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
        across = np.abs(look.slopes[0] * nx + look.slopes[1] * ny).sum() / (np.hypot(nx, ny).sum() + 1e-6)
        edge.append(math.log(float(across) + 0.5))
        core = cv2.erode(side.astype(np.uint8), np.ones((5, 5))) > 0
        core = core if core.any() else side
        detail.append(math.log(float(np.abs(look.fine[core]).mean()) + 0.2) if core.any() else 0.0)
        rim.append(float(side[:2].any() or side[-2:].any() or side[:, :2].any() or side[:, -2:].any()))
        if edited is not None and core.any():
            odds = np.clip(edited[core], 1e-3, 1 - 1e-3)
            seen.append(float(np.log(odds / (1 - odds)).mean()))
    return {
        "edge": edge[0] - edge[1],
        "detail": detail[0] - detail[1],
        "scale": math.log(pair.move.scale),
        "rim": rim[0] - rim[1],
        "seen": seen[0] - seen[1] if len(seen) == 2 else 0.0,
    }
