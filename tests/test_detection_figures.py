"""Claims about the figures of detection: those of scikit-learn where it has them, hand cases, and what holds always."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from internvl_detect.errors import DataError
from internvl_detect.evaluate.detection import FIGURES, N_BINS, Ranked, constant_answers
from internvl_detect.evaluate.intervals import draw, intervals, means, paired

coarse = st.integers(0, 8).map(lambda v: v / 8)  # many ties
rows_of = st.lists(st.tuples(coarse | st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


def split(rows):
    return np.array([s for s, _ in rows], float), np.array([y for _, y in rows], int)


def same(a: dict, b: dict, tolerance: float = 1e-12) -> bool:
    return all(np.isclose(a[k], b[k], rtol=0, atol=tolerance, equal_nan=True) for k in FIGURES)


def by_sklearn(s, y):
    called = (s >= 0.5).astype(int)
    both = 0 < y.sum() < len(y)
    found = {
        "accuracy": sk.accuracy_score(y, called),
        "precision": sk.precision_score(y, called, zero_division=np.nan),
        "fake_accuracy": sk.recall_score(y, called, zero_division=np.nan),
        "real_accuracy": sk.recall_score(y, called, pos_label=0, zero_division=np.nan),
        "f1": sk.f1_score(y, called, zero_division=np.nan),
        "brier": np.mean((s - y) ** 2),
    }
    if both:
        far, tpr, _ = sk.roc_curve(y, s, drop_intermediate=False)
        found |= {
            "balanced_accuracy": sk.balanced_accuracy_score(y, called),
            "auc": sk.roc_auc_score(y, s),
            "ap": sk.average_precision_score(y, s),
            "brier": sk.brier_score_loss(y, s),
            "tpr_at_1_fpr": tpr[far <= 0.01].max(),
            "tpr_at_5_fpr": tpr[far <= 0.05].max(),
        }
    return found


@given(rows_of)
def test_they_are_those_of_scikit_learn(rows):
    s, y = split(rows)
    ours = Ranked(s, y).figures()
    for name, value in by_sklearn(s, y).items():
        assert ours[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_they_are_those_of_scikit_learn_on_many_rows():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 20_000)
    s = np.round(np.clip(rng.normal(0.4 + 0.2 * y, 0.2), 0, 1), 3)
    ours = Ranked(s, y).figures()
    for name, value in by_sklearn(s, y).items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name


@given(rows_of, st.data())
def test_weights_are_the_same_as_rows_that_stand_there_so_often(rows, data):
    s, y = split(rows)
    group = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(s), max_size=len(s))))
    d = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(s), max_size=len(s))))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=6, max_size=6)))
    weighted = dict(zip(FIGURES, Ranked(s, y, d, group).values(weights), strict=True))
    again = np.repeat(np.arange(len(s)), weights[group])
    if len(again):
        assert same(weighted, Ranked(s[again], y[again], d[again]).figures())
    else:
        assert all(math.isnan(v) for v in weighted.values())


@given(rows_of, st.randoms())
def test_the_order_of_rows_says_nothing(rows, random):
    mixed = list(rows)
    random.shuffle(mixed)
    assert same(Ranked(*split(rows)).figures(), Ranked(*split(mixed)).figures())


@given(rows_of)
def test_a_monotone_change_of_scores_leaves_what_only_ranks(rows):
    s, y = split(rows)
    s = np.round(s, 6)  # so that the change keeps them apart
    ours, others = Ranked(s, y).figures(), Ranked(s**2 / 2, y).figures()
    if len(set(s.tolist())) == len(set((s**2 / 2).tolist())):
        for name in ("auc", "ap", "eer", "tpr_at_1_fpr", "tpr_at_5_fpr"):
            assert ours[name] == pytest.approx(others[name], abs=1e-12, nan_ok=True)


@given(rows_of)
def test_the_equal_error_rate_lies_on_the_roc_curve(rows):
    s, y = split(rows)
    value = Ranked(s, y).figures()["eer"]
    if not 0 < y.sum() < len(y):
        assert math.isnan(value)
        return
    far, tpr, _ = sk.roc_curve(y, s, drop_intermediate=False)
    assert 0 <= value <= 1
    vertical = np.flatnonzero(np.diff(far) == 0)
    near = 1e-9  # 1 - 0.8 is a little less than the 0.2 where a step begins
    on_step = any(far[i] == value and tpr[i] - near <= 1 - value <= tpr[i + 1] + near for i in vertical)
    assert on_step or 1 - value == pytest.approx(float(np.interp(value, far, tpr)), abs=1e-9)


@given(rows_of)
def test_the_calibration_error_is_that_of_a_plain_loop(rows):
    s, y = split(rows)
    total = 0.0
    for b in range(N_BINS):
        inside = [i for i, v in enumerate(s) if min(int(v * N_BINS), N_BINS - 1) == b]
        if inside:
            total += len(inside) * abs(s[inside].mean() - y[inside].mean())
    assert Ranked(s, y).figures()["ece"] == pytest.approx(total / len(s), abs=1e-12)


def test_one_hand_case():
    #   score   .9  .8  .7  .6  .5  .2
    #   fake     1   1   0   1   0   0
    figures = Ranked([0.9, 0.8, 0.7, 0.6, 0.5, 0.2], [1, 1, 0, 1, 0, 0], [2, 2, 2, 1, 1, 0]).figures()
    assert figures["auc"] == pytest.approx(8 / 9)  # one of nine pairs is the wrong way round
    assert figures["ap"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert figures["accuracy"] == pytest.approx(4 / 6) and figures["fake_accuracy"] == 1
    assert figures["real_accuracy"] == pytest.approx(1 / 3) and figures["precision"] == pytest.approx(3 / 5)
    assert figures["eer"] == pytest.approx(1 / 3) and figures["tpr_at_1_fpr"] == pytest.approx(2 / 3)
    assert figures["coverage"] == pytest.approx(4 / 6) and figures["decided_accuracy"] == pytest.approx(3 / 4)


def test_one_picture_one_class_and_no_picture_are_nan_where_nothing_can_be_said():
    one = Ranked([0.7], [1]).figures()
    assert one["accuracy"] == 1 and one["f1"] == 1 and one["ap"] == 1
    assert all(math.isnan(one[k]) for k in ("auc", "eer", "balanced_accuracy", "real_accuracy", "tpr_at_1_fpr"))
    assert all(math.isnan(v) for v in Ranked([], []).figures().values())
    low, high = intervals(Ranked([0.7], [1]).values, 1)
    assert np.isnan(low).all() and np.isnan(high).all()


def test_decisions_without_scores_are_graded_and_ranked_by_nothing():
    figures = Ranked([np.nan] * 4, [1, 1, 0, 0], [2, 1, 0, 1]).figures()
    assert figures["accuracy"] == 0.5  # "unsure" answers nothing, so it is no right answer
    assert figures["coverage"] == 0.5 and figures["decided_accuracy"] == 1
    assert all(math.isnan(figures[k]) for k in ("auc", "ap", "eer", "ece", "brier"))
    half = Ranked([0.9, np.nan], [1, 0], [2, 0]).figures()
    assert half["accuracy"] == 1 and math.isnan(half["auc"])  # one row without a score: nothing to rank all by


def test_scores_beyond_one_and_strange_labels_are_refused():
    with pytest.raises(DataError):
        Ranked([1.5], [1])
    with pytest.raises(DataError):
        Ranked([0.5], [2])


@given(st.integers(0, 40), st.integers(0, 40))
def test_constant_answers_are_worth_what_the_classes_say(n_real, n_fake):
    n = n_real + n_fake
    answers = constant_answers(n_real, n_fake)
    fake = answers["always fake"]
    if not n:
        assert math.isnan(fake["accuracy"])
        return
    assert fake["accuracy"] == pytest.approx(n_fake / n)
    if n_fake:  # the identity: whoever calls nothing real has F1 = 2 ACC / (1 + ACC)
        assert fake["f1"] == pytest.approx(2 * fake["accuracy"] / (1 + fake["accuracy"]))
    if n_real and n_fake:
        assert fake["balanced_accuracy"] == answers["always real"]["balanced_accuracy"] == 0.5
        assert fake["auc"] == 0.5


def test_an_interval_holds_its_figure_and_is_the_same_every_time():
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], 60)
    rows = Ranked(np.clip(rng.normal(0.4 + 0.2 * y, 0.2), 0, 1), y)
    low, high = intervals(rows.values, rows.n_groups, rounds=200)
    again = intervals(rows.values, rows.n_groups, rounds=200)
    assert (low == again[0])[~np.isnan(low)].all()
    value = rows.figures()["auc"]
    at = list(FIGURES).index("auc")
    assert low[at] < value < high[at]


def test_copies_in_one_group_do_not_narrow_the_interval():
    rng = np.random.default_rng(2)
    y = np.repeat([0, 1], 40)
    s = np.clip(rng.normal(0.4 + 0.2 * y, 0.2), 0, 1)
    at = list(FIGURES).index("auc")
    alone = intervals(Ranked(s, y).values, 80, rounds=300)
    group = np.tile(np.arange(80), 5)
    copied = intervals(Ranked(np.tile(s, 5), np.tile(y, 5), group=group).values, 80, rounds=300)
    assert copied[0][at] == pytest.approx(alone[0][at]) and copied[1][at] == pytest.approx(alone[1][at])
    naive = intervals(Ranked(np.tile(s, 5), np.tile(y, 5)).values, 400, rounds=300)
    assert naive[1][at] - naive[0][at] < 0.7 * (copied[1][at] - copied[0][at])


def test_a_system_against_itself_differs_by_nothing_and_against_a_better_one_by_something():
    rng = np.random.default_rng(4)
    y = np.repeat([0, 1], 80)
    worse, better = (np.clip(rng.normal(0.5 - d / 2 + d * y, 0.2), 0, 1) for d in (0.1, 0.4))
    a, b = Ranked(worse, y), Ranked(better, y)
    at = list(FIGURES).index("auc")
    found = paired([a.values, a.values, b.values], 160, rounds=200)
    assert found[1][0][at] == found[1][1][at] == 0
    assert found[2][0][at] > 0


def test_draws_are_of_all_groups_and_follow_from_seed_and_round():
    assert draw(50, 3).sum() == 50 and (draw(50, 3) == draw(50, 3)).all()
    assert (draw(50, 3) != draw(50, 4)).any() and (draw(50, 3) != draw(50, 3, seed=1)).any()


@given(st.lists(st.tuples(st.floats(0, 1) | st.just(math.nan), st.integers(0, 3)), min_size=1, max_size=30))
def test_weighted_means_leave_out_what_is_nan(rows):
    values, group = np.array([[v] for v, _ in rows]), np.array([g for _, g in rows])
    weights = np.array([2, 0, 1, 3])
    found = means(values, group, 4)(weights)[0]
    kept = [v for v, g in rows for _ in range(weights[g]) if v == v]
    assert found == pytest.approx(np.mean(kept) if kept else math.nan, nan_ok=True)


def test_the_curves_begin_and_end_where_curves_do():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 1000)
    curves = Ranked(rng.random(1000), y).curves()
    assert curves["roc"][0] == [0, 0] and curves["roc"][-1] == [1, 1] and len(curves["roc"]) <= 201
    assert curves["pr"][-1][0] == 1 and sum(n for _, _, n in curves["reliability"]) == 1000
    assert Ranked([0.1, 0.2], [1, 1]).curves() == {}
