"""What is drawn or written from stored results: mask, overlay, report. The uploads are not needed for any of it.

Not here: how a report looks (``report``).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image as PILImage

from internvl_detect import __version__
from internvl_detect.report.html import render as render_html
from internvl_detect.report.html import thumbnail
from internvl_detect.report.markdown import to_markdown
from internvl_detect.report.overlay import binary_mask, draw_mask, draw_overlay, layer_png
from internvl_detect.verdict import Failure, Region, Verdict, from_row


def mask_png(row: Mapping[str, Any]) -> bytes:
    """The mask of a picture's suspicious regions, in its own pixels: 255 inside, 0 elsewhere."""
    verdict = _verdict(row)
    return _png(draw_mask((verdict.width or 1, verdict.height or 1), verdict.regions))


def drawn_png(verdict: Verdict) -> bytes:
    """The mask that was drawn for a picture, in its own pixels: 255 where it marks, 0 elsewhere."""
    return _png(binary_mask(verdict.mask, verdict.mask_threshold))


def overlay_png(row: Mapping[str, Any], preview: bytes, mask: bytes | None = None) -> bytes:
    """The preview with what the mask marks tinted and its regions outlined; without a mask the regions are tinted."""
    verdict = _verdict(row)
    with PILImage.open(io.BytesIO(preview), formats=["JPEG"]) as opened:
        picture = opened.convert("RGB")
    across, down = picture.width / (verdict.width or 1), picture.height / (verdict.height or 1)
    scaled = []
    for region in verdict.regions:
        left, top, right, bottom = region.box_xyxy
        box = (round(left * across), round(top * down), round(right * across), round(bottom * down))
        scaled.append(Region((box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1)), region.score))
    if mask is None:
        return _png(draw_overlay(picture, scaled))
    return _png(draw_overlay(picture, scaled, _marked(mask).resize(picture.size, PILImage.Resampling.BOX)))


def report_html(
    rows: Sequence[Mapping[str, Any]],
    previews: Mapping[str, list[bytes]],
    masks: Mapping[str, bytes],
    about: dict[str, Any],
) -> str:
    """The self-contained report. ``previews`` and ``masks`` (PNG) by the row's name."""
    small = {name: [_smaller(jpeg) for jpeg in jpegs] for name, jpegs in previews.items()}
    verdicts, layers = [from_row(row) for row in rows], {name: layer_png(_marked(png)) for name, png in masks.items()}
    pieces: Iterator[str] = render_html(verdicts, thumbnails=small, made_with=made_with(about), layers=layers)
    return "".join(pieces)


def report_markdown(rows: Sequence[Mapping[str, Any]], about: dict[str, Any]) -> str:
    """The same in Markdown, without pictures."""
    return to_markdown([from_row(row) for row in rows], made_with=made_with(about))


def report_json(rows: Sequence[Mapping[str, Any]], about: dict[str, Any]) -> str:
    """The rows, with what they were made with."""
    return json.dumps({"made_with": made_with(about), "results": list(rows)}, ensure_ascii=False, indent=1)


def made_with(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says it was made with."""
    return {"version": __version__, **about}


def _smaller(jpeg: bytes) -> bytes:
    with PILImage.open(io.BytesIO(jpeg), formats=["JPEG"]) as opened:
        return thumbnail(opened)


def _marked(png: bytes) -> PILImage.Image:
    with PILImage.open(io.BytesIO(png), formats=["PNG"]) as opened:
        return opened.convert("L")


def _verdict(row: Mapping[str, Any]) -> Verdict:
    known = from_row(row)
    if isinstance(known, Failure):
        raise ValueError("a row without a verdict")
    return known


def _png(picture: PILImage.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
