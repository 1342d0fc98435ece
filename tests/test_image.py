"""Pictures: what comes out is upright 8-bit RGB with everything done to it stated, or a MediaError; nothing else.

Run: ``python -m pytest tests/test_image.py``
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from picture_makers import VALID, base, encode, png
from PIL import Image as PILImage
from PIL import ImageCms, ImageOps, PngImagePlugin

from internvl_detect.errors import MediaError
from internvl_detect.media.image import open_image


def heic() -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(base()).save(buffer, quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", VALID)
def test_every_format_opens_by_content_with_pillows_pixels(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "misleading.txt"
    path.write_bytes(VALID[kind])
    picture = open_image(path)
    with PILImage.open(io.BytesIO(VALID[kind])) as plain:
        assert picture.rgb.tobytes() == plain.convert("RGB").tobytes()
    assert (picture.format, picture.width, picture.height, picture.path) == (kind, 61, 47, str(path))
    assert picture.rgb.mode == "RGB" and picture.n_bytes == len(VALID[kind]) and len(picture.sha256) == 64
    for other in (open_image(VALID[kind]), open_image(io.BytesIO(VALID[kind])), open_image(str(path))):
        assert other.rgb.tobytes() == picture.rgb.tobytes() and other.sha256 == picture.sha256
    json.dumps(picture.metadata)


def test_heic_opens_with_the_extra_and_names_it_without(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic()
    picture = open_image(data)
    assert picture.format == "HEIF" and picture.rgb.size == (61, 47)
    assert np.abs(np.asarray(picture.rgb).astype(int) - np.asarray(base())).mean() < 20
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match=r"extra heic.*internvl2-8bdetect\[heic\]"):
        open_image(data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_and_stated(kind: str, orientation: int) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    data = encode(base(), kind, exif=exif)
    picture = open_image(data)
    with PILImage.open(io.BytesIO(data)) as plain:
        plain.load()
        assert picture.rgb.tobytes() == ImageOps.exif_transpose(plain).convert("RGB").tobytes()
    assert picture.rgb.size == ((47, 61) if orientation >= 5 else (61, 47))
    assert any("orientation" in note for note in picture.notes) == (orientation > 1)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 61 * 47).reshape(47, 61).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        picture = open_image(encode(PILImage.fromarray(ramp), kind))
        assert np.array_equal(np.asarray(picture.rgb)[..., 0], np.rint(ramp / 257.0))
        assert any("16 bit scaled" in note for note in picture.notes)


def test_deep_colour_is_stated() -> None:
    rows = b"".join(b"\0" + bytes(range(6)) * 4 for _ in range(3))  # 4 x 3 px, 16 bit RGB
    header = struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    picture = open_image(png(parts))
    assert "16 bit per channel, the upper 8 used" in picture.notes
    assert picture.rgb.getpixel((0, 0)) == (0, 2, 4)


@pytest.mark.parametrize(
    ("values", "words"),
    [((0.0, 1.0), "0..1"), ((0.0, 200.0), "0..255"), ((-5.0, 900.0), "own range"), ((np.nan, 1.0), "0..1")],
)
def test_float_pictures_are_scaled(values: tuple[float, float], words: str) -> None:
    field = np.zeros((5, 7), np.float32)
    field[0, 0], field[4, 6] = values
    picture = open_image(encode(PILImage.fromarray(field), "TIFF"))
    assert any(words in note for note in picture.notes)
    assert np.asarray(picture.rgb).max() == (200 if values[1] == 200 else 255)


def test_alpha_palette_grey_and_one_bit_are_converted_as_the_reference_does_and_stated() -> None:
    clear = base().convert("RGBA")
    clear.putalpha(0)
    cases = [
        (clear, "PNG", "alpha channel dropped"),
        (clear, "WEBP", "alpha channel dropped"),
        (base().convert("LA"), "PNG", "alpha channel dropped"),
        (base().convert("P"), "PNG", "palette"),
        (base().convert("L"), "PNG", "grey"),
        (base().convert("1"), "PNG", "1 bit"),
        (base().convert("CMYK"), "TIFF", "CMYK"),
        (base().convert("CMYK"), "JPEG", "CMYK"),
        (base().convert("YCbCr"), "TIFF", "YCbCr"),
    ]
    for stored, kind, words in cases:
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        data = encode(stored, kind, **options)
        picture = open_image(data)
        assert any(words in note for note in picture.notes), (stored.mode, kind, picture.notes)
        with PILImage.open(io.BytesIO(data)) as plain:
            assert picture.rgb.tobytes() == plain.convert("RGB").tobytes()
    assert open_image(encode(clear, "PNG")).rgb.tobytes() == base().tobytes(), "not put on white"


def test_an_inverted_adobe_cmyk_jpeg_keeps_its_colours() -> None:
    red = PILImage.new("RGB", (16, 16), (220, 30, 30))
    data = encode(red.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(np.asarray(open_image(data).rgb).astype(int) - (220, 30, 30)).max() < 12


def test_lab_is_converted() -> None:
    lab = ImageCms.profileToProfile(
        base(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    picture = open_image(encode(lab, "TIFF"))
    assert np.abs(np.asarray(picture.rgb).astype(int) - np.asarray(base())).mean() < 8


def test_of_several_frames_the_first_is_taken_and_that_is_stated() -> None:
    second = base().transpose(PILImage.Transpose.FLIP_TOP_BOTTOM)
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("AVIF", {}), ("PNG", {})):
        data = encode(base(), kind, save_all=True, append_images=[second], **options)
        picture = open_image(data)
        with PILImage.open(io.BytesIO(data)) as plain:
            assert picture.rgb.tobytes() == plain.convert("RGB").tobytes()
        assert any("first of 2" in note for note in picture.notes), kind
        assert picture.metadata["frames"] == 2


def test_metadata_is_kept_for_later() -> None:
    exif = PILImage.Exif()
    exif[0x010F], exif[0x0131] = "A Camera", "An Editor 3.1"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encode(base(), "JPEG", exif=exif, icc_profile=profile, comment=b"hello", progressive=True, quality=80)
    kept = open_image(data).metadata
    assert kept["exif"]["Make"] == "A Camera" and kept["exif"]["Software"] == "An Editor 3.1"
    assert kept["icc"] and kept["icc_bytes"] == len(profile) and kept["progressive"]
    assert len(kept["quantization"]["0"]) == 64 and kept["sampling"][0] == [2, 2]
    assert kept["text"]["comment"] == "hello"
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", "a cat, steps: 20" + "x" * 10_000)
    kept = open_image(encode(base(), "PNG", pnginfo=chunks)).metadata
    assert kept["text"]["parameters"].startswith("a cat") and len(kept["text"]["parameters"]) <= 4096
    assert open_image(encode(base(), "WEBP", xmp=b"<x:xmpmeta/>")).metadata["xmp"]


def test_the_picture_given_back_carries_nothing_of_the_file() -> None:
    assert open_image(encode(base(), "JPEG", comment=b"secret")).rgb.info == {}


def test_importing_media_imports_no_torch_and_changes_no_setting_of_pillow() -> None:
    code = (
        "import sys, PIL.Image as P, PIL.ImageFile as F; before = (P.MAX_IMAGE_PIXELS, F.LOAD_TRUNCATED_IMAGES);"
        "import internvl_detect.media.image, internvl_detect.media.video, internvl_detect.media.tiles;"
        "import internvl_detect.media.degrade;"
        "assert before == (P.MAX_IMAGE_PIXELS, F.LOAD_TRUNCATED_IMAGES);"
        "assert not {'torch', 'transformers', 'pillow_heif'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
