"""What EXIF, XMP and IPTC say of a picture's making: camera, software, dates, digital source type, contradictions.

All of it is unsigned text that anyone can write, copy or remove, so a plain statement is "strong" at most, and a
camera's data are a hint. Not here: generators' own texts (``generators``), signed records (``content_credentials``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from internvl_detect.media.provenance.found import Says, clean, observed
from internvl_detect.media.provenance.generators import Fields, names_generator
from internvl_detect.verdict import Evidence

_SOURCE_TYPES: dict[str, tuple[Says, str]] = {
    "trainedAlgorithmicMedia": ("ai_generated", "made by a generative AI"),
    "compositeWithTrainedAlgorithmicMedia": ("tampered", "a composite with parts by a generative AI"),
    "compositeSynthetic": ("tampered", "a composite with synthetic parts"),
    "digitalCapture": ("camera", "taken by a digital camera"),
    "computationalCapture": ("camera", "taken by a digital camera with computational processing"),
}
_EXPOSURE = ("Exif.ExposureTime", "Exif.FNumber", "Exif.ISOSpeedRatings", "Exif.FocalLength")
_EDITORS = re.compile(
    r"photoshop|lightroom|gimp|affinity|pixelmator|snapseed|picsart|facetune|faceapp|meitu|beautyplus|remini|luminar"
    r"|topaz|capcut|canva|paint\.net|krita|capture one|darktable|rawtherapee|acdsee|photoscape|corel|inpaint",
    re.I,
)
_DATE = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")


def fields_of(metadata: Mapping[str, Any], xmp: Mapping[str, list[str]]) -> dict[str, str]:
    """Every text of a picture under one name: "exif:Software", "text:parameters", "iptc:Credit", "xmp:CreatorTool"."""
    fields = {f"exif:{k}": v for k, v in metadata.get("exif", {}).items()}
    fields |= {f"text:{k}": v for k, v in metadata.get("text", {}).items()}
    fields |= {f"iptc:{k}": v for k, v in metadata.get("iptc", {}).items()}
    return fields | {k: " | ".join(v) for k, v in xmp.items()}


def camera_and_software(fields: Fields, stored_size: tuple[int, int]) -> list[Evidence]:
    """Observations on source type, camera and software; ``stored_size`` in pixels as stored."""
    return [*_source_type(fields), *_camera(fields, stored_size), *_software(fields)]


def _source_type(fields: Fields) -> Iterator[Evidence]:
    value = fields.get("Iptc4xmpExt:DigitalSourceType", "")
    name = value.split(" | ")[0].rstrip("/").rsplit("/", 1)[-1]
    if name not in _SOURCE_TYPES:
        return
    says, what = _SOURCE_TYPES[name]
    credit = clean(fields.get("photoshop:Credit") or fields.get("iptc:Credit") or "", 100)
    summary = f"IPTC's digital source type in the XMP says that this is {what} ({name}). It is not signed."
    yield observed(
        "metadata", summary, "weak" if says == "camera" else "strong", says, digital_source_type=name, credit=credit
    )


def _camera(fields: Fields, stored_size: tuple[int, int]) -> Iterator[Evidence]:
    named = [
        clean(fields[f"exif:{tag}"], 60)
        for tag in ("Make", "Model")
        if fields.get(f"exif:{tag}", "").strip() and not names_generator(fields, f"exif:{tag}")
    ]
    if not named:
        return
    exposure = {tag[5:]: clean(fields[f"exif:{tag}"], 30) for tag in _EXPOSURE if f"exif:{tag}" in fields}
    taken = clean(fields.get("exif:Exif.DateTimeOriginal", ""), 30)
    problems = list(_contradictions(fields, stored_size, bool(exposure)))
    camera = named[-1] if len(named) > 1 and named[1].startswith(named[0]) else " ".join(named)
    said = f"EXIF names a camera: {camera}" + (f", taken {taken}" if taken else "")
    details: dict[str, Any] = {"camera": camera, "taken": taken, "exposure": exposure, "contradictions": problems}
    if problems:
        summary = f"{said}. But {'; '.join(problems)}. Editing explains that as well as forging does."
        yield observed("metadata", summary, "weak", "", **details)
    else:
        yield observed(
            "metadata", f"{said}. It is not signed and can be copied into any file.", "weak", "camera", **details
        )


def _contradictions(fields: Fields, stored_size: tuple[int, int], exposure: bool) -> Iterator[str]:
    if not exposure:
        yield "there are none of the exposure values that cameras write"
    try:
        size = tuple(int(fields[f"exif:Exif.ExifImage{side}"]) for side in ("Width", "Height"))
    except (KeyError, ValueError):
        size = stored_size
    if sorted(size) != sorted(stored_size) and min(size) > 0:
        yield f"EXIF speaks of {size[0]} x {size[1]} px and the file has {stored_size[0]} x {stored_size[1]}"
    taken, changed = (_DATE.search(fields.get(f"exif:{t}", "")) for t in ("Exif.DateTimeOriginal", "DateTime"))
    if taken and changed and taken.groups() > changed.groups():
        yield "it was last changed before it was taken"
    other = fields.get("tiff:Make", "")
    if other and other.strip().lower() != fields.get("exif:Make", "").strip().lower():
        yield f"XMP names another maker ({clean(other, 40)})"


def _software(fields: Fields) -> Iterator[Evidence]:
    places = ("exif:Software", "xmp:CreatorTool", "stEvt:softwareAgent", "text:Software", "iptc:OriginatingProgram")
    named = [
        clean(text, 80)
        for place in places
        if not names_generator(fields, place)
        for text in fields.get(place, "").split(" | ")
        if text.strip()
    ]
    named = list(dict.fromkeys(named))[:10]
    if not named:
        return
    steps = clean(fields.get("stEvt:action", ""), 200)
    editors = [text for text in named if _EDITORS.search(text)]
    if editors:
        summary = (
            f"The file was written by an editing program: {', '.join(editors[:3])}. It does not say what was changed."
        )
        yield observed("metadata", summary, "weak", "", software=named, history=steps)
    else:
        summary = f"The file names the software that wrote it: {', '.join(named[:3])}."
        yield observed("metadata", summary, "none", "", software=named, history=steps)
