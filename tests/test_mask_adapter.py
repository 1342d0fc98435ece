"""Claims about words and masks from two adapters on one base, and about a mask that has to be refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
from marked import FakeTagger, asked, drawn_in_a_turn, picture

from internvl_detect.errors import AdapterError, CheckpointError
from internvl_detect.model.adapter import merge
from internvl_detect.model.answer import Answerer, Request
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.mask_adapter import add_mask_adapter
from internvl_detect.model.mask_adapter import drawing as drawing_on
from internvl_detect.model.masker import Masker
from internvl_detect.model.seg import parts_of, seg_turn
from internvl_detect.train import finetune

pytest_plugins = ["training_fixtures", "mask_fixtures"]


@pytest.fixture
def worded(settings_of):
    """An adapter of words alone, on the same base."""
    return finetune.run(settings_of("max_steps=6", "learning_rate=1e-2", "lora.share_qkv_a=false", out="words")).adapter


def said_by(loaded):
    answerer = Answerer(loaded)
    state = answerer.prefill([asked(loaded, picture())[0]])
    return state.first_logits, answerer.said(state, 20)


def drawn_anew(loaded, seen):
    request, boxes = asked(loaded, seen, own=loaded.mask_settings)
    masker = Masker.of(loaded, FakeTagger())
    with drawing_on(loaded):
        state = Answerer(loaded).prefill([Request([*request.input_ids, *seg_turn(loaded, "Yes.")], request.tiles)])
    tagged, features = masker.eyes.tagger.look_with_features(seen)
    return masker.draw(seen, tagged, state.hidden[0], state.tiles[0], boxes, features)


@pytest.mark.parametrize("words", ["an adapter", "one that draws too", "the base alone"])
def test_each_does_its_part_as_if_it_were_alone_on_the_base(words, drawing, worded, place, settings_of, marked):
    chosen = {"an adapter": worded, "the base alone": None}.get(words, "")
    if chosen == "":
        chosen = finetune.run(settings_of(*marked, "max_steps=2", "learning_rate=1e-2", out="both")).adapter
    wanted_words = said_by(load_base(place / "base", adapter=chosen))
    draws = load_base(place / "base", adapter=drawing.adapter)
    wanted = drawn_in_a_turn(draws, picture(), Masker.of(draws, FakeTagger()))
    both = load_base(place / "base", adapter=chosen)
    kept = both.settings
    add_mask_adapter(both, drawing.adapter)
    for _ in range(2):  # forth and back and forth again
        logits, ids = said_by(both)
        assert torch.equal(logits, wanted_words[0]) and ids == wanted_words[1]
        np.testing.assert_allclose(drawn_anew(both, picture()), wanted, atol=1e-5)
    assert both.settings is kept and both.mask_settings.tiles == draws.settings.tiles
    assert not any(p.requires_grad for p in both.model.parameters())


def test_where_one_adapter_does_both_nothing_is_switched(drawing, place):
    loaded = load_base(place / "base", adapter=drawing.adapter)
    before = said_by(loaded)[0]
    with drawing_on(loaded):
        assert torch.equal(said_by(loaded)[0], before)


def test_a_mask_of_another_base_and_an_adapter_without_one_are_refused_in_words(drawing, worded, place, tmp_path):
    other = load_base(tiny.write_base(tmp_path / "other", seed=5))
    with pytest.raises(AdapterError, match="trained on the base"):
        add_mask_adapter(other, drawing.adapter)
    assert parts_of(other.model) is None and other.mask_settings is None
    loaded = load_base(place / "base")
    with pytest.raises(AdapterError, match="draws no masks"):
        add_mask_adapter(loaded, worded)
    add_mask_adapter(loaded, drawing.adapter)
    with pytest.raises(AdapterError, match="already"):
        add_mask_adapter(loaded, drawing.adapter)


def test_a_width_that_is_another_base_s_is_refused_though_nothing_says_which_base(drawing, tmp_path):
    nameless = tmp_path / "nameless"
    shutil.copytree(drawing.adapter, nameless)
    settings = json.loads((nameless / "ivdetect.json").read_text())
    (nameless / "ivdetect.json").write_text(json.dumps(settings | {"base_fingerprint": None}))
    wide = load_base(tiny.write_base(tmp_path / "wide", width=48, vision_width=32))
    with pytest.raises(AdapterError, match="this base"):
        add_mask_adapter(wide, nameless)


def test_an_adapter_that_draws_is_not_merged_but_its_words_are(drawing, place, tmp_path):
    with pytest.raises(AdapterError, match="draws masks"):
        merge(place / "base", drawing.adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    words = tmp_path / "words"
    shutil.copytree(drawing.adapter, words, ignore=shutil.ignore_patterns("mask.*"))
    merged = load_base(merge(place / "base", words, tmp_path / "merged"))
    with pytest.raises(AdapterError, match="merged"):
        add_mask_adapter(merged, drawing.adapter)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"threshold": 2}, AdapterError), ({"threshold": True}, AdapterError), ({"channels": 10**9}, AdapterError),
        ({"strength": 2}, AdapterError),
        ({"channels": 8}, AdapterError), ({"head": "pixel"}, AdapterError), (None, CheckpointError),
    ],
)  # fmt: skip
def test_mask_settings_that_make_no_sense_are_refused(change, error, drawing, place, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(drawing.adapter, folder)
    file = folder / "mask.json"
    file.write_text("[]" if change is None else json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(error, match="mask"):
        load_base(place / "base", adapter=folder)
    loaded = load_base(place / "base")
    before = said_by(loaded)[0]
    with pytest.raises(error, match="mask"):
        add_mask_adapter(loaded, folder)
    assert torch.equal(said_by(loaded)[0], before)
