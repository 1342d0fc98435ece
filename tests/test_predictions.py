"""Claims about rows of predictions: whose are read, what is refused by its line, and what an interrupted run keeps."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.errors import ConfigError, DataError
from internvl_detect.evaluate.prediction_file import PredictionsFile, merge_shards, parse_shard, shard_path
from internvl_detect.evaluate.predictions import Prediction, as_prediction, read_predictions
from internvl_detect.verdict import Frame, Stretch, Verdict


def lines(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), "utf-8")
    return path


def test_anyones_rows_and_fakeshields_are_read(tmp_path):
    file = lines(
        tmp_path / "theirs.jsonl",
        {"image": "a.jpg", "label": 1, "score": 0.9},
        {"image_path": "b.jpg", "label": "authentic", "score": 0, "dataset": "CASIA2", "group_id": 7},
        {"image": "c.jpg", "outputs": "Yes, the picture was tampered with."},
        {"image": "d.jpg", "outputs": "The picture is authentic."},
        {"image": "e.jpg", "label": "tampered", "decision": "real"},
    )
    rows = list(read_predictions(file))
    assert [(r.image, r.label, r.score, r.decision) for r in rows] == [
        ("a.jpg", "fake", 0.9, ""),
        ("b.jpg", "real", 0.0, ""),
        ("c.jpg", "", None, "fake"),
        ("d.jpg", "", None, "authentic"),
        ("e.jpg", "tampered", None, "authentic"),
    ]
    assert rows[1].group == "7" and rows[0].group == "a.jpg"
    assert [r.fake for r in rows] == [1, 0, None, None, 1] and rows[4].line == 5


def test_a_row_of_detect_is_read_by_its_probability_and_its_label_is_no_truth():
    verdict = Verdict(
        *("clip.mp4", "video", 0.4, 0.7, "fake", "deepfake", "nano", {}),
        frames=(Frame(0, 0.0, 0.2), Frame(9, 0.9, 0.8)),
        stretch=Stretch(0.5, 1.0, 0.8),
        words="Yes.",
    )
    row = as_prediction(json.loads(json.dumps(verdict.to_dict())))
    assert (row.label, row.score, row.decision, row.outputs) == ("", 0.7, "fake", "Yes.")
    assert row.frames == ((0.0, 0.2), (0.9, 0.8)) and row.stretch == (0.5, 1.0) and row.facts["kind"] == "video"


@pytest.mark.parametrize(
    "bad",
    [
        '{"image": "a.jpg", "label": 1, "score": NaN}',
        '{"image": "a.jpg", "label": 1, "score": "nan"}',
        '{"image": "a.jpg", "label": 1, "score": 1.0001}',
        '{"image": "a.jpg", "label": 1, "score": -0.1}',
        '{"image": "a.jpg", "label": 1, "score": true}',
        '{"image": "a.jpg", "label": "perhaps", "score": 0.5}',
        '{"image": "a.jpg", "label": 1}',
        '{"image": "a.jpg", "label": 1, "outputs": "A cat."}',
        '{"image": "a\\u0000.jpg", "label": 1, "score": 0.5}',
        '{"image": "a.jpg", "label": 1, "score": 0.5, "frames": [{"time_s": -1, "score": 0.5}]}',
        '{"image": "a.jpg", "label": 1, "score": 0.5, "facts": {"x": [1]}}',
        '{"image": "a.jpg", "label": 1, "score": 0.5, "stretch": [2, 1]}',
        '{"image": "first.jpg", "label": 1, "score": 0.5}',
        '{"label": 1}',
        "[]",
        "{",
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line_and_the_rest_is_read(tmp_path, bad):
    good = [{"image": name, "label": 0, "score": 0.5} for name in ("first.jpg", "last.jpg")]
    file = lines(tmp_path / "rows.jsonl", good[0], bad, good[1])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: "):
        list(read_predictions(file))
    found: list[DataError] = []
    assert [r.image for r in read_predictions(file, on_error=found.append)] == ["first.jpg", "last.jpg"]
    assert len(found) == 1


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    ["image", "label", "score", "decision", "outputs", "frames", "stretch", "facts", "mask", "error"]
)


@given(st.dictionaries(keys, anything, max_size=6) | anything)
def test_any_json_is_a_prediction_or_a_reason(row):
    try:
        made = as_prediction(row)
    except ValueError as error:
        assert error.args[0]
    else:
        assert as_prediction(made.to_row()) == made


def test_a_run_goes_on_where_it_was_killed_and_tries_failed_files_again(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with PredictionsFile(path) as file:
        file.write(Prediction("a.jpg", "real", 0.1))
        file.write(Prediction("b.jpg", "fake", error="broken"))
        file.write(Prediction("a.jpg", "real", 0.2, dataset="other"))
    with open(path, "ab") as file:
        file.write(b'{"image": "c.jpg", "sc')
    with PredictionsFile(path) as file:
        assert len(file) == 2 and file.has("", "a.jpg") and file.has("other", "a.jpg")
        assert not file.has("", "b.jpg") and not file.has("", "c.jpg")
        file.write(Prediction("b.jpg", "fake", 0.8))
    assert [(r.image, r.score) for r in read_predictions(path)] == [("a.jpg", 0.1), ("a.jpg", 0.2), ("b.jpg", 0.8)]


def test_another_file_is_not_written_over(tmp_path):
    path = lines(tmp_path / "predictions.jsonl", "my notes")
    with pytest.raises(ConfigError, match="line 1"):
        PredictionsFile(path)
    assert path.read_text() == "my notes\n"


def test_shards_are_merged_in_the_order_of_the_data_and_a_sound_row_comes_before_a_failed_one(tmp_path):
    for number, rows in enumerate(
        [[Prediction("b", "real", 0.2), Prediction("d", "real", error="no")], [Prediction("a", "fake", 0.9)]], 1
    ):
        with PredictionsFile(shard_path(tmp_path, (number, 2))) as file:
            for row in rows:
                file.write(row)
    with PredictionsFile(shard_path(tmp_path, None)) as file:
        file.write(Prediction("d", "real", 0.3))
    assert merge_shards(tmp_path, [("", name) for name in "abcd"]) == 3
    assert [(r.image, r.score) for r in read_predictions(shard_path(tmp_path, None))] == [
        ("a", 0.9),
        ("b", 0.2),
        ("d", 0.3),
    ]


def test_a_shard_is_a_number_of_parts():
    assert parse_shard("2/8") == (2, 8)
    for bad in ("0/8", "9/8", "2", "a/b", "2/", "-1/2"):
        with pytest.raises(ConfigError):
            parse_shard(bad)
