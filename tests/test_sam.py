"""Claims about the mask head on SAM: it is SAM's own decoder and pictures, learns, is stored apart from the encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from marked import FakeTagger, asked, picture
from PIL import Image
from transformers import SamConfig, SamModel

from internvl_detect.config import load_train_config
from internvl_detect.errors import AdapterError, CheckpointError, ConfigError
from internvl_detect.model.answer import Answerer
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.masker import Masker
from internvl_detect.model.sam import SamEyes, SamHead, open_sam, prepare, scaled
from internvl_detect.model.seg import parts_of, seg_turn
from internvl_detect.train import finetune

pytest_plugins = ["training_fixtures", "mask_fixtures"]
PX = 64


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory):
    """A SAM of 64 px and one layer, with weights that tell colours apart."""
    vision = {"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": PX, "patch_size": 8, "window_size": 0, "global_attn_indexes": [0], "num_pos_feats": 8}
    prompt = {"hidden_size": 16, "image_size": PX, "patch_size": 8}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    decoder |= {"iou_head_depth": 2}
    torch.manual_seed(0)
    model = SamModel(
        SamConfig(
            vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder | {"iou_head_depth": 2}
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    folder = tmp_path_factory.mktemp("sam") / "sam"
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (64, 64), (7, 5), (800, 3), (1, 1), (101, 33)])
def test_a_picture_is_prepared_as_by_transformers(size):
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    processor = SamImageProcessorPil(size={"longest_edge": PX}, pad_size={"height": PX, "width": PX})
    given = Image.effect_noise(size, 80).convert("RGB")
    if min(scaled(size, PX)) > 1 or size == (1, 1):  # transformers makes a side of 0 px of (800, 3)
        wanted = processor(given, return_tensors="np")
        np.testing.assert_allclose(prepare(given, PX), wanted["pixel_values"][0], atol=1e-5)
        assert scaled(size, PX)[::-1] == tuple(wanted["reshaped_input_sizes"][0])
    assert prepare(given, PX).shape == (3, PX, PX)


def test_a_new_head_decodes_as_the_whole_sam_does_and_padding_is_undone(sam_folder):
    sam = open_sam(sam_folder)
    head = SamHead.of_sam(sam, 32)
    eyes = SamEyes.of(sam, sam_folder, torch.device("cpu"))
    seen, seg = picture(90, 40), torch.rand(32)
    with torch.no_grad():
        (embeddings,) = eyes.see(seen)
        made = head([embeddings], seg, None, [], seen.size)
        _, dense = sam.prompt_encoder(input_points=None, input_labels=None, input_boxes=None, input_masks=None)
        low, _ = sam.mask_decoder(
            image_embeddings=embeddings[None],
            image_positional_embeddings=sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=head.project(seg)[None, None, None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    processor = SamImageProcessorPil(size={"longest_edge": PX}, pad_size={"height": PX, "width": PX})
    inner = [tuple(reversed(scaled(seen.size, PX)))]
    (wanted,) = processor.post_process_masks(low, [(40, 90)], inner, binarize=False)
    assert made.shape == inner[0]
    np.testing.assert_allclose(head.drawn(made, seen.size), wanted[0, 0].sigmoid().numpy(), atol=1e-5)


@pytest.fixture
def trained(settings_of, marked, sam_folder):
    more = ["mask.head=sam", f"mask.sam_path={sam_folder}", "val_data_choice=marked", "max_steps=60", "eval.steps=30"]
    return finetune.run(settings_of(*marked, *more, "eval.metric=pixel_f1", "mask.lr_scale=10"))


def test_it_learns_with_the_words_and_draws_from_the_adapter_and_the_encoder_s_folder(
    trained, place, sam_folder, tmp_path
):
    assert trained.after["pixel_f1"] > 0.85 > trained.before["pixel_f1"] + 0.1
    said = json.loads((trained.adapter / "mask.json").read_text())
    assert said["head"] == "sam" and said["sam"]["path"] == str(sam_folder) and len(said["sam"]["fingerprint"]) == 16
    moved = tmp_path / "moved"
    shutil.copytree(sam_folder, moved)
    loaded = load_base(place / "base", adapter=trained.adapter)
    assert not any("encoder" in name for name in parts_of(loaded.model).state_dict())
    twice = [Image.open(tmp_path / "given" / "masks" / name).resize((128, 80)) for name in ("1.png", "1m.png")]
    answerer, seen, truth = Answerer(loaded), twice[0], np.asarray(twice[1]) > 127
    request, boxes = asked(loaded, seen)
    state = answerer.follow(answerer.prefill([request]), [seg_turn(loaded, "Yes.")])
    maps = []
    for path in (None, moved):
        masker = Masker.of(loaded, FakeTagger(), path)
        maps.append(masker.draw(seen, None, state.hidden[0], state.tiles[0], boxes))
    assert masker.kind == "sam" and maps[0].shape == (80, 128) and np.array_equal(*maps)
    said = maps[0] >= masker.threshold
    assert (said & truth).sum() > 0.7 * (said | truth).sum()


def test_another_sam_or_none_is_refused_in_words(settings_of, marked, place, sam_folder, tmp_path):
    run = finetune.run(settings_of(*marked, "mask.head=sam", f"mask.sam_path={sam_folder}", "max_steps=1"))
    loaded = load_base(place / "base", adapter=run.adapter)
    other = tmp_path / "other"
    model = SamModel.from_pretrained(sam_folder)
    with torch.no_grad():
        model.vision_encoder.neck.layer_norm1.weight.add_(0.5)
    model.save_pretrained(other)
    with pytest.raises(AdapterError, match="trained with"):
        Masker.of(loaded, None, other)
    with pytest.raises(AdapterError, match="no folder"):
        Masker.of(loaded, None, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="sam"):
        open_sam(place / "base")
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        open_sam(other)
    with pytest.raises(ConfigError, match="sam_path"):
        load_train_config(None, ["mask.head=sam"], {})
    with pytest.raises(ConfigError, match="mask head"):
        finetune.run(settings_of(*marked, f"adapter_path={run.adapter}", out="light"))


@pytest.mark.parametrize(
    "change",
    [{"image_px": 10**9}, {"image_px": True}, {"decoder": {}}, {"decoder": None}, {"head": "none"}, {"head": ["sam"]}],
)
def test_settings_that_make_no_sense_are_refused(change, settings_of, marked, place, sam_folder):
    run = finetune.run(settings_of(*marked, "mask.head=sam", f"mask.sam_path={sam_folder}", "max_steps=1"))
    file = run.adapter / "mask.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(AdapterError, match="mask.json"):
        load_base(place / "base", adapter=run.adapter)


def test_the_8b_recipe_can_choose_it(marked, place, sam_folder, tmp_path):
    sets = [*marked[:2], "batch_size=8", "workers=0", f"weight_path={place / 'base'}", f"output_dir={tmp_path / 'run'}"]
    recipe = Path(__file__).resolve().parents[1] / "recipes" / "internvl2_8b_mflm.yaml"
    more = ["mask.head=sam", f"mask.sam_path={sam_folder}", "val_data_choice=marked", "max_steps=2"]
    result = finetune.run(load_train_config(recipe, [*sets, *more], {}))
    assert 0 <= result.after["pixel_f1"] <= 1 and tiny.losses(result.folder)
