"""Claims about reading a model's words: any text is read, known words say what they say, contradictions are flagged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.data.forge.words import PLACES, TRACES, facts_of_record, words_of
from internvl_detect.errors import DataError
from internvl_detect.explanations import ASPECTS, Reasons, checked, places_of, read, sentence_for, sentences
from internvl_detect.model.fusion import Fusion
from internvl_detect.verdict import Frame, Region, Verdict, from_row

BOXES = st.tuples(*[st.integers(0, 299)] * 4).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]) + 1, max(v[1], v[3]) + 1)
)


@given(st.text(max_size=400))
def test_any_text_is_read_and_every_sentence_of_it_is_its_own(text):
    reasons = read(text)
    assert all(basis.aspect in ASPECTS and basis.sentence in text for basis in reasons.basis)
    assert reasons.where is None or (reasons.where.sentence in text and reasons.where.place in (*PLACES, "whole"))
    assert all(part and part in text for part in sentences(text))


@given(st.sampled_from(PLACES), st.sampled_from(("splice", "copy_move", "removal", "rebuild")), st.integers(0, 999))
def test_words_for_a_forgery_say_that_it_is_one_and_where(place, method, seed):
    record = {"method": method, "label": "tampered", "place": place, "size": "small", "traces": list(TRACES[:2])}
    words = words_of(record, np.random.default_rng(seed))
    reasons = read(words)
    assert reasons.whether is True and reasons.where.place == facts_of_record(record).place == place
    assert {"edges", "lighting"} <= {basis.aspect for basis in reasons.basis}


@given(st.integers(0, 99), st.sampled_from(("", "No. ")))
def test_words_for_an_authentic_picture_name_no_place(seed, start):
    reasons = read(start + words_of({"method": "none"}, np.random.default_rng(seed)))
    assert reasons.whether is False and reasons.where is None and reasons.basis == ()


def test_every_aspect_of_the_judgment_is_known_by_its_name():
    for aspect in ("lighting", "edges", "resolution", "perspective", "shadow", "physical laws", "texture", "text",
                   "anatomy", "motion", "flicker"):  # fmt: skip
        assert aspect in {basis.aspect for basis in read(f"Yes. Judged by its {aspect}, it was pasted in.").basis}


def test_colours_that_do_not_fit_are_a_matter_of_light():
    (basis,) = read("Yes. It was pasted in. Its colours do not fit its surroundings.").basis
    assert basis.aspect == "lighting"


@given(BOXES)
def test_a_box_lies_where_its_centre_is_and_in_no_more_than_the_nine_places(box):
    found = places_of(box, (300, 300))
    column, row = (int((box[i] + box[i + 2]) / 2 / 100) for i in (0, 1))
    assert PLACES[3 * min(row, 2) + min(column, 2)] in found <= set(PLACES)


def test_words_are_held_against_verdict_and_mask():
    fake = read("Yes. The picture was edited. In the upper left part a sign was pasted in.")
    here, there = (10, 10, 80, 80), (220, 220, 290, 290)
    size = (300, 300)
    assert checked(fake, decision="fake", boxes_xyxy=[here], size_wh=size).contradictions == ()
    assert "lower right" in checked(fake, decision="fake", boxes_xyxy=[there], size_wh=size).contradictions[0]
    assert "nothing" in checked(fake, decision="fake", boxes_xyxy=[], size_wh=size).contradictions[0]
    assert "authentic" in checked(fake, decision="authentic").contradictions[0]
    assert checked(fake, decision="unsure").contradictions == ()
    calm = read("No. The picture is authentic.")
    assert len(checked(calm, decision="fake", boxes_xyxy=[here], size_wh=size).contradictions) == 2
    assert sentence_for(fake, here, size) == "In the upper left part a sign was pasted in."
    assert sentence_for(fake, there, size) is None


@given(st.text(max_size=200), st.sampled_from(("authentic", "unsure", "fake")), st.lists(BOXES, max_size=3))
def test_reasons_and_masks_come_back_from_a_row_which_holds_no_pixels(words, decision, boxes):
    reasons = checked(read(words), decision=decision, boxes_xyxy=boxes, size_wh=(300, 300))
    regions = tuple(Region(box, 0.5, 9, sentence_for(reasons, box, (300, 300))) for box in boxes)
    pixels = np.zeros((3, 4), np.uint8)
    made = Verdict(
        *("a", "image", 0.5, 0.5, decision, "fake", "m", {}),
        *(False, words, (Frame(0, 0.0, 0.5, 0.25, pixels),), None, regions),
        reasons=reasons,
        domain_tag="photoshop",
        tag_probabilities={"photoshop": 1.0},
        mask_share=0.25,
        mask=pixels,
    )
    row = json.loads(json.dumps(made.to_dict()))
    assert "mask" not in row and "mask" not in row["frames"][0] and from_row(row) == made


@given(*[st.floats(-50, 50)] * 2, st.floats(0, 1), st.floats(0, 1))
def test_fused_log_odds_are_the_weighed_sum_and_disagreement_needs_both_to_be_sure(model, tag, first, second):
    fusion = Fusion(0.5, 2.0, -1.0)
    assert fusion.log_odds(model, tag) == pytest.approx(0.5 * model + 2 * tag - 1)
    wanted = (first < 0.2 and second > 0.8) or (second < 0.2 and first > 0.8)
    assert fusion.disagree(first, second) == fusion.disagree(second, first) == wanted
    assert Fusion.from_dict(json.loads(json.dumps(fusion.to_dict()))) == fusion and Fusion.from_dict(None) is None


@pytest.mark.parametrize("bias", ["0", float("nan"), True, None, 1e9])
def test_a_stranger_s_fusion_with_a_bias_that_is_none_is_refused(bias):
    with pytest.raises(DataError):
        Fusion.from_dict({"model": 1, "tag": 1, "bias": bias})


@pytest.mark.parametrize("stored", [[], {}, {"model": 1}, {"model": 1, "tag": 1, "bias": 0, "low": 0.9}])
def test_a_stranger_s_fusion_that_is_none_is_refused(stored):
    with pytest.raises(DataError):
        Fusion.from_dict(stored)


def test_reasons_of_nothing_are_empty():
    assert read("") == read("Hm.") == Reasons()
