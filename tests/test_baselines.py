"""Baselines: they learn what they claim to, say nothing of what they cannot, and one picture's failure is its own.

Run: ``python -m pytest tests/test_baselines.py``
"""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in import reply, serving

from internvl_detect.errors import CheckpointError, ConfigError, DataError
from internvl_detect.evaluate.baselines import BASELINES, platt, scored
from internvl_detect.evaluate.baselines.external import Command, Server
from internvl_detect.evaluate.baselines.npr import Npr
from internvl_detect.evaluate.baselines.outside import note_outside
from internvl_detect.evaluate.baselines.tagger import Tagger
from internvl_detect.evaluate.equalise import equalise, rng_of
from internvl_detect.evaluate.metrics import auc
from internvl_detect.media.image import open_image
from internvl_detect.model.domain_tag import DomainTagger, save
from internvl_detect.model.tagger_net import Shape, TaggerNet


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


def test_calibration_never_turns_round_what_was_fitted():
    rng = np.random.default_rng(0)
    odds, truth = rng.normal(size=200), rng.integers(0, 2, 200)
    assert platt(-odds - 5.0 * truth, truth)[0] > 0
    scale, shift = platt(4 * truth - 2 + odds, truth)
    assert scale > 0.5 and abs(shift) < 1


@pytest.mark.parametrize("name", ["spectral", "ela", "noise"])
def test_twins_that_differ_in_nothing_are_calibrated_together_and_their_scores_keep_the_fitted_order(name):
    # Held out alone, a twin is scored by a model that saw the other with the other label: worse than chance.
    rng, twins = np.random.default_rng(0), []
    for i in range(20):
        rgb = np.asarray(picture(i, False, 128), float)
        for _ in (0, 1):
            twins.append(Image.fromarray(np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)))
    baseline = BASELINES[name]()
    fake = [0, 1] * 20
    baseline.fit(twins, fake, [str(i // 2) for i in range(40)])
    assert auc(baseline.scores(twins), fake) > 0.5


def test_one_class_in_a_single_group_is_fitted_too():
    pictures, fake = a_set(0, 12)
    groups = ["all fakes" if y else str(i) for i, y in enumerate(fake)]
    for baseline in (BASELINES["noise"](), Npr(steps=4, batch=4)):
        baseline.fit(pictures, fake, groups)
        assert all(0 <= s <= 1 for s in baseline.scores(pictures))


def test_a_set_whose_fakes_are_other_files_is_told_by_its_outside_until_it_is_equalised(tmp_path):
    def load(start):
        noted, alike, fake = [], [], [i % 2 for i in range(60)]
        for i, y in enumerate(fake):
            rgb = picture(start + i, False, 96 if y else 128)
            path = tmp_path / f"{start + i}.{'png' if y else 'jpg'}"
            rgb.save(path, **({} if y else {"quality": 91}))
            opened = open_image(path)
            alike.append(equalise(opened.rgb, rng_of(path.name), side_px=96))
            noted.append(note_outside(opened))
        return noted, alike, fake

    train, test = load(0), load(1000)
    assert train[0][0].info["file"]["quality"] == 91 and train[0][1].info["file"]["format"] == "PNG"
    baseline = BASELINES["shortcut"]()
    baseline.fit(train[0], train[2])
    assert auc(baseline.scores(test[0]), test[2]) == 1.0
    baseline.fit(train[1], train[2])
    after = auc(baseline.scores(test[1]), test[2])
    assert 0.3 < after < 0.7  # its draws of quality know nothing of the class: chance, within two errors of 30 and 30


@pytest.mark.parametrize("seen", ["format", "quality", "size", "bytes"])
def test_each_fact_of_a_file_alone_gives_the_label_away(seen):
    facts = {"width": 100, "height": 80, "format": "JPEG", "mode": "RGB", "quality": 90, "n_bytes": 9000}
    other = {"format": {"format": "WEBP"}, "quality": {"quality": 75}, "bytes": {"n_bytes": 4000}}
    other["size"] = {"width": 120, "height": 96, "n_bytes": 12960}  # as many bytes a pixel
    pictures, fake = [], [0, 1] * 20
    for y in fake:
        rgb = Image.new("RGB", (1, 1))
        rgb.info["file"] = facts | (other[seen] if y else {})
        pictures.append(rgb)
    baseline = BASELINES["shortcut"]()
    baseline.fit(pictures, fake)
    assert auc(baseline.scores(pictures), fake) == 1.0


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


def test_any_server_is_a_detector_it_gets_the_pixels_and_its_failures_are_those_of_single_pictures():
    def route(request):
        with Image.open(io.BytesIO(request.body)) as sent:
            width = sent.width
            assert sent.format == "PNG" and sent.getpixel((0, 0)) == (width, 7, 7)
        answers = {20: reply({"fake": 0.2}), 30: reply({"fake": "much"}), 40: reply({"real": 0.1}), 50: reply([0.5])}
        answers |= {60: reply({"fake": 1.5}), 70: reply({"error": "no"}, status=400), 80: reply(b"{")}
        return answers[width]

    widths = (20, 30, 40, 50, 60, 70, 80)
    with serving(route) as server:
        theirs = Server("theirs", server.url, "/v1/score", key="fake", timeout=10)
        rows = scored(theirs, [Image.new("RGB", (w, 9), (w, 7, 7)) for w in widths])
        assert {(r.method, r.path, r.headers["content-type"]) for r in server.asked} == {
            ("POST", "/v1/score", "image/png")
        }
    assert rows[0] == (0.2, "")
    assert all(score is None and why for score, why in rows[1:])
    assert "number" in rows[1][1] and "number" in rows[2][1] and "1.5" in rows[4][1]
    with pytest.raises(DataError, match="scored none"):  # nobody is there any more
        scored(Server("gone", server.url, "/", timeout=1), [Image.new("RGB", (9, 9))])


def test_the_tagger_baseline_is_the_tagger_itself(tmp_path):
    torch.manual_seed(0)
    net = TaggerNet(Shape(widths=(8, 8, 8, 8, 8), blocks=(1, 1, 1, 1), map_width=8)).eval()
    save(net, DomainTagger(net).settings(), tmp_path / "tiny", half=False)
    tagger, baseline = DomainTagger.load(tmp_path / "tiny"), Tagger(str(tmp_path / "tiny"))
    pictures = [picture(1, False, 150).crop((0, 0, 150, 91)), picture(2, True, 64)]
    seen = tagger.look_many(pictures)
    assert baseline.scores(pictures) == [one.score for one in seen] and all(0 < one.score < 1 for one in seen)
    drawn = baseline.maps(pictures)
    assert [m.shape for m in drawn] == [(91, 150), (64, 64)]
    assert all(m.dtype == np.float32 and 0 <= m.min() <= m.max() <= 1 for m in drawn)
    with pytest.raises(CheckpointError):
        Tagger(str(tmp_path / "none")).scores(pictures)
