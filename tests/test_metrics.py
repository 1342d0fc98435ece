"""Claims about detection metrics and calibration, against brute force and on the degenerate sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_detect.errors import DataError
from internvl_detect.evaluate import metrics
from internvl_detect.model.calibration import Calibration, calibrate

scored = st.lists(st.tuples(st.integers(0, 10).map(lambda v: v / 10), st.integers(0, 1)), min_size=1, max_size=40)
scored_finely = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


@given(scored)
@settings(max_examples=200, deadline=None)
def test_auc_equals_the_share_of_ordered_pairs_with_ties_counting_half(rows):
    fake = [s for s, y in rows if y]
    real = [s for s, y in rows if not y]
    value = metrics.auc([s for s, _ in rows], [y for _, y in rows])
    if not fake or not real:
        assert math.isnan(value)
        return
    pairs = [1.0 if f > r else 0.5 if f == r else 0.0 for f in fake for r in real]
    assert value == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@given(scored, st.integers(0, 10).map(lambda v: v / 10))
@settings(max_examples=100, deadline=None)
def test_counts_equal_a_plain_loop_and_add_up(rows, threshold):
    scores, labels = [s for s, _ in rows], [y for _, y in rows]
    c = metrics.counts_at(scores, labels, threshold)
    assert c.tp == sum(s >= threshold and y == 1 for s, y in rows)
    assert c.fp == sum(s >= threshold and y == 0 for s, y in rows)
    assert c.tn == sum(s < threshold and y == 0 for s, y in rows)
    assert c.fn == sum(s < threshold and y == 1 for s, y in rows)
    half = len(rows) // 2
    parts = [metrics.counts_at(scores[a:b], labels[a:b], threshold) for a, b in ((0, half), (half, len(rows)))]
    assert parts[0] + parts[1] == c


def test_a_constant_answer_has_balanced_accuracy_one_half_and_auc_one_half():
    labels = [1] * 9 + [0]
    summary = metrics.detection_summary([0.9] * 10, labels)
    assert summary["balanced_accuracy"] == 0.5 and summary["auc"] == 0.5
    assert summary["fake_accuracy"] == 1 and summary["real_accuracy"] == 0


def test_the_bootstrap_interval_holds_the_auc_and_is_the_same_every_time():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 50)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    low, high = metrics.auc_interval(scores, labels, rounds=300)
    assert low < metrics.auc(scores, labels) < high
    assert (low, high) == metrics.auc_interval(scores, labels, rounds=300)


def test_metrics_refuse_what_is_no_score_or_no_label():
    for scores, labels in (([0.5], [1, 0]), ([math.nan], [1]), ([0.5], [2])):
        with pytest.raises(DataError):
            metrics.auc(scores, labels)


@given(scored_finely, st.sampled_from([0.01, 0.05, 0.2]))
@settings(max_examples=200, deadline=None)
def test_on_the_data_it_was_fitted_on_both_error_rates_of_both_sides_keep_the_target(rows, target):
    scores, labels = [s for s, _ in rows], [y for _, y in rows]
    c = calibrate(scores, labels, target)
    assert c.low <= 0.5 <= c.high
    if not c.fitted:
        assert min(sum(labels), len(labels) - sum(labels)) < 5 and c.note
        return
    decisions = [c.decide(p) for p in c.probabilities(scores)]
    for side, wrong in (("authentic", 1), ("fake", 0)):
        there = [y for y, d in zip(labels, decisions, strict=True) if d == side]
        errors = sum(y == wrong for y in there)
        assert errors <= target * max(len(there), 1)
        assert errors <= target * sum(y == wrong for y in labels)


@given(scored_finely, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_calibration_never_changes_the_order_of_two_scores(rows, one, other):
    c = calibrate([s for s, _ in rows], [y for _, y in rows])
    below, above = sorted((one, other))
    assert c.a > 0
    assert c.probability(below) <= c.probability(above)
    rank = ["authentic", "unsure", "fake"]
    assert rank.index(c.decide(c.probability(below))) <= rank.index(c.decide(c.probability(above)))


def test_calibration_recovers_the_slope_and_offset_that_made_the_data():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 20000)
    labels = (rng.random(z.size) < 1 / (1 + np.exp(-(0.5 * z - 1)))).astype(int)
    c = calibrate(1 / (1 + np.exp(-z)), labels)
    assert c.a == pytest.approx(0.5, abs=0.03) and c.b == pytest.approx(-1, abs=0.05)


def test_calibration_lowers_the_log_loss_of_an_overconfident_detector():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 400)
    scores = 1 / (1 + np.exp(-8 * rng.normal(labels - 0.5, 1)))
    c = calibrate(scores, labels)
    assert metrics.log_loss(c.probabilities(scores), labels) < metrics.log_loss(scores, labels) - 0.1


def test_perfectly_separated_classes_give_a_finite_fit_that_decides_them_all_and_leaves_the_gap_unsure():
    scores = [0.1] * 30 + [0.9] * 30
    c = calibrate(scores, [0] * 30 + [1] * 30)
    assert all(map(math.isfinite, (c.a, c.b))) and not c.note
    assert [c.decide(c.probability(s)) for s in (0.1, 0.5, 0.9)] == ["authentic", "unsure", "fake"]


def test_scores_that_point_the_wrong_way_decide_nothing_and_say_so():
    c = calibrate([0.9] * 30 + [0.1] * 30, [0] * 30 + [1] * 30)
    assert "do not tell" in c.note
    assert {c.decide(c.probability(s)) for s in (0.0, 0.1, 0.9, 1.0)} == {"unsure"}


@pytest.mark.parametrize(("real", "fake"), [(0, 0), (10, 0), (0, 10), (4, 4), (100, 4)])
def test_one_class_or_a_tiny_set_leaves_the_scores_alone_and_says_why(real, fake):
    c = calibrate([0.2] * real + [0.8] * fake, ["real"] * real + ["fake"] * fake)
    assert not c.fitted and c.probability(0.37) == 0.37
    assert f"{real} real and {fake} fake" in c.note


def test_few_files_are_named_in_the_note():
    c = calibrate([0.1, 0.2, 0.3, 0.2, 0.1] + [0.9] * 40, [0] * 5 + [1] * 40)
    assert c.fitted and "5 real" in c.note and "40 fake" not in c.note


def test_a_calibration_survives_its_stored_form_and_a_broken_one_is_refused():
    c = calibrate([0.1] * 20 + [0.9] * 20, ["real"] * 20 + ["tampered"] * 20, fitted_on="val")
    assert Calibration.from_dict(c.to_dict()) == c
    assert Calibration.from_dict(None) == Calibration()
    for change in ({"a": -1.0}, {"low": 0.9, "high": 0.1}, {"b": math.inf}, {"extra": 1}, {"a": "one"}):
        with pytest.raises(DataError):
            Calibration.from_dict({**c.to_dict(), **change})


def test_unusable_scores_labels_and_targets_are_refused():
    for scores, labels, target in (
        ([0.1], [0, 1], 0.05),
        ([1.5], [0], 0.05),
        ([math.nan], [0], 0.05),
        ([0.5], ["maybe"], 0.05),
        ([0.5], [0], 0.7),
    ):
        with pytest.raises(DataError):
            calibrate(scores, labels, target)
