"""Claims about the model in the package and the two commands of the README."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from internvl_detect import Detector
from internvl_detect.data.forge.finish import Finish
from internvl_detect.data.forge.methods import forge
from internvl_detect.data.samples.sample_set import SAMPLES
from internvl_detect.evaluate.metrics import auc
from internvl_detect.media.image import open_image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def nano():
    return Detector.from_pretrained("nano")


def test_it_says_what_it_is_wherever_it_answers(nano):
    verdict = nano.detect(SAMPLES / "coffee.jpg", explain=True)
    assert verdict.notes[0] == "embedded nano model: for trying things out"
    assert verdict.model == "nano+nano_lora" and verdict.calibrated
    assert verdict.words.startswith(("Yes", "No"))


def test_it_tells_photographs_with_an_erased_part_from_untouched_ones(nano):
    """On photographs that it was not trained on; the same finishing for both, so nothing else tells them apart."""
    scores, labels = [], []
    rng = np.random.default_rng(0)
    files = sorted(SAMPLES.glob("*.jpg"))
    media = []
    for i in range(40):
        whole = np.asarray(open_image(files[i % len(files)]).rgb)
        y, x = (8 * int(rng.integers((n - 296) // 8 + 1)) for n in whole.shape[:2])
        cut = whole[y : y + 296, x : x + 296]
        finish = Finish(quality=int(rng.integers(75, 96)))
        for label, pixels in ((0, cut), (1, forge(cut, "removal", rng, kinds=("blob",))[0])):
            media.append(finish.apply(pixels))
            labels.append(label)
    for content in media:
        scores.append(nano.detect(content).score)
    assert auc(np.array(scores), np.array(labels)) > 0.7


def test_all_embedded_weights_together_stay_small():
    size = sum(p.stat().st_size for p in (ROOT / "internvl_detect" / "embedded").rglob("*") if p.is_file())
    assert size < 40e6


def run_script(script, folder, **variables):
    if not (ROOT / ".venv" / ".set-up").is_file():
        pytest.skip("the scripts' own .venv is not set up here")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WEIGHT_", "OUTPUT_", "DATA_", "TRAIN_", "VAL_"))}
    command = ["bash", str(ROOT / script)]
    return subprocess.run(command, cwd=folder, env=kept | variables, capture_output=True, text=True, timeout=300)


def test_the_demo_trains_judges_and_leaves_rows_masks_and_a_report(tmp_path):
    rows, masks = tmp_path / "out" / "rows.jsonl", tmp_path / "masks"
    ran = run_script("scripts/cli_demo.sh", tmp_path, DEMO_STEPS="2", DTE_FDM_OUTPUT=str(rows), MFLM_OUTPUT=str(masks))
    assert ran.returncode == 0, ran.stderr
    assert "validation before: AUC" in ran.stdout and "validation after:  AUC" in ran.stdout
    judged = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [Path(row["image"]).name for row in judged] == ["real.jpg", "edited.jpg", "rebuilt.jpg", "clip.mp4"]
    assert all(row["outputs"] and 0 <= row["score"] <= 1 for row in judged)
    assert {p.name.split("_")[0] for p in masks.glob("*_mask.png")} >= {"real", "edited", "rebuilt"}
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()


def test_the_whole_pipeline_over_a_question_file_goes_on_where_it_was_ended(tmp_path):
    questions, rows, masks = tmp_path / "q.jsonl", tmp_path / "out" / "rows.jsonl", tmp_path / "masks"
    samples = ROOT / "internvl_detect" / "embedded" / "samples"
    asked = [{"image": str(samples / name), "text": text} for name, text in (("coffee.jpg", ""), ("cat.jpg", "Why?"))]
    questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    where = {"QUESTION_PATH": str(questions), "DTE_FDM_OUTPUT": str(rows), "MFLM_OUTPUT": str(masks)}
    first = run_script("scripts/test.sh", tmp_path, **where)
    assert first.returncode == 1, first.stderr  # there is no cat.jpg
    again = run_script("scripts/test.sh", tmp_path, **where)
    assert "1 of 2 files have a verdict already" in again.stderr
    judged = [json.loads(line) for line in rows.read_text().splitlines()]
    (row,) = [row for row in judged if row.get("error") is None]
    assert row["outputs"] and (masks / row["mask"]).is_file() and "domain_tag" in row
    missing = run_script("scripts/test.sh", tmp_path, QUESTION_PATH=str(tmp_path / "none.jsonl"))
    assert missing.returncode > 1 and "none.jsonl" in missing.stderr


def test_the_fine_tuning_script_takes_its_settings_from_the_environment(tmp_path):
    from internvl_detect.data.samples.sample_set import make_sample_set

    meta = make_sample_set(tmp_path / "samples", pairs=4, test_pairs=6)
    ran = run_script(
        "scripts/DTE-FDM/finetune_lora.sh",
        tmp_path,
        CONFIG=str(ROOT / "recipes" / "demo.yaml"),
        WEIGHT_PATH="nano",
        DATA_PATH=str(meta),
        OUTPUT_DIR=str(tmp_path / "run"),
        TRAIN_DATA_CHOICE="samples_train",
        VAL_DATA_CHOICE="samples_test",
        BATCH_SIZE="8",
        PER_DEVICE_BATCH_SIZE="2",
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "run" / "adapter" / "ivdetect.json").is_file()
    settings = (tmp_path / "run" / "run.yaml").read_text()
    assert "batch_size: 8" in settings and "val_data_choice: samples_test" in settings
