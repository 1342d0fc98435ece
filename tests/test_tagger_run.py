"""Claims about a tagger's run: what is fitted is fitted on validation, what is left out is only measured on."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl_detect.data.forge.words import facts_of
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.model.domain_tag import TAGS, DomainTagger, Tagged, read_net, save
from internvl_detect.model.tagger_net import Shape, TaggerNet
from internvl_detect.questions import METHOD_SENTENCES
from internvl_detect.train.nano_rows import drills, guess, row_of
from internvl_detect.train.tag_data import TagRow
from internvl_detect.train.tagger import TagTraining
from internvl_detect.train.tagger_fit import PRIOR, THRESHOLDS, Looked, fit, map_counts, pixel_f1, summary
from internvl_detect.train.tagger_run import drawn, recipe_of, run
from internvl_detect.train.tagger_start import start_of

SMALL = Shape(widths=(4, 8, 8, 16, 16), blocks=(0, 1, 1, 1), map_width=8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Twelve pictures of each split: noise, noise with a smooth square and its mask, flat colours of two sources."""
    folder, rng, found = tmp_path_factory.mktemp("run"), np.random.default_rng(0), []
    for i in range(12):
        split = ("train", "train", "val", "test")[i % 4]
        rgb = rng.integers(60, 200, (96, 96, 3), np.uint8)
        Image.fromarray(rgb).save(folder / f"{i}.png")
        found.append(TagRow(str(folder / f"{i}.png"), "authentic", "", f"g{i}", split, "cameras"))
        rgb[24:72, 24:72] = 120
        Image.fromarray(rgb).save(folder / f"{i}_e.png")
        Image.fromarray(np.pad(np.full((48, 48), 255, np.uint8), 24)).save(folder / f"{i}_m.png")
        found.append(
            TagRow(str(folder / f"{i}_e.png"), "photoshop", str(folder / f"{i}_m.png"), f"g{i}", split, "edits")
        )
        Image.new("RGB", (96, 96), (i, 90, 120)).save(folder / f"{i}_g.png")
        source = "one" if i % 8 < 4 else "two"
        found.append(TagRow(str(folder / f"{i}_g.png"), "ai_generated", "", f"f{i}", split, source))
    return found


def test_a_run_leaves_a_tagger_that_loads_and_says_what_it_measured(rows, tmp_path):
    how = TagTraining(steps=30, batch=8, sizes_px=(64,), workers=0, lr=4e-3, shape=SMALL)
    result = run(rows, tmp_path / "mine", how, left_out=["two"], echo=lambda text: None)
    tagger = DomainTagger.load(tmp_path / "mine" / "tagger")
    assert tagger.map_threshold in THRESHOLDS
    assert result == json.loads((tmp_path / "mine" / "run.json").read_text())
    assert set(result["metrics"]) == {"val", "test", "left_out"}
    assert set(result["metrics"]["left_out"]["by_source"]) == {"two"}
    assert "two" not in result["metrics"]["test"]["by_source"]
    assert result["metrics"]["test"]["all"]["pictures"] == 3 * 3 - sum(
        r.source == "two" for r in rows if r.split == "test"
    )


def test_without_steps_only_the_heads_learn_and_something_to_start_from_is_needed(rows, tmp_path):
    torch.manual_seed(0)
    start, how = TaggerNet(SMALL).eval(), TagTraining(steps=0, whole=12, workers=0, shape=SMALL)
    run(rows, tmp_path / "mine", how, start=start, echo=lambda text: None)
    before, after = start.state_dict(), read_net(tmp_path / "mine" / "tagger")[0].state_dict()
    changed = {k.split(".")[0] for k in before if not torch.allclose(before[k].half().float(), after[k].float())}
    assert changed and changed <= {"hidden", "tag_head", "method_head"}
    with pytest.raises(ConfigError, match="no tagger to start from"):
        run(rows, tmp_path / "other", how)


def test_a_training_starts_from_the_mean_of_several_taggers(tmp_path):
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(TaggerNet(SMALL))
        save(nets[-1], DomainTagger(nets[-1]).settings(), tmp_path / f"{seed}", half=False)
    found = start_of([f"{tmp_path}/0=3", f"{tmp_path}/1=1"]).state_dict()
    for name, mean in found.items():
        one, two = (net.state_dict()[name] for net in nets)
        if mean.is_floating_point():
            torch.testing.assert_close(mean, 0.75 * one + 0.25 * two)
    assert torch.equal(start_of([f"{tmp_path}/1"]).map_head.weight, nets[1].map_head.weight)
    assert start_of([]) is None
    other = TaggerNet(Shape(widths=(4, 8, 8, 16, 8), blocks=(0, 1, 1, 1), map_width=8))
    save(other, DomainTagger(other).settings(), tmp_path / "other")
    with pytest.raises(ConfigError, match="another shape"):
        start_of([f"{tmp_path}/0=1", f"{tmp_path}/other=1"])
    with pytest.raises(ConfigError, match="FOLDER=SHARE"):
        start_of([f"{tmp_path}/0", f"{tmp_path}/1=nan"])


def test_without_a_validation_split_there_is_nothing_to_fit_on(rows, tmp_path):
    with pytest.raises(DataError, match="'val'"):
        run([r for r in rows if r.split == "train"], tmp_path, TagTraining(steps=1, shape=SMALL))


@pytest.mark.parametrize(
    "values",
    [
        {"stepz": 3},
        {"steps": -1},
        {"steps": "many"},
        {"sizes_px": [100]},
        {"shares": [1, 2]},
        {"shape": {"wide": 3}},
        {"lr": 2},
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(values):
    with pytest.raises(ConfigError, match="recipe"):
        recipe_of(values)
    assert recipe_of({"steps": 7, "shape": {"widths": [4, 8, 8, 16, 16]}}).shape.widths == (4, 8, 8, 16, 16)


def looked(shift: float = 2.0, scale: float = 3.0) -> list[Looked]:
    """Answers that are right in their order, overconfident and shifted towards one tag."""
    rng, found = np.random.default_rng(0), []
    for i in range(400):
        tag = int(rng.integers(5))
        logits = rng.normal(0, 1, 5)
        logits[tag] += 1.5
        logits = scale * logits
        logits[1] += shift
        logs = logits - np.log(np.exp(logits).sum())
        found.append(Looked(TagRow(f"{i}", TAGS[tag]), logs, None))
    return found


def test_the_fit_lowers_the_cross_entropy_of_overconfident_and_shifted_answers():
    tagger, answers = DomainTagger(TaggerNet(SMALL)), looked()
    fit(tagger, answers)
    beyond_prior = tagger.bias[1] - tagger.temperature * np.log(PRIOR[1] * len(TAGS))
    assert tagger.temperature > 1.5 and beyond_prior < -1

    def entropy(temperature: float, bias: tuple[float, ...]) -> float:
        logits = (np.stack([one.logs for one in answers]) + np.array(bias)) / temperature
        truth = torch.tensor([TAGS.index(one.row.tag) for one in answers])
        return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), truth))

    assert entropy(tagger.temperature, tagger.bias) < entropy(1.0, (0.0,) * 5) - 0.2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_counts_of_the_map_are_those_of_thresholding_it(seed, share):
    rng = np.random.default_rng(seed)
    probability, truth = rng.random((9, 7)).astype(np.float32), rng.random((9, 7)) < share
    counts = map_counts(probability, truth)
    for (tp, fp, fn), threshold in zip(counts, THRESHOLDS, strict=True):
        marked = probability >= threshold
        assert (tp, fp, fn) == ((marked & truth).sum(), (marked & ~truth).sum(), (~marked & truth).sum())
    assert pixel_f1(np.array([0, 0, 0])) == 1 and pixel_f1(np.array([0, 3, 0])) == 0


def test_the_summary_has_the_area_under_each_tag_and_their_mean():
    found = summary(looked(0, 1), 0.5)
    each = [found[f"auc_{tag}"] for tag in TAGS]
    assert min(each) > 0.75 and found["macro_auc"] == pytest.approx(np.mean(each), abs=1e-3)


def test_a_draw_takes_as_much_of_every_source_as_it_has(rows):
    found = drawn(rows, 8)
    assert len(found) == 8 and len({(r.tag, r.source) for r in found}) == 4
    assert sorted(drawn(rows, 10**6), key=lambda r: r.path) == sorted(rows, key=lambda r: r.path)
    assert drawn([dataclasses.replace(rows[0])], 5) == [rows[0]]


def test_a_guess_names_a_place_only_where_enough_looks_edited():
    cells = np.zeros((9, 9), np.float32)
    cells[0, :3] = 0.9
    shares = dict.fromkeys(TAGS, 0.1) | {"photoshop": 0.6}
    assert guess(Tagged(shares | {"authentic": 0.9}, cells, 0.0, {"splice": 1.0})) == (
        "authentic",
        "photoshop",
        "",
        "splice",
    )
    cells[:2, :3] = 0.9
    assert guess(Tagged(shares, cells, 0.0)) == ("photoshop", "photoshop", "upper left", "")


def test_a_row_marks_only_where_the_truth_of_the_mask_is_known():
    edited = row_of("a.png", True, "It was edited.", ("photoshop", "upper", "splice"), "m.png", "tampered", "g", "s")
    whole = row_of("a.png", True, "It was generated.", ("authentic", "", ""), "", "ai_generated", "g", "s")
    real = row_of("a.png", False, "Nothing.", ("authentic", "", ""), "", "real", "g", "s")
    said = [[turn["value"] for turn in row["conversations"]] for row in (edited, whole, real)]
    assert [len(turns) for turns in said] == [6, 4, 6]
    assert said[0][5] == said[2][5] == "<SEG>" and edited["mask"] == "m.png" and "mask" not in real
    assert (
        "Look at the upper part. It looks pasted in from another photograph." in said[0][2]
        and said[0][3] == "Yes. It was edited."
        and said[2][1] == "No."
    )


def test_drills_follow_the_verdict_always_and_the_guess_mostly():
    rows = [[turn["value"] for turn in row["conversations"]] for row in drills(600)]
    said = [facts_of(turns[3]) for turns in rows]
    assert all(facts.fake == (turns[1] == "Yes.") for facts, turns in zip(said, rows, strict=True))
    yes = [(facts, turns[2]) for facts, turns in zip(said, rows, strict=True) if facts.fake]
    follows = np.mean([f"Look at the {facts.place} part. {METHOD_SENTENCES[facts.method]}" in q for facts, q in yes])
    assert 0.5 < len(yes) / len(rows) < 0.8 and 0.8 < follows < 0.95
    assert {facts.method for facts, _ in yes} == {*METHOD_SENTENCES} and not any("<image>" in q for _, q in yes)


def test_a_gate_keeps_untouched_maps_empty_and_leaves_the_edited_ones():
    rng, answers = np.random.default_rng(1), []
    for i in range(60):
        edited = i % 2 == 0
        truth = np.zeros((20, 20), bool)
        truth[:8, :8] = edited
        cells = np.where(truth, 0.8, 0.1) + rng.normal(0, 0.02, truth.shape)
        cells[12:15, 12:15] = 0.85  # a false alarm of every picture
        logits = np.array([0.0, -9, -9, -9, 2.5 if edited else -2.5])
        row = TagRow(f"{i}", "photoshop" if edited else "authentic")
        counts = map_counts(np.clip(cells, 0, 1).astype(np.float32), truth)
        answers.append(Looked(row, logits - np.log(np.exp(logits).sum()), counts))
    tagger = fit(DomainTagger(TaggerNet(SMALL)), answers)
    assert tagger.map_gate > 0 and 0.1 < tagger.map_threshold <= 0.8
    answers = [one for one in answers if one.row.tag != "authentic"]
    assert fit(DomainTagger(TaggerNet(SMALL)), answers).map_threshold <= 0.8


def test_the_map_is_scaled_where_the_picture_as_a_whole_does_not_look_edited():
    net = TaggerNet(SMALL)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    plain = DomainTagger(net).look(picture)
    in_part = sum(plain.probabilities[tag] for tag in ("aigc_editing", "deepfake", "photoshop"))
    gated = DomainTagger(net, map_gate=2 * in_part).look(picture)
    np.testing.assert_allclose(gated.map, plain.map / 2, rtol=1e-5)
    np.testing.assert_array_equal(DomainTagger(net, map_gate=in_part / 2).look(picture).map, plain.map)
