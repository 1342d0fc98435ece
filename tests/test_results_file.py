"""Claims about what lies on disk after a kill, a full disk, a second run; and about which files are meant."""

from __future__ import annotations

import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.detect.inputs import find_media
from internvl_detect.detect.results_file import ResultsFile, encode_row
from internvl_detect.errors import ConfigError, MediaError, OutputError

NAMES = st.text(max_size=12) | st.binary(max_size=8).map(os.fsdecode)


def rows_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@given(st.lists(NAMES, max_size=5))
def test_any_file_name_comes_back_from_its_row(names):
    for name in names:
        line = encode_row({"path": name, "score": 0.5})
        assert line.count(b"\n") == 1
        assert json.loads(line)["path"] == name


@given(cut=st.integers(0, 200))
def test_wherever_a_kill_cut_the_file_a_resume_keeps_the_whole_rows(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("r") / "rows.jsonl"
    with ResultsFile(path) as results:
        for i in range(5):
            results.write({"path": f"{i}.jpg", "score": i / 10})
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    with ResultsFile(path, resume=True) as results:
        assert len(results.done) >= kept
        for i in range(5):
            if f"{i}.jpg" not in results.done:
                results.write({"path": f"{i}.jpg", "score": i / 10})
    assert [row["path"] for row in rows_of(path)] == [f"{i}.jpg" for i in range(5)]


def test_failed_rows_are_tried_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    with ResultsFile(path) as results:
        results.write({"path": "a", "score": 1.0})
        results.write({"path": "b", "error": "broken"})
    with ResultsFile(path, resume=True) as results:
        assert results.done == {"a"}
    assert [row["path"] for row in rows_of(path)] == ["a"]


def test_an_existing_file_is_never_written_over_without_being_asked(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"path": "a", "score": 1}\n')
    with pytest.raises(ConfigError, match="--resume"):
        ResultsFile(path)
    path.write_text("my notes\nare here\n")
    with pytest.raises(ConfigError, match="line 1"):
        ResultsFile(path, resume=True)
    assert path.read_text() == "my notes\nare here\n"


def test_a_full_disk_keeps_every_whole_row_and_says_how_many(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    results = ResultsFile(path)
    results.write({"path": "a", "score": 1.0})

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[:5])  # part of the row fits
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(results, "_file", Full(results._file))
    with pytest.raises(OutputError, match="No space left.*1 rows.*") as caught:
        results.write({"path": "b", "score": 0.5})
    assert caught.value.exit_code == 6
    assert rows_of(path) == [{"path": "a", "score": 1.0}]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_the_device_that_is_always_full_gives_an_output_error():
    with pytest.raises((OutputError, ConfigError)):
        results = ResultsFile("/dev/full", resume=True)
        results.write({"path": "a"})


def test_folders_are_walked_in_order_and_broken_pictures_are_not_passed_over(tmp_path, photo):
    photo("in/b.png")
    photo("in/a/x.PNG")
    photo("in/.hidden/y.png")
    (tmp_path / "in" / "broken.jpg").write_text("no picture")
    (tmp_path / "in" / "notes.txt").write_text("text")
    (tmp_path / "in" / "picture_without_suffix").write_bytes((tmp_path / "in" / "b.png").read_bytes())
    names = [os.path.relpath(p, tmp_path / "in") for p in find_media([str(tmp_path / "in")])]
    assert names == ["b.png", "broken.jpg", "picture_without_suffix", "a/x.PNG"]


def test_a_link_to_a_folder_above_does_not_go_round_in_circles(tmp_path, photo):
    photo("in/b.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    assert len(find_media([str(tmp_path / "in")])) == 1


def test_each_file_is_judged_once_however_often_it_is_named(tmp_path, photo):
    path = str(photo("a.png"))
    assert find_media([path, "-", path, str(tmp_path)], io.StringIO(f"{path}\n\nother.png\n")) == [path, "other.png"]


def test_nothing_to_judge_is_an_error(tmp_path):
    with pytest.raises(MediaError, match="no picture or clip"):
        find_media([str(tmp_path)])
    with pytest.raises(ConfigError):
        find_media([])
    with pytest.raises(MediaError, match="standard input"):
        find_media(["-"], io.StringIO(""))
