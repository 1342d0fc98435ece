"""Baselines: they learn what they claim to, say nothing of what they cannot, and one picture's failure is its own.

Run: ``python -m pytest tests/test_baselines.py``
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from internvl_detect.errors import ConfigError, DataError
from internvl_detect.evaluate.baselines import BASELINES, scored
from internvl_detect.evaluate.baselines.external import Command
from internvl_detect.evaluate.baselines.npr import Npr
from internvl_detect.evaluate.metrics import auc


def picture(seed: int, grown: bool, side: int = 160) -> Image.Image:
    """Smooth content with fine noise; a "generated" one was upsampled: its pixels relate otherwise."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(40, 215, (6, 6, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(smooth, float) + rng.normal(0, 8, (side, side, 3))
    made = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return made.resize((side // 2,) * 2, 2).resize((side, side), Image.Resampling.NEAREST) if grown else made


def a_set(start: int, n: int) -> tuple[list[Image.Image], list[int]]:
    fake = [i % 2 for i in range(n)]
    return [picture(start + i, bool(y)) for i, y in enumerate(fake)], fake


@pytest.mark.parametrize("name", ["spectral", "ela", "noise"])
def test_those_that_fit_tell_upsampled_pictures_they_have_not_seen(name):
    baseline = BASELINES[name]()
    with pytest.raises(DataError, match="not fitted"):
        baseline.scores([picture(0, False)])
    with pytest.raises(DataError, match="both classes"):
        baseline.fit([picture(0, False)], [0])
    baseline.fit(*a_set(0, 24))
    others, fake = a_set(100, 16)
    scores = baseline.scores(others)
    assert auc(scores, fake) > 0.95 and all(0 <= s <= 1 for s in scores)
    assert baseline.scores([]) == []


def test_npr_learns_upsampling_and_is_the_same_for_the_same_seed():
    train, fake = a_set(0, 24)
    others, truth = a_set(100, 12)
    runs = []
    for _ in range(2):
        npr = Npr(steps=25, batch=8)
        npr.fit(train, fake)
        runs.append(npr.scores(others))
    assert runs[0] == runs[1] and auc(runs[0], truth) > 0.9


def test_the_outside_is_learnt_from_size_and_file_facts_and_gone_when_these_are_alike():
    baseline = BASELINES["shortcut"]()
    pictures, fake = a_set(0, 40)
    for p, y in zip(pictures, fake, strict=True):
        p.info["file"] = {
            "format": "PNG" if y else "JPEG",
            "mode": "RGB",
            "n_bytes": 9000,
            "quality": None if y else 90,
        }
    baseline.fit(pictures, fake)
    assert auc(baseline.scores(pictures), fake) == 1.0
    alike, fake = a_set(0, 40)
    baseline.fit(alike, fake)
    assert len(set(baseline.scores(alike))) == 1


def test_a_copied_part_is_found_by_its_keypoints_and_the_map_marks_both_places():
    rng = np.random.default_rng(5)
    values = np.asarray(Image.fromarray(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)).resize((360, 360), 3)).copy()
    clean = Image.fromarray(values.copy())
    values[40:140, 200:300] = values[200:300, 30:130]
    copied = Image.fromarray(values)
    baseline = BASELINES["copy_move"]()
    before, after = baseline.scores([clean, copied])
    assert before < 0.5 < after
    drawn = baseline.maps([copied])[0]
    assert drawn.shape == (360, 360)
    assert drawn[40:140, 200:300].mean() > 0.2 and drawn[200:300, 30:130].mean() > 0.2 and drawn[:30].max() == 0
    assert baseline.scores([Image.new("RGB", (40, 30), (9, 9, 9))]) == [0.0]


@pytest.mark.parametrize("name", ["ela", "noise", "copy_move"])
def test_maps_have_the_size_of_their_picture(name):
    rgb = picture(1, False, 150).crop((0, 0, 150, 91))
    drawn = BASELINES[name]().maps([rgb])[0]
    assert drawn.shape == (91, 150) and drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (7, 300)])
@pytest.mark.parametrize("name", ["spectral", "ela", "noise", "copy_move", "always_fake"])
def test_pictures_of_any_size_are_scored(name, size):
    baseline = BASELINES[name]()
    baseline.fit(*a_set(0, 8))
    assert len(baseline.scores([Image.new("RGB", size, (3, 200, 90))])) == 1


def test_any_command_is_a_detector_and_its_failures_are_those_of_single_pictures():
    code = (
        "import sys; from PIL import Image; w = Image.open(sys.argv[1]).width;"
        "sys.exit('too wide') if w > 90 else print('score', 'nan' if w > 50 else w / 100)"
    )
    theirs = Command("theirs", [sys.executable, "-c", code, "{path}"])
    rows = scored(theirs, [Image.new("RGB", (w, 10)) for w in (20, 95, 60)])
    assert rows[0] == (0.2, "")
    assert rows[1][0] is None and "too wide" in rows[1][1]
    assert rows[2][0] is None and "number" in rows[2][1]
    slow = Command("slow", [sys.executable, "-c", "import time; time.sleep(30)", "{path}"], timeout=0.2)
    with pytest.raises(DataError, match=r"more than 0.2 s"):
        scored(slow, [Image.new("RGB", (9, 9))])
    with pytest.raises(ConfigError, match="path"):
        Command("none", ["true"])
