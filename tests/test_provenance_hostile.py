"""Strangers' metadata: whatever the bytes are, provenance ends in a result of bounded size or a MediaError."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from c2pa_makers import created, manifest, signed
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_makers import MORE, VALID, base, encode
from PIL import Image, PngImagePlugin

from internvl_detect.errors import MediaError
from internvl_detect.media.iptc import read_iim
from internvl_detect.media.provenance import content_credentials as c2pa_reader
from internvl_detect.media.provenance import provenance_of
from internvl_detect.media.provenance.camera import camera_and_software
from internvl_detect.media.provenance.found import MAX_SHOWN, clean
from internvl_detect.media.provenance.generators import generator_texts
from internvl_detect.media.provenance.xmp import MAX_VALUES, BadXmp, read_xmp
from internvl_detect.report.html import render
from internvl_detect.verdict import Verdict

MOST_BYTES = 100_000  # of a whole result as JSON
SIGNED = signed(encode(base(), "JPEG"), "image/jpeg", manifest(created("trainedAlgorithmicMedia")))
NASTY = ["<script>alert(1)</script>", "\x1b[2J\x00\u202e", "\udcff\ud800", "{{ 7*7 }}", "a" * 5000, "Photoshop \x07"]


def told(data: bytes) -> str:
    """The result as JSON that can be written, or "" for a MediaError."""
    try:
        text = json.dumps(provenance_of(data).to_dict(), allow_nan=False, ensure_ascii=False)
    except MediaError:
        return ""
    assert len(text.encode("utf-8")) < MOST_BYTES
    return text


BOMB = """<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><x>&c;</x>"""


@pytest.mark.parametrize(
    "packet", [BOMB, '<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "<x>" * 50_000, "<x", "", "\0\0", "\ud800<x/>"]
)
def test_xmp_with_a_document_type_or_broken_xml_is_refused(packet):
    with pytest.raises(BadXmp):
        read_xmp(packet)
    if packet.strip("\0"):
        file = encode(base(), "JPEG", xmp=packet.encode("utf-8", "replace")[:60_000])
        assert any("XMP was not read" in note for note in provenance_of(file).notes)


def test_deep_wide_and_long_xmp_is_bounded():
    for packet in (
        "<x>" * 20_000 + "t" + "</x>" * 20_000,
        "<x>" + "<y>t</y>" * 20_000 + "</x>",
        "<x " + " ".join(f'a{i}="{"v" * 90}"' for i in range(2000)) + "/>",
    ):
        assert sum(map(len, read_xmp(packet).values())) <= MAX_VALUES


@settings(max_examples=150)
@given(st.text("<>&;!?\"'=/ xmp:rdfli\0\n[]-", max_size=80))
def test_any_text_is_xmp_or_refused(text):
    with contextlib.suppress(BadXmp):
        assert isinstance(read_xmp(text), dict)


@settings(max_examples=150)
@given(st.binary(max_size=80).map(lambda tail: b"\x1c\x02" + tail))
def test_any_bytes_are_iptc_or_nothing(data):
    assert all(len(text) <= 50 for text in read_iim(data, 50).values())


@settings(max_examples=150)
@given(st.text(max_size=400))
def test_a_cleaned_text_is_one_short_printable_line(text):
    shown = clean(text)
    assert len(shown) <= MAX_SHOWN and shown.isprintable()
    shown.encode("utf-8")


FIELDS = ["exif:Make", "exif:Model", "exif:Software", "exif:DateTime", "exif:Exif.DateTimeOriginal", "exif:Orientation"]
FIELDS += ["exif:Exif.ExifImageWidth", "exif:Exif.ExifImageHeight", "text:parameters", "text:prompt", "xmp:CreatorTool"]
FIELDS += ["Iptc4xmpExt:DigitalSourceType", "TC260:AIGC", "tiff:Make", "stEvt:softwareAgent", "exif:Exif.UserComment"]
values = st.one_of(
    st.sampled_from([*NASTY, "99999999999999999999", "-1", "2024:01:01 00:00:00", "Steps: 1, Sampler: x", "²"]),
    st.text(max_size=60),
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(FIELDS), values))
def test_any_fields_give_printable_observations(fields):
    for evidence in [*camera_and_software(fields, (10, 20)), *generator_texts(fields)]:
        text = json.dumps([evidence.summary, evidence.details], ensure_ascii=False)
        assert text.isprintable() and len(text) < 20_000
        text.encode("utf-8")


@pytest.mark.parametrize("text", NASTY)
def test_nasty_metadata_stays_text_in_a_report(text):
    chunks = PngImagePlugin.PngInfo()
    for key in ("Software", "parameters", "Description"):
        chunks.add_text(key, f"{text} Steps: 1, Sampler: x".encode("utf-8", "replace").decode().replace("\0", ""))
    exif = Image.Exif()
    exif[0x010F] = exif[0x0131] = text.encode("utf-8", "replace").decode()
    for file in (encode(base(), "PNG", pnginfo=chunks), encode(base(), "JPEG", exif=exif)):
        evidence = provenance_of(file).evidence
        row = Verdict("a", "image", 0.5, 0.5, "unsure", "real", "m", {}, evidence=evidence)
        page = "".join(render([row]))
        assert "<script>alert" not in page and "\x1b" not in page and "\u202e" not in page
        page.encode("utf-8")
        told(file)


def test_megabytes_of_text_cost_no_more_than_their_bound():
    chunks = PngImagePlugin.PngInfo()
    for i in range(40):
        chunks.add_text(f"key{i}", "x" * 100_000)
    chunks.add_text("parameters", "a" * 900_000 + " Steps: 20, Sampler: Euler")
    assert "Stable Diffusion" in told(encode(base(), "PNG", pnginfo=chunks))
    told(encode(base(), "JPEG", comment=b"y" * 65_000, xmp=b"<x>" + b"z" * 64_000 + b"</x>"))


@settings(max_examples=120)
@given(st.sampled_from(sorted({**VALID, **MORE})), st.data())
def test_changed_bytes_of_any_format_end_in_a_result_or_a_media_error(kind, data):
    told(mutated({**VALID, **MORE}[kind], data))


@settings(max_examples=150)
@given(st.data())
def test_changed_bytes_of_a_signed_file_never_decide_unless_they_are_outside_what_is_signed(data):
    file = mutated(SIGNED, data)
    told(file)
    evidence, note = c2pa_reader.content_credentials("image/jpeg", io.BytesIO(file))
    if evidence and evidence.details["strength"] == "decides":
        assert evidence.details["state"] in ("Valid", "Trusted") and not evidence.details.get("problems")
    note.encode("utf-8")


def mutated(file: bytes, data: st.DataObject) -> bytes:
    changed = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        how = data.draw(st.sampled_from(["flip", "cut", "double", "zero"]))
        end = min(len(changed), at + data.draw(st.integers(1, 40)))
        if how == "flip":
            changed[at] ^= data.draw(st.integers(1, 255))
        elif how == "cut" and len(changed) > 100:
            del changed[at:end]
        elif how == "double":
            changed[at:at] = changed[at:end]
        else:
            changed[at:end] = bytes(end - at)
    return bytes(changed)


KEYS = ["manifests", "active_manifest", "a", "assertions", "label", "data", "actions", "action", "parameters"]
KEYS += ["digitalSourceType", "ingredients", "signature_info", "validation_state", "claim_generator_info"]
leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("c2pa.actions")
shapes = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=30,
)


@settings(max_examples=60)
@given(shapes)
def test_any_shape_of_manifest_store_is_read_without_an_exception(store):
    shaped = {"active_manifest": "a", "manifests": {"a": store if isinstance(store, dict) else {"assertions": store}}}
    for given_store in (store if isinstance(store, dict) else {}, shaped | {"validation_state": "Valid"}):
        evidence = c2pa_reader._observation(given_store)
        assert evidence is None or evidence.source == "c2pa"
