"""Claims about masks at detection: words stay as they are, <SEG> has a turn of its own, what was trained is drawn."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marked import FakeTagger, asked, drawn_in_a_turn, picture
from PIL import Image

from internvl_detect.errors import AdapterError
from internvl_detect.model.answer import Answerer
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.decoding import Decoder
from internvl_detect.model.domain_tag import DomainTagger
from internvl_detect.model.mask import LightHead, TaggerEyes
from internvl_detect.model.masker import Masker, regions_of
from internvl_detect.model.prompts import encode_conversation
from internvl_detect.model.seg import MaskParts, parts_of
from internvl_detect.model.tagger_net import Shape, TaggerNet
from internvl_detect.questions import SEG, SEGMENT_QUESTION
from internvl_detect.train.collate import Collator, Item, Target
from internvl_detect.train.mask import PixelScores, draw, forward
from internvl_detect.train.tagger_fit import MISSED

pytest_plugins = ["training_fixtures", "mask_fixtures"]


@pytest.fixture(scope="module")
def loaded(drawing, place):
    return load_base(place / "base", adapter=drawing.adapter)


def test_words_are_those_of_the_adapter_without_its_mask_and_seg_is_never_said(drawing, place, loaded, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(drawing.adapter, plain, ignore=shutil.ignore_patterns("mask.*"))
    without = load_base(place / "base", adapter=plain)
    parts = parts_of(loaded.model)
    kept = parts.seg_out.clone()
    with torch.no_grad():
        parts.seg_out.fill_(1e4)  # it would be said at once, or never
    said = []
    for each in (loaded, without):
        answerer = Answerer(each)
        state = answerer.prefill([asked(each, picture())[0], asked(each, picture(28, 28), SEGMENT_QUESTION)[0]])
        first = state.first_logits.argmax(-1)
        fixed = Decoder(each.model, each.config.text_config, 2, state.mask.shape[1] + 40, graph=False)
        steps = fixed.run(state.cache, state.mask, first, answerer.stop, 30)
        said.append((state.first_logits, state.log_odds, steps, answerer.said(state, 30), answerer.words(state, 30)))
    with torch.no_grad():
        parts.seg_out.copy_(kept)
    (logits, odds, *answers), (plain_logits, plain_odds, *plain_answers) = said
    assert torch.equal(logits, plain_logits) and torch.equal(odds, plain_odds) and answers == plain_answers
    assert parts_of(without.model) is None and any(answers[0])


def test_a_turn_of_its_own_draws_what_training_drew(loaded, monkeypatch):
    tagger, seen = FakeTagger(), picture(90, 40)
    masker = Masker.of(loaded, tagger)
    assert (masker.kind, masker.needs_seg) == ("light", True)
    request, boxes = asked(loaded, seen)
    encoded = encode_conversation(
        loaded.tokenizer,
        [("user", f"<image>\n{tiny.QUESTION}"), ("assistant", "Yes."), ("user", SEGMENT_QUESTION), ("assistant", SEG)],
        tiles_per_image=[len(request.tiles)],
        tokens_per_tile=loaded.tokens_per_tile,
        seg_id=parts_of(loaded.model).token,
    )
    target = Target(np.asarray(seen).copy(), np.zeros((40, 90), np.uint8), boxes)
    item = Item(encoded.input_ids, encoded.labels, request.tiles, target=target)
    collate = Collator(0, loaded.config.image_token_id, loaded.tokens_per_tile, loaded.tile_px)
    batch = collate([[item]])
    monkeypatch.setattr(parts_of(loaded.model).head, "strength", 1.0)
    with torch.no_grad():
        _, _, [(made, _, start)] = forward(loaded.model, loaded.model, batch, TaggerEyes(tagger))
    wanted = draw(loaded.model, made, batch["masks"][0])
    assert len(boxes) > 1 and len(request.tiles) == len(boxes) + 1
    np.testing.assert_allclose(drawn_in_a_turn(loaded, seen, masker), wanted, atol=1e-5)
    assert tagger.looks == 2  # once for training, once for drawing: features are handed on
    for strength in (0.0, 0.25):  # as validation mixes them
        monkeypatch.setattr(parts_of(loaded.model).head, "strength", strength)
        wanted = draw(loaded.model, start + strength * (made - start), batch["masks"][0])
        np.testing.assert_allclose(drawn_in_a_turn(loaded, seen, masker), wanted, atol=1e-5)


def test_a_trained_head_finds_the_part_in_pictures_it_never_saw(loaded):
    masker = Masker.of(loaded, FakeTagger())
    for size, at in (((64, 40), (24, 8, 56, 32)), ((203, 117), (40, 24, 120, 80))):
        drawn = drawn_in_a_turn(loaded, picture(*size, at), masker)
        region = regions_of(drawn, masker.threshold)[0]
        assert drawn.shape == size[::-1] and drawn.dtype == np.float32
        assert max(abs(a - b) for a, b in zip(region.box_xyxy, at, strict=True)) <= 8


def test_another_tagger_than_the_trained_one_and_a_state_that_is_missing_are_refused(loaded):
    other = FakeTagger()
    other.fingerprint = "0" * 16
    with pytest.raises(AdapterError, match="trained with"):
        Masker.of(loaded, other)
    with pytest.raises(AdapterError, match="tagger is none"):
        Masker.of(loaded, None)
    with pytest.raises(ValueError, match="needs_seg"):
        Masker.of(loaded, FakeTagger()).draw(picture(), None, None, None, [])


@pytest.mark.parametrize("size", [(2048, 2048), (1, 1), (1, 300), (1500, 9), (8, 8), (17, 23)])
def test_any_size_is_drawn_in_its_own_pixels_by_the_real_tagger(size):
    torch.manual_seed(0)
    tagger = DomainTagger(TaggerNet(Shape((4, 4, 4, 4, 4), (0, 1, 1, 1), 4)))
    head = LightHead(4, 32)
    torch.nn.init.normal_(head.out.weight, std=2)
    masker = Masker(MaskParts(9, 32, head), TaggerEyes(tagger), 0.5)
    seen = Image.effect_noise(size, 60).convert("RGB")
    tagged, features = tagger.look_with_features(seen)
    tokens, boxes = torch.rand(2, 4, 32), [(0, 0, size[0] // 2, size[1]), (size[0] // 2, 0, size[0], size[1])]
    drawn = masker.draw(seen, tagged, torch.rand(32), tokens, boxes, features)
    assert drawn.shape == (size[1], size[0]) and drawn.min() >= 0 and drawn.max() <= 1
    for region in regions_of(drawn, 0.5):
        left, top, right, bottom = region.box_xyxy
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1] and region.score >= 0.5


def test_a_cell_is_8_px_of_the_picture_whatever_its_size():
    mask = torch.zeros(41, 50)
    mask[8:16, 16:24] = 1
    mask[40, 48:] = 1
    wanted = LightHead.wanted(mask)
    expected = torch.zeros(6, 7)
    expected[1, 2] = expected[5, 6] = 1  # the last cell juts out of the picture and is all its corner
    assert torch.equal(wanted, expected)
    drawn = LightHead.drawn(torch.logit(wanted, 1e-6), (50, 41))
    row, column = np.unravel_index(drawn[:30].argmax(), drawn.shape)
    assert 8 <= row < 16 and 16 <= column < 24 and drawn[11, 30] < 0.01


@settings(max_examples=60, deadline=None)
@given(
    probability=arrays(
        np.float32, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.floats(0, 1, width=16)
    ),
    threshold=st.floats(0, 1),
)
def test_regions_of_any_map_lie_in_it_and_hold_what_is_marked(probability, threshold):
    marked = probability >= threshold
    found = regions_of(probability, threshold, least_share=0, most=2000)
    assert sum(r.area_px for r in found) == marked.sum()
    assert [r.area_px for r in found] == sorted((r.area_px for r in found), reverse=True)
    for region in found:
        left, top, right, bottom = region.box_xyxy
        inside = marked[top:bottom, left:right]
        assert region.area_px <= inside.sum() and inside.any(1).all() and inside.any(0).all()
        assert threshold - 1e-3 <= region.score <= 1
    few = regions_of(probability, threshold, least_share=0.1, most=3)
    assert few == found[: len(few)] and all(r.area_px >= 0.1 * marked.size for r in few)


@settings(max_examples=60, deadline=None)
@given(
    pixels=arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(2, 12)), elements=st.floats(0, 1, width=32)),
    seed=st.integers(0, 99),
)
def test_pixel_scores_are_those_counted_pixel_by_pixel_at_the_fitted_threshold(pixels, seed):
    truth = np.random.default_rng(seed).integers(0, 2, pixels.shape).astype(np.uint8)
    parts = [(pixels[:, :1], truth[:, :1]), (pixels[:, 1:], truth[:, 1:])]
    scores = PixelScores()
    for part in parts:
        scores.add(*part)
    found = scores.metrics()
    edited = [(p, t == 1) for p, t in parts if t.any()]
    untouched = [p for p, t in parts if not t.any()]
    if not edited:
        assert found == {}
        return

    def at(threshold):
        f1 = np.mean([2 * ((p >= threshold) & t).sum() / ((p >= threshold).sum() + t.sum()) for p, t in edited])
        iou = np.mean([((p >= threshold) & t).sum() / ((p >= threshold) | t).sum() for p, t in edited])
        empty = np.mean([not (p >= threshold).any() for p in untouched]) if untouched else f1
        return f1, iou, (MISSED * f1 + empty) / (MISSED + 1)

    said = found["pixel_f1"], found["pixel_iou"], found["pixel_value"]
    assert said == pytest.approx(at(found["pixel_threshold"]))
    assert found["pixel_value"] == pytest.approx(max(at(step / 1024)[2] for step in range(1, 1024)))
