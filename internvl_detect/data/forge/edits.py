"""The edits themselves: each turns a ``Job`` into the edited picture, its mask and what it drew, or None to try again.

Not here: what a method is called, needs and results in, and how often it is tried (``methods``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from internvl_detect.data.forge.faces import face_region
from internvl_detect.data.forge.finish import Array
from internvl_detect.data.forge.opencv import need_cv2
from internvl_detect.data.forge.pasting import Piece, box_of, cut_out, feather, lay, match_colour, mix
from internvl_detect.data.forge.plain import resample
from internvl_detect.data.forge.regions import KINDS, SIZES, draw_region
from internvl_detect.data.forge.words import place_of

Edit = tuple[Array, Array, dict[str, Any]]
Rebuild = Callable[[Array], Array]
CONTEXT_PX = 16  # what a decoder sees around a region


@dataclass(frozen=True)
class Job:
    """What a method works with. ``region`` fixes where an edit in place happens; None lets it be drawn."""

    rgb: Array
    rng: np.random.Generator
    donor: Array | None = None
    rebuild: Rebuild | None = None
    size: str | None = None
    kinds: Sequence[str] = KINDS
    region: Array | None = None

    def draw(self, picture: Array) -> tuple[Array, dict[str, Any]]:
        """A region of ``picture``, and how it was found."""
        if self.region is not None:
            return self.region, {"region": "given"}
        region = draw_region(picture, self.rng, size=self.size, kinds=self.kinds)
        return region.mask, {"region": region.kind}


def _piece_of(job: Job, source: Array, mask: Array, *, scale: float) -> tuple[Piece, dict[str, Any]]:
    """The drawn piece, perhaps mirrored and turned, made smaller if it would not fit into the picture."""
    rng, (h, w) = job.rng, job.rgb.shape[:2]
    angle = float(rng.uniform(-25, 25)) if rng.random() < 0.5 else 0.0
    flip, width = bool(rng.random() < 0.5), float(rng.uniform(0.0, 2.5))
    x0, y0, x1, y1 = box_of(mask)
    turn = np.radians(abs(angle))
    need_h = (y1 - y0) * np.cos(turn) + (x1 - x0) * np.sin(turn)
    need_w = (x1 - x0) * np.cos(turn) + (y1 - y0) * np.sin(turn)
    scale = min(scale, (h - 12) / need_h, (w - 12) / need_w)
    piece = cut_out(source, mask, scale=scale, angle_deg=angle, flip=flip, feather_px=width)
    facts = {"scale": round(scale, 3), "angle_deg": round(angle, 1), "flip": flip, "feather_px": round(width, 2)}
    return piece, facts


def _corner(job: Job, piece: Piece, avoid: Array | None = None) -> tuple[int, int] | None:
    """(y, x) for the piece 2 px or more inside the picture; away from ``avoid`` as far as eight draws allow."""
    room = [n - k - 4 for n, k in zip(job.rgb.shape[:2], piece.shape, strict=True)]
    if min(room) < 0:
        return None
    drawn = [(2 + int(job.rng.integers(room[0] + 1)), 2 + int(job.rng.integers(room[1] + 1))) for _ in range(8)]
    if avoid is None:
        return drawn[0]
    h, w = piece.shape
    covered = [np.count_nonzero(avoid[y : y + h, x : x + w] & (piece.alpha > 0)) for y, x in drawn]
    best = int(np.argmin(covered))
    return drawn[best] if covered[best] <= 0.5 * np.count_nonzero(piece.alpha) else None


def _from_donor(job: Job) -> tuple[Piece, dict[str, Any]]:
    """An object of the donor, scaled to cover a share of the picture as large as its class asks for."""
    assert job.donor is not None
    region = draw_region(job.donor, job.rng, size=job.size, kinds=job.kinds)
    low, high = SIZES[job.size or "medium"]
    share = job.rng.uniform(low + 0.1 * (high - low), high - 0.1 * (high - low))
    scale = float(np.sqrt(share * job.rgb[..., 0].size / np.count_nonzero(region.mask)))
    piece, facts = _piece_of(job, job.donor, region.mask, scale=scale)
    return piece, {"region": region.kind, **facts}


def _splice(job: Job) -> Edit | None:
    piece, record = _from_donor(job)
    strength = float(job.rng.uniform(0.3, 0.9)) if job.rng.random() < 0.5 else 0.0
    at = _corner(job, piece)
    if at is None:
        return None
    if strength:
        y, x = at
        piece = match_colour(piece, job.rgb[y : y + piece.shape[0], x : x + piece.shape[1]], strength)
    return *lay(job.rgb, piece, *at), {**record, "colour_match": round(strength, 2)}


def _copy_move(job: Job) -> Edit | None:
    mask, how = job.draw(job.rgb)
    scale = float(job.rng.uniform(0.75, 1.33)) if job.rng.random() < 0.6 else 1.0
    piece, record = _piece_of(job, job.rgb, mask, scale=scale)
    at = _corner(job, piece, avoid=mask)
    if at is None:
        return None
    return *lay(job.rgb, piece, *at), {
        **how,
        **record,
        "source_place": place_of(mask),
        "source_box_xyxy": list(box_of(mask)),
    }


def _poisson(job: Job) -> Edit | None:
    cv2 = need_cv2("Poisson blending")
    piece, record = _from_donor(job)
    at = _corner(job, piece)
    if at is None:
        return None
    mixed = bool(job.rng.random() < 0.3)
    h, w = piece.shape
    y, x = at[0] - 2, at[1] - 2  # the solver wants a border around the piece
    under = np.ascontiguousarray(job.rgb[y : y + h + 4, x : x + w + 4])
    over = np.pad(piece.rgb, ((2, 2), (2, 2), (0, 0)), mode="edge")
    inside = np.pad(piece.alpha > 0, 2)
    x0, y0, x1, y1 = box_of(inside)
    centre = (x0 + (x1 - x0) // 2, y0 + (y1 - y0) // 2)  # where it puts the middle of the mask's own box
    blended = cv2.seamlessClone(
        over, under, inside.astype(np.uint8) * 255, centre, cv2.MIXED_CLONE if mixed else cv2.NORMAL_CLONE
    )
    edited, mask = job.rgb.copy(), np.zeros(job.rgb.shape[:2], bool)
    mask[y : y + h + 4, x : x + w + 4] = inside
    edited[y : y + h + 4, x : x + w + 4][inside] = blended[inside]
    del record["feather_px"]
    return edited, mask, {**record, "gradients": "mixed" if mixed else "normal"}


def _in_place(job: Job, change: Callable[[Array, Array], Array], *, width: float, context: int) -> Edit:
    """``change`` (cut of the picture, mask of the cut) -> cut of the same shape, laid over the region only."""
    mask, how = job.draw(job.rgb)
    x0, y0, x1, y1 = box_of(mask, margin=context)
    cut, inside = job.rgb[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    new = change(cut, inside)
    edited = job.rgb.copy()
    edited[y0:y1, x0:x1] = mix(cut, new, feather(mask, width)[y0:y1, x0:x1])
    return edited, mask, {**how, "feather_px": round(width, 2)}


def _fill(cut: Array, inside: Array, algorithm: str) -> Array:
    cv2 = need_cv2("removal")
    flag = cv2.INPAINT_TELEA if algorithm == "telea" else cv2.INPAINT_NS
    return cv2.inpaint(np.ascontiguousarray(cut), inside.astype(np.uint8), 3, flag)


def _removal(job: Job) -> Edit | None:
    algorithm = "telea" if job.rng.random() < 0.5 else "navier_stokes"
    edit = _in_place(job, lambda cut, inside: _fill(cut, inside, algorithm), width=0.0, context=8)
    return *edit[:2], {**edit[2], "inpainting": algorithm}


def _decoder_removal(job: Job) -> Edit | None:
    rebuild = _needed(job)
    edit = _in_place(job, lambda cut, inside: rebuild(_fill(cut, inside, "telea")), width=0.8, context=CONTEXT_PX)
    return *edit[:2], {**edit[2], "inpainting": "telea"}


def _rebuild(job: Job) -> Edit | None:
    rebuild = _needed(job)
    width = float(job.rng.uniform(0.5, 3.0))
    return _in_place(job, lambda cut, _: rebuild(cut), width=width, context=CONTEXT_PX)


def _resample(job: Job) -> Edit | None:
    width = float(job.rng.uniform(0.5, 3.0))
    return _in_place(job, lambda cut, _: resample(cut, job.rng), width=width, context=CONTEXT_PX)


def _face_swap(job: Job) -> Edit | None:
    """The donor's ellipse scaled onto the photograph's own, its colours moved to those of the face it covers."""
    assert job.donor is not None
    mine = job.region if job.region is not None else face_region(job.rgb, job.rng)
    theirs = face_region(job.donor, job.rng)
    (x0, y0, x1, y1), (u0, v0, u1, v1) = box_of(mine), box_of(theirs)
    face = Image.fromarray(job.donor[v0:v1, u0:u1]).resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC)
    width = float(job.rng.uniform(1.0, 6.0)) * (y1 - y0) / 256
    strength = float(job.rng.uniform(0.6, 1.0))
    piece = Piece(np.asarray(face), feather(np.pad(mine[y0:y1, x0:x1], 16), width)[16:-16, 16:-16])
    piece = match_colour(piece, job.rgb[y0:y1, x0:x1][piece.alpha > 0], strength)
    scale = float(np.sqrt((x1 - x0) * (y1 - y0) / ((u1 - u0) * (v1 - v0))))
    record = {"region": "ellipse", "scale": round(scale, 3), "feather_px": round(width, 2)}
    return *lay(job.rgb, piece, y0, x0), {**record, "colour_match": round(strength, 2)}


def _resample_whole(job: Job) -> Edit | None:
    return resample(job.rgb, job.rng), np.ones(job.rgb.shape[:2], bool), {}


def _rebuild_whole(job: Job) -> Edit | None:
    return _needed(job)(job.rgb), np.ones(job.rgb.shape[:2], bool), {}


def _needed(job: Job) -> Rebuild:
    assert job.rebuild is not None
    return job.rebuild


EDITS: dict[str, Callable[[Job], Edit | None]] = {
    "splice": _splice,
    "copy_move": _copy_move,
    "removal": _removal,
    "poisson": _poisson,
    "resample": _resample,
    "rebuild": _rebuild,
    "decoder_removal": _decoder_removal,
    "face_swap": _face_swap,
    "resample_whole": _resample_whole,
    "rebuild_whole": _rebuild_whole,
}
