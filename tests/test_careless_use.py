"""Claims about careless users and hostile folders: nothing of theirs is overwritten, every refusal names its cause."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import readme_tree
from dataset_makers import fill
from PIL import Image
from typer.testing import CliRunner

from internvl_detect import cli
from internvl_detect.cli.data_check import check_rows, rows_of
from internvl_detect.data.conversations.check import DatasetCounts, Report
from internvl_detect.data.datasets.readers import find_datasets
from internvl_detect.data.forge.folder import forge_folder
from internvl_detect.data.forge.plan import find_sources
from internvl_detect.data.json_stream import read_elements
from internvl_detect.data.jsonl import atomically
from internvl_detect.data.manifest import ManifestRow, read_manifest
from internvl_detect.data.prepare.command import Wanted, prepare_source
from internvl_detect.data.prepare.training_set import PrepareOptions
from internvl_detect.data.shards.foreign import shards_to_meta
from internvl_detect.data.shards.writing import write_shards
from internvl_detect.data.survey import facts
from internvl_detect.errors import ConfigError, DataError, IvdetectError, MediaError, OutputError
from internvl_detect.files import alone_in

MMTD = "MMTD_Set/MMTD-Set-34k.json"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return readme_tree.build(tmp_path / "dataset")


def prepare(source: Path, out: Path) -> str:
    return prepare_source(source, out, Wanted(), PrepareOptions(workers=1)).format_text()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def ended(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of the very command."""
    monkeypatch.setattr(sys, "argv", ["ivdetect", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    "words", [["data"], ["data", "chekc"], ["data", "check", "--nope"], ["detect", "--frames", "x"]]
)
def test_a_wrong_command_line_ends_with_2_and_is_no_bug(words, monkeypatch, capsys):
    assert ended(monkeypatch, *words) == 2
    said = "".join(capsys.readouterr())
    assert "Usage: " in said and "bug" not in said


def test_a_path_that_no_disk_takes_ends_with_its_code_and_is_no_bug(monkeypatch, capsys):
    assert ended(monkeypatch, "data", "check", "x" * 300) == 2
    assert "cannot be used (File name too long)" in capsys.readouterr().err


def test_a_closed_standard_error_ends_no_command(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert ended(monkeypatch, "data", "list") == 0


def test_a_device_or_pipe_is_never_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, is_kind in ((Path(os.devnull), stat.S_ISCHR), (tmp_path / "pipe", stat.S_ISFIFO)):
        with pytest.raises(OutputError, match="no ordinary file"), atomically(path) as file:
            file.write(b"x")
        assert is_kind(os.stat(path).st_mode)


def test_a_million_escaped_quotes_are_passed_over_once():
    """Each of them used to be tried as the beginning of a string: hours for two megabytes."""
    ((broken,), (one, rest)) = (
        list(read_elements(io.BytesIO(start + rb"\"" * 1_000_000 + b"\n" + end)))
        for start, end in ((b'["', b""), (b'[{"a": 1}, "', b"]"))
    )
    assert "breaks off" in broken.problem and one.value == {"a": 1} and rest.problem


def test_one_folder_is_one_run_s(tree, tmp_path):
    mine = fill(tmp_path / "mine", ["a.jpg", "b.jpg"])
    prepare(tree, tmp_path / "sets")
    for name, start in (
        ("p", lambda out: prepare(tree, out)),
        ("f", lambda out: forge_folder([mine], out)),
        ("s", lambda out: write_shards(tmp_path / "sets" / "meta.json", out, workers=1)),
        ("c", lambda out: check_rows([], tree, [], print, out=out)),
    ):
        with alone_in(tmp_path / name), pytest.raises(ConfigError, match="another run is at work"):
            start(tmp_path / name)
        assert not os.listdir(tmp_path / name)
    prepare(tree, tmp_path / "p")


def test_preparing_into_a_folder_of_other_things_touches_none_of_them(tree, tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("findings.jsonl", "thesis.txt", ".unfinished-thoughts"):
        (tmp_path / "mine" / name).write_text("mine")
    before = contents(tmp_path / "mine")
    for out in (tmp_path / "mine", tree):
        with pytest.raises(ConfigError, match="holds other files"):
            prepare(tree, out)
    assert contents(tmp_path / "mine") == before and not (tree / "findings.jsonl").exists()


def test_what_a_killed_preparation_left_is_taken_away(tree, tmp_path):
    prepare(tree, tmp_path / "out")
    before = contents(tmp_path / "out")
    for name in (".unfinished-ab12", ".unfinished-rows.jsonl"):
        (tmp_path / "out" / name).write_text("half")
    prepare(tree, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_what_was_left_out_while_reading_is_told_and_named_when_nothing_is_left(tmp_path):
    fill(tmp_path, ["a.jpg", "b.jpg"])
    rows = "a.jpg,real\nb.jpg,fake\n"
    (tmp_path / "some.csv").write_text("path,label\n" + rows + "../up.jpg,real\nc.jpg,what\n")
    (tmp_path / "none.csv").write_text("path,label\nc.jpg,what\n")
    assert "2 errors and 0 warnings: " in prepare(tmp_path / "some.csv", tmp_path / "some")
    with pytest.raises(DataError, match='unknown label "what"'):
        prepare(tmp_path / "none.csv", tmp_path / "none")
    assert (tmp_path / "none" / "findings.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("seconds", [1e-300, 0.01, -1, float("nan")])
def test_stretches_without_length_are_refused(seconds):
    with pytest.raises(ConfigError, match="stretches"):
        PrepareOptions(clip_s=seconds)


def test_prepared_data_among_the_datasets_are_no_dataset(tree):
    def found() -> set[str]:
        return {f"{one.folder}/{one.part}" for one in find_datasets(tree, note=lambda finding: None)}

    before = found()
    prepare(tree, tree / "sets")
    assert found() == before


@pytest.mark.parametrize("cut", [0, 0.4])
def test_the_check_of_a_tree_tells_broken_explanations(tree, cut):
    text = (tree / MMTD).read_bytes()
    (tree / MMTD).write_bytes(text[: int(len(text) * cut)])
    findings: list = []
    n_rows = len(list(rows_of(tree, findings)[0]))
    assert any(f.file.endswith(MMTD) and f.level == "error" for f in findings)
    (tree / MMTD).write_bytes(text)
    findings.clear()
    assert len(list(rows_of(tree, findings)[0])) == n_rows and not findings


def test_an_unusable_out_folder_is_told_before_any_file_is_looked_at(tmp_path):
    def rows() -> Iterator[ManifestRow]:
        raise AssertionError("looked at")
        yield

    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be used"):
        check_rows(rows(), tmp_path, [], print, out=tmp_path / "file")


def test_a_pipe_is_called_no_ordinary_file_and_utf_16_by_its_name(tmp_path):
    os.mkfifo(tmp_path / "m.csv")
    with pytest.raises(DataError, match="no ordinary file"):
        find_datasets(tmp_path / "m.csv", note=print)
    (tmp_path / "wide.csv").write_text("path,label\na.jpg,real\n", "utf-16")
    with pytest.raises(DataError, match="UTF-16"):
        list(read_manifest(tmp_path / "wide.csv"))


def test_names_that_differ_in_the_coding_of_an_accent_are_told(tmp_path):
    fill(tmp_path, [f"real/{unicodedata.normalize(form, 'café')}.jpg" for form in ("NFC", "NFD")] + ["fake/a.jpg"])
    findings: list = []
    rows = [row for one in find_datasets(tmp_path, note=findings.append) for row in one.rows(findings.append)]
    assert len(rows) == 3 and [f.code for f in findings] == ["case-twins"]
    assert "coding of its accents" in findings[0].problem


def test_forging_passes_over_links_in_a_circle_and_what_it_forged_before(tmp_path):
    mine = fill(tmp_path / "mine", ["a.jpg", "forged/image/b.jpg", "forged/forge.json", "other/c.jpg"])
    os.symlink("round.jpg", mine / "about.jpg")
    os.symlink("about.jpg", mine / "round.jpg")
    names = {source.name for source in find_sources([mine])}
    assert {"mine/a.jpg", "mine/other/c.jpg"} <= names and not any("forged" in name for name in names)


def test_shards_without_a_usable_sample_say_why(tmp_path):
    with tarfile.open(tmp_path / "cut.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = 3000
        tar.addfile(info, io.BytesIO(bytes(3000)))
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:700])
    with pytest.raises(DataError, match="in the middle of"):
        shards_to_meta([tmp_path / "cut.tar"], tmp_path / "out", on_error=lambda error: None)
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_the_name_of_a_dataset_moves_no_cursor():
    assert "\x1b" not in Report("m.json", datasets=[DatasetCounts("a\x1b[2J\nb", "a.jsonl")]).format_text()


def test_a_problem_reads_as_a_sentence_wherever_the_path_stood(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise MediaError(f"{path}: 4 packets cannot be decoded")

    monkeypatch.setattr("internvl_detect.media.video.open_video", refuse)
    assert facts.facts_of((str(tmp_path / "a.mp4"), "video")).problem == "cannot be used: 4 packets cannot be decoded"


def test_what_a_decoder_remarks_on_a_broken_file_stays_off_standard_error(tmp_path):
    out = io.BytesIO()
    Image.new("RGB", (64, 48)).save(out, "TIFF")
    (tmp_path / "a.tif").write_bytes(out.getvalue()[:100])
    code = (
        "import sys; from internvl_detect.data.survey.facts import facts_of as f; print(f((sys.argv[1], 'image')).code)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.tif"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("unreadable-media\n", "")


def test_every_refusal_of_a_command_is_one_of_the_error_tree(tmp_path):
    fill(tmp_path / "set", ["real/a.jpg", "fake/b.jpg"])
    (tmp_path / "file").write_text("")
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"annotation": "."}}))
    out, told = tmp_path / "file", []
    for words in (
        ["prepare", tmp_path / "set", "--out", out],
        ["prepare", tmp_path / "set", "--out", tmp_path / "set"],
        ["questions", tmp_path / "set", "--out", tmp_path / "set"],
        ["questions", tmp_path / "set", "--out", out / "below"],
        ["check", tmp_path / "set", "--cache", tmp_path / "facts", "--out", out, "--workers", "1"],
        ["shards", tmp_path / "meta.json", "--out", out],
        ["list", "--root", tmp_path / "none"],
    ):
        error = CliRunner().invoke(cli.app, ["data", *map(str, words)]).exception
        assert isinstance(error, IvdetectError), (words, error)
        told.append(error.exit_code)
    assert told == [6, 2, 6, 6, 6, 5, 5]
