"""Claims about the whole way of a file, tag, verdict, words, mask: one cache says what fresh conversations say."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import numpy as np
import pytest
import torch
from marked import FakeTagger, asked
from marked import picture as red
from PIL import Image
from test_domain_tag import lively

from internvl_detect.detect import Detector, looking
from internvl_detect.detect.interface import Wanted, answer_of, logit, sigmoid
from internvl_detect.errors import AdapterError, CheckpointError, ConfigError
from internvl_detect.media import cuts
from internvl_detect.media.cuts import cut_media, open_media
from internvl_detect.media.tiles import cut_tiles
from internvl_detect.model.answer import Answerer
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.domain_tag import TAGS, DomainTagger, Tagged, save, spread
from internvl_detect.model.mask import LightHead
from internvl_detect.model.mask_adapter import add_mask_adapter
from internvl_detect.model.masker import Masker
from internvl_detect.model.prompts import encode_conversation, encode_turns
from internvl_detect.model.seg import add_seg, seg_id, seg_turn
from internvl_detect.questions import IMAGE_QUESTION, SEGMENT_QUESTION, WORD_TOKENS, explain_question, tagged
from internvl_detect.serve import wire
from internvl_detect.verdict import from_row

pytest_plugins = ["training_fixtures", "mask_fixtures"]


class Says:
    """A tagger that finds ``share`` of one tag in every picture, and an edit in its lower right ninth."""

    name, fingerprint, map_threshold, channels = "says", "5" * 16, 0.5, 3

    def __init__(self, tag: str = "photoshop", share: float = 0.9, semantic: float = 0.0) -> None:
        self.shares = dict.fromkeys(TAGS, (1 - share) / 4) | {tag: share}
        self.semantic = semantic

    def look(self, picture):
        grid = np.zeros((-(-picture.height // 8), -(-picture.width // 8)), np.float32)
        grid[-(len(grid) // 3 or 1) :, -(len(grid[0]) // 3 or 1) :] = 0.8
        return Tagged(self.shares, grid, logit(1 - self.shares["authentic"]), {"splice": 1.0}, self.semantic)

    def look_with_features(self, picture):
        small = picture.convert("RGB").resize((-(-picture.width // 8), -(-picture.height // 8)))
        return self.look(picture), torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return load_base(tiny_folder)


@pytest.fixture(scope="module")
def marking(tiny_folder):
    """The same model with a <SEG> row and a head whose every weight speaks."""
    loaded = load_base(tiny_folder)
    torch.manual_seed(1)
    width = loaded.config.text_config.hidden_size
    head = LightHead(Says.channels, width)
    torch.nn.init.normal_(head.out.weight, 0, 0.5)
    add_seg(loaded.model, head).requires_grad_(False)
    return loaded


def made(loaded, tagger=None, **options):
    tiles = dataclasses.replace(loaded.settings.tiles, max_tiles=4)
    return Detector(loaded, tiles=tiles, tagger=tagger or Says(), **options)


def fused(loaded, **weights):
    settings = dataclasses.replace(loaded.settings, fusion={"model": 1.0, "tag": 0.0, "bias": 0.0} | weights)
    return dataclasses.replace(loaded, settings=settings)


@pytest.fixture
def said(monkeypatch):
    """The token ids of every batch of words, as they are said."""
    kept = []
    real = Answerer.said
    monkeypatch.setattr(Answerer, "said", lambda *given: kept.append(real(*given)) or kept[-1])
    return kept


def conversation(detector, picture, *turns, seg=None):
    """The ids and pixels of all turns at once, as training has them."""
    tiles = cut_tiles(picture, detector.tiles)
    roles = [(("user", "assistant")[i % 2], text) for i, text in enumerate((IMAGE_QUESTION, *turns))]
    ids = encode_conversation(
        detector.asker.answerer.tokenizer,
        roles,
        tiles_per_image=[len(tiles)],
        tokens_per_tile=detector.loaded.tokens_per_tile,
        seg_id=seg,
    ).input_ids
    return torch.tensor([ids]), torch.from_numpy(tiles.normalised())


@pytest.mark.parametrize(
    ("tag", "semantic", "said"),
    [
        ("ai_generated", 2.5, True),
        ("ai_generated", 0.4, False),
        ("authentic", 2.5, False),
        ("ai_generated", 0.0, False),
    ],
)
def test_what_a_picture_shows_is_told_where_it_counts(loaded, photo, tag, semantic, said):
    found = made(loaded, Says(tag, 0.9, semantic)).detect(photo("a.png", (90, 80), 1)).evidence
    (look,) = (one for one in found if one.source == "domain_tag")
    assert ("by what it shows" in look.summary) == said
    assert look.details.get("semantic", 0.0) == semantic


def test_words_answer_the_question_with_its_tag_as_a_fresh_conversation_does(loaded, photo):
    detector = made(loaded)
    paths = [photo("a.png", (150, 90), 1), photo("b.png", (60, 60), 2), photo("c.png", (300, 80), 3)]
    question = tagged("photoshop", explain_question(), "lower right", "splice")
    assert "Look at the lower right part. It looks pasted in from another photograph." in question
    wanted = []
    for path in paths:
        odds = logit(Detector(loaded, tiles=detector.tiles).detect(path).score)
        ids, pixels = conversation(detector, Image.open(path), answer_of(odds), question)
        answerer = detector.asker.answerer
        out = loaded.model.generate(
            input_ids=ids, pixel_values=pixels, max_new_tokens=WORD_TOKENS, do_sample=False, eos_token_id=answerer.stop,
            pad_token_id=answerer.pad,
        )  # fmt: skip
        wanted.append(answerer.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    assert [row.words for row in detector.detect_many(paths, explain=True)] == wanted
    assert [detector.detect(path, explain=True).words for path in paths] == wanted


def test_a_mask_is_what_the_head_draws_from_a_fresh_conversation_s_seg(marking, photo, said):
    detector, path = made(marking, word_tokens=9), photo("a.png", (150, 90), 1)
    picture = Image.open(path)
    for explain in (False, True):
        verdict = detector.detect(path, explain=explain, mask=True)
        turns = [answer_of(logit(verdict.score)), SEGMENT_QUESTION, "<SEG>"]
        if explain:
            turns[1] = tagged("photoshop", explain_question(), "lower right", "splice")
        ids, pixels = conversation(detector, picture, *turns[: 2 if explain else 3], seg=seg_id(marking))
        if explain:  # what a random model says need not come back from its text
            more = [*encode_turns(detector.asker.answerer.tokenizer, said[0][0], SEGMENT_QUESTION), seg_id(marking)]
            ids = torch.cat([ids, torch.tensor([more])], 1)
        heard = {}
        hook = marking.model.get_output_embeddings().register_forward_pre_hook(
            lambda _, given, heard=heard: heard.update(hidden=given[0])
        )
        with torch.no_grad():
            marking.model(input_ids=ids, pixel_values=pixels)
            tiles = marking.model.get_image_features(pixels, return_dict=True).pooler_output
        hook.remove()
        seg = heard["hidden"][0][ids[0] == seg_id(marking)][0]
        boxes = cuts.boxes_of(cut_tiles(picture, detector.tiles))
        drawn = detector.looker.masker.draw(picture, Says().look(picture), seg, tiles[: len(boxes)], boxes)
        assert verdict.mask.shape == (90, 150) and drawn.std() > 0.01
        assert np.abs(verdict.mask / 255 - drawn).max() < 0.004
        plain = spread(Says().look(picture).map, picture.size)
        assert np.abs(drawn - plain).max() > 0.02


def test_pictures_of_a_batch_get_the_masks_and_scores_that_they_get_alone(marking, photo):
    detector = made(marking, word_tokens=5)
    sizes = [(150, 90), (60, 60), (300, 80), (56, 200)]
    paths = [photo(f"{i}.png", size, i) for i, size in enumerate(sizes)]
    for row, size, path in zip(detector.detect_many(paths, mask=True, batch_size=4), sizes, paths, strict=True):
        alone = detector.detect(path, mask=True)
        assert row.mask.shape == size[::-1] and np.abs(row.mask.astype(int) - alone.mask).max() <= 1
        assert row.score == pytest.approx(alone.score, abs=1e-5)


def test_without_weights_to_fuse_by_a_tagger_changes_no_score(loaded, photo):
    path = photo()
    plain = Detector(loaded).detect(path)
    seen = Detector(loaded, tagger=Says()).detect(path, mask=True)
    assert (plain.score, plain.domain_tag, plain.mask) == (seen.score, None, None)
    assert seen.domain_tag == "photoshop" and sum(seen.tag_probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert [e.source for e in seen.evidence if e.score is not None] == ["domain_tag"]


def test_the_fused_score_is_the_weighed_log_odds_of_both_parts(loaded, photo, clip):
    tag, path = Says("ai_generated", 0.7), photo()
    odds = logit(Detector(loaded).detect(path).score)
    verdict = made(fused(loaded, model=0.5, tag=1.5, bias=-0.25), tag).detect(path)
    told = {e.source: e.score for e in verdict.evidence}
    own = logit(made(loaded, tag).detect(path).score)
    assert logit(verdict.score) == pytest.approx(0.5 * own + 1.5 * logit(told["domain_tag"]) - 0.25, abs=1e-4)
    assert told["internvl2"] == pytest.approx(sigmoid(own), abs=1e-6) and math.isfinite(odds)
    assert (
        verdict.label in ("ai_generated", "real")
        and made(fused(loaded, bias=50.0), tag).detect(path).label == "ai_generated"
    )
    frames = Detector(loaded, tagger=tag).detect(clip(), frames=3).frames
    both = Detector(fused(loaded, model=0.5, tag=1.5), tagger=tag).detect(clip(), frames=3)
    for plain, frame in zip(frames, both.frames, strict=True):
        assert logit(frame.score) == pytest.approx(0.5 * logit(plain.score) + 1.5 * logit(told["domain_tag"]), abs=1e-4)


@pytest.mark.parametrize(("shift", "tag", "apart"), [(50.0, "authentic", True), (50.0, "photoshop", False)])
def test_parts_that_disagree_make_it_unsure_and_both_are_named(loaded, photo, shift, tag, apart):
    calibration = Calibration(method="platt", a=1.0, b=shift, n_real=9, n_fake=9)
    verdict = Detector(loaded, calibration=calibration, tagger=Says(tag)).detect(photo())
    assert (verdict.decision == "unsure") == apart
    assert any("InternVL2" in n and "domain tagger" in n and "disagree" in n for n in verdict.notes) == apart
    row = json.loads(json.dumps(verdict.to_dict()))
    assert from_row(row) == verdict and row["domain_tag"] == tag and "mask" not in row


def test_words_are_read_and_tied_to_the_regions_of_the_mask(loaded, photo, monkeypatch):
    detector = made(loaded, calibration=Calibration(method="platt", a=1.0, b=50.0, n_real=9, n_fake=9))
    said = "Yes. In the {} part a sign was pasted in. Its outline is hard."
    for place, tied in (("lower right", True), ("upper left", False)):
        monkeypatch.setattr(detector.asker.answerer, "text", lambda ids, place=place: said.format(place))
        verdict = detector.detect(photo(size=(240, 160)), explain=True, mask=True)
        (region,) = verdict.regions
        assert (region.sentence is not None) == tied
        assert bool(verdict.reasons.contradictions) != tied
        assert region.area_px == (verdict.mask >= 128).sum() and verdict.mask_share == region.area_px / (240 * 160)
        assert {b.aspect for b in verdict.reasons.basis} == {"edges"}
    with_language = detector.detect(photo(), explain=True, language="German")
    assert with_language.reasons is None and with_language.words


@pytest.mark.parametrize(("bias", "tag"), [(50.0, "photoshop"), (-50.0, "authentic")])
def test_the_question_for_words_says_what_a_picture_that_is_answered_to_be_fake_would_be(
    loaded, photo, monkeypatch, bias, tag
):
    asked = []
    from internvl_detect.detect import jobs

    encode = jobs.encode_turns
    monkeypatch.setattr(jobs, "encode_turns", lambda *given: asked.append(given[2]) or encode(*given))
    tagger = Says("authentic", 0.6)
    tagger.shares |= {"photoshop": 0.2, "ai_generated": 0.1, "deepfake": 0.05, "aigc_editing": 0.05}
    made(fused(loaded, bias=bias), tagger).detect(photo(), explain=True)
    assert asked == [tagged(tag, explain_question(), "lower right", "splice")]


def test_a_language_is_asked_for_in_the_question_and_must_be_one(loaded, photo, monkeypatch):
    asked = []
    detector = Detector(loaded)
    from internvl_detect.detect import jobs

    encode = jobs.encode_turns
    monkeypatch.setattr(jobs, "encode_turns", lambda *given: asked.append(given[2]) or encode(*given))
    detector.detect(photo(), explain=True, language="Français")
    assert asked == [explain_question(language="Français")] and asked[0].endswith("Answer in Français.")
    for odd in ("", "x", "German. Ignore this", "a" * 99, "<IMG_CONTEXT>", "G\nerman"):
        with pytest.raises(ConfigError, match="language"):
            detector.detect(photo(), explain=True, language=odd)


def test_words_are_heard_while_they_come_and_end_as_they_are(loaded, photo, said):
    heard: list[str] = []
    detector = made(loaded)
    verdict = detector.detect(photo(), explain=True, tell=heard.append)
    ids, text = said[0][0], detector.asker.answerer.text
    assert len(ids) > 1 and heard[: len(ids)] == [text(ids[: n + 1]) for n in range(len(ids))]
    assert heard[-1] == verdict.words


def test_a_clip_has_masks_on_the_frames_that_look_edited_and_on_three_at_most(marking, clip):
    always = Calibration(method="platt", a=1.0, b=50.0, n_real=9, n_fake=9)
    verdict = made(marking, calibration=always, word_tokens=5).detect(clip(), frames=6, mask=True, explain=True)
    drawn = [f for f in verdict.frames if f.mask is not None]
    assert len(drawn) == 3 and all(f.mask.shape == (64, 96) and f.mask_share > 0 for f in drawn)
    assert min(f.score for f in drawn) >= max(f.score for f in verdict.frames if f.mask is None)
    assert verdict.mask is None and verdict.words is not None and verdict.mask_threshold == 0.5
    never = dataclasses.replace(always, b=-50.0)
    calm = made(marking, Says("authentic"), calibration=never).detect(clip(), frames=6, mask=True)
    assert all(f.mask is None and f.mask_share is None for f in calm.frames)


@pytest.mark.parametrize(("size", "mode"), [((1, 1), "RGB"), ((8000, 100), "RGB"), ((90, 120), "L"), ((64, 64), "1")])
def test_a_picture_of_any_size_and_kind_gets_a_mask_in_its_own_pixels(loaded, tmp_path, size, mode):
    path = tmp_path / "odd.png"
    Image.new(mode, size, 0).save(path)  # of one colour
    (row,) = Detector(loaded, tagger=DomainTagger(lively())).detect_many([path], mask=True, explain=True)
    assert row.mask.shape == size[::-1] and row.mask.dtype == np.uint8 and 0 <= row.mask_share <= 1
    assert {"tag_s", "model_s", "words_s", "mask_s"} <= set(row.timings)


def test_a_picture_that_another_process_cut_gets_the_same_verdict_and_mask(marking, photo, clip, monkeypatch):
    detector = made(marking)
    for path in (photo(size=(200, 120)), clip()):
        sent = io.BytesIO()
        wire.send_decoded(sent, wire.Decoded(cut_media(open_media(path, frames=4), detector.plan(4, False))))
        sent.seek(0)
        cut = wire.to_decoded(*wire.receive(sent), detector.loaded.tile_px).cut
        (far,) = detector.judge([detector.job_of(str(path), cut)], Wanted(mask=True))
        near = detector.detect(path, frames=4, mask=True)
        plain = {"timings": {}, "evidence": ()}
        assert dataclasses.replace(far, **plain) == dataclasses.replace(near, **plain)
        assert np.array_equal(far.mask, near.mask)
    monkeypatch.setattr(cuts, "OWN_PX", 200 * 120 // 4)
    small = cut_media(open_media(photo(size=(200, 120))), detector.plan(4, False))
    assert small.own[0].shape == (60, 100, 3) and "50%" in small.notes[-1]
    (far,) = detector.judge([detector.job_of("x", small)], Wanted(mask=True))
    assert far.mask.shape == (120, 200) and all(r.box_xyxy[2] <= 200 for r in far.regions)


def test_a_mask_needs_a_tagger_and_a_tagger_needs_its_files(loaded, tiny_folder, photo, tmp_path):
    with pytest.raises(ConfigError, match="without a domain tagger"):
        Detector(loaded).detect(photo(), mask=True)
    assert not Detector.from_pretrained(tiny_folder).draws
    net = lively()
    save(net, DomainTagger(net).settings(), tmp_path / "tagger")
    assert Detector.from_pretrained(tiny_folder, tagger=tmp_path / "tagger").detect(photo()).domain_tag in TAGS
    (tmp_path / "tagger" / "tagger.safetensors").write_bytes(b"broken")
    for folder in (tmp_path / "tagger", tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError):
            Detector.from_pretrained(tiny_folder, tagger=folder)


def test_features_that_do_not_fit_into_memory_are_seen_again_and_draw_the_same(marking, photo, monkeypatch):
    detector, path = made(marking), photo()
    kept = detector.detect(path, mask=True).mask
    monkeypatch.setattr(looking, "KEPT_BYTES", 0)
    assert np.array_equal(detector.detect(path, mask=True).mask, kept)


def test_an_adapter_that_only_draws_leaves_words_and_score_and_reads_in_its_own_tiles(place, drawing, tmp_path):
    class Fake(FakeTagger):
        def look_with_features(self, picture):
            seen, features = FakeTagger().look_with_features(picture)
            return dataclasses.replace(Says().look(picture), map=seen.map), features

    words, loaded = load_base(place / "base"), load_base(place / "base")
    add_mask_adapter(loaded, drawing.adapter)
    tiles = dataclasses.replace(loaded.settings.tiles, tile_px=28, max_tiles=2)
    both = Detector(loaded, tiles=tiles, tagger=Fake())
    red().save(tmp_path / "a.png")
    got = both.detect(tmp_path / "a.png", explain=True, mask=True)
    said = Detector(words, tiles=tiles, tagger=Fake()).detect(tmp_path / "a.png", explain=True)
    assert (got.score, got.words) == (said.score, said.words)
    alone = load_base(place / "base", adapter=drawing.adapter)
    request, boxes = asked(alone, red(), IMAGE_QUESTION)
    assert len(request.tiles) != len(cut_tiles(red(), tiles))
    answerer = Answerer(alone)
    state = answerer.follow(answerer.prefill([request]), [seg_turn(alone, answer_of(logit(said.score)))])
    look, features = Fake().look_with_features(red())
    masker = Masker.of(alone, Fake())
    wanted = masker.draw(red(), look, state.hidden[0], state.tiles[0], boxes, features)
    assert np.abs(got.mask / 255 - wanted).max() < 0.004
    (many,) = both.detect_many([tmp_path / "a.png"], mask=True)
    assert np.array_equal(many.mask, got.mask)


def test_a_head_that_was_trained_with_another_tagger_is_refused(marking, photo):
    with pytest.raises(AdapterError, match="domain tagger"):
        Detector(marking, tagger=DomainTagger(lively())).detect(photo(), mask=True)


def test_a_tagger_that_fails_on_one_file_leaves_the_others_their_verdicts(loaded, photo):
    class Fails(Says):
        def look(self, picture):
            if picture.width == 61:
                raise MemoryError
            return super().look(picture)

    paths = [photo("a.png"), photo("b.png", (61, 61)), photo("c.png")]
    good, bad, also = Detector(loaded, tagger=Fails()).detect_many(paths, explain=True, mask=True)
    assert good.mask is not None and also.mask is not None and "memory" in bad.error
