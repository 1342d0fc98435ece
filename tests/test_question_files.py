"""Claims about question files: written and read back, other people's forms read, and judged row by row."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from internvl_detect import cli
from internvl_detect.data.prepare.question_files import read_questions, write_questions
from internvl_detect.detect import Detector
from internvl_detect.detect.question_rows import Asked, asked_rows
from internvl_detect.errors import ConfigError, DataError, IvdetectError
from internvl_detect.model.checkpoint import load_base
from internvl_detect.questions import IMAGE_QUESTION, TAG_SENTENCES
from internvl_detect.verdict import Failure

OWN = "Was this photo taken directly from the camera?"


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return load_base(tiny_folder)


@pytest.fixture
def detector(loaded):
    return Detector(loaded, word_tokens=4)


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    error = result.exception
    if error is not None and not isinstance(error, (SystemExit, IvdetectError)):
        raise error
    return error.exit_code if isinstance(error, IvdetectError) else result.exit_code, result.stdout


def test_what_is_written_is_read_back_and_can_be_opened(photo, clip, tmp_path):
    for name in ("set/b.png", "set/in/a.jpg", "set/.hidden.png", "masks/in/a.png"):
        photo(name)
    clip("set/c.mp4")
    (tmp_path / "set" / "notes.txt").write_text("x")
    out = tmp_path / "sub" / "test.jsonl"
    assert write_questions(out, [tmp_path / "set"], tag="photoshop", mask_root=tmp_path / "masks") == 3
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["image"] for row in rows] == ["../set/b.png", "../set/c.mp4", "../set/in/a.jpg"]
    assert [row.get("mask") for row in rows] == [None, None, "../masks/in/a.png"]
    assert {row["text"] for row in rows} == {f"{TAG_SENTENCES['photoshop']} {IMAGE_QUESTION}"}
    assert [(q.image, q.text) for q in read_questions(out)] == [(row["image"], row["text"]) for row in rows]
    assert all(isinstance(row, Asked) for row in asked_rows(out))


def test_wrong_folders_and_tags_are_refused(tmp_path):
    for wrong in ({"tag": "photoshopp"}, {"folders": [tmp_path / "none"]}, {"folders": []}):
        with pytest.raises(ConfigError):
            write_questions(tmp_path / "q.jsonl", **{"folders": [tmp_path], **wrong})
    with pytest.raises(DataError, match="no picture or clip"):
        write_questions(tmp_path / "q.jsonl", [tmp_path])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("as_list", [True, False])
def test_the_forms_that_others_write_are_read_and_broken_rows_are_named_by_their_line(tmp_path, as_list):
    rows = [
        {"question_id": 1, "image": "a.jpg", "text": "Q"},
        {"image_path": "b.jpg", "prompt": "<image>\nQ"},
        {"id": 3, "image": "c.jpg", "conversations": [{"from": "human", "value": "<image>\nQ"}]},
        {"image": "d.jpg"},
        {"text": "Q"},
        {"image": 5},
        7,
    ]
    lines = [json.dumps(row) for row in rows]
    text = "[" + ",\n".join(lines) + "]" if as_list else "\ufeff" + "\r\n".join([*lines, "{", ""])
    (tmp_path / "q.json").write_text(text)
    read = list(read_questions(tmp_path / "q.json"))
    assert [(q.line, q.image, q.text) for q in read[:4]] == [
        (1, "a.jpg", "Q"),
        (2, "b.jpg", "Q"),
        (3, "c.jpg", "Q"),
        (4, "d.jpg", ""),
    ]
    assert [q.line for q in read[4:]] == ([5, 6, 7] if as_list else [5, 6, 7, 8])
    assert all(q.problem for q in read[4:])


@given(st.binary(max_size=80) | st.text(alphabet='{}[]":,image text\n1', max_size=80).map(str.encode))
def test_no_question_file_ends_the_reading_with_an_error(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("q") / "q.jsonl"
    path.write_bytes(raw)
    for question in read_questions(path):
        assert question.problem or question.image


def test_the_score_is_that_of_the_standard_question_and_the_words_answer_the_row_s_own(detector, photo, clip):
    files = [photo("a.png"), photo("b.png", seed=1), clip()]
    plain = [detector.detect(file, explain=True) for file in files]
    asked = [Asked(str(file), OWN) for file in files]
    mixed = [asked[0], Failure("q:7", "broken", 5), Asked(str(files[1])), asked[2], Asked(str(files[0]), OWN)]
    rows = list(detector.detect_many(mixed, explain=True, batch_size=3))
    assert [row.score for row in rows if not isinstance(row, Failure)] == pytest.approx(
        [plain[0].score, plain[1].score, plain[2].score, plain[0].score], abs=1e-6
    )
    assert rows[1] == mixed[1] and rows[2].words == plain[1].words
    own = Detector(detector.loaded, word_tokens=4, question=OWN).detect(files[0], explain=True)
    assert rows[0].words == rows[4].words == own.words


def test_the_command_keeps_each_row_s_question_and_goes_on_where_it_stopped(photo, tmp_path, tiny_folder):
    for name in ("in/a.png", "in/b.png"):
        photo(name)
    rows = [{"image": "a.png", "text": OWN}, {"image": "a.png", "text": "Other?"}, {"image": "none.png", "text": OWN},
            {"image": 5}, {"image": "../a.png"}]  # fmt: skip
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out.jsonl"
    options = ["--questions", tmp_path / "q.jsonl", "--image-root", tmp_path / "in", "--model", tiny_folder]
    code, _ = run("detect", *options, "--out", out, "--fakeshield", "--explain", "--max-words", 3)
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == 1 and [row.get("question") for row in told] == [OWN, "Other?", OWN, None, None]
    assert told[0]["score"] == told[1]["score"] and "outputs" in told[0]
    assert ["error" in row for row in told] == [False, False, True, True, True]
    assert told[3]["path"].endswith("q.jsonl:4") and "--image-root" in told[4]["error"]
    (tmp_path / "in" / "none.png").write_bytes((tmp_path / "in" / "b.png").read_bytes())
    run("detect", *options, "--out", out, "--resume")
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert again[:2] == told[:2] and "score" in again[2] and len(again) == 5


def test_paths_start_from_the_file_or_from_where_one_stands(photo, tmp_path, monkeypatch):
    photo("here/a.png")
    (tmp_path / "files").mkdir()
    file = tmp_path / "files" / "q.jsonl"
    file.write_text('{"image": "../here/a.png"}\n{"image": "here/a.png"}\n')
    monkeypatch.chdir(tmp_path)
    first, second = asked_rows(file)
    assert first.path == str(tmp_path / "here" / "a.png") and second.path == "here/a.png"


def test_what_cannot_work_is_said_before_a_model_is_loaded(tmp_path, photo):
    (tmp_path / "empty.jsonl").write_text("")
    assert run("detect", "--questions", tmp_path / "none.jsonl")[0] == 5
    assert run("detect", "--questions", tmp_path / "empty.jsonl")[0] == 5
    assert run("detect", photo(), "--questions", tmp_path / "empty.jsonl")[0] == 2
    assert run("detect", photo(), "--image-root", tmp_path)[0] == 2
    assert run("detect", "--questions", tmp_path / "empty.jsonl", "--image-root", tmp_path / "none")[0] == 2
