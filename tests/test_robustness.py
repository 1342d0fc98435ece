"""Curves, slices, equalising and faithfulness: what they count, and that nothing follows from what they must not see.

Run: ``python -m pytest tests/test_robustness.py``
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl_detect.errors import ConfigError
from internvl_detect.evaluate.clip_probes import clip_lines
from internvl_detect.evaluate.faithfulness import agree, elsewhere, faithfulness, named_part
from internvl_detect.evaluate.predictions import Prediction
from internvl_detect.evaluate.robustness import group_interval, severity_curves, steps
from internvl_detect.evaluate.slices import slices_of
from internvl_detect.evaluate.subjects import Subject
from internvl_detect.media.clip_reencode import encoded
from internvl_detect.media.video import open_video


def noisy(seed: int, sigma: float, side: int = 64) -> Image.Image:
    values = 128 + np.random.default_rng(seed).normal(0, sigma, (side, side, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def spread_of(pictures):
    return [min(1.0, float(np.asarray(p, float).std()) / 100) for p in pictures]


def test_a_curve_has_every_step_once_and_the_same_numbers_each_time():
    pictures = [noisy(i, 10 + 8 * (i % 2)) for i in range(8)]
    fake, names = [i % 2 for i in range(8)], [str(i) for i in range(8)]
    first, second = (severity_curves(spread_of, pictures, fake, names, names, rounds=20) for _ in range(2))
    assert first == second
    assert [(p.operation, p.severity) for p in first] == [(o, str(s)) for o, s in steps()]
    assert first[0].auc == 1.0 and all(p.n_real == p.n_fake == 4 for p in first)
    blurred = next(p for p in first if (p.operation, p.severity) == ("blur", "2.0"))
    assert blurred.mean_fake < first[0].mean_fake
    with pytest.raises(ConfigError, match="jpeg"):
        list(steps(["rain"]))


def test_clips_are_measured_at_each_crf_and_one_that_cannot_be_read_counts_as_failed(tmp_path):
    subjects = []
    for i in range(4):
        path = tmp_path / f"{i}.mkv"
        path.write_bytes(encoded([noisy(10 * i + k, 5 + 20 * (i % 2)) for k in range(6)], codec="h264", crf=10))
        subjects.append(
            Subject(
                Prediction(path.name, label=("real", "ai_generated")[i % 2], group_id=str(i)), str(path), is_video=True
            )
        )
    (tmp_path / "3.mkv").write_bytes(b"no clip")

    def verdicts(asked):
        for path, _ in asked:
            yield SimpleNamespace(probability=spread_of(open_video(path, frames=3).frames)[0])

    found = clip_lines("ours", verdicts, subjects, limit=4, rounds=10)
    assert [line["operation"] for line in found] == ["none"] + ["h264"] * 4 + ["h265"] * 4
    assert all((line["n_real"], line["n_fake"], line["failed"]) == (2, 1, 1) for line in found)
    assert found[4]["mean_fake"] < found[0]["mean_fake"]  # compression takes noise away
    assert clip_lines("ours", verdicts, [], limit=4) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_an_interval_lies_in_the_unit_and_one_group_alone_has_none(rows):
    s, y = np.array([r[0] for r in rows]) / 5, np.array([int(r[1]) for r in rows])
    low, high = group_interval(s, y, np.arange(len(y)), rounds=30)
    assert math.isnan(low) == math.isnan(high) and (math.isnan(low) or 0 <= low <= high <= 1)
    assert math.isnan(low) or 0 < y.sum() < len(y)
    assert math.isnan(group_interval(s, y, np.zeros(len(y), int), rounds=5)[0])


def test_the_worst_slice_is_first_small_ones_are_marked_and_a_generator_is_held_against_real_rows():
    rng, rows = np.random.default_rng(0), []
    for i in range(120):
        generator = ["", "good", "bad"][i % 3]
        score = rng.uniform(0.6, 1) if generator == "good" else rng.uniform(0, 0.6)
        rows.append({"label": "fake" if generator else "real", "score": score, "facts": {"generator": generator}})
    rows.append({"label": "fake", "score": 0.0, "facts": {"generator": "rare"}})
    rows.append({"label": "fake", "score": None, "facts": {"generator": "lost"}})
    found = slices_of(rows, rounds=20)
    assert [(s.value, s.small) for s in found] == [("bad", False), ("good", False), ("rare", True)]
    assert found[0].auc < 0.7 < found[1].auc == 1.0 and found[1].n_real == 40 and found[1].against == "its dataset"
    assert slices_of([]) == []


def test_hiding_the_region_that_carries_the_decision_is_seen_and_another_region_is_not():
    def judge(pictures):
        told = []
        for p in pictures:
            bright = np.asarray(p.convert("L")) > 200
            told.append((float(min(1.0, bright.mean() * 20)), mask, "The upper left was edited."))
        return told

    values = np.full((80, 80, 3), 90, np.uint8)
    values[8:24, 8:24] = 250
    mask = np.zeros((80, 80), np.float32)
    mask[8:24, 8:24] = 1
    right = faithfulness(judge, [Image.fromarray(values)] * 3)
    assert right.hiding_low > 0.4 and right.cover_mean == 1.0 and right.agreement == 1.0
    mask = np.roll(mask, 40, 1)
    assert faithfulness(judge, [Image.fromarray(values)] * 3).hiding_mean <= 0.05


def test_words_name_parts_and_denials_are_no_claims():
    part = named_part("A patch in the lower right was pasted.", (120, 120))
    assert part is not None and part[100, 100] and not part[10, 10]
    assert named_part("Nothing to see.", (9, 9)) is None
    assert agree(False, False, "No region was edited.") and not agree(True, False, "It was edited.")
    full = np.ones((20, 20), bool)
    assert elsewhere(full, np.random.default_rng(0)) is None
