"""Pictures of where: thumbnails for the report, and mask, probability and overlay PNGs of a verdict.

Where a mask was drawn they show it; without a domain tagger the regions are tiles that were asked about alone, and the
mask is as coarse as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import IvdetectError
from internvl_detect.media.image import open_image
from internvl_detect.media.video import open_video
from internvl_detect.report.html import LONG_SIDE_PX, thumbnail
from internvl_detect.verdict import Failure, Region, Verdict

_RED = (220, 38, 38)


def thumbnails(rows: Iterable[Verdict | Failure], film_frames: int = 16) -> dict[str, bytes | list[bytes]]:
    """Small JPEGs by path: one of a picture, several of a clip; files that can no longer be read are left out."""
    found: dict[str, bytes | list[bytes]] = {}
    for row in rows:
        if isinstance(row, Failure):
            continue
        try:
            if row.kind == "image":
                found[row.path] = thumbnail(open_image(row.path).rgb)
            else:
                clip = open_video(row.path, frames=min(film_frames, max(1, len(row.frames))))
                found[row.path] = [thumbnail(frame) for frame in clip.frames]
        except IvdetectError:
            continue
    return found


def write_masks(verdict: Verdict, folder: Path) -> dict[str, str]:
    """Write NAME_mask.png (L, 255 = marked) and NAME_overlay.png in the picture's own pixels.

    A drawn mask is written as NAME_prob.png too (L, probability times 255). A picture without marks gets an empty mask;
    of a clip those frames that a mask was drawn for are written, as NAME_frame12_mask.png. Gives the file names by what
    stands after NAME: "mask", "prob", "overlay", "frame12_mask". Raises OutputError when
    writing fails, MediaError when the file can no longer be read.
    """
    stem = _safe_stem(verdict)
    made: dict[str, PILImage.Image] = {}
    if verdict.kind == "image":
        made |= _drawn(stem, open_image(verdict.path).rgb, verdict.mask, verdict.mask_threshold, verdict.regions)
    elif any(frame.mask is not None for frame in verdict.frames):
        clip = open_video(verdict.path, frames=len(verdict.frames))
        pictures = dict(zip(clip.indices, clip.frames, strict=True))
        for frame in verdict.frames:
            if frame.mask is not None and frame.index in pictures:
                name = f"{stem}_frame{frame.index}"
                made |= _drawn(name, pictures[frame.index], frame.mask, verdict.mask_threshold, ())
    for name, picture in made.items():
        with atomically(folder / name) as file:
            picture.save(file, "PNG")
    return {name[len(stem) + 1 : -len(".png")]: name for name in made}


def _drawn(
    stem: str, picture: PILImage.Image, mask: Any, threshold: float | None, regions: Sequence[Region]
) -> dict[str, PILImage.Image]:
    if mask is None:
        marked = draw_mask(picture.size, regions)
        return {f"{stem}_mask.png": marked, f"{stem}_overlay.png": draw_overlay(picture, regions)}
    marked = binary_mask(mask, threshold)
    overlay = draw_overlay(picture, regions, marked)
    return {f"{stem}_mask.png": marked, f"{stem}_prob.png": PILImage.fromarray(mask), f"{stem}_overlay.png": overlay}


def binary_mask(mask: np.ndarray, threshold: float | None) -> PILImage.Image:
    """L, 255 where a drawn mask (uint8, probability times 255) marks."""
    return PILImage.fromarray(
        np.where(mask.astype(np.float32) / 255 >= (0.5 if threshold is None else threshold), 255, 0).astype(np.uint8)
    )


def draw_mask(size: tuple[int, int], regions: Iterable[Region]) -> PILImage.Image:
    """An L picture of ``size`` (width, height) that is 255 inside the regions, 0 elsewhere."""
    mask = PILImage.new("L", size, 0)
    drawn = ImageDraw.Draw(mask)
    for region in regions:
        left, top, right, bottom = region.box_xyxy
        drawn.rectangle((left, top, right - 1, bottom - 1), fill=255)
    return mask


def draw_overlay(
    picture: PILImage.Image, regions: Sequence[Region], marked: PILImage.Image | None = None
) -> PILImage.Image:
    """The RGB picture, tinted where ``marked`` (L) is, or else inside its regions, which are outlined."""
    mask = draw_mask(picture.size, regions) if marked is None else marked
    tint = PILImage.composite(PILImage.blend(picture, PILImage.new("RGB", picture.size, _RED), 0.4), picture, mask)
    outline = ImageDraw.Draw(tint)
    for region in regions:
        left, top, right, bottom = region.box_xyxy
        outline.rectangle((left, top, right - 1, bottom - 1), outline=_RED, width=max(2, min(picture.size) // 200))
    return tint


def layer_of(row: Verdict | Failure) -> bytes | None:
    """PNG to lay over a row's thumbnail: red where its mask marks; of a clip the mask of its worst frame, if any."""
    if isinstance(row, Failure):
        return None
    worst = max(row.frames, key=lambda frame: frame.score, default=None)
    mask = worst.mask if worst is not None else row.mask
    return None if mask is None else layer_png(binary_mask(mask, row.mask_threshold))


def without_masks(row: Verdict | Failure) -> Verdict | Failure:
    """The same row without its pixels, which would fill memory where thousands of rows are kept."""
    if isinstance(row, Failure):
        return row
    frames = tuple(dataclasses.replace(frame, mask=None) for frame in row.frames)
    return dataclasses.replace(row, mask=None, frames=frames)


def stored_layers(rows: Iterable[Verdict | Failure], folder: Path) -> dict[str, bytes]:
    """Layers by path from the masks that ``write_masks`` left in a folder; files that are no masks are left out."""
    found = {}
    for row in rows:
        if isinstance(row, Failure):
            continue
        worst = max(row.frames, key=lambda frame: frame.score, default=None)
        name = f"{_safe_stem(row)}_frame{worst.index}" if worst is not None else _safe_stem(row)
        try:
            found[row.path] = layer_png(open_image(folder / f"{name}_mask.png").rgb.convert("L"))
        except IvdetectError:
            continue
    return found


def layer_png(marked: PILImage.Image) -> bytes:
    """PNG of half-clear red where ``marked`` (L) is, no larger than a thumbnail."""
    scale = min(1.0, LONG_SIDE_PX / max(marked.size))
    size = (max(1, round(marked.width * scale)), max(1, round(marked.height * scale)))
    layer = PILImage.new("RGBA", size, (*_RED, 0))
    layer.putalpha(marked.resize(size, PILImage.Resampling.BOX).point([v // 2 for v in range(256)]))
    out = io.BytesIO()
    layer.save(out, "PNG", optimize=True)
    return out.getvalue()


def _safe_stem(verdict: Verdict) -> str:
    """A file name of harmless letters that differs between files of one name in different folders."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(verdict.path).stem)[:60].strip("._") or "picture"
    return f"{plain}_{hashlib.sha256(verdict.path.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
