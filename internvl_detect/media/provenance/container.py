"""What a clip's container says: who wrote it, when, with which device; and where a C2PA box lies.

Not signed, and rewritten by nearly every site. Not here: reading frames (``media.video``), the signed record itself
(``content_credentials``).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

from internvl_detect.media.provenance.content_credentials import BMFF_UUID
from internvl_detect.media.provenance.found import clean, observed
from internvl_detect.verdict import Evidence

_MOST_BOXES = 5000
_WRITERS = (  # (pattern in encoder, handler or muxer, in words)
    (re.compile(r"^Lavf|^Lavc|^VideoHandler$"), "FFmpeg's library, as most programs and sites that convert clips do"),
    (re.compile(r"produced by Google"), "Google's converter, as clips from YouTube are"),
    (re.compile(r"^Core Media"), "Apple's media framework"),
    (re.compile(r"GPAC"), "GPAC, a program that packs streams"),
    (re.compile(r"HandBrake"), "HandBrake, a program that converts clips"),
    (re.compile(r"Mainconcept|Adobe"), "an Adobe or MainConcept encoder, as video editors do"),
)
_WHO = ("encoder", "handler_name", "major_brand", "com.apple.quicktime.software", "software", "writing_application")
_MAKE = ("com.apple.quicktime.make", "com.android.manufacturer", "make")
_MODEL = ("com.apple.quicktime.model", "com.android.model", "model")


def container_facts(metadata: Mapping[str, Any], codec: str) -> tuple[list[Evidence], dict[str, str]]:
    """(observations, every tag as "clip:name" for the table of generators) of ``Clip.metadata``."""
    tags = {str(k).lower(): str(v) for k, v in {**metadata.get("stream_tags", {}), **metadata.get("tags", {})}.items()}
    fields = {f"clip:{name}": value for name, value in tags.items()}
    stream = {str(k).lower(): str(v) for k, v in metadata.get("stream_tags", {}).items()}
    who = [tags.get(name, "") for name in _WHO] + [stream.get(name, "") for name in ("encoder", "handler_name")]
    writers = list(dict.fromkeys(words for text in who for pattern, words in _WRITERS if pattern.search(text)))
    details = {name: clean(tags[name], 100) for name in (*_WHO, "creation_time", "com.apple.quicktime.creationdate",
               "date", "com.android.version") if tags.get(name)}  # fmt: skip
    details |= {"container": str(metadata.get("container", "")), "codec": codec}
    found = []
    device = [clean(next((tags[n] for n in names if tags.get(n)), ""), 60) for names in (_MAKE, _MODEL)]
    if any(device) or "com.android.version" in tags:
        named = " ".join(filter(None, device)) or f"Android {clean(tags['com.android.version'], 20)}"
        summary = f"The container names a device: {named}. It is not signed and can be copied into any file."
        found.append(observed("container", summary, "weak", "camera", device=named, **details))
    if writers:
        summary = f"The container was written by {'; '.join(writers)}. That says nothing of how the frames were made."
        found.append(observed("container", summary, "none", "", **details))
    elif not found:
        kind = details["container"] or "clip"
        found.append(
            observed("container", f"A {kind} container of {codec} that names no maker.", "none", "", **details)
        )
    return found, fields


def has_c2pa_box(file: BinaryIO) -> bool:
    """Whether the top-level boxes of an ISO base media file hold a C2PA box; reads only their heads."""
    at, end = 0, file.seek(0, io.SEEK_END)
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            break
        file.seek(at)
        head = file.read(32)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        start = 8
        if size == 1:
            size, start = int.from_bytes(head[8:16], "big"), 16
        if kind == b"uuid" and head[start : start + 16] == BMFF_UUID:
            return True
        if size < start:
            break
        at += size
    return False
