"""Claims about the fusion's fit: scikit-learn's weights, no source above another, thresholds that hold by source."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression

from internvl_detect import Detector
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.model.calibration import Calibration, calibrate, sigmoid
from internvl_detect.model.domain_tag import DomainTagger, save
from internvl_detect.model.embedded import FOLDER
from internvl_detect.model.fusion import Fusion
from internvl_detect.model.settings import AdapterSettings
from internvl_detect.model.tagger_net import Shape, TaggerNet
from internvl_detect.train import fuse
from internvl_detect.train.fuse import brought_to_scale, divided, fit_and_store, left_out
from internvl_detect.train.fuse_fit import Odds, errors_of, fit_calibration, fit_fusion, told, weights_of
from internvl_detect.train.tag_data import TagRow

SMALL = Shape(widths=(4, 8, 8, 16, 16), blocks=(0, 1, 1, 1), map_width=8)


def drawn(seed=0, sizes=(40, 40, 40), model=1.0, tag=1.5, shift=0.3):
    """Synthetic log odds: as many sources of each class as ``sizes``, each with a shift of its own."""
    rng = np.random.default_rng(seed)
    parts = []
    for fake in (0, 1):
        for at, n in enumerate(sizes):
            moved = rng.normal(0, shift, 2)
            means = np.array([model, tag]) * (2 * fake - 1) + moved
            both = rng.normal(means, 2.0, (n, 2))
            parts.append((both, np.full(n, fake), np.full(n, f"{'rf'[fake]}{at}")))
    both, fake, source = (np.concatenate([p[i] for p in parts]) for i in range(3))
    return Odds(both[:, 0], both[:, 1], fake, source)


def taken(odds, rows):
    return Odds(*(getattr(odds, f.name)[rows] for f in dataclasses.fields(odds)))


def test_the_weights_are_those_of_scikit_learn_where_every_source_is_made_as_large_as_the_others():
    odds = drawn(sizes=(10, 20, 40))
    times = 40 // np.bincount(odds.groups())[odds.groups()]
    x, y = np.stack([odds.model, odds.tag], 1).repeat(times, 0), odds.fake.repeat(times)
    whole = LogisticRegression(C=len(odds.fake) / len(y), tol=1e-9, max_iter=1000).fit(x, y)
    made = fit_fusion(odds)
    assert [made.model, made.tag] == pytest.approx(whole.coef_[0].tolist(), abs=1e-4)
    assert made.bias == pytest.approx(whole.intercept_[0], abs=1e-4)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_the_order_of_pictures_and_sources_does_not_matter(seed):
    odds = drawn(seed % 7, sizes=(8, 12))
    other = taken(odds, np.random.default_rng(seed).permutation(len(odds.fake)))
    a, b = fit_fusion(odds), fit_fusion(other)
    assert list(a.to_dict().values()) == pytest.approx(list(b.to_dict().values()), abs=1e-5)
    first, second = fit_calibration(odds, a, 0.15), fit_calibration(other, a, 0.15)
    assert (first.low, first.high, first.a) == pytest.approx((second.low, second.high, second.a), abs=1e-6)


def test_a_part_that_says_nothing_has_no_weight_and_one_that_lies_has_none_at_all():
    odds = drawn(model=0.0, shift=0, sizes=(400, 400))
    made = fit_fusion(odds)
    assert made.model < 0.05 < 0.3 < made.tag
    noise = odds.tag - 1.5 * (2 * odds.fake - 1)  # what the tagger errs by: only subtracting it would help
    liar = fit_fusion(dataclasses.replace(odds, model=noise))
    assert liar.model == 0 and liar.tag > 0.3
    with pytest.raises(DataError, match="neither"):
        fit_fusion(dataclasses.replace(odds, model=-odds.tag, tag=-odds.tag))


def test_both_classes_and_the_sources_of_each_weigh_the_same():
    odds = drawn(sizes=(5, 50))
    w = weights_of(odds.fake, odds.groups())
    sums = [w[odds.source == name].sum() for name in ("r0", "r1", "f0", "f1")]
    assert sums == pytest.approx([len(w) / 4] * 4)


@settings(max_examples=15)
@given(st.integers(0, 30), st.sampled_from([0.05, 0.15, 0.3]), st.floats(0, 3), st.floats(0, 2))
def test_of_those_called_fake_or_authentic_no_more_are_wrong_than_the_target(seed, target, shift, strength):
    odds = drawn(seed, sizes=(6, 30), shift=shift, model=strength, tag=strength)
    fusion = Fusion(0.5, 0.5, 0.1)
    made = fit_calibration(odds, fusion, target)
    p, free = made.probabilities(sigmoid(odds.fused(fusion))), ~odds.apart(fusion)
    w = weights_of(odds.fake, odds.groups())
    errors = errors_of(p[free], odds.fake[free], w[free], made.low, made.high)
    assert max(errors["fake"], errors["authentic"]) <= target + 1e-9
    assert 0 <= made.low <= 0.5 <= made.high <= 1
    assert Calibration.from_dict(made.to_dict()) == made


def test_more_caution_decides_no_more_and_clear_scores_are_decided():
    odds = drawn(shift=1.5)
    fusion = fit_fusion(odds)
    bold, careful = (told(odds, fusion, fit_calibration(odds, fusion, 0.15, caution=c)) for c in (0.5, 0.95))
    assert careful["coverage"]["real"] <= bold["coverage"]["real"] + 1e-9
    clear = drawn(model=8, tag=8, shift=0)
    fusion = fit_fusion(clear)
    found = told(clear, fusion, fit_calibration(clear, fusion, 0.15))
    assert min(found["coverage"].values()) > 0.8 and max(found["errors"].values()) < 0.02
    with pytest.raises(ConfigError):
        fit_calibration(clear, fusion, 0.15, caution=1.0)


def test_a_weight_of_two_is_a_file_given_twice():
    rng = np.random.default_rng(0)
    scores, labels = rng.uniform(0, 1, 2000), np.arange(2000) % 2
    scores = np.clip(scores * 0.6 + 0.3 * labels, 0, 1)
    times = rng.integers(1, 3, 2000)
    weighed = calibrate(scores, labels, 0.2, weights=times * 5.0)
    given_twice = calibrate(np.repeat(scores, times), np.repeat(labels, times), 0.2)
    assert (weighed.low, weighed.high) == pytest.approx((given_twice.low, given_twice.high), abs=0.02)
    assert weighed.a == pytest.approx(given_twice.a, rel=0.01)  # Platt's smoothing counts files
    assert calibrate(scores, labels, 0.2) == calibrate(scores, labels, 0.2, weights=np.full(2000, 7.0))
    with pytest.raises(DataError, match="weights"):
        calibrate(scores, labels, 0.2, weights=np.zeros(2000))


def test_what_is_kept_and_what_was_forged_of_it_is_not_weighed_by():
    rows = [
        TagRow("a", "authentic", "", "cameras/1", "val", "cameras"),
        TagRow("b", "photoshop", "m", "cameras/1", "val", "edits"),
        TagRow("c", "photoshop", "m", "web/1", "val", "edits"),
        TagRow("d", "authentic", "", "cameras/2", "train", "cameras"),
    ]
    weigh, kept = divided(rows, "val", ["cameras"])
    assert [row.path for row in weigh] == ["c"] and [row.path for row in kept] == ["a", "b"]
    with pytest.raises(DataError, match="'sea'"):
        divided(rows, "val", ["sea"])


@pytest.fixture
def shipped(tmp_path):
    """A copy of the embedded adapter, and a tagger of random weights."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in (FOLDER / "nano_lora").iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(2)
    net = TaggerNet(SMALL)
    return folder, save(net, DomainTagger(net).settings(), tmp_path / "tagger")


def test_the_whole_way_stores_both_keeps_the_rest_and_goes_on_where_it_was_killed(shipped, photo, tmp_path, capsys):
    adapter, tagger = shipped
    for kind in ("real", "gan", "camera", "model"):
        for i in range(6):
            photo(f"{kind}/{i}.png", (96, 96), seed=i + 10 * len(kind))
    for i in range(6):  # what the small tagger can tell apart by something
        for kind in ("gan", "model"):
            path = tmp_path / kind / f"{i}.png"
            Image.open(path).resize((24, 24)).resize((96, 96)).save(path)
    (tmp_path / "real" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "work").mkdir()
    before = AdapterSettings.read(adapter)
    options = ["--tagger", str(tagger), "--material", str(tmp_path / "work"), "--out", str(adapter)]
    options += ["--generated", str(tmp_path / "gan"), "--real", str(tmp_path / "real"), "--split", "train"]
    options += ["--calibrate-generated", f"m={tmp_path / 'model'}", "--calibrate-real", f"c={tmp_path / 'camera'}"]
    options += ["--work", str(tmp_path / "fit")]
    fuse.main(options)
    cache = tmp_path / "fit" / "odds.jsonl"
    lines = [line for line in cache.read_text().splitlines() if line]
    assert len(lines) >= 12 and "left out" in capsys.readouterr().out
    after = AdapterSettings.read(adapter)
    assert Fusion.from_dict(after.fusion) and Calibration.from_dict(after.calibration).fitted_on.endswith("c, m")
    assert dataclasses.replace(after, fusion=None, calibration=None) == dataclasses.replace(
        before, fusion=None, calibration=None
    )
    assert set(json.loads((tmp_path / "fit" / "fit.json").read_text())["kept"]["by_source"]) == {"real/c", "fake/m"}
    cache.write_text("\n".join(lines[:5]) + '\n{"picture": "cut o')
    fuse.main(options)
    again = [line for line in cache.read_text().splitlines() if line.endswith("}")]
    assert sorted(again) == sorted(lines)
    assert AdapterSettings.read(adapter) == after


def test_the_log_odds_are_those_of_detection(shipped, photo):
    adapter, tagger = shipped
    path = photo("one.png", (300, 200))
    detector = Detector.from_pretrained("nano", adapter, tagger=tagger, provenance=False)
    parts = fuse.Parts(detector.loaded, detector.looker.tagger, adapter)
    model, tag = parts.odds(Image.open(path).convert("RGB"))
    said, fusion = detector.detect(path), Fusion.from_dict(detector.loaded.settings.fusion)
    fused = model if fusion is None else fusion.log_odds(model, tag)
    assert sigmoid(np.array(fused)) == pytest.approx(said.score, abs=1e-6)
    assert sigmoid(np.array(tag)) == pytest.approx(1 - said.tag_probabilities["authentic"], abs=1e-5)


def test_a_tagger_that_is_half_as_sure_counts_as_if_it_were_ours():
    odds = drawn(sizes=(200, 200))
    timid = dataclasses.replace(odds, tag=odds.tag / 2 + 1)
    rows = [{"model": 1.0, "tagger": value, "fake": 1, "source": "new"} for value in (-0.5, 1.0, 3.0)]
    brought = brought_to_scale(rows, timid, odds)
    assert [row["tagger"] for row in brought] == pytest.approx([-3.0, 0.0, 4.0], rel=0.05, abs=0.05)
    assert [row["model"] for row in brought] == [1.0, 1.0, 1.0]


def test_what_a_tagger_was_trained_without_is_read_from_one_word():
    assert left_out("runs/other/tagger=flux,sdxl") == (Path("runs/other/tagger"), ["flux", "sdxl"])
    for value in ("runs/other/tagger", "=flux", "runs/other/tagger=,"):
        with pytest.raises(DataError, match="left-out"):
            left_out(value)


def test_files_of_one_class_cannot_be_fitted_on(tmp_path):
    rows = [{"model": 1.0, "tagger": 1.0, "fake": 1, "source": "a"}] * 5
    with pytest.raises(DataError, match="one class"):
        fit_and_store(rows, rows, tmp_path, split="val", target_error=0.1)


def test_weights_by_what_was_kept_are_those_of_the_kept_alone(tmp_path):
    rng = np.random.default_rng(0)

    def rows(model, tag):
        fakes = rng.integers(0, 2, 300)
        odds = rng.normal(0, 1, (300, 2)) + (fakes[:, None] * 2 - 1) * (model, tag)
        named = zip(odds.tolist(), fakes.tolist(), strict=True)
        return [{"model": a, "tagger": b, "fake": f, "source": "ab"[i % 2]} for i, ((a, b), f) in enumerate(named)]

    weigh, kept = rows(2.0, 0.1), rows(0.1, 2.0)
    for folder, options in (("seen", {}), ("kept", {"by_kept": True})):
        shutil.copytree(FOLDER / "nano_lora", tmp_path / folder)
        fit_and_store(weigh, kept, tmp_path / folder, split="val", target_error=0.1, **options)
    stored = {name: AdapterSettings.read(tmp_path / name).fusion for name in ("seen", "kept")}
    assert stored["seen"] == fit_fusion(Odds.of(weigh)).to_dict() and stored["seen"]["model"] > stored["seen"]["tag"]
    assert stored["kept"] == fit_fusion(Odds.of(kept)).to_dict() and stored["kept"]["tag"] > stored["kept"]["model"]
