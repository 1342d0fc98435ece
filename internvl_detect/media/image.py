"""Open a picture from a stranger: by content, within limits, upright, 8-bit RGB, with everything done to it stated.

Reads JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and, with the extra ``heic``, HEIC; no other decoder is ever reached.
Whatever the bytes are, the outcome is an ``Image`` or a ``MediaError``. Not here: provenance and judging; the metadata
they need is kept, so that the file need not be opened again.

    picture = open_image("photo.jpg")
    picture.rgb, picture.notes, picture.metadata["exif"]
"""

from __future__ import annotations

import hashlib
import importlib
import io
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image as PILImage
from PIL import features

from internvl_detect.errors import MediaError
from internvl_detect.media.image_metadata import bits_per_channel, orientation_of, read_metadata
from internvl_detect.media.pixels import to_rgb, turn_upright
from internvl_detect.media.source import (
    HEAD,
    Source,
    clip_format,
    describe,
    name_of,
    picture_format,
    read_source,
    sniff,
)
from internvl_detect.media.truncated import decoding, stated_size, what_is_missing

__all__ = ["Image", "Limits", "open_image", "sniff"]
# What a decoder makes of a stranger's file stands in the result; lines on standard error would only tear the progress.
warnings.filterwarnings("ignore", module=r"PIL\.")

_PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",
}


@dataclass(frozen=True)
class Limits:
    """What a picture may cost: bytes of the file, pixels (width x height) and pixels of the longer side."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000
    max_side_px: int = 65_535


@dataclass(frozen=True)
class Image:
    """A decoded picture. ``rgb`` is upright 8-bit RGB of ``width`` x ``height`` pixels; ``mode`` is how it was stored.

    ``notes`` say in words what was converted. ``metadata`` holds JSON-able values, see ``read_metadata``.
    ``sha256`` is that of the file's bytes, ``n_bytes`` their number; ``data`` holds them where they were asked for.
    """

    rgb: PILImage.Image
    width: int
    height: int
    format: str
    mode: str
    n_bytes: int
    sha256: str
    notes: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    path: str | None = None
    data: bytes = field(default=b"", repr=False, compare=False)
    kind: Literal["image"] = field(default="image", init=False)


def open_image(
    source: Source, *, limits: Limits | None = None, allow_truncated: bool = False, keep_bytes: bool = False
) -> Image:
    """Decode one picture; of an animated or paged one, the first. ``keep_bytes`` keeps the file's bytes as ``data``.

    Raises ``MediaError`` for anything that is not a whole picture of a known format within ``limits``. With
    ``allow_truncated`` a file that ends early is decoded as far as it goes, and ``notes`` says so.
    """
    limits = limits or Limits()
    data, path = read_source(source, limits.max_bytes)
    name = name_of(source)
    found = picture_format(data[:HEAD])
    if found is None:
        raise _not_a_picture(data[:HEAD], name)
    _check_pixels(stated_size(data, found), limits, name)
    try:
        with decoding(tolerant=False):
            rgb, facts = _decode(data, found, limits, name)
        missing = what_is_missing(data, found)
        if missing and not allow_truncated:
            raise _truncated(name, found, len(data), missing)
    except MediaError:
        raise
    except Exception as error:  # noqa: BLE001 - a decoder fed hostile bytes may raise anything at all
        missing = what_is_missing(data, found)
        if not allow_truncated:
            raise _broken(name, found, len(data), missing, error) from None
        rgb, facts = _decode_what_is_there(data, found, limits, name, error)
        missing = "; ".join(w for w in (missing, _words(error)) if w)
    if missing:
        facts["notes"].insert(0, f"file ends early or is damaged ({missing}): decoded as far as it goes")
    return Image(
        rgb=rgb,
        width=rgb.width,
        height=rgb.height,
        format=found,
        mode=facts["mode"],
        n_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        notes=tuple(facts["notes"]),
        metadata=facts["metadata"],
        path=path,
        data=data if keep_bytes else b"",
    )


def _decode(data: bytes, found: str, limits: Limits, name: str) -> tuple[PILImage.Image, dict[str, Any]]:
    picture = _open_heif(data, limits, name) if found == "HEIF" else _open_by_pillow(data, found)
    _check_pixels(picture.size, limits, name)
    mode, before = picture.mode, orientation_of(picture)
    picture.load()
    metadata = read_metadata(picture, found)  # before anything is converted: the file is whole and read
    left = 1 if found == "HEIF" else orientation_of(picture)  # Pillow turns TIFF itself, libheif HEIC
    notes: list[str] = []
    deep = bits_per_channel(data, found)
    if deep == 16 and mode in ("RGB", "RGBA", "LA", "P"):
        notes.append("16 bit per channel, the upper 8 used")
    rgb, said = to_rgb(picture)
    notes += said
    rgb, turned = turn_upright(rgb, left)
    if not turned and before != left:
        turned = [f"turned upright (EXIF orientation {before})"]
    notes += turned
    frames = metadata.get("frames", 1)
    if frames > 1:
        rgb = rgb.copy() if rgb is picture else rgb  # the decoder's own picture would follow it to other frames
        notes.append(f"first of {frames} {'pages' if found in ('TIFF', 'JPEG') else 'frames'}")
    rgb.info = {}  # or a later save would write the stranger's profile and comments
    return rgb, {"mode": mode, "notes": notes, "metadata": metadata}


def _decode_what_is_there(
    data: bytes, found: str, limits: Limits, name: str, why: Exception
) -> tuple[PILImage.Image, dict[str, Any]]:
    try:
        with decoding(tolerant=True):
            return _decode(data, found, limits, name)
    except MediaError:
        raise
    except Exception:  # noqa: BLE001 - as above
        what = f"{name}: no part of this {found} can be decoded ({_words(why)})"
        raise MediaError(what, expected="at least a readable beginning") from None


def _open_by_pillow(data: bytes, found: str) -> PILImage.Image:
    """The one decoder of this format. Not ``Image.open``: its warning about size is a process-wide setting."""
    if found == "AVIF" and not features.check("avif"):
        do = "Install a Pillow wheel, which has it"
        raise MediaError("an AVIF picture, and this build of Pillow cannot read it", do=do)
    importlib.import_module(f"PIL.{_PLUGINS[found]}")
    return PILImage.OPEN[found][0](io.BytesIO(data), "")


def _open_heif(data: bytes, limits: Limits, name: str) -> PILImage.Image:
    try:
        import pillow_heif
    except ImportError:
        do = "pip install 'internvl2-8bdetect[heic]'"
        raise MediaError(f"{name} is HEIC, which needs the extra heic", do=do) from None
    opened = pillow_heif.open_heif(io.BytesIO(data))  # reads the header; pixels come with to_pillow
    _check_pixels(opened.size, limits, name)
    picture = opened.to_pillow()
    picture.info["frames"] = len(opened)
    return picture


def _check_pixels(size: tuple[int, int] | None, limits: Limits, name: str) -> None:
    if size is None:
        return
    width, height = size
    if width < 1 or height < 1:
        raise MediaError(f"{name} is {width}x{height} px", expected="at least one pixel")
    if width * height > limits.max_pixels or max(size) > limits.max_side_px:
        expected = f"at most {limits.max_pixels / 1e6:.6g} megapixels and {limits.max_side_px} px a side"
        found = f"{name} is {width}x{height} px ({width * height / 1e6:.1f} megapixels)"
        raise MediaError(found, expected=expected, do="Raise the limit if you trust the file")


def _not_a_picture(head: bytes, name: str) -> MediaError:
    clip = clip_format(head)
    if clip:
        return MediaError(f"{name} is a clip ({clip})", expected="a picture", do="Open it as a video")
    return MediaError(
        f"{name} is {describe(head)}",
        expected="JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC, told by content, not by the name",
    )


def _truncated(name: str, found: str, size: int, missing: str) -> MediaError:
    return MediaError(
        f"{name} is truncated: the {found} ends after {size} bytes ({missing})",
        expected="a whole file",
        do="Get the file again, or allow truncated files to use what is there",
    )


def _broken(name: str, found: str, size: int, missing: str, error: Exception) -> MediaError:
    words = _words(error)
    if missing or "truncated" in words.lower():
        return _truncated(name, found, size, "; ".join(w for w in (missing, words) if w))
    return MediaError(f"{name} is a broken {found}: {words}", expected=f"a valid {found}")


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text or type(error).__name__
