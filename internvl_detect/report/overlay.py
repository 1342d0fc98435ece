"""Pictures of where: thumbnails for the report, and mask and overlay PNGs of the regions that a verdict names.

The regions of this version are tiles that were asked about alone, so a mask is as coarse as the tiles.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw

from internvl_detect.errors import IvdetectError, OutputError
from internvl_detect.media.image import open_image
from internvl_detect.media.video import open_video
from internvl_detect.report.html import thumbnail
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


def write_masks(verdict: Verdict, folder: Path) -> tuple[Path, Path] | None:
    """Write NAME_mask.png (L, 255 = suspicious) and NAME_overlay.png in the picture's own pixels; None for a clip.

    A picture without suspicious regions gets an empty mask. Raises OutputError when writing fails, MediaError when the
    picture can no longer be read.
    """
    if verdict.kind != "image":
        return None
    picture = open_image(verdict.path).rgb
    mask, tint = draw_mask(picture.size, verdict.regions), draw_overlay(picture, verdict.regions)
    stem = _safe_stem(verdict)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / f"{stem}_mask.png", folder / f"{stem}_overlay.png"
        mask.save(paths[0])
        tint.save(paths[1])
    except OSError as error:
        raise OutputError(f"{folder} could not be written ({error})", do="free disk space or choose another") from error
    return paths


def draw_mask(size: tuple[int, int], regions: Iterable[Region]) -> PILImage.Image:
    """An L picture of ``size`` (width, height) that is 255 inside the regions, 0 elsewhere."""
    mask = PILImage.new("L", size, 0)
    drawn = ImageDraw.Draw(mask)
    for region in regions:
        left, top, right, bottom = region.box_xyxy
        drawn.rectangle((left, top, right - 1, bottom - 1), fill=255)
    return mask


def draw_overlay(picture: PILImage.Image, regions: Sequence[Region]) -> PILImage.Image:
    """The RGB picture with its regions tinted and outlined."""
    mask = draw_mask(picture.size, regions)
    tint = PILImage.composite(PILImage.blend(picture, PILImage.new("RGB", picture.size, _RED), 0.4), picture, mask)
    outline = ImageDraw.Draw(tint)
    for region in regions:
        left, top, right, bottom = region.box_xyxy
        outline.rectangle((left, top, right - 1, bottom - 1), outline=_RED, width=max(2, min(picture.size) // 200))
    return tint


def _safe_stem(verdict: Verdict) -> str:
    """A file name of harmless letters that differs between files of one name in different folders."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(verdict.path).stem)[:60].strip("._") or "picture"
    return f"{plain}_{hashlib.sha256(verdict.path.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
