"""Claims about shortcuts: planted ones are found and named, an equalised set has none, scores are of files unseen."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.survey.whole import Survey, survey
from internvl_detect.evaluate.metrics import auc
from internvl_detect.evaluate.shortcut_words import _in_words, as_findings, compare, warnings_of
from internvl_detect.evaluate.shortcuts import ALL, Column, auc_by_folds, features_of, fit, measure_shortcuts

N = 40


def made(root: Path, rows: list[ManifestRow], each) -> Survey:
    """``each(index, fake)`` gives size and save options of a picture that is otherwise the same for both classes."""
    root.mkdir(exist_ok=True)
    for i, row in enumerate(rows):
        rng = np.random.default_rng(1000 + i)
        size, options = each(i, row.label != "real")
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(root / row.path, **options)
    return survey(rows, root, workers=1)


def rows_of(end: str = "jpg", n: int = N) -> list[ManifestRow]:
    return [ManifestRow(f"{i}.{end}", "real" if i % 2 else "ai_generated", group_id=f"g{i}") for i in range(2 * n)]


PLANTED = {
    "size": lambda i, fake: ((64, 64) if fake else ((80, 80), (72, 72))[i % 3 == 0], {"quality": 80}),
    "tables": lambda i, fake: ((64, 64), {"quality": 90 if fake else 75}),
    "quality": lambda i, fake: ((64, 64), {"quality": 90 if fake else 75}),
    "aspect": lambda i, fake: ((60 + i % 5, 60 + i % 5) if fake else (80 + i % 5, 60), {"quality": 80}),
    "metadata": lambda i, fake: ((64, 64), {"quality": 80, **({"comment": "made by a network"} if fake else {})}),
    "compression": lambda i, fake: ((64 + i % 3, 64), {"quality": 95 if fake else 40}),
}


@pytest.mark.parametrize("feature", PLANTED)
def test_a_planted_shortcut_is_found_and_named(tmp_path, feature):
    found = made(tmp_path, rows_of(), PLANTED[feature])
    comparison = compare(found)[0]
    assert (comparison.label, comparison.n_real, comparison.n_fake) == ("ai_generated", N, N)
    assert comparison.shortcuts[feature].auc > 0.95 and comparison.shortcuts[ALL].low > 0.9
    assert feature in [told["feature"] for told in warnings_of(comparison)]
    assert {f.code for f in as_findings([comparison])} == {"shortcut"}


def test_the_words_say_which_values_which_class_has_and_what_to_do(tmp_path):
    told = warnings_of(compare(made(tmp_path, rows_of(), PLANTED["size"]))[0])
    size = next(one for one in told if one["feature"] == "size")
    assert size["text"].startswith("by the size in pixels alone the label can be told (AUC 1.00")
    assert "every real file is 80x80 or 72x72; every ai_generated file is 64x64" in size["text"]
    assert size["to_do"] == "crop or resize both classes alike"


def test_a_format_that_gives_the_label_away_is_found(tmp_path):
    rows = [ManifestRow(f"{i}.{'png' if i % 2 else 'jpg'}", "real" if i % 2 else "fake") for i in range(2 * N)]
    comparison = compare(made(tmp_path, rows, lambda i, fake: ((64, 64), {})))[0]
    assert comparison.shortcuts["format"].auc == 1 and "every fake file is JPEG RGB" in str(comparison.to_dict())


def test_an_equalised_set_holds_chance_in_every_interval(tmp_path):
    """Sizes and qualities drawn from one distribution for both classes; the sources are all different."""

    def alike(i: int, fake: bool) -> tuple[tuple[int, int], dict]:
        rng = np.random.default_rng([7, i])
        size = (int(rng.integers(60, 72)), int(rng.integers(60, 72)))
        return size, {"quality": int(rng.integers(75, 96)), "subsampling": int(rng.choice([0, 2]))}

    comparison = compare(made(tmp_path, rows_of(n=100), alike))[0]
    for name, shortcut in comparison.shortcuts.items():
        assert shortcut.low <= 0.5 <= shortcut.high, name
    assert warnings_of(comparison) == []


def test_labels_drawn_at_random_lie_outside_the_interval_about_as_rarely_as_promised():
    rng = np.random.default_rng(0)
    missed = []
    for _ in range(150):
        features = {
            "a": [Column(rng.integers(0, 4, 300), ("w", "x", "y", "z"))],
            "b": [Column(rng.normal(size=300))],
            "own": [Column(np.arange(300), [str(i) for i in range(300)])],
        }
        fake = rng.integers(0, 2, 300)
        found = measure_shortcuts(features, fake, rng.integers(0, 2**63, 300, dtype=np.uint64))
        assert found["own"].auc == 0.5  # a value of one file says nothing of another
        missed += [not s.low <= 0.5 <= s.high for s in found.values()]
    assert np.mean(missed) <= 0.05


def test_files_of_one_group_are_never_on_both_sides():
    """Each group has a colour and a label of its own: known by heart, useless for the next group."""
    groups = np.repeat(np.random.default_rng(1).integers(0, 2**63, 100, dtype=np.uint64), 10)
    colour = np.repeat(np.arange(100), 10)
    fake = np.repeat(np.arange(100) % 2, 10)
    features = {"colour": [Column(colour, [str(i) for i in range(100)])]}
    assert measure_shortcuts(features, fake, groups)["colour"].auc == 0.5
    assert measure_shortcuts(features, fake, np.arange(1000).astype(np.uint64))["colour"].auc > 0.95


def test_a_model_scores_files_of_another_survey_by_their_values_and_not_their_numbers(tmp_path):
    one = made(tmp_path / "one", rows_of(), PLANTED["size"])
    other = made(tmp_path / "two", list(reversed(rows_of()))[:20], PLANTED["size"])
    fake = [np.array([t.texts("label")[n] != "real" for n in t["label"]]) for t in (one.table, other.table)]
    model = fit(features_of(one.table), fake[0])
    scores = model.score(features_of(other.table))
    assert ((scores >= 0) & (scores <= 1)).all() and auc(scores.tolist(), fake[1].astype(int).tolist()) == 1


def test_too_little_is_not_judged(tmp_path):
    found = made(tmp_path, rows_of(n=5), PLANTED["size"])
    assert compare(found) == []
    few = measure_shortcuts({"a": [Column(np.zeros(8))]}, np.arange(8) % 2, np.arange(8).astype(np.uint64))
    assert math.isnan(few["a"].auc) and few[ALL].to_dict() == {"auc": None, "low": None, "high": None}


def test_each_kind_of_fake_and_each_dataset_is_compared(tmp_path):
    rows = [
        ManifestRow(f"{i}.jpg", ("real", "tampered", "real", "deepfake")[i % 4], dataset=("one", "two")[i % 8 > 3])
        for i in range(120)
    ]
    found = made(tmp_path, rows, lambda i, fake: ((64, 64), {"quality": 80}))
    assert [one.title for one in compare(found)] == [
        "real against fake",
        "real against deepfake",
        "real against tampered",
        "real against fake in one",
        "real against fake in two",
    ]


@given(
    scores=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30),
    level=st.sampled_from([0.5, 0.95]),
)
def test_the_auc_of_one_fold_is_the_usual_one_and_lies_in_its_interval(scores, level):
    values, fake = np.array([s for s, _ in scores], float), np.array([f for _, f in scores]).astype(int)
    n = len(scores)
    found = auc_by_folds(values, fake, np.zeros(n, int), np.arange(n).astype(np.uint64), level)
    if 0 < fake.sum() < n:
        pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(values[fake == 1], values[fake == 0])]
        assert found.auc == pytest.approx(np.mean(pairs))
        assert 0 <= found.low <= found.auc + 1e-12 and found.auc - 1e-12 <= found.high <= 1
    else:
        assert math.isnan(found.auc)


def test_repeating_every_file_of_a_group_does_not_narrow_the_interval():
    rng = np.random.default_rng(3)
    fake = rng.integers(0, 2, 200)
    scores = fake + rng.normal(size=200)
    groups, folds = np.arange(200).astype(np.uint64), np.zeros(200, int)
    once = auc_by_folds(scores, fake, folds, groups)
    often = auc_by_folds(*(np.repeat(a, 5) for a in (scores, fake, folds, groups)))
    assert vars(often) == pytest.approx(vars(once))


def test_words_name_the_difference_where_the_classes_share_values_or_lack_them():
    shared = [("JPEG RGB", 0.6), ("none", 0.4)]
    assert _in_words("real", shared, 2, False) == "real files are 60% JPEG RGB, 40% none"
    assert _in_words("real", shared, 2, True) == "every real file is JPEG RGB or none"
    points = [("5%", 75.0), ("50%", 90.0), ("95%", 95.0)]
    assert _in_words("fake", [*points, ("known", 0.4)], 0, False) == (
        "the 40% of fake files that have one have 90 (nine in ten: 75 to 95)"
    )
    assert _in_words("fake", [*points, ("known", 0.999)], 0, False).startswith("fake files have 90")
    assert _in_words("fake", [], 0, False) == "no fake file has one"
