"""The README's whole tree, from tiny drawn pictures to a trained adapter and its answers, by documented commands."""

from __future__ import annotations

import csv
import json
import os

import pytest
import readme_tree
import tiny
import torch
from typer.testing import CliRunner

from internvl_detect import cli
from internvl_detect.data.datasets.mmtd import with_words
from internvl_detect.data.datasets.readers import find_datasets

SHORT = ("precision=fp32", "batch_size=4", "max_tokens=512", "max_tiles=1", "workers=0", "tensorboard=false")
SHORT += ("max_steps=2", "save_steps=1", "lora.r=4", "learning_rate=1e-3", "gradient_checkpointing=false")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    readme_tree.build(folder / "dataset")
    tiny.write_base(folder / "base")
    return folder


def run(*arguments, **variables):
    """Standard output of a command that must end well."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], env={k: str(v) for k, v in variables.items()})
    assert result.exit_code == 0, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result.stdout


def test_every_folder_of_the_tree_is_found_with_its_masks_and_words(place):
    told: list = []
    found = with_words(find_datasets(place / "dataset", note=told.append))
    rows = {one.part: list(one.rows(told.append)) for one in found}
    assert not told and set(rows) == {
        *(name for sets in (readme_tree.WITH_MASKS, readme_tree.WITHOUT) for names in sets.values() for name in names),
        "MMTD-Set-34k.json",
    }
    for names in readme_tree.WITH_MASKS.values():
        assert all(row.mask and row.label != "real" for name in names for row in rows[name])
    assert len(rows["MMTD-Set-34k.json"]) == 15 and all(row.words for row in rows["MMTD-Set-34k.json"])


def test_the_tree_is_chosen_converted_checked_trained_on_and_evaluated(place):
    tree, sets, run_folder = place / "dataset", place / "sets", place / "run"
    choice = {"TRAIN_DATA_CHOICE": "ps|CASIA2,FR,MMTD", "VAL_DATA_CHOICE": "ps|CASIA1+"}
    chosen = ["--choice", choice["TRAIN_DATA_CHOICE"], "--val-choice", choice["VAL_DATA_CHOICE"]]
    made = json.loads(run("data", "prepare", tree, "--out", sets, *chosen, "--seed", 42, "--json"))
    assert set(made["datasets"]) == {"CASIA2_train", "FR_train", "MMTD-Set_explain_train", "CASIA1+_val"}
    assert made["left_out"] == {}
    report = json.loads(run("data", "check", sets / "meta.json", "--json"))
    assert report["n_errors"] == report["n_warnings"] == 0

    variables = {"DATA_PATH": tree, "WEIGHT_PATH": place / "base", "OUTPUT_DIR": run_folder, **choice}
    command = ["train", "--json", *(word for item in SHORT for word in ("--set", item))]
    trained = json.loads(run(*command, **variables))
    assert trained["steps"] == 2 and trained["after"]["n_fake"] == trained["after"]["n_real"] == 3
    for file in sorted(sets.glob("*.jsonl")):  # what training prepared for itself is what the command prepares
        assert (run_folder / "data" / file.name).read_bytes() == file.read_bytes()
    assert json.loads(run(*command, **variables))["steps"] == 2  # finished: nothing is done again

    questions, answers = place / "test.jsonl", place / "answers.jsonl"
    folders = [tree / "photoshop" / name / "image" for name in readme_tree.UNSEEN]
    assert json.loads(run("data", "questions", *folders, "--out", questions, "--json"))["rows"] == 12
    judged = ["--model", place / "base", "--adapter", run_folder / "adapter", "--explain", "--fakeshield"]
    run("detect", "--questions", questions, *judged, "--max-words", 4, "--out", answers)
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(rows) == 12 and all(0 <= row["score"] <= 1 and row["question"] and "outputs" in row for row in rows)

    labels = place / "labels.csv"
    with open(labels, "w", newline="") as file:
        pairs = [(row["path"], "tampered" if "_Tp" in row["path"] else "real") for row in rows]
        csv.writer(file).writerows([("path", "label"), *pairs])
    fit = ["--rows", answers, "--manifest", labels, "--out", place / "calibration.json", "--json"]
    assert json.loads(run("calibrate", *fit))["n_fake"] == 6


def test_a_run_on_a_tree_goes_on_and_refuses_other_data(place, tmp_path):
    variables = {"DATA_PATH": place / "dataset", "WEIGHT_PATH": place / "base", "OUTPUT_DIR": tmp_path / "run"}
    command = ["train", *(word for item in SHORT for word in ("--set", item))]
    run(*command, **variables, TRAIN_DATA_CHOICE="df|FaceAPP,FFHQ", VAL_DATA_CHOICE="df|FaceAPP,FFHQ")
    meta = json.loads((tmp_path / "run" / "data" / "meta.json").read_text())
    assert set(meta) == {f"{name}_{split}" for name in ("FaceAPP", "FFHQ") for split in ("train", "val")}
    again = CliRunner().invoke(
        cli.app, command, env={**{k: str(v) for k, v in variables.items()}, "TRAIN_DATA_CHOICE": "df|FFHQ"}
    )
    assert "holds a run on other data" in str(again.exception) and os.path.isdir(tmp_path / "run" / "adapter")
