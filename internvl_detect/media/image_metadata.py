"""What a picture's file says about itself, as plain bounded values, so that later work needs no second opening.

Nothing here is believed or judged; a stranger wrote it.
"""

from __future__ import annotations

from typing import Any

from PIL import ExifTags
from PIL import Image as PILImage

from internvl_detect.media.iptc import read_iim

MAX_TEXT = 4096  # characters kept of one text value
MAX_XMP = 2**18
MAX_VALUES = 200  # entries kept of one table
_ORIENTATION = 0x0112
_USER_COMMENT = 0x9286
_IPTC_RESOURCE, _IPTC_TAG = 0x0404, 33723  # Photoshop's image resource, and the TIFF tag
_IFDS = {"Exif": ExifTags.IFD.Exif, "GPSInfo": ExifTags.IFD.GPSInfo}
_OWN_KEYS = {"exif", "icc_profile", "xmp", "XML:com.adobe.xmp", "photoshop", "mp", "frames", "metadata", "thumbnails"}


def orientation_of(picture: PILImage.Image) -> int:
    """EXIF orientation 1 to 8; 1 when there is none or it cannot be read."""
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
        return int(value) if int(value) in range(1, 9) else 1
    except Exception:  # noqa: BLE001 - hostile EXIF must not stop a picture whose pixels are fine
        return 1


def read_metadata(picture: PILImage.Image, found: str) -> dict[str, Any]:
    """Of a loaded picture, before conversion.

    ``exif`` {tag name: text}; ``info`` {key: text or number}; ``text`` {keyword: text} (PNG text chunks, comments);
    ``icc`` (bool) and ``icc_bytes``; ``xmp`` (bool) and ``xmp_text``; ``iptc`` {name: text}; ``frames``; for JPEG
    ``quantization`` {table id: 64 numbers in raster order}, ``progressive`` (bool), ``sampling`` (each channel's
    horizontal and vertical factor), ``markers``, ``ducky`` (whether Photoshop's "Save for Web" left its marker).
    """
    info = dict(picture.info)
    profile, xmp = info.get("icc_profile") or b"", info.get("xmp") or info.get("XML:com.adobe.xmp") or ""
    kept: dict[str, Any] = {
        "exif": _exif(picture),
        "info": {str(k): _plain(v) for k, v in list(info.items())[:MAX_VALUES] if k not in _OWN_KEYS},
        "text": {str(k)[:200]: _text(v, MAX_TEXT) for k, v in _text_chunks(picture, info)},
        "icc": bool(profile),
        "icc_bytes": len(profile) if isinstance(profile, (bytes, bytearray)) else 0,
        "xmp": bool(xmp),
        "frames": _frames(picture),
    }
    if xmp:
        kept["xmp_text"] = _text(xmp, MAX_XMP)
    if iptc := _iptc(picture, info):
        kept["iptc"] = iptc
    tables = getattr(picture, "quantization", None)
    if found == "JPEG" and tables:
        kept["quantization"] = {str(k): [int(v) for v in table] for k, table in tables.items()}
        kept["progressive"] = bool(info.get("progressive") or info.get("progression"))
        kept["sampling"] = [[int(v) for v in layer[1:3]] for layer in getattr(picture, "layer", [])]
        segments = list(getattr(picture, "applist", []))[:MAX_VALUES]
        kept["markers"] = [str(marker) for marker, _ in segments]
        kept["ducky"] = any(marker == "APP12" and body.startswith(b"Ducky") for marker, body in segments)
    return kept


def bits_per_channel(data: bytes, found: str) -> int:
    """As the PNG header says; 8 for other formats, whose decoders say it by their mode."""
    return data[24] if found == "PNG" and len(data) > 24 else 8


def _exif(picture: PILImage.Image) -> dict[str, str]:
    kept: dict[str, str] = {}
    try:
        exif = picture.getexif()
        for tag, value in list(exif.items())[:MAX_VALUES]:
            kept[ExifTags.TAGS.get(tag, str(tag))] = _text(value, MAX_TEXT)
        for name, ifd in _IFDS.items():
            names = ExifTags.GPSTAGS if name == "GPSInfo" else ExifTags.TAGS
            for tag, value in list(exif.get_ifd(ifd).items())[:MAX_VALUES] if ifd in exif else ():
                plain = _user_comment(value) if tag == _USER_COMMENT and name == "Exif" else value
                kept[f"{name}.{names.get(tag, tag)}"] = _text(plain, MAX_TEXT)
    except Exception as error:  # noqa: BLE001 - hostile EXIF must not stop a picture whose pixels are fine
        kept["unreadable"] = _text(f"{type(error).__name__}: {error}", 200)
    return kept


def _user_comment(value: Any) -> Any:
    """The text of an EXIF UserComment, whose first eight bytes name its encoding (Exif 2.32, 4.6.5)."""
    if not isinstance(value, bytes) or len(value) < 8:
        return value
    code, body = value[:8], value[8 : 8 + 4 * MAX_TEXT]
    if code == b"UNICODE\0":
        zeros = [body[i::2].count(0) for i in (0, 1)]  # of Latin letters one byte is zero: the first is big-endian
        return body[: len(body) // 2 * 2].decode("utf-16-be" if zeros[0] >= zeros[1] else "utf-16-le", "replace")
    return body if code in (b"ASCII\0\0\0", bytes(8)) else value


def _iptc(picture: PILImage.Image, info: dict[Any, Any]) -> dict[str, str]:
    resources = info.get("photoshop")
    data = resources.get(_IPTC_RESOURCE) if isinstance(resources, dict) else None
    tags = getattr(picture, "tag_v2", None)
    if data is None and tags is not None:
        data = tags.get(_IPTC_TAG)
    return read_iim(data, MAX_TEXT) if isinstance(data, bytes) else {}


def _frames(picture: PILImage.Image) -> int:
    """How many frames or pages; 1 when the count cannot be read."""
    if "frames" in picture.info:
        return int(picture.info["frames"])
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # noqa: BLE001 - a later frame may be broken; the first is what is used
        return 1


def _text_chunks(picture: PILImage.Image, info: dict[Any, Any]) -> list[tuple[Any, Any]]:
    chunks = getattr(picture, "text", None)
    pairs = list(chunks.items()) if isinstance(chunks, dict) else []
    if "comment" in info:
        pairs.append(("comment", info["comment"]))
    return [(k, v) for k, v in pairs if k != "XML:com.adobe.xmp"][:MAX_VALUES]


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    return _text(value, MAX_TEXT)


def _text(value: Any, most: int) -> str:
    if isinstance(value, (bytes, bytearray)):
        text = bytes(value[:most]).decode("utf-8", "replace").replace("\0", " ").strip()
        value = text if text.count("\ufffd") <= 0.05 * len(text) else f"{len(value)} bytes"
    text = str(value[: 2**20] if isinstance(value, str) else value)
    if len(text) <= most:
        return text
    tail = most // 4 if most == MAX_TEXT else 0  # a long prompt's settings stand behind it
    return f"{text[: most - tail - 6]} [..] {text[-tail:]}" if tail else text[:most]
