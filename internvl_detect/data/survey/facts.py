"""What one file of a dataset is: size, format, how it was coded, what it says of itself, and hashes to compare it by.

    facts = facts_of(("pictures/a.jpg", "image"))
    facts.width, facts.quality, facts.code  # code is "" for a file without problems

Every picture is decoded, JPEG at an eighth of its size (the coded data are read all the same). ``facts_of`` is meant
for a pool of processes: it takes and gives plain values and raises nothing for a bad file. Not here: comparing files.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import JpegImagePlugin

from internvl_detect.data.findings import show
from internvl_detect.errors import MediaError
from internvl_detect.media.image import Limits, open_image
from internvl_detect.media.image_metadata import orientation_of, read_metadata
from internvl_detect.media.jpeg_damage import jpeg_damage
from internvl_detect.media.pixels import least_marked, turn_upright
from internvl_detect.media.provenance.jpeg_tables import nearest_quality
from internvl_detect.media.source import HEAD, picture_format, read_source
from internvl_detect.media.truncated import what_is_missing

Task = tuple[str, str]  # path, role
ROLES = ("image", "video", "mask")
MAX_TAG = 64
_GRID = 9  # 8 differences a row and a column
_FLAT = 8  # grey levels; less contrast than this over the whole picture tells pictures not apart
_GREY_PX = 72  # shorter side of what the hash is made from
_BETWEEN = (0.1, 0.9)  # of a mask's brightest value: neither black nor white
# ITU-T T.81, table K.1, in reading order: what quality 50 of the usual encoders means.
_SUBSAMPLING = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1"}


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Plain values only, empty or 0 where unknown. ``code`` and ``problem`` say why a file cannot be used.

    ``width`` and ``height`` are upright pixels. ``tables`` is a short hash of the JPEG quantisation tables and
    ``quality`` (1 to 100) that of the nearest usual ones; ``sampling`` like "4:2:0". ``marks`` are the kinds of
    metadata present, by spaces; ``tag`` the software, or the text keys, that the file names. ``sha`` is the beginning
    of the SHA-256, ``across`` and ``down`` the difference hashes, each of 64 bits; a ``flat`` picture's mean nothing.
    ``white`` (share), ``brightest`` (0 to 255) and ``between`` (share of values neither black nor white) are a mask's;
    ``codec``, ``fps`` and ``duration_s`` a clip's.
    """

    code: str = ""
    problem: str = ""
    n_bytes: int = 0
    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    tables: str = ""
    quality: int = 0
    sampling: str = ""
    progressive: bool = False
    marks: str = ""
    tag: str = ""
    sha: int = 0
    across: int = 0
    down: int = 0
    flat: bool = True
    white: float = 0.0
    brightest: int = 0
    between: float = 0.0
    codec: str = ""
    fps: float = 0.0
    duration_s: float = 0.0

    def to_list(self) -> list[Any]:
        """The values in the order of the fields, for JSON."""
        return [getattr(self, name) for name in NAMES]

    @classmethod
    def from_list(cls, values: Any) -> FileFacts | None:
        """The facts that ``to_list`` gave; None for anything else, of another version or made by a stranger."""
        if not isinstance(values, list) or [type(v) for v in values] != _TYPES:
            return None
        facts = cls(*values)
        texts = (v for v in values if isinstance(v, str))
        counts = (facts.n_bytes, facts.width, facts.height, facts.sha, facts.across, facts.down)
        sane = all(0 <= n < 2**64 for n in counts) and max(facts.width, facts.height) < 2**32
        sane &= 0 <= facts.quality <= 100 and 0 <= facts.brightest <= 255 and all(len(t) <= 200 for t in texts)
        return facts if sane and all(0 <= v < 1e12 for v in values if isinstance(v, float)) else None


NAMES = tuple(field.name for field in fields(FileFacts))
_TYPES = [type(value) for value in FileFacts().to_list()]


def facts_of(task: Task) -> FileFacts:
    """The facts of (path, role); role "image", "video" or "mask". A bad file's are its ``code`` and ``problem``."""
    path, role = task
    try:
        if role == "video":
            return _clip(path)
        data = read_source(path, Limits().max_bytes)[0]
        return _mask(data) if role == "mask" else _picture(data)
    except ImportError:
        raise
    except MediaError as error:
        problem = error.found.removeprefix(path).removeprefix("the bytes given").strip()
        problem = f"cannot be used{problem}" if problem.startswith(":") else problem
    except Exception as error:  # noqa: BLE001 - whatever a decoder throws at a stranger's file must not end the survey
        problem = f"cannot be decoded: {type(error).__name__}: {error}"
    return FileFacts(code="unreadable-mask" if role == "mask" else "unreadable-media", problem=show(problem, 200)[1:-1])


def _picture(data: bytes) -> FileFacts:
    if picture_format(data[:HEAD]) == "JPEG":
        return _jpeg(data)
    picture = open_image(data)
    return FileFacts(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        mode=picture.mode,
        **_said(picture.metadata, data),
        **_hashes(picture.rgb),
        **_bytes(data),
    )


def _jpeg(data: bytes) -> FileFacts:
    """As ``open_image`` would take it, decoded small; and the damage that no decode at any size would show."""
    picture = JpegImagePlugin.JpegImageFile(io.BytesIO(data), "")
    limits, (width, height) = Limits(), picture.size
    if width * height > limits.max_pixels or what_is_missing(data, "JPEG"):
        open_image(data)  # raises, in its own words
    metadata = read_metadata(picture, "JPEG")
    turn = orientation_of(picture)
    mode = picture.mode
    picture.draft("L", (_GREY_PX, _GREY_PX))
    picture.load()
    damage = jpeg_damage(data)
    tables = metadata.get("quantization", {})
    factors = metadata.get("sampling", [])
    return FileFacts(
        code="damaged-media" if damage else "",
        problem=f"is damaged: {damage}" if damage else "",
        width=height if turn >= 5 else width,
        height=width if turn >= 5 else height,
        format="JPEG",
        mode=mode,
        tables=hashlib.blake2b(repr(sorted(tables.items())).encode(), digest_size=5).hexdigest() if tables else "",
        quality=nearest_quality(tuple(tables.get("0", ()))),
        sampling=_sampling(factors),
        progressive=metadata.get("progressive", False),
        **_said(metadata, data),
        **_hashes(turn_upright(picture, turn)[0]),
        **_bytes(data),
    )


def _sampling(factors: list[list[int]]) -> str:
    if len(factors) < 3:
        return "grey" if factors else ""
    first = (factors[0][0] // max(1, factors[1][0]), factors[0][1] // max(1, factors[1][1]))
    return _SUBSAMPLING.get(first, "other")


def _said(metadata: dict[str, Any], data: bytes) -> dict[str, Any]:
    text = metadata.get("text", {})
    present = {
        "exif": metadata.get("exif"),
        "icc": metadata.get("icc"),
        "xmp": metadata.get("xmp"),
        "c2pa": b"jumb" in data and b"c2pa" in data,
        "text": text,
    }
    tag = metadata.get("exif", {}).get("Software") or text.get("Software") or ", ".join(sorted(text))
    return {"marks": " ".join(k for k, v in present.items() if v), "tag": " ".join(str(tag).split())[:MAX_TAG]}


def _bytes(data: bytes) -> dict[str, Any]:
    return {"n_bytes": len(data), "sha": int.from_bytes(hashlib.sha256(data).digest()[:8], "big")}


def _hashes(picture: PILImage.Image) -> dict[str, Any]:
    """Signs of the grey differences between neighbours of an 8 by 8 grid, to the right and downwards."""
    grey = picture.convert("L")
    shrink = max(1, min(grey.size) // _GREY_PX)
    grey = grey.reduce(shrink) if shrink > 1 else grey
    grid = np.asarray(grey.resize((_GRID, _GRID), PILImage.Resampling.BILINEAR), np.int16)
    across, down = (grid[:8, 1:] > grid[:8, :-1]), (grid[1:, :8] > grid[:-1, :8])
    return {
        "across": int.from_bytes(np.packbits(across).tobytes(), "big"),
        "down": int.from_bytes(np.packbits(down).tobytes(), "big"),
        "flat": int(grid.max() - grid.min()) < _FLAT,
    }


def _mask(data: bytes) -> FileFacts:
    picture = open_image(data)
    values = np.asarray(picture.rgb.convert("L"))
    counts = np.bincount(values.ravel(), minlength=256) / values.size
    brightest = int(values.max())
    low, high = (round(share * brightest) for share in _BETWEEN)
    return FileFacts(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        mode=picture.mode,
        white=float(counts[least_marked(brightest) :].sum()),
        brightest=brightest,
        between=float(counts[low + 1 : high].sum()),
        **_bytes(data),
    )


def _clip(path: str) -> FileFacts:
    from internvl_detect.media.video import VideoLimits, open_video

    clip = open_video(path, frames=8, limits=VideoLimits(threads=1))
    return FileFacts(
        n_bytes=clip.n_bytes,
        width=clip.width,
        height=clip.height,
        format=str(clip.metadata.get("container", ""))[:40],
        mode=str(clip.metadata.get("pixel_format") or "")[:40],
        tag=" ".join(str(clip.metadata.get("tags", {}).get("encoder", "")).split())[:MAX_TAG],
        sha=int(clip.sha256[:16], 16),
        codec=clip.codec[:40],
        fps=round(float(clip.fps), 3),
        duration_s=round(float(clip.duration_s), 3),
        **_hashes(clip.frames[len(clip.frames) // 2]),
    )
