"""Claims about marked rows in training: they move with their picture, on any base, in any type, over processes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marked import FakeTagger, drawn_in_a_turn, picture, write_marked
from PIL import Image
from safetensors.torch import load_file, save_file

from internvl_detect.config import load_train_config
from internvl_detect.data.conversations.meta import Sample, read_meta, write_meta
from internvl_detect.errors import DataError
from internvl_detect.media.degrade import augment, augment_with_mask
from internvl_detect.model.checkpoint import convert, load_base
from internvl_detect.model.masker import Masker
from internvl_detect.model.seg import parts_of, seg_id
from internvl_detect.model.tokenizer import build_tokenizer
from internvl_detect.questions import SEG, SEGMENT_QUESTION
from internvl_detect.train import finetune
from internvl_detect.train.corpus import Encoding
from internvl_detect.train.dataset import encode_sample

pytest_plugins = ["training_fixtures", "mask_fixtures"]
MANY = {"max_examples": 60, "deadline": None, "suppress_health_check": list(HealthCheck)}


def halves(width, height, at):
    """A grey picture, red in a part, and the mask of that part."""
    mask = Image.new("L", (width, height))
    mask.paste(255, at)
    whole = Image.new("RGB", (width, height), (90, 90, 90))
    whole.paste((250, 20, 20), at)
    return whole, mask


@given(st.integers(40, 200), st.integers(40, 200), st.integers(0, 2**32))
@settings(**MANY)
def test_a_mask_is_cropped_flipped_and_resized_with_its_picture(width, height, seed):
    whole, mask = halves(width, height, (0, 0, width // 2, height // 2))
    made, moved = augment_with_mask(whole, mask, np.random.default_rng(seed))
    assert made.tobytes() == augment(whole, np.random.default_rng(seed)).tobytes() and moved.size == made.size
    values, truth = np.asarray(made, int), np.asarray(moved) > 0
    red = values[..., 0] - values[..., 1] > 115
    assert set(np.unique(np.asarray(moved))) <= {0, 255}
    unlike = (red != truth).sum() / (made.width + made.height)  # blur and JPEG shift an edge by a pixel or so
    assert unlike < 3


@given(st.integers(0, 2**32))
@settings(**MANY)
def test_a_marked_row_keeps_something_marked_and_its_mask_fits(encoding, corner, seed):
    item = encode_sample(corner, encoding, np.random.default_rng(seed))
    height, width = item.target.mask.shape
    assert item.target.picture.shape == (height, width, 3) and item.target.mask.any()
    assert all(0 <= a < c <= width and 0 <= b < d <= height for a, b, c, d in item.target.boxes)
    plain = encode_sample(corner, encoding, None)
    assert plain.target.mask.shape == (60, 90) and len(item.pixels) <= len(plain.pixels)


@pytest.fixture(scope="module")
def encoding(place):
    config = load_train_config(None, tiny.tiny_settings(place / "base", Path(), place), {})
    return dataclasses.replace(Encoding.of(config, build_tokenizer(place / "base"), 1, 28), seg_id=569)


@pytest.fixture(scope="module")
def corner(tmp_path_factory):
    """A sample with four marked pixels in a corner, which a crop may well cut off."""
    folder = tmp_path_factory.mktemp("corner")
    whole, mask = halves(90, 60, (88, 58, 90, 60))
    whole.save(folder / "a.png")
    mask.save(folder / "m.png")
    turns = (("user", tiny.QUESTION), ("assistant", "Yes."), ("user", SEGMENT_QUESTION), ("assistant", SEG))
    fields = {"system": None, "label": "fake", "data_augment": True, "max_tiles": None, "group_id": None}
    return Sample("d", 1, (str(folder / "a.png"),), None, turns, **fields, mask=str(folder / "m.png"))


def test_augmented_rows_train_and_a_resumed_run_sees_the_same(settings_of, fake_tagger, tmp_path):
    sets = write_marked(tmp_path / "given", data_augment=True)
    assert read_meta(tmp_path / "given" / "meta.json")[0].data_augment
    one = finetune.run(settings_of(*sets, out="one"))
    other = finetune.run(settings_of(*sets, "packing=false", out="other"))
    plain = finetune.run(settings_of(*write_marked(tmp_path / "plain"), out="plain"))
    assert tiny.losses(one.folder) == pytest.approx(tiny.losses(other.folder), abs=5e-6)
    assert tiny.losses(one.folder) != pytest.approx(tiny.losses(plain.folder), abs=1e-3)


def test_the_best_mask_cannot_be_kept_where_validation_has_none(settings_of, marked, place, tmp_path):
    meta = json.loads((tmp_path / "given" / "meta.json").read_text())
    words = json.loads((place / "data" / "meta.json").read_text())["held"]
    words |= {"root": str(place / "data" / "pictures"), "annotation": str(place / "data" / "held.jsonl")}
    write_meta(tmp_path / "given" / "meta.json", meta | {"held": words})
    with pytest.raises(DataError, match="no pixel_f1"):
        finetune.run(settings_of(*marked, "val_data_choice=held", "eval.metric=pixel_f1"))


def test_on_a_base_with_tied_embeddings_the_table_stays_and_the_token_works(settings_of, marked, place, tmp_path):
    base = tiny.write_base(tmp_path / "tied")
    said = json.loads((base / "config.json").read_text())
    said["llm_config"]["tie_word_embeddings"] = True
    (base / "config.json").write_text(json.dumps(said))
    (file,) = base.glob("*.safetensors")
    save_file({k: v for k, v in load_file(file).items() if not k.endswith("output.weight")}, file)
    learned(settings_of, marked, base)


def test_a_native_folder_gives_the_mask_of_the_original_one(settings_of, marked, place, tmp_path):
    native = convert(place / "base", tmp_path / "native")
    adapter = learned(settings_of, marked, native)
    maps = []
    for base in (native, place / "base"):
        loaded = load_base(base, adapter=adapter)
        maps.append(drawn_in_a_turn(loaded, picture(), Masker.of(loaded, FakeTagger())))
    np.testing.assert_allclose(*maps, atol=1e-5)


def learned(settings_of, marked, base):
    """The adapter of a run on ``base`` whose losses fall; the base's table is as it was and has no row for <SEG>."""
    result = finetune.run(settings_of(*marked, f"weight_path={base}", "max_steps=8", "mask.lr_scale=10", out="on"))
    losses = tiny.losses(result.folder)
    assert losses[-1] < losses[0]
    loaded, plain = load_base(base, adapter=result.adapter), load_base(base)
    table = loaded.model.get_base_model().get_input_embeddings().weight
    assert torch.equal(table, plain.model.get_input_embeddings().weight) and seg_id(loaded) == len(table)
    assert (parts_of(loaded.model).seg_in - table.mean(0)).abs().max() > 1e-4
    return result.adapter


def test_bfloat16_trains_and_draws_near_float32(settings_of, marked, drawing, place):
    runs = [finetune.run(settings_of(*marked, f"precision={p}", out=p)) for p in ("fp32", "bf16")]
    assert tiny.losses(runs[1].folder) == pytest.approx(tiny.losses(runs[0].folder), rel=0.03)
    maps = []
    for dtype in ("float32", "bfloat16"):
        loaded = load_base(place / "base", adapter=drawing.adapter, dtype=dtype)
        assert parts_of(loaded.model).seg_in.dtype == torch.float32
        maps.append(drawn_in_a_turn(loaded, picture(), Masker.of(loaded, FakeTagger())))
    assert np.abs(maps[0] - maps[1]).max() < 0.05
