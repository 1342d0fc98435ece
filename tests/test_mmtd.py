"""Claims about MMTD-Set and JSON lists from strangers: every whole element is read, every broken one told."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.data import json_stream
from internvl_detect.data.datasets.mmtd import read_mmtd, verdict_of
from internvl_detect.data.json_stream import read_elements
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.errors import DataError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
TEXT = json.dumps([{"a": 'x"[{\\'}, {"b": [1, {"c": "é]"}]}, {"d": "}"}], ensure_ascii=False).encode()


def elements(raw: bytes, **limits):
    return list(read_elements(io.BytesIO(raw), **limits))


@given(st.lists(JSON, max_size=6), st.sampled_from([None, 1]), st.integers(1, 40))
def test_a_list_is_read_as_json_reads_it_however_the_bytes_come(values, indent, chunk):
    old, json_stream.CHUNK = json_stream.CHUNK, chunk
    try:
        read = elements(json.dumps(values, indent=indent).encode())
    finally:
        json_stream.CHUNK = old
    assert [e.value for e in read] == values
    assert [e.number for e in read] == list(range(len(values))) and not any(e.problem for e in read)


def test_a_list_cut_at_any_byte_gives_the_elements_before_it_and_says_that_it_breaks_off():
    whole = json.loads(TEXT)
    for cut in range(1, len(TEXT)):
        read = elements(TEXT[:cut])
        good = [e.value for e in read if not e.problem]
        assert good == whole[: len(good)]
        assert len(good) >= TEXT[:cut].count(b"}, ")
        assert "breaks off" in read[-1].problem, cut


@given(st.binary(max_size=60) | st.text(alphabet='[]{},:"\\ 1an\n', max_size=60).map(str.encode))
def test_no_bytes_end_the_reading_with_an_error(raw):
    for element in elements(b"[" + raw, max_bytes=16):
        assert element.value is None or not element.problem
    elements(raw)


def test_a_broken_element_costs_only_itself_and_knows_its_line():
    read = elements(b'[{"a": 1},\n{"a": tru},\n{"a": "x\n"},\n{"a": 4}\n]')
    assert [e.value for e in read] == [{"a": 1}, None, None, {"a": 4}]
    assert [(e.number, e.line) for e in read if e.problem] == [(1, 2), (2, 3)]


def test_an_element_that_is_too_long_is_passed_over_and_memory_stays_small(monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    long = {"a": ["y" * 50] * 40}
    reader = json_stream._List(io.BytesIO(json.dumps([{"b": 1}, long, {"c": 2}]).encode()), max_bytes=300)
    seen = []
    for element in reader.elements():
        seen.append(element)
        assert len(reader.held) < 600
    assert [e.value for e in seen] == [{"b": 1}, None, {"c": 2}] and "longer than" in seen[1].problem


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("1. Whether the picture has been tampered with / Description of the tampered area: The picture has been "
         "tampered with, in an area not far from the edge.", "fake"),
        ("The picture has not been tampered with.", "real"),
        ("No signs of tampering were found.", "real"),
        ("It hasn't been edited, as the light shows.", "real"),
        ("The image is untampered.", "real"),
        ("This photo appears authentic.", "real"),
        ("This photo is not genuine.", "fake"),
        ("Yes, the face was altered.", "fake"),
        ("A dog on a lawn.", None),
    ],
)  # fmt: skip
def test_the_verdict_is_read_from_whatever_wording_the_explanation_begins_with(said, verdict):
    assert verdict_of(said) == verdict


PICTURES = [
    ManifestRow("photoshop/CASIAv2_Tp/image/a.jpg", "tampered", mask="photoshop/CASIAv2_Tp/mask/a.png", domain="ps"),
    ManifestRow("photoshop/CASIAv2_Au/image/b.jpg", "real", group_id="g", domain="ps"),
    ManifestRow("aigc/SD_inpaint_Train/image/7.jpg", "tampered", domain="aigc"),
    ManifestRow("aigc/COCO2017_Train/image/7.jpg", "real", domain="aigc"),
]
YES, NO = "The picture has been tampered with. The edge is sharp.", "The picture has not been tampered with."


def element(image, answer):
    said = [{"from": "human", "value": "<image>\nWas it?"}, {"from": "gpt", "value": answer}]
    return {"id": 1, "image": image, "conversations": said}


def read(tmp_path, content):
    path = tmp_path / "MMTD-Set-34k.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    told: list = []
    return list(read_mmtd(path, lambda: PICTURES, note=told.append)), told


def test_words_are_joined_to_the_pictures_with_their_mask_group_and_label(tmp_path):
    rows, told = read(tmp_path, [element("/data/ps/CASIA2/image/a.jpg", YES), element("ps/au/b.jpg", NO)])
    assert not told and [row.path for row in rows] == [PICTURES[0].path, PICTURES[1].path]
    assert rows[0].mask == PICTURES[0].mask and rows[1].group_id == "g" and rows[0].words == YES
    assert {row.dataset for row in rows} == {"MMTD-Set"}


def test_of_pictures_with_one_name_the_one_with_the_likelier_folder_is_meant(tmp_path):
    given_ = [element("/x/aigc/COCO2017/image/7.jpg", NO), element("/x/aigc/SD_inpaint/image/7.jpg", YES)]
    rows, told = read(tmp_path, given_)
    assert not told and [row.path for row in rows] == [PICTURES[3].path, PICTURES[2].path]


def test_what_cannot_be_used_is_told_with_its_number_and_the_rest_is_read(tmp_path):
    broken = [
        5,
        element("c.jpg", YES),
        element("a.jpg", "A dog."),
        element("a.jpg", NO),
        {"image": "a.jpg"},
        {"image": ["a.jpg"], "conversations": []},
    ]
    rows, told = read(tmp_path, [*broken, element("a.jpg", YES)])
    assert len(rows) == 1
    codes = ["media-path", "missing-file", "answer-form", "label-contradiction", "conversations", "media-path"]
    assert [finding.code for finding in told] == codes
    assert [finding.problem.split(":")[0] for finding in told] == [f"element {i}" for i in range(6)]


def test_a_file_cut_off_gives_the_rows_before_it_and_an_error(tmp_path):
    whole = json.dumps([element("a.jpg", YES), element("b.jpg", NO)])
    rows, told = read(tmp_path, whole[: len(whole) * 3 // 4])
    assert [row.path for row in rows] == [PICTURES[0].path]
    assert told[-1].code == "bad-json" and "breaks off" in told[-1].problem


def test_a_file_that_is_not_there_is_a_data_error(tmp_path):
    for path in (Path(tmp_path / "none.json"), tmp_path):
        with pytest.raises(DataError):
            list(read_mmtd(path, lambda: PICTURES, note=print))
