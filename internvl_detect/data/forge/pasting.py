"""Cutting a piece out of a picture, turning and scaling it, and laying it into another with a feathered edge.

All work is done inside the piece's box. Not here: which piece (``regions``), nor which place and why (``methods``).

    piece = cut_out(donor, region.mask, scale=1.2, angle_deg=10, flip=True, feather_px=1.5)
    edited, mask = lay(rgb, piece, y, x)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from internvl_detect.data.forge.finish import Array


@dataclass(frozen=True)
class Piece:
    """``rgb`` is uint8 (h, w, 3); ``alpha`` float32 (h, w) in [0, 1], zero all along the border unless the region ran
    into the edge of its picture. The piece is where ``alpha`` is above zero."""

    rgb: Array
    alpha: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.alpha.shape[0], self.alpha.shape[1]


def box_of(mask: Array, margin: int = 0) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) around the True pixels and ``margin`` px more, inside the mask's shape; x1 and y1 outside."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1 = max(0, int(rows[0]) - margin), min(mask.shape[0], int(rows[-1]) + 1 + margin)
    x0, x1 = max(0, int(columns[0]) - margin), min(mask.shape[1], int(columns[-1]) + 1 + margin)
    return x0, y0, x1, y1


def feather(mask: Array, width_px: float) -> Array:
    """float32 (H, W): 0 outside the boolean mask, rising inside it over about ``width_px`` to 1."""
    if width_px <= 0:
        return mask.astype(np.float32)
    soft = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(width_px))
    rising = np.clip(np.asarray(soft, np.float32) * np.float32(2 / 255) - 1, np.float32(1 / 255), 1)
    return np.where(mask, rising, np.float32(0))


def cut_out(
    source: Array, mask: Array, *, scale: float = 1.0, angle_deg: float = 0.0, flip: bool = False, feather_px: float = 1
) -> Piece:
    """The part of the (H, W, 3) picture under the boolean mask, mirrored, scaled, then turned counter-clockwise."""
    x0, y0, x1, y1 = box_of(mask, margin=4)
    picture = Image.fromarray(source[y0:y1, x0:x1])
    shape = Image.fromarray(mask[y0:y1, x0:x1].astype(np.uint8) * 255)
    if flip:
        picture, shape = ImageOps.mirror(picture), ImageOps.mirror(shape)
    if scale != 1.0:
        to = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture, shape = picture.resize(to, Image.Resampling.BICUBIC), shape.resize(to, Image.Resampling.BILINEAR)
    if angle_deg:
        picture = picture.rotate(angle_deg, Image.Resampling.BICUBIC, expand=True)
        shape = shape.rotate(angle_deg, Image.Resampling.BILINEAR, expand=True)
    hard = np.asarray(shape) >= 128
    if not hard.any():
        hard = np.asarray(shape) > 0
    around = int(3 * feather_px) + 1
    rgb = np.pad(np.asarray(picture), ((around, around), (around, around), (0, 0)), mode="edge")
    hard = np.pad(hard, around)
    x0, y0, x1, y1 = box_of(hard, margin=around)
    hard = hard[y0:y1, x0:x1]
    piece = Piece(rgb[y0:y1, x0:x1], feather(hard, feather_px))
    x0, y0, x1, y1 = box_of(hard)
    return Piece(piece.rgb[y0:y1, x0:x1], piece.alpha[y0:y1, x0:x1])


def match_colour(piece: Piece, around: Array, strength: float) -> Piece:
    """The piece with mean and spread of each channel moved by ``strength`` (0..1) towards those of ``around`` (..., 3).

    Per channel, as Reinhard et al. (2001) do in another colour space; the spread at most halves or doubles.
    """
    inside = piece.rgb[piece.alpha > 0].astype(np.float32)
    there = around.reshape(-1, 3).astype(np.float32)
    gain = np.clip((there.std(0) + 1) / (inside.std(0) + 1), 0.5, 2.0)
    want = (piece.rgb - inside.mean(0)) * gain + there.mean(0)
    mixed = piece.rgb + np.float32(strength) * (want - piece.rgb)
    return replace(piece, rgb=np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def lay(rgb: Array, piece: Piece, y: int, x: int) -> tuple[Array, Array]:
    """(edited copy of the picture, boolean (H, W) mask of where the piece lies), its upper left corner at (y, x).

    What of the piece is outside the picture is lost; pixels outside the mask stay untouched.
    """
    edited, mask = rgb.copy(), np.zeros(rgb.shape[:2], bool)
    h, w = piece.shape
    top, left, below, right = max(0, y), max(0, x), min(rgb.shape[0], y + h), min(rgb.shape[1], x + w)
    if top >= below or left >= right:
        return edited, mask
    part = (slice(top - y, below - y), slice(left - x, right - x))
    alpha = piece.alpha[part]
    mask[top:below, left:right] = alpha > 0
    edited[top:below, left:right] = mix(rgb[top:below, left:right], piece.rgb[part], alpha)
    return edited, mask


def mix(under: Array, over: Array, alpha: Array) -> Array:
    """uint8 (h, w, 3): ``under`` where ``alpha`` (h, w) is 0, ``over`` where it is 1."""
    mixed = under + alpha[..., None] * (over.astype(np.float32) - under)
    return np.rint(mixed).astype(np.uint8)
