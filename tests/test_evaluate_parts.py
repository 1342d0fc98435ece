"""Claims about what is graded beside scores: masks, words, clips, truth from elsewhere, and the published table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from sklearn import metrics as sk

from internvl_detect.data.forge import facts_of_record, forge, words_of
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.errors import ConfigError, MediaError
from internvl_detect.evaluate import localization, published, text
from internvl_detect.evaluate.clips import clip_figures, frame_truth, overlap
from internvl_detect.evaluate.predictions import Prediction
from internvl_detect.evaluate.truth import Truth, find_mask, inside

masks = hnp.arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 100, 127, 128, 200, 255]))
truths = hnp.arrays(np.bool_, (5, 6))


@given(masks, truths, st.sampled_from([0.5, 0.004, 0.8, 1.0]))
def test_masks_have_the_figures_of_scikit_learn_at_any_threshold(drawn, truth, threshold):
    found = localization.histograms(drawn, truth)[None]
    f1, iou, mcc = localization.shares(localization.counts_at(found, localization.level_of(threshold)))[0]
    marked, t = (drawn / 255 >= threshold - 1e-9).ravel(), truth.ravel()
    if (marked == t).all():
        assert f1 == iou == mcc == 1
    else:
        assert f1 == pytest.approx(sk.f1_score(t, marked, zero_division=0), abs=1e-12)
        assert iou == pytest.approx(sk.jaccard_score(t, marked, zero_division=0), abs=1e-12)
        assert mcc == pytest.approx(sk.matthews_corrcoef(t, marked), abs=1e-12)
    area = localization.pixel_auc(found)[0]
    if 0 < t.sum() < t.size:
        assert area == pytest.approx(sk.roc_auc_score(t, drawn.ravel()), abs=1e-12)
    else:
        assert math.isnan(area)


def test_a_right_empty_mask_is_right_and_only_counts_over_all():
    edited = np.zeros((4, 4), bool)
    edited[:2] = True
    half = np.where(np.arange(16).reshape(4, 4) < 4, 255, 0).astype(np.uint8)  # one of the two rows
    found = [localization.histograms(half, edited), localization.histograms(np.zeros((4, 4), np.uint8), edited & False)]
    lines = localization.localization(found, [0, 1], [True, False], threshold=0.3, rounds=10)
    by = {(line["over"], line["rule"]): line for line in lines}
    assert by["tampered", "fixed"]["n"] == 1 and by["tampered", "fixed"]["pixel_f1"][0] == pytest.approx(2 / 3)
    assert by["all", "fixed"]["pixel_f1"][0] == pytest.approx((2 / 3 + 1) / 2)
    assert by["all", "fixed"]["micro_iou"][0] == pytest.approx(1 / 2)
    assert set(by) == {(over, rule) for over in ("tampered", "all") for rule in ("fixed", "validation", "oracle")}


@given(st.lists(st.tuples(masks, truths), min_size=1, max_size=4))
def test_no_threshold_is_better_than_the_oracle(pairs):
    found = np.stack([localization.histograms(*pair) for pair in pairs])

    def mean(level):
        return localization.shares(localization.counts_at(found, level))[:, 0].mean()

    assert mean(localization.best_level(found)) >= max(mean(level) for level in range(1, 256)) - 1e-12


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(MediaError, match="6x5 px, the true one 7x5"):
        localization.histograms(np.zeros((5, 6), np.uint8), np.zeros((5, 7), bool))


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_the_longest_common_subsequence_is_that_of_the_plain_table(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    assert text.common_length(a, b) == table[-1, -1]


def test_rouge_of_a_hand_case():
    # 3 words in common of 4 and 5: precision 3/4, recall 3/5
    assert text.rouge_l("The sky, pasted in", "the SKY was pasted here") == pytest.approx(2 * 3 / 9)
    assert text.rouge_l("", "something") == 0 and math.isnan(text.rouge_l("something", ""))


def test_meaning_is_nearer_for_a_paraphrase_than_for_another_matter_and_a_wrong_folder_is_told(tmp_path):
    true = "The upper left part was pasted in from another photograph."
    near, far, same = text.similarities(
        [
            ("A region at the top left comes from a different picture.", true),
            ("He likes green apples.", true),
            (true, true),
        ]
    )
    assert same == pytest.approx(1, abs=1e-5) and near > 0.5 > far
    with pytest.raises(ConfigError):
        text.similarities([("a", "b")], str(tmp_path))


def test_true_words_of_any_forgery_hold_all_its_facts_and_those_of_another_do_not():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)
    _, _, record = forge(rgb, "resample", rng)
    said, true = words_of(record, rng), words_of(record, np.random.default_rng(9))
    found = text.facts_compared(said, true)
    assert all(value == 1 for value in found.values() if not math.isnan(value))
    assert found["fake"] == 1 and found["place"] == 1 and facts_of_record(record).method == "resample"
    wrong = text.facts_compared("No. The picture is authentic.", true)
    assert wrong["fake"] == wrong["method"] == wrong["place"] == 0 and math.isnan(wrong["claims"])
    assert text.facts_compared("Yes.", true)["fake"] == 1


def test_a_stretch_meets_another_as_far_as_both_reach():
    assert overlap((0, 2), (1, 3)) == pytest.approx(1 / 3)
    assert overlap((0, 1), (2, 3)) == 0 and overlap(None, (0, 1)) == 0 and overlap((1, 1), (1, 1)) == 1


def test_frames_inside_the_edited_stretch_are_the_fake_ones():
    frames = tuple((float(t), 0.9 if 1 <= t <= 2 else 0.1) for t in range(4))
    fake = Prediction("a.mp4", "fake", 0.9, frames=frames, stretch=(1.0, 2.0), facts={"stretch_s": (1.0, 2.5)})
    real = Prediction("b.mp4", "real", 0.2, frames=((0.0, 0.2), (1.0, 0.3)), stretch=(0.0, 1.0))
    assert frame_truth(fake) == [0, 1, 1, 0] and frame_truth(real) == [0, 0]
    found = clip_figures([fake, real], [0, 1], rounds=10)
    assert found["frames"]["auc"][0] == 1 and found["frames"]["n_fake"] == 2 and found["clips"]["n_real"] == 1
    assert found["temporal_iou"]["temporal_iou"][0] == pytest.approx(1 / 1.5)
    assert found["real_with_stretch"]["real_with_stretch"][0] == 1


def test_truth_is_found_by_path_by_its_end_and_by_a_name_that_only_one_file_has():
    rows = [
        ManifestRow("ps/a.jpg", "tampered", dataset="X", group_id="g", mask="m/a.png", generator="splice"),
        ManifestRow("ps/b.jpg", "real"),
        ManifestRow("df/b.jpg", "real"),
        ManifestRow("df/c.jpg", "deepfake", dataset="Y"),
    ]
    truth = Truth(rows)
    found = []
    for image in ("ps/a.jpg", "/data/sets/df/b.jpg", "else/c.jpg", "else/b.jpg", "d.jpg", "twice/c.jpg"):
        row = Prediction(image, "fake", 0.5)
        truth.fill(row)
        found.append((row.label, row.error != ""))
    assert found == [("tampered", False), ("real", False), ("deepfake", False)] + 3 * [("", True)]
    assert truth.missing() == {"": 1}


def test_no_path_leads_out_of_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    assert inside(tmp_path / "in", "a/../b.png").name == "b.png"
    for bad in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        with pytest.raises(MediaError, match="leads out"):
            inside(tmp_path / "in", bad)


def test_a_drawn_mask_is_found_flat_or_in_the_pictures_folders(tmp_path):
    for name in ("x/a.png", "b_mask.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / name)
    assert find_mask(tmp_path, "/data/x/a.jpg") == "x/a.png"
    assert find_mask(tmp_path, "x/b.jpg") == "b_mask.jpg"
    assert find_mask(tmp_path, "../../x/c.jpg") == ""


def test_the_identity_holds_in_every_cell_of_the_sets_of_tampered_files_and_they_have_no_balanced_column():
    cells = [c for c in published.redrawn() if c.published]
    for dataset in ("Columbia", "Coverage", "DSO"):
        own = [c for c in cells if c.dataset == dataset]
        assert len(own) == 7 and all(c.holds and c.balanced is None for c in own)
    constant = {(c.dataset, c.system): (c.accuracy, c.f1) for c in published.redrawn() if not c.published}
    assert constant["Columbia", "always tampered"] == (1, 1)
    assert constant["IMD2020", "always tampered"] == pytest.approx((2010 / 2424, 4020 / 4434))


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_balanced_accuracy_comes_back_from_accuracy_and_f1_as_printed(n_fake, n_real, data):
    tp, tn = data.draw(st.integers(1, n_fake)), data.draw(st.integers(0, n_real))
    n = n_fake + n_real
    accuracy, f1 = (tp + tn) / n, 2 * tp / (n + tp - tn)
    if accuracy > 0.98:
        return  # rounded to 1.00, nothing is left to solve
    middle, low, high = published.balanced_of(round(accuracy, 6), round(f1, 6), n_fake, n_real, digits=6)
    truth = (tp / n_fake + tn / n_real) / 2
    assert low - 1e-3 <= truth <= high + 1e-3 and low <= middle <= high
    if tn == 0:
        assert published.holds(round(accuracy, 2), round(f1, 2))


def test_a_published_figure_is_found_by_any_spelling_of_its_set():
    assert published.figure_of("detection", "imd 2020", "accuracy") == 0.83
    assert published.figure_of("localization", "NIST16", "pixel_iou") == 0.32
    assert published.figure_of("detection", "CASIA2", "accuracy") is None
