"""One file in, everything that it says about its origin out. Each examiner has a file of its own beside this one."""

from __future__ import annotations

import io
from typing import Any

from internvl_detect.errors import MediaError
from internvl_detect.media.image import Image, Limits, open_image
from internvl_detect.media.provenance.camera import camera_and_software, fields_of
from internvl_detect.media.provenance.container import container_facts, has_c2pa_box
from internvl_detect.media.provenance.content_credentials import MARK, content_credentials
from internvl_detect.media.provenance.double_jpeg import double_compression
from internvl_detect.media.provenance.error_level import error_level as draw_error_level
from internvl_detect.media.provenance.found import Provenance, clean, observed, strongest_first
from internvl_detect.media.provenance.generators import generator_texts
from internvl_detect.media.provenance.jpeg_tables import describe_tables
from internvl_detect.media.provenance.xmp import BadXmp, read_xmp
from internvl_detect.media.source import HEAD, Source, open_source, sniff
from internvl_detect.media.video import Clip, VideoLimits, open_video
from internvl_detect.verdict import Evidence

_MIME = {
    "JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif", "TIFF": "image/tiff",
    "AVIF": "image/avif", "HEIF": "image/heif",
}  # fmt: skip
_LIKELY = 0.5  # the double compression score from which it is called so


def provenance_of(
    source: Source,
    *,
    limits: Limits | None = None,
    video_limits: VideoLimits | None = None,
    opened: Image | Clip | None = None,
    trust: str | None = None,
    error_level: bool = False,
) -> Provenance:
    """Everything a picture or clip says about its origin; needs no model and no network.

    ``opened`` spares the decoding: an ``Image`` from ``open_image(..., keep_bytes=True)``, or a ``Clip``; of a clip
    ``source`` is read again only where it holds a C2PA box. ``trust``: PEM certificates of trusted C2PA anchors.
    ``error_level``: draw that picture too (pictures only). Raises MediaError for what cannot be read.
    """
    if opened is None:
        opened = _open(source, limits, video_limits)
    if isinstance(opened, Image):
        return _of_picture(opened, trust, error_level)
    return _of_clip(source, opened, trust)


def _open(source: Source, limits: Limits | None, video_limits: VideoLimits | None) -> Image | Clip:
    file, _, ours = open_source(source)
    try:
        head = file.read(HEAD)
        seekable = file.seekable()
        if seekable:
            file.seek(0)
    finally:
        if ours:
            file.close()
    if not ours and not seekable:
        raise MediaError("a stream that cannot be read twice", expected="a file, bytes, or a seekable file object")
    if sniff(head) == "video":
        return open_video(source, frames=1, limits=video_limits)
    return open_image(source, limits=limits, keep_bytes=True)


def _of_picture(image: Image, trust: str | None, with_error_level: bool) -> Provenance:
    evidence: list[Evidence] = []
    notes: list[str] = []
    if image.data and MARK in image.data and image.format in _MIME:
        signed, note = content_credentials(_MIME[image.format], io.BytesIO(image.data), trust)
        evidence += [signed] if signed else []
        notes += [note] if note else []
    xmp: dict[str, list[str]] = {}
    if text := image.metadata.get("xmp_text"):
        try:
            xmp = read_xmp(text)
        except BadXmp as error:
            notes.append(f"the XMP was not read: {error}")
    fields = fields_of(image.metadata, xmp)
    if address := fields.get("dcterms:provenance"):
        notes.append(f"the XMP points to a record elsewhere, which was not fetched: {clean(address, 200)}")
    orientation = _orientation(fields.get("exif:Orientation", ""))
    stored = (image.width, image.height) if orientation < 5 else (image.height, image.width)
    evidence += generator_texts(fields)
    evidence += camera_and_software(fields, stored)
    if image.format == "JPEG":
        evidence += _jpeg_history(image, orientation)
    facts: dict[str, Any] = {"kind": "image", "format": image.format, "width": image.width, "height": image.height}
    facts |= {"sha256": image.sha256, "n_bytes": image.n_bytes}
    drawn = draw_error_level(image.rgb) if with_error_level else None
    return _whole(evidence, facts, notes, drawn)


def _of_clip(source: Source, clip: Clip, trust: str | None) -> Provenance:
    evidence: list[Evidence] = []
    notes: list[str] = []
    if clip.metadata.get("container") == "mov":
        signed, note = _signed_clip(source, trust)
        evidence += [signed] if signed else []
        notes += [note] if note else []
    observations, fields = container_facts(clip.metadata, clip.codec)
    evidence += generator_texts(fields) + observations
    facts: dict[str, Any] = {"kind": "video", "width": clip.width, "height": clip.height, "sha256": clip.sha256}
    facts |= {"n_bytes": clip.n_bytes, "duration_s": clip.duration_s, "fps": clip.fps, "codec": clip.codec}
    return _whole(evidence, facts, notes, None)


def _signed_clip(source: Source, trust: str | None) -> tuple[Evidence | None, str]:
    file, _, ours = open_source(source)
    try:
        if not file.seekable():
            return None, "Content Credentials were not looked for: the stream cannot be read twice"
        if not has_c2pa_box(file):
            return None, ""
        file.seek(0)
        return content_credentials("video/mp4", file, trust)
    except (OSError, ValueError) as error:
        return None, f"Content Credentials were not looked for: {clean(error, 120)}"
    finally:
        if ours:
            file.close()


def _jpeg_history(image: Image, orientation: int) -> list[Evidence]:
    tables = describe_tables(image.metadata)
    if not tables:
        return []
    about = "about " if not tables["exact"] else ""
    said = f"Saved as a JPEG of quality {about}{tables['quality']} by {tables['encoder']}."
    first = image.metadata["quantization"].get("0")
    trace = None
    if image.mode in ("RGB", "L") and first and len(first) == 64:
        trace = double_compression(image.rgb, first, orientation)
    if trace is None:
        return [observed("jpeg_history", said, "none", "", **tables)]
    details = {"double_compression": round(trace.score, 4), "gain": round(trace.gain, 2)}
    if trace.score < _LIKELY:
        return [
            observed(
                "jpeg_history", f"{said} No trace of an earlier JPEG compression.", "none", "", **tables, **details
            )
        ]
    steps = [list(pair) for pair in trace.steps]
    more = "It was compressed before, with other settings: any program that saves a JPEG again does that."
    return [observed("jpeg_history", f"{said} {more}", "weak", "", **tables, **details, steps_first_then_own=steps)]


def _orientation(text: str) -> int:
    return int(text) if text in tuple("12345678") else 1


def _whole(evidence: list[Evidence], facts: dict[str, Any], notes: list[str], drawn: bytes | None) -> Provenance:
    if all(e.source in ("jpeg_history", "container") and e.details["says"] == "" for e in evidence):
        nothing = "No signed record, no generator's text, no camera data. That proves nothing: most sites remove them."
        evidence.append(observed("metadata", nothing, "none"))
    ordered = strongest_first(evidence)
    decides = next((e for e in ordered if e.details["strength"] == "decides"), None)
    return Provenance(ordered, decides, drawn, facts, tuple(notes))
