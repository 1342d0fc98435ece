"""Claims about masks in training: they start as the tagger, learn, resume exactly, are stored with the words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from marked import FakeTagger
from PIL import Image

from internvl_detect.config import load_train_config
from internvl_detect.errors import AdapterError
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.mask import LightHead
from internvl_detect.model.masker import Masker, regions_of
from internvl_detect.model.prompts import encode_conversation
from internvl_detect.model.seg import add_seg, parts_of, seg_id
from internvl_detect.train import finetune

pytest_plugins = ["training_fixtures", "mask_fixtures"]


def test_masks_are_learned_with_the_words_and_open_with_the_adapter(settings_of, marked, place):
    more = ["val_data_choice=marked", "max_steps=30", "eval.steps=10", "eval.metric=pixel_f1", "mask.lr_scale=10"]
    result = finetune.run(settings_of(*marked, *more))
    assert result.after["pixel_f1"] > 0.9 > result.before["pixel_f1"] + 0.1
    assert 0 < json.loads((result.adapter / "mask.json").read_text())["threshold"] < 1
    loaded = load_base(place / "base", adapter=result.adapter)
    table = loaded.model.get_base_model().get_input_embeddings().weight
    assert seg_id(loaded) == len(table) and parts_of(loaded.model).seg_in.abs().sum() > 0
    assert torch.equal(table, load_base(place / "base").model.get_input_embeddings().weight)


def test_a_resumed_run_and_other_rows_a_forward_give_the_same_losses(settings_of, marked):
    whole = finetune.run(settings_of(*marked, "save_steps=2", out="whole"))
    for name in ("metrics.json", "checkpoint-6"):
        target = whole.folder / name
        target.unlink() if target.is_file() else shutil.rmtree(target)
    before = tiny.losses(whole.folder)
    again = finetune.run(settings_of(*marked, "save_steps=2", out="whole"))
    assert again.resumed_from == 4 and tiny.losses(again.folder) == before
    apart = finetune.run(settings_of(*marked, "packing=false", "save_steps=2", out="apart"))
    assert tiny.losses(apart.folder) == pytest.approx(before, abs=5e-6)


def test_the_light_head_starts_exactly_as_the_tagger():
    head = LightHead(4, 32)
    tagged = torch.rand(5, 7) * 0.9 + 0.05
    seen = (tagged, torch.rand(4, 5, 7))
    made = head(seen, torch.rand(32), torch.rand(1, 4, 32), [(0, 0, 56, 40)], (56, 40))
    assert torch.equal(made, torch.logit(tagged, 1e-4))


def test_nobody_s_text_becomes_the_seg_token(place):
    loaded = load_base(place / "base")
    add_seg(loaded.model, LightHead(4, loaded.config.text_config.hidden_size))
    token, tokenizer = seg_id(loaded), loaded.need_tokenizer()
    given = {"tiles_per_image": [], "tokens_per_tile": 1}
    asked = encode_conversation(tokenizer, [("user", "<SEG>"), ("assistant", "I say <SEG>")], seg_id=token, **given)
    assert token not in asked.input_ids
    told = encode_conversation(tokenizer, [("user", "<SEG>"), ("assistant", "<SEG>")], seg_id=token, **given)
    assert told.input_ids.count(token) == 1 and told.labels.count(token) == 1


@pytest.mark.parametrize("recipe", ["internvl2_8b_mflm", "nano_mask"])
def test_the_recipes_of_masks_train_as_they_stand(recipe, marked, place, tmp_path):
    sets = [*marked[:2], "batch_size=8", "workers=0", f"weight_path={place / 'base'}", f"output_dir={tmp_path / 'run'}"]
    file = Path(__file__).resolve().parents[1] / "recipes" / f"{recipe}.yaml"
    result = finetune.run(load_train_config(file, [*sets, "val_data_choice=marked", "max_steps=2"], {}))
    assert (result.adapter / "mask.safetensors").is_file() and 0 <= result.after["pixel_f1"] <= 1


def test_without_a_head_the_mask_is_the_tagger_s_map_in_the_picture_s_own_pixels():
    tagger = FakeTagger()
    picture = Image.new("RGB", (50, 31))
    drawn = Masker.of(None, tagger).draw(picture, tagger.look(picture), None, None, [])
    assert drawn.shape == (31, 50) and np.allclose(drawn, 0.3) and Masker.of(None, tagger).threshold == 0.25


def test_regions_have_box_area_and_mean_score_and_an_empty_map_has_none():
    given = np.zeros((40, 60), np.float32)
    given[5:15, 10:30], given[30, 50] = 0.8, 0.9
    (region,) = regions_of(given, 0.5)
    assert (region.box_xyxy, region.area_px) == ((10, 5, 30, 15), 200) and region.score == pytest.approx(0.8)
    assert regions_of(np.zeros((1, 1), np.float32), 0.5) == ()


def test_mask_weights_that_do_not_fit_are_refused(settings_of, marked, place):
    from safetensors.torch import load_file, save_file

    adapter = finetune.run(settings_of(*marked, "max_steps=1")).adapter
    stored = load_file(adapter / "mask.safetensors")
    save_file({k: v for k, v in stored.items() if k != "seg_out"}, adapter / "mask.safetensors")
    with pytest.raises(AdapterError, match="seg_out"):
        load_base(place / "base", adapter=adapter)


def test_the_head_trains_on_the_real_tagger_s_features(settings_of, marked, tmp_path, monkeypatch):
    monkeypatch.undo()
    from internvl_detect.model.domain_tag import DomainTagger, save
    from internvl_detect.model.tagger_net import Shape, TaggerNet

    torch.manual_seed(0)
    net = TaggerNet(Shape((4, 4, 4, 4, 4), (0, 1, 1, 1), 4)).eval()
    folder = save(net, DomainTagger(net).settings(), tmp_path / "tagger", half=False)
    result = finetune.run(settings_of(*marked, f"mask.tagger={folder}", "max_steps=4", "mask.lr_scale=10"))
    assert tiny.losses(result.folder)[-1] < tiny.losses(result.folder)[0]
