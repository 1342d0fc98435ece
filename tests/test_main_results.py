"""The main table from a tiny tree: every system on the same files, what is missing said, and nothing done twice.

Run: ``python -m pytest tests/test_main_results.py``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plain_nano import plain_adapter

from internvl_detect.detect import Detector
from internvl_detect.evaluate import robustness
from internvl_detect.evaluate.baselines.tagger import Tagger
from internvl_detect.model.domain_tag import DomainTagger, save
from internvl_detect.model.tagger_net import Shape, TaggerNet

SIDE = 64
ONLY = ("detector", "always_fake", "shortcut", "noise")


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    try:
        import main_parts
        import main_results

        yield main_results, main_parts
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """A tagger of random weights that marks something."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tagger")
    net = TaggerNet(Shape(widths=(8, 8, 8, 8, 8), blocks=(1, 1, 1, 1), map_width=8)).eval()
    save(net, DomainTagger(net).settings(), folder, half=False)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return plain_adapter(tmp_path_factory.mktemp("adapter") / "plain")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Columbia and CASIAv1+_Au of the README's tree, eight pictures each; one edit lies outside the square."""
    root, rng = tmp_path_factory.mktemp("dataset"), np.random.default_rng(0)
    for name, fake in (("Columbia", True), ("CASIAv1+_Au", False)):
        for i in range(8):
            blocks = Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).resize((170, 120), 3)
            values = np.clip(np.asarray(blocks, float) + rng.normal(0, 9, (120, 170, 3)), 0, 255).astype(np.uint8)
            path = root / "photoshop" / name / "image" / f"{name[:4]}{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if fake:
                mask = np.zeros((120, 170), np.uint8)
                mask[(slice(0, 20), slice(0, 20)) if i == 0 else (slice(40, 80), slice(60, 110))] = 255
                values[mask > 0] = 255 - values[mask > 0]
                (root / "photoshop" / name / "mask").mkdir(exist_ok=True)
                Image.fromarray(mask).save(root / "photoshop" / name / "mask" / f"{name[:4]}{i}.png")
            Image.fromarray(values).save(path, quality=90)
    return root


def test_every_system_stands_on_the_same_files_and_a_second_call_measures_nothing_again(
    benchmark, tree, tagger, adapter, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(robustness, "SEVERITIES", {"jpeg": (75,)})
    given = [str(tree), "--out", str(tmp_path / "out"), "--state", str(tmp_path / "state"), "--tagger", str(tagger)]
    given += [
        "--adapter",
        str(adapter),
        "--limit",
        "8",
        "--side",
        str(SIDE),
        "--decoder-seconds",
        "0.3",
        "--curves",
        "1",
        "--faithful",
        "1",
    ]
    given += ["--rounds", "20", "--per-photo", "1", "--alone", *(word for name in ONLY for word in ("--only", name))]
    benchmark[0].main(given)
    said = capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "main.json").read_text())
    names = [system["name"] for system in told["systems"]]
    assert names[:3] == ["detector", "model alone", "tagger alone"]
    fitted = [f"noise residual, fitted on {what}" for what in ("forged twins", "this set's other half")]
    assert {"always fake", "size and JPEG only, files as they are, fitted on this set's other half"} <= set(names)
    assert len(names) == 8 and len([n for n in names if n.startswith("noise")]) == len(fitted)
    whole = {line["system"]: line for line in told["files"]["lines"] if line["dataset"] == "all"}
    assert set(whole) == set(names)
    assert len({(line["n_real"], line["n_fake"]) for line in whole.values()}) == 1
    assert {line["less"] for line in told["files"]["differences"]} == set(names[1:])
    assert {line["system"] for line in told["files"]["differences"]} == {"detector"}
    assert {line["system"] for line in told["twins"]["localization"]} >= {"detector", "tagger alone"}
    assert set(told["pairs_won"][0]) > {"system", "splice"} and len(told["decoders"]) == 4
    assert "Colu0.jpg: what was edited lies outside" in said and "deepfake/FFHQ_Val/image" in said
    assert any("no weights to fuse by" in line for line in told["missing"])
    text = (tmp_path / "out" / "main.md").read_text()
    assert "| detector | all |" in text and "paired differences" in text and "FFHQ\\_Train is not there" not in text
    assert "<svg" in (tmp_path / "out" / "main.svg").read_text() and len(told["robustness"]) == 3
    before = (tmp_path / "out" / "main.md").read_text()
    benchmark[0].main(given)
    assert ": done" not in capsys.readouterr().out
    assert (tmp_path / "out" / "main.md").read_text() == before


def test_an_ended_run_goes_on_with_what_is_left(benchmark, tree, tmp_path, capsys):
    given = [str(tree), "--out", str(tmp_path / "out"), "--state", str(tmp_path / "state"), "--decoder-seconds", "0"]
    given += ["--side", str(SIDE), "--rounds", "20", "--alone", "--only", "always_fake", "--only", "always_real"]
    benchmark[0].main(given)
    (done,) = (tmp_path / "state").glob("*/done/baselines/always_real.json")
    done.unlink()
    capsys.readouterr()
    benchmark[0].main(given)
    said = capsys.readouterr().out
    assert "always_real: done" in said and "always_fake: done" not in said


def test_the_parts_of_the_detector_say_what_they_say_alone(benchmark, tagger, adapter, tmp_path):
    rng = np.random.default_rng(1)
    pictures = [Image.fromarray(rng.integers(0, 255, (90, 110, 3), np.uint8)) for _ in range(2)]
    both = benchmark[1].Embedded("nano", str(adapter), str(tagger), tmp_path / "kept.jsonl")
    alone = Detector.from_pretrained("nano", adapter, tagger=None, provenance=False)
    for picture, told in zip(pictures, both.answers(pictures), strict=True):
        plain = alone.detect(benchmark[1]._png(picture))
        assert told["model alone"].score == pytest.approx(plain.probability, abs=1e-5)
        assert told["model alone"].decision == plain.decision
        assert told["tagger alone"].score == pytest.approx(Tagger(str(tagger)).scores([picture])[0], abs=1e-5)
        assert told["detector"].drawn.shape == (90, 110)
    scores = both.by("detector")(pictures)
    (tmp_path / "kept.jsonl").write_text((tmp_path / "kept.jsonl").read_text() + '["cut')
    again = benchmark[1].Embedded("nano", str(adapter), str(tagger), tmp_path / "kept.jsonl")
    again.detector = None  # what was said is not asked again
    assert again.by("detector")(pictures) == scores
