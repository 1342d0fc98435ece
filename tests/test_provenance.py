"""What provenance promises: it says what is in a file and how much it weighs; only a valid signed record decides."""

from __future__ import annotations

import io
import json
import sys

import av
import numpy as np
import pytest
from c2pa_makers import SOURCE, chain, created, manifest, signed
from picture_makers import base, encode
from PIL import Image, PngImagePlugin

from internvl_detect.errors import MediaError
from internvl_detect.media.image import open_image
from internvl_detect.media.provenance import provenance_of
from internvl_detect.media.provenance.double_jpeg import double_compression
from internvl_detect.media.provenance.generators import TABLE
from internvl_detect.media.provenance.jpeg_tables import describe_tables, ijg_table

AI, COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
JPEG = encode(base(160, 120), "JPEG", quality=90)


def one(found, source: str):
    return next(e for e in found.evidence if e.source == source)


def noise(size: tuple[int, int] = (320, 240), seed: int = 0) -> Image.Image:
    """Grain over soft shapes: enough AC energy for histograms."""
    rng = np.random.default_rng(seed)
    small = rng.integers(30, 225, (size[1] // 12, size[0] // 12, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)).astype(int)
    grain = rng.normal(0, 9, (size[1], size[0], 1))
    return Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8))


def again(picture: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encode(picture, "JPEG", quality=quality)))


# Signed records


@pytest.mark.parametrize(("kind", "mime"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")])
def test_a_valid_record_that_says_made_by_ai_decides(kind, mime):
    found = provenance_of(signed(encode(base(), kind), mime, manifest(created(AI))))
    assert found.decides is one(found, "c2pa") is found.evidence[0]
    assert found.decides.details["says"] == "ai_generated" and found.decides.details["signed_by"] == "Test Signer"
    assert "GenNet" in found.decides.summary and found.summary == found.decides.summary


def test_whether_the_signer_is_trusted_depends_on_the_anchors_given():
    file = signed(JPEG, "image/jpeg", manifest(created(AI)))
    assert provenance_of(file).decides.details["trusted"] is False
    assert "no trust list" in provenance_of(file).decides.summary
    assert provenance_of(file, trust=chain().anchor).decides.details["state"] == "Trusted"


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (created(AI), "ai_generated"),
        (created(COMPOSITE), "tampered"),
        ({"action": "c2pa.edited", "digitalSourceType": SOURCE + AI}, "tampered"),
        (created("digitalCapture"), "camera"),
        ({"action": "c2pa.created", "digitalSourceType": SOURCE + "digitalArt"}, ""),
        ({"action": "c2pa.color_adjustments"}, ""),
    ],
)
def test_what_a_valid_record_says_is_taken_from_its_actions(action, says):
    opened = [] if action["action"] == "c2pa.created" else [created("digitalArt")]
    found = provenance_of(signed(JPEG, "image/jpeg", manifest(*opened, action)))
    evidence = one(found, "c2pa")
    assert evidence.details["state"] == "Valid" and evidence.details["says"] == says
    assert (found.decides is evidence) == (says in ("ai_generated", "tampered"))


def test_a_file_changed_after_signing_decides_nothing_and_says_so():
    file = bytearray(signed(JPEG, "image/jpeg", manifest(created(AI))))
    file[-400] ^= 1
    found = provenance_of(bytes(file))
    evidence = one(found, "c2pa")
    assert found.decides is None and evidence.details["state"] == "Invalid" and evidence.details["strength"] == "weak"
    assert "do not hold" in evidence.summary and "assertion.dataHash.mismatch" in evidence.details["problems"]


@pytest.mark.parametrize(
    ("relationship", "says"), [("parentOf", "ai_generated"), ("componentOf", "tampered"), ("inputTo", "")]
)
def test_what_a_picture_was_made_from_counts_by_its_relation(relationship, says):
    parent = signed(JPEG, "image/jpeg", manifest(created(AI)))
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["parent"]}}
    step = opened if relationship == "parentOf" else created("digitalArt")
    child = signed(encode(base(80, 60), "JPEG"), "image/jpeg", manifest(step), ((relationship, parent),))
    evidence = one(provenance_of(child), "c2pa")
    assert evidence.details["says"] == says and evidence.details["manifests"] == 2


def test_a_record_in_a_clip_is_read(clip):
    path = clip()
    path.write_bytes(signed(path.read_bytes(), "video/mp4", manifest(created(AI))))
    found = provenance_of(path)
    assert found.decides and found.facts["kind"] == "video" and one(found, "container")
    with open(path, "rb") as file:
        assert provenance_of(file).decides == found.decides


def test_without_c2pa_python_a_note_says_what_is_missing(monkeypatch):
    file = signed(JPEG, "image/jpeg", manifest(created(AI)))
    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = provenance_of(file)
    assert found.decides is None and "pip install 'internvl2-8bdetect[provenance]'" in found.notes[0]


def test_a_record_elsewhere_is_named_and_not_fetched():
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="http://127.0.0.1:9/m"/></x:xmpmeta>'  # noqa: E501
    assert "not fetched" in provenance_of(encode(base(), "JPEG", xmp=xmp.encode())).notes[0]


# Metadata and generators' texts


def with_exif(values: dict[int, object], inner: dict[int, object] | None = None, **options: object) -> bytes:
    exif = Image.Exif()
    for tag, value in values.items():
        exif[tag] = value
    exif.get_ifd(0x8769).update(inner or {})
    return encode(base(160, 120), "JPEG", exif=exif, **options)


def with_text(**texts: str) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        chunks.add_text(key.replace("__", "-"), text)
    return encode(base(), "PNG", pnginfo=chunks)


def xmp_of(body: str, names: str = "") -> bytes:
    rdf = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    head = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {rdf}>'
    return f"<?xpacket begin=''?>{head}<rdf:Description {names}>{body}</rdf:Description></rdf:RDF></x:xmpmeta>".encode()


IPTC_EXT = 'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
PHOTOSHOP = 'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
TC260 = 'xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/"'
A1111 = (
    "a cat, best quality\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: sdxl_base"
)
MADE = {
    "Stable Diffusion (A1111, Forge and kin)": with_text(parameters=A1111),
    "SwarmUI": with_text(parameters='{"sui_image_params": {"prompt": "a cat"}}'),
    "Fooocus": with_text(fooocus_scheme="fooocus", parameters='{"base_model": "juggernaut"}'),
    "ComfyUI": with_text(prompt='{"3": {"class_type": "KSampler", "inputs": {"ckpt_name": "a.safetensors"}}}'),
    "NovelAI": with_text(Software="NovelAI", Source="Stable Diffusion 1D44365E", Comment='{"steps": 28}'),
    "InvokeAI": with_text(invokeai_metadata='{"positive_prompt": "a cat"}'),
    "InvokeAI (older)": with_text(Dream='"a cat" -s 50 -S 42 -W512 -H512'),
    "Easy Diffusion": with_text(use_stable_diffusion_model="sd-v1-5"),
    "Draw Things": with_exif({}, {0x9286: b"ASCII\0\0\0" + b'{"c": "a cat", "sampler": "DPM++"}'}),
    "Midjourney": with_text(Description="a cat --v 6 Job ID: 01234567-89ab-cdef-0123-456789abcdef"),
    "OpenAI (DALL-E, ChatGPT)": with_exif({0x0131: "DALL-E 3"}),
    "Google AI": encode(
        base(), "JPEG", xmp=xmp_of("<photoshop:Credit>Made with Google AI</photoshop:Credit>", PHOTOSHOP)
    ),
    "Google AI, edited with": encode(
        base(), "JPEG", xmp=xmp_of("", f'{PHOTOSHOP} photoshop:Credit="Edited with Google AI"')
    ),
    "Adobe Firefly": with_exif({0x0131: "Adobe Firefly 3"}),
    "Stable Diffusion": with_exif({0x0131: "Stable Diffusion XL"}),
    "Bing Image Creator, Microsoft Designer": with_exif({0x0131: "Microsoft Designer"}),
    "Grok (xAI)": with_exif({0x010E: "Signature: " + "QUJD" * 20}),
    "label of China's GB 45438 (AIGC)": encode(
        base(), "JPEG", xmp=xmp_of('<TC260:AIGC>{"Label":"1","ContentProducer":"x"}</TC260:AIGC>', TC260)
    ),
    "label of China's GB 45438 (AIGC: possibly)": with_text(AIGC='{"Label":"2"}'),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({row.name for row in TABLE}))
def test_each_generator_of_the_table_is_known_by_a_file_of_its_kind(name):
    found = provenance_of(MADE[name])
    told = [e for e in found.evidence if e.source == "generator_text" and e.details["generator"] == name]
    assert told and told[0].details["strength"] in ("strong", "weak") and told[0].details["excerpt"]
    assert found.decides is None and "not signed" in told[0].summary


def test_the_model_s_name_and_the_settings_behind_a_long_prompt_are_found():
    found = provenance_of(with_text(parameters="word, " * 5000 + A1111))
    assert one(found, "generator_text").details["model"] == "sdxl_base"


@pytest.mark.parametrize("code", ["utf-16-be", "utf-16-le"])
def test_parameters_in_an_exif_comment_are_read_in_either_byte_order(code):
    file = with_exif({}, {0x9286: b"UNICODE\0" + A1111.encode(code)})
    assert one(provenance_of(file), "generator_text").details["generator"].startswith("Stable Diffusion")


def test_a_workflow_in_the_maker_field_is_a_generator_s_and_no_camera():
    found = provenance_of(with_exif({0x010F: 'workflow:{"nodes": []}', 0x0110: 'prompt:{"3": {}}'}))
    assert one(found, "generator_text").details["generator"] == "ComfyUI"
    assert not [e for e in found.evidence if e.details["says"] == "camera"]


def test_ordinary_texts_name_no_generator():
    files = [
        with_text(Comment="a photo of my cat, 20 steps from home", Software="GIMP 2.10", Description="Job ID 12"),
        with_text(parameters="aperture 4", prompt="call me", workflow="approved"),
        with_exif({0x010E: "Signature: none", 0x0131: "Adobe Photoshop 25.0", 0x010F: "Canon"}),
    ]
    for file in files:
        assert not [e for e in provenance_of(file).evidence if e.source == "generator_text"]


@pytest.mark.parametrize(
    ("value", "says", "strength"),
    [(AI, "ai_generated", "strong"), (COMPOSITE, "tampered", "strong"), ("digitalCapture", "camera", "weak")],
)
def test_iptc_s_source_type_is_a_plain_statement_that_decides_nothing(value, says, strength):
    body = f"<Iptc4xmpExt:DigitalSourceType>{SOURCE}{value}</Iptc4xmpExt:DigitalSourceType>"
    for packet in (xmp_of(body, IPTC_EXT), xmp_of("", f'{IPTC_EXT} Iptc4xmpExt:DigitalSourceType="{SOURCE}{value}"')):
        found = provenance_of(encode(base(), "JPEG", xmp=packet))
        evidence = one(found, "metadata")
        assert (evidence.details["says"], evidence.details["strength"]) == (says, strength) and found.decides is None


CAMERA = {0x010F: "Canon", 0x0110: "Canon EOS R5", 0x0132: "2024:05:02 10:00:00"}
SHOT = {0x9003: "2024:05:01 10:00:00", 0x829A: 0.01, 0xA002: 160, 0xA003: 120}


def test_a_camera_without_contradiction_is_a_hint():
    evidence = one(provenance_of(with_exif(CAMERA, SHOT)), "metadata")
    assert (evidence.details["says"], evidence.details["strength"]) == ("camera", "weak")
    assert evidence.details["camera"] == "Canon EOS R5" and evidence.details["taken"] == "2024:05:01 10:00:00"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0xA002: 4000, 0xA003: 3000}, "EXIF speaks of 4000 x 3000 px"),
        ({0x9003: "2025:01:01 00:00:00"}, "last changed before it was taken"),
        ({0x829A: None}, "none of the exposure values"),
    ],
)
def test_contradictions_are_named_and_take_the_camera_s_weight(change, words):
    inner = {k: v for k, v in (SHOT | change).items() if v is not None}
    evidence = one(provenance_of(with_exif(CAMERA, inner)), "metadata")
    assert words in evidence.summary and evidence.details["says"] == ""


def test_a_turned_photo_is_compared_with_its_stored_size():
    assert not one(provenance_of(with_exif(CAMERA | {0x0112: 6}, SHOT)), "metadata").details.get("contradictions")


def test_an_editing_program_is_named_by_exif_xmp_and_iptc():
    iim = b"\x1c\x02\x41" + len(b"Adobe Photoshop").to_bytes(2, "big") + b"Adobe Photoshop"
    resource = b"8BIM\x04\x04\0\0" + len(iim).to_bytes(4, "big") + iim + b"\0" * (len(iim) % 2)
    segment = b"Photoshop 3.0\0" + resource
    file = JPEG[:2] + b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment + JPEG[2:]
    assert open_image(file).metadata["iptc"] == {"OriginatingProgram": "Adobe Photoshop"}
    for made in (file, with_exif({0x0131: "GIMP 2.10"})):
        evidence = one(provenance_of(made), "metadata")
        assert "editing program" in evidence.summary and evidence.details["strength"] == "weak"


def test_a_file_that_says_nothing_is_told_so_and_that_it_proves_nothing():
    found = provenance_of(encode(base(), "PNG"))
    assert [e.details["strength"] for e in found.evidence] == ["none"]
    assert "proves nothing" in found.evidence[0].summary and "Absence proves nothing" in found.summary


# JPEG history


def test_the_ijg_s_tables_are_those_of_libjpeg():
    for quality in range(1, 101, 3):
        tables = again(base(), quality).quantization
        assert (tuple(tables[0]), tuple(tables[1])) == (ijg_table(quality), ijg_table(quality, chroma=True))


def test_the_quality_is_named_exactly_where_it_is_one_and_about_where_it_is_not():
    for quality in (35, 75, 92):
        found = describe_tables(open_image(encode(base(), "JPEG", quality=quality)).metadata)
        assert (found["quality"], found["exact"]) == (quality, True) and "IJG" in found["encoder"]
    own = [max(1, step - 1) for step in ijg_table(80)]
    file = encode(base(), "JPEG", qtables=[own, own])
    found = describe_tables(open_image(file).metadata)
    assert abs(found["quality"] - 80) <= 5 and not found["exact"] and "own" in found["encoder"]


@pytest.mark.parametrize(("first", "second"), [(50, 75), (60, 90), (75, 95)])
def test_two_compressions_leave_a_trace_that_one_does_not(first, second):
    for seed in range(3):
        once, twice = again(noise(seed=seed), second), again(again(noise(seed=seed), first).convert("RGB"), second)
        scores = [double_compression(p.convert("RGB"), list(p.quantization[0])).score for p in (once, twice)]
        assert scores[0] < 0.2 and scores[1] > 0.95


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_trace_is_found_whichever_way_the_picture_is_turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode(again(noise((325, 243)), 60).convert("RGB"), "JPEG", quality=90, exif=exif)
    evidence = one(provenance_of(file), "jpeg_history")
    assert evidence.details["double_compression"] > 0.95 and evidence.details["strength"] == "weak"
    assert "any program that saves a JPEG again" in evidence.summary


def test_pictures_too_small_or_flat_get_no_trace():
    for picture in (noise((40, 40)), Image.new("RGB", (400, 300), (90, 90, 90))):
        assert double_compression(picture, list(ijg_table(80))) is None


def test_the_error_level_is_brightest_where_the_history_differs():
    whole = again(noise((256, 256)), 70).convert("RGB")
    whole.paste(noise((64, 64), seed=9), (64, 64))
    found = provenance_of(encode(whole, "PNG"), error_level=True)
    levels = np.asarray(Image.open(io.BytesIO(found.error_level)).convert("RGB"), float)
    assert levels.shape == (256, 256, 3) and levels.max() == 255
    assert levels[64:128, 64:128].mean() > 1.5 * levels[160:, 160:].mean()


# Clips


def tagged(clip, suffix: str = ".mp4", **tags: str) -> bytes:
    out = io.BytesIO()
    options = {"movflags": "use_metadata_tags"} if suffix == ".mp4" else {}
    with av.open(str(clip())) as source, av.open(out, "w", format="mp4", container_options=options) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        container.metadata.update({key.replace("__", "."): text for key, text in tags.items()})
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return out.getvalue()


def test_a_clip_s_container_names_device_writer_and_generator(clip):
    device = {"com__apple__quicktime__make": "Apple", "com__apple__quicktime__model": "iPhone 15"}
    found = provenance_of(tagged(clip, **device))
    camera = next(e for e in found.evidence if e.details["says"] == "camera")
    assert camera.details["device"] == "Apple iPhone 15" and camera.details["strength"] == "weak"
    assert any("FFmpeg" in e.summary for e in found.evidence)
    made = provenance_of(tagged(clip, prompt='{"3": {"class_type": "KSampler"}}'))
    assert one(made, "generator_text").details["generator"] == "ComfyUI" and made.decides is None


# The whole


def test_what_is_open_already_is_not_decoded_again_and_says_the_same(monkeypatch, clip):
    from internvl_detect.media.provenance import gather
    from internvl_detect.media.video import open_video

    file = signed(with_exif(CAMERA, SHOT), "image/jpeg", manifest(created(AI)))
    path = clip()
    opened = open_image(file, keep_bytes=True), open_video(path, frames=1)
    expected = provenance_of(file), provenance_of(path)
    monkeypatch.setattr(gather, "open_image", None)
    monkeypatch.setattr(gather, "open_video", None)
    assert (provenance_of("gone", opened=opened[0]), provenance_of(path, opened=opened[1])) == expected


def test_the_result_is_plain_json_and_strongest_first():
    found = provenance_of(signed(with_exif(CAMERA, SHOT), "image/jpeg", manifest(created(AI))))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    strengths = [e["details"]["strength"] for e in told["evidence"]]
    assert strengths == sorted(strengths, key=("decides", "strong", "weak", "none").index) and told["decides"] == "c2pa"


def test_what_is_no_media_is_a_media_error(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    for source in (tmp_path / "a.txt", tmp_path / "none.jpg", b"", JPEG[:500], tmp_path):
        with pytest.raises(MediaError):
            provenance_of(source)
