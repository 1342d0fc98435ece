"""Hostile and broken pictures: cut, changed, too large, or none at all; the outcome is a picture or a MediaError.

Run: ``python -m pytest tests/test_image_hostile.py``
"""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from picture_makers import MORE, VALID, base, encode, png
from PIL import Image as PILImage
from PIL import ImageFile

from internvl_detect.errors import MediaError
from internvl_detect.media.image import Image, Limits, open_image, sniff

FAST = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", [*VALID, "progressive"])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_truncated_files_are_refused_with_what_is_missing(kind: str, share: float) -> None:
    whole = {**VALID, **MORE}[kind]
    data = whole[: int(len(whole) * share)]
    with pytest.raises(MediaError, match=f"truncated: the .* ends after {len(data)} bytes|broken"):
        open_image(data)


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "BMP", "GIF", "TIFF"])
def test_truncated_files_are_decoded_as_far_as_they_go_when_asked_for(kind: str) -> None:
    whole = {**VALID, **MORE}[kind]
    full = open_image(whole)
    picture = open_image(whole[: int(len(whole) * 0.8)], allow_truncated=True)
    assert picture.rgb.size == full.rgb.size and "as far as it goes" in picture.notes[0]
    rows = slice(0, 8) if kind != "BMP" else slice(-8, None)  # stored from the bottom up
    top = np.asarray(picture.rgb)[rows].astype(int) - np.asarray(full.rgb)[rows]
    assert np.abs(top).mean() < 12
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_whole_file_has_no_truncation_note_even_when_truncation_is_allowed() -> None:
    for data in VALID.values():
        assert not any("ends early" in note for note in open_image(data, allow_truncated=True).notes)


def test_tolerating_one_threads_truncated_file_does_not_let_another_through() -> None:
    whole = encode(base(400, 300), "PNG")
    cut, stop, passed = whole[: len(whole) // 2], time.monotonic() + 1.0, []

    def tolerant() -> None:
        while time.monotonic() < stop:
            open_image(cut, allow_truncated=True)

    def strict() -> None:
        while time.monotonic() < stop:
            try:
                open_image(cut)
                passed.append("accepted")
            except MediaError:
                pass

    threads = [threading.Thread(target=work) for work in (tolerant, strict, strict)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not passed and not ImageFile.LOAD_TRUNCATED_IMAGES


def test_limits_are_checked_before_decoding() -> None:
    with pytest.raises(MediaError, match="larger than"):
        open_image(VALID["BMP"], limits=Limits(max_bytes=100))
    for data in VALID.values():
        with pytest.raises(MediaError, match="61x47"):
            open_image(data, limits=Limits(max_pixels=1000))
        with pytest.raises(MediaError, match="61x47"):
            open_image(data, limits=Limits(max_side_px=50))
    bomb = png([(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")])
    with pytest.raises(MediaError, match="60000x60000"):
        open_image(bomb)
    webp = bytearray(MORE["animation"])
    webp[24:30] = b"\xff\x3f\0\xff\x3f\0"
    with pytest.raises(MediaError, match="16384x16384"):
        open_image(bytes(webp))


def test_a_file_object_is_not_read_beyond_the_limit() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            assert size > 0
            self.given += size
            return b"\xff\xd8\xff" + b"\0" * (size - 3)

    source = Endless()
    with pytest.raises(MediaError, match="larger than"):
        open_image(source, limits=Limits(max_bytes=5_000_000))
    assert source.given <= 5_000_001


def test_pillows_own_size_warning_plays_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("JPEG", "PNG", "GIF", "BMP", "AVIF"):  # WebP and TIFF check for themselves as they decode
            assert open_image(VALID[kind]).rgb.size == (61, 47)


def test_a_text_chunk_that_unpacks_to_more_than_allowed_is_refused() -> None:
    packed = b"Comment\0\0" + zlib.compress(b"a" * 80_000_000, 9)
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    data = png([(b"IHDR", header), (b"zTXt", packed), (b"IDAT", zlib.compress(b"\0\0\0\0")), (b"IEND", b"")])
    with pytest.raises(MediaError):
        open_image(data)


def test_what_is_no_picture_says_what_it_is(tmp_path: Path) -> None:
    cases = {
        b"": "empty",
        b"hello, I am text": "is text",
        b"<!DOCTYPE html><html>not found</html>": "HTML",
        b"<svg xmlns='x'></svg>": "SVG",
        b"%PDF-1.7": "PDF",
        b"\0" * 100: "zero bytes only",
        b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + b"\0" * 50: "clip",
    }
    for data, words in cases.items():
        (tmp_path / "photo.jpg").write_bytes(data)
        with pytest.raises(MediaError, match=words):
            open_image(tmp_path / "photo.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, words in ((tmp_path, "folder"), (tmp_path / "no.jpg", "not exist"), (tmp_path / "pipe.jpg", "pipe")):
        with pytest.raises(MediaError, match=words):
            open_image(path)
    for wrong in (3, None, io.StringIO("text"), "nul\0byte"):
        with pytest.raises(MediaError):
            open_image(wrong)  # type: ignore[arg-type]


def test_sniff_tells_pictures_from_clips_and_both_from_the_rest() -> None:
    assert all(sniff(data[:64]) == "image" for data in VALID.values())
    for head in (b"\x1a\x45\xdf\xa3", b"\0\0\0\x18ftypmp42", b"RIFF\0\0\0\0AVI LIST", b"FLV\x01", b"OggS"):
        assert sniff(head + b"\0" * 20) == "video"
    assert sniff(b"") is None and sniff(b"BM just text that begins so") is None


def outcome(data: bytes) -> Image | None:
    """The picture or None; anything but a MediaError escapes and fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for allow in (True, False):
            try:
                picture = open_image(data, limits=Limits(max_pixels=4_000_000), allow_truncated=allow)
                assert picture.rgb.mode == "RGB" and picture.rgb.size == (picture.width, picture.height)
                json.dumps(picture.metadata)
            except MediaError:
                picture = None
    return picture


@given(st.sampled_from(sorted(VALID)), st.binary(max_size=400))
@FAST
def test_random_bytes_behind_a_real_header_never_escape(kind: str, tail: bytes) -> None:
    outcome(VALID[kind][:40] + tail)
    outcome(tail)


@given(
    st.sampled_from(sorted({**VALID, **MORE})),
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=8),
    st.floats(0.02, 1),
)
@FAST
def test_changed_and_cut_files_never_escape(kind: str, changes: list[tuple[int, int]], share: float) -> None:
    whole = {**VALID, **MORE}[kind]
    data = bytearray(whole)
    for at, value in changes:
        data[at % len(data)] = value
    outcome(bytes(data))
    outcome(bytes(data[: int(len(data) * share)]))


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=6))
@FAST
def test_changed_headers_never_escape(changes: list[tuple[int, int]]) -> None:
    for whole in (*VALID.values(), *MORE.values()):
        data = bytearray(whole)
        for at, value in changes:
            data[at % min(len(data), 600)] = value
        outcome(bytes(data))
