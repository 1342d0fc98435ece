"""Claims about the command as a user meets it: what it prints where, how it ends, what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from internvl_detect import cli
from internvl_detect.errors import IvdetectError

RUNNER = CliRunner()


def run(*arguments, input=None):
    """(exit code, standard output, standard error) of ``ivdetect`` in this process, as ``main`` ends it."""
    result = RUNNER.invoke(cli.app, [str(a) for a in arguments], input=input)
    error = result.exception
    if isinstance(error, IvdetectError):
        return error.exit_code, result.stdout, result.stderr + str(error)
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def model(tiny_folder):
    return ["--model", tiny_folder]


def test_help_opens_with_commands_to_copy():
    code, out, _ = run("--help")
    assert code == 0 and "ivdetect detect photo.jpg" in out
    for command in ("detect", "train", "convert", "merge", "calibrate", "doctor"):
        assert run(command, "--help")[0] == 0


def test_json_on_standard_output_is_one_row_a_file_and_nothing_else(photo, clip, model):
    code, out, _ = run("detect", photo(), clip(), "--json", "--frames", 2, *model)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["kind"] for row in rows] == ["image", "video"]
    needed = {"path", "kind", "score", "probability", "decision", "label", "model", "timings"}
    assert all(needed <= set(row) and "error" not in row for row in rows)


def test_a_bad_file_in_a_batch_ends_with_1_and_alone_with_3(photo, tmp_path, model):
    bad = tmp_path / "bad.jpg"
    bad.write_text("hello")
    code, out, _ = run("detect", photo(), bad, "--json", *model)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and "score" in rows[0] and "is text" in rows[1]["error"]
    assert run("detect", bad, *model)[0] == 3


def test_resume_judges_only_what_has_no_verdict(photo, tmp_path, model):
    rows = tmp_path / "rows.jsonl"
    first = photo("a.png")
    assert run("detect", first, "--out", rows, *model)[0] == 0
    assert run("detect", first, "--out", rows, *model)[0] == 2
    second = photo("b.png", seed=1)
    code, out, err = run("detect", first, second, "--out", rows, "--resume", "--json", *model)
    assert code == 0 and [json.loads(line)["path"] for line in out.splitlines()] == [str(second)]
    assert "1 of 2 files have a verdict already" in err
    assert [json.loads(line)["path"] for line in rows.read_text().splitlines()] == [str(first), str(second)]


def test_report_masks_and_fakeshield_rows_come_out_of_one_run(photo, clip, tmp_path, model):
    rows, report, masks = tmp_path / "rows.jsonl", tmp_path / "out" / "report.html", tmp_path / "masks"
    path = photo(size=(200, 120))
    code, *_ = run(
        *("detect", path, clip(), "--explain", "--fakeshield", "--frames", 2),
        *("--out", rows, "--report", report, "--masks", masks, *model),
    )
    assert code == 0
    row = json.loads(rows.read_text().splitlines()[0])
    assert row["image"] == str(path) and isinstance(row["outputs"], str)
    assert "<html" in report.read_text() and "http" not in report.read_text().replace("http-equiv", "")
    from PIL import Image

    names = sorted(p.name for p in masks.iterdir())
    assert len(names) == 2 and names[0].endswith("_mask.png") and names[1].endswith("_overlay.png")
    assert all(Image.open(masks / name).size == (200, 120) for name in names)


@pytest.fixture
def tagger(tmp_path):
    from test_domain_tag import lively

    from internvl_detect.model.domain_tag import DomainTagger, save

    net = lively()
    return save(net, DomainTagger(net).settings(), tmp_path / "tagger")


def test_with_a_tagger_masks_are_drawn_written_and_laid_over_the_report(photo, clip, tmp_path, model, tagger):
    from PIL import Image

    rows, report, masks = tmp_path / "rows.jsonl", tmp_path / "r.html", tmp_path / "masks"
    path, film = photo(size=(200, 120)), clip()
    where = ["--out", rows, "--report", report, "--masks", masks, "--frames", 2]
    assert run("detect", path, film, "--explain", *where, "--tagger", tagger, *model)[0] == 0
    first, second = map(json.loads, rows.read_text().splitlines())
    assert first["domain_tag"] in first["tag_probabilities"] and 0 <= first["mask_share"] <= 1
    assert {"tag_s", "mask_s"} <= set(first["timings"]) and second["domain_tag"]
    names = {p.name.split("_", 2)[2] for p in masks.glob("photo_*")}
    assert names == {"mask.png", "prob.png", "overlay.png"}
    assert all(Image.open(p).size == (200, 120) for p in masks.glob("photo_*"))
    drawn = [f["index"] for f in second["frames"] if f["mask_share"] is not None]
    assert {p.name.split("_frame")[1] for p in masks.glob("clip_*_mask.png")} == {f"{i}_mask.png" for i in drawn}
    assert 'class="layer"' in report.read_text()
    again = tmp_path / "again.html"
    assert run("report", rows, "--out", again, "--masks", masks)[0] == 0 and 'class="layer"' in again.read_text()
    assert run("report", rows, "--out", again)[0] == 0 and 'class="layer"' not in again.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--mask"], 2, "without a domain tagger"),
        (["--tagger", "nowhere"], 4, "does not exist"),
        (["--tagger", "."], 4, "tagger.json"),
        (["--language", "German"], 2, "--explain"),
        (["--explain", "--language", "<IMG>"], 2, "language"),
        (["--mask-adapter", "."], 4, "draws no masks"),
    ],
)
def test_wrong_options_of_words_and_masks_say_what_would_be_right(photo, model, tmp_path, arguments, code, said):
    arguments = [tmp_path if a == "." else a for a in arguments]
    got, _, err = run("detect", photo(), *arguments, *model)
    assert got == code and said in err


def test_words_come_one_by_one_in_a_terminal_and_stay_out_of_pipes(photo, model, monkeypatch):
    heard = []
    from internvl_detect.detect import command

    @contextlib.contextmanager
    def live():
        yield heard.append

    monkeypatch.setattr(command, "_live", live)
    assert run("detect", photo(), "--explain", *model)[0] == 0 and heard == []
    monkeypatch.setattr("internvl_detect.detect.command.sys.stdout.isatty", lambda: True, raising=False)
    made = command.DetectCommand(explain=True)
    made.run([str(photo())], str(model[1]), None, device="cpu")
    assert len(heard) > 1


def test_a_report_can_be_made_of_stored_rows_and_after_a_resume_holds_all_of_them(photo, clip, tmp_path, model):
    rows, report = tmp_path / "rows.jsonl", tmp_path / "r.html"
    assert run("detect", photo("first.png"), "--out", rows, *model)[0] == 0
    code, *_ = run(
        "detect", clip("second.mp4"), tmp_path / "third.png", "--out", rows, "--resume", "--report", report, *model
    )
    assert code == 1
    assert all(name in report.read_text() for name in ("second.mp4", "third.png"))
    assert "first.png" in report.read_text()
    for out in (tmp_path / "again.html", tmp_path / "again.md"):
        assert run("report", rows, "--out", out)[0] == 0
        assert all(name in out.read_text().replace("\\", "") for name in ("first.png", "second.mp4", "third.png"))
    assert run("report", rows, "--out", tmp_path / "again.doc")[0] == 2
    rows.write_text(rows.read_text() + '{"path": 3}\n')
    code, _, err = run("report", rows)
    assert code == 2 and "line 4" in err


def test_paths_come_from_standard_input(photo, model):
    code, out, _ = run("detect", "-", "--json", *model, input=f"{photo()}\n")
    assert code == 0 and len(out.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["detect", "a.jpg", "--model", "nowhere"], 4, "no folder"),
        (["detect", "a.jpg", "--resume"], 2, "--out"),
        (["detect"], 2, "no file was named"),
        (["detect", "a.jpg", "--frames", "0"], 2, "frames"),
        (["detect", "a.jpg", "--device", "warp"], 2, "device"),
        (["detect", "a.jpg", "--calibration", "absent.json"], 2, "calibration"),
        (["convert", "nowhere", "x"], 4, "no folder"),
        (["merge", "nano", "nowhere", "x"], 4, "adapter"),
        (["train", "--set", "learning_rat=1"], 2, "learning_rate"),
        (["train", "--config", "absent.yaml"], 2, "absent.yaml"),
        (["data", "check", "absent.json"], 5, "absent.json"),
        (["calibrate", "--real", "x"], 2, "--fake"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(arguments, code, said, tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    if "nano" in arguments or "--device" in arguments or "--calibration" in arguments:
        monkeypatch.setenv("WEIGHT_PATH", str(tiny_folder))
        arguments = [str(tiny_folder) if a == "nano" else a for a in arguments]
    got, out, err = run(*arguments)
    assert got == code, err
    assert said in out + err and "Traceback" not in out + err


def test_calibration_on_one_s_own_files_changes_the_decision(photo, tmp_path, model):
    for i in range(8):
        photo(f"real/{i}.png", (70 + i, 60), i)
        photo(f"fake/{i}.png", (64, 80 + i), 100 + i)
    where = tmp_path / "calibration.json"
    code, out, _ = run(
        "calibrate", "--real", tmp_path / "real", "--fake", tmp_path / "fake", "--out", where, "--json", *model
    )
    fitted = json.loads(out)
    assert code == 0 and fitted["n_real"] == fitted["n_fake"] == 8 and fitted["method"] == "platt"
    code, out, _ = run("detect", photo(), "--calibration", where, "--json", *model)
    assert code == 0 and json.loads(out)["calibrated"]


def test_calibration_of_stored_rows_uses_the_manifest_s_labels(photo, tmp_path, model):
    files = [photo(f"p/{i}.png", (70 + i, 60), i) for i in range(12)]
    rows, manifest = tmp_path / "rows.jsonl", tmp_path / "manifest.csv"
    assert run("detect", tmp_path / "p", "--out", rows, *model)[0] == 0
    lines = [f"p/{f.name},{'real' if i % 2 else 'tampered'},image" for i, f in enumerate(files)]
    manifest.write_text("\n".join(["path,label,kind", *lines]) + "\n")
    code, out, _ = run("calibrate", "--rows", rows, "--manifest", manifest, "--out", tmp_path / "c.json")
    assert code == 0 and "6 real and 6 fake" in out
    code, _, err = run("calibrate", "--rows", rows, "--manifest", manifest, *model)
    assert code == 2 and "--out" in err


def test_doctor_says_what_it_finds(model):
    code, out, _ = run("doctor", "--json", *model)
    found = json.loads(out)
    assert code == 0 and found["ok"] and {"torch", "model", "device"} <= {c["check"] for c in found["checks"]}
    code, out, _ = run("doctor", "--json", "--model", "nowhere")
    assert code == 1 and not json.loads(out)["ok"]


def test_data_check_counts_tokens_with_the_model_s_tokenizer(tmp_path, model):
    assert run("data", "samples", tmp_path / "s", "--pairs", 3)[0] == 0
    meta = tmp_path / "s" / "meta.json"
    assert run("data", "check", meta, *model)[0] == 0
    code, out, _ = run("data", "check", meta, "--max-tokens", 20, *model)
    assert code == 5 and "token" in out


def test_the_sample_set_is_the_same_bytes_each_time_and_shares_no_photograph_between_its_parts(tmp_path):
    for name in ("a", "b"):
        assert run("data", "samples", tmp_path / name, "--pairs", 4)[0] == 0
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    groups = [
        {json.loads(line)["group_id"] for line in (tmp_path / "a" / f"{split}.jsonl").read_text().splitlines()}
        for split in ("train", "test")
    ]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
    assert run("data", "samples", tmp_path / "a")[0] == 2


def process(*arguments, **more):
    code = "from internvl_detect.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **more)


def test_the_process_itself_ends_with_the_code_and_the_message_and_no_traceback(tmp_path):
    ended = process("detect", tmp_path / "a.jpg", "--model", tmp_path / "nowhere")
    assert ended.returncode == 4 and ended.stderr.startswith("ivdetect: ") and ended.stdout == ""
    ended = process("detect", tmp_path)
    assert ended.returncode == 3 and "no picture or clip" in ended.stderr


@pytest.mark.parametrize("line", ["data show", "data nosuch", "train --nope", "data forge x --out y --size 3"])
def test_a_wrong_command_line_is_answered_with_code_2_and_is_no_bug(line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ivdetect", *line.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "--help" in said and "bug" not in said


def test_a_bug_ends_with_70_and_says_how_to_see_more(monkeypatch, capsys):
    monkeypatch.setattr("internvl_detect.cli.entry.app", lambda **_: 1 / 0)
    monkeypatch.delenv("IVDETECT_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 70 and "IVDETECT_DEBUG" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX alone")
def test_a_file_name_that_is_no_text_is_judged_like_any_other(photo, tmp_path, model):
    odd = os.fsencode(tmp_path) + b"/caf\xe9\n.png"
    os.rename(photo("x.png"), odd)
    code, out, _ = run("detect", tmp_path, "--json", *model)
    assert code == 0 and os.fsencode(json.loads(out)["path"]) == odd
    assert run("detect", tmp_path, *model)[0] == 0
