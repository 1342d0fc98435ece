"""Claims about loading: any geometry exactly, broken folders refused by name, native folders open by themselves."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from original_model import VOCAB, forward, make_config, make_tensors, write_checkpoint
from safetensors.torch import load_file, save_file

from internvl_detect.errors import AdapterError, CheckpointError, ConfigError
from internvl_detect.model.adapter import LoraSettings, attach_adapter, merge, new_lora, save_adapter
from internvl_detect.model.checkpoint import convert, load_base
from internvl_detect.model.settings import AdapterSettings

CONTEXT = VOCAB - 7


def ids_for(config, tiles=1, seed=0):
    per = (config["vision_config"]["image_size"] // 28) ** 2
    words = torch.randint(3, CONTEXT, (9,), generator=torch.Generator().manual_seed(seed))
    return torch.cat([words[:4], torch.full((per * tiles,), CONTEXT), words[4:]])


def pixels_for(config, tiles=1, seed=1):
    side = config["vision_config"]["image_size"]
    return torch.randn(tiles, 3, side, side, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def answer(model, config, tiles=1):
    return model(input_ids=ids_for(config, tiles)[None], pixel_values=pixels_for(config, tiles)).logits[0]


def made(folder, *, shards=1, index=True, seed=0, **over):
    config = make_config(**over)
    tensors = make_tensors(config, seed)
    return write_checkpoint(folder, config, tensors, shards=shards, index=index), config, tensors


GEOMETRIES = {
    "8b-like": {},
    "2b-like": {"t_num_key_value_heads": 4, "v_image_size": 84},
    "many-kv-groups": {"t_num_attention_heads": 8, "t_num_key_value_heads": 2},
    "one-kv-head": {"t_num_key_value_heads": 1},
    "26b-like-vit": {"v_norm_type": "rms_norm", "v_qkv_bias": False, "v_qk_normalization": True},
    "biased": {"t_bias": True},
    "linear-rope": {"t_rope_scaling": {"type": "linear", "factor": 4.0}},
    "plain-rope": {"t_rope_scaling": None, "t_rope_theta": 10000},
    "qwen2": {"t_architectures": ["Qwen2ForCausalLM"], "t_rope_scaling": None},
    "qwen2-tied": {"t_architectures": ["Qwen2ForCausalLM"], "t_rope_scaling": None, "t_tie_word_embeddings": True},
    "llama": {"t_architectures": ["LlamaForCausalLM"], "t_rope_scaling": None},
}


@pytest.mark.parametrize("over", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_every_geometry_answers_as_the_written_out_original(tmp_path, over):
    folder, config, tensors = made(tmp_path / "m", **over)
    with torch.no_grad():
        wanted = forward(config, tensors, ids_for(config, 3), pixels_for(config, 3))
    for attn in ("eager", "sdpa"):
        got = answer(load_base(folder, attn=attn).model, config, 3)
        assert (got - wanted).abs().max() < 1e-5


@pytest.mark.parametrize(("shards", "index"), [(1, False), (3, True), (3, False)])
def test_shards_with_or_without_an_index_make_the_same_model(tmp_path, shards, index):
    folder, config, tensors = made(tmp_path / "m", shards=shards, index=index)
    other, *_ = made(tmp_path / "one")
    assert torch.equal(answer(load_base(folder).model, config), answer(load_base(other).model, config))


def test_a_converted_folder_opens_with_plain_transformers_and_answers_the_same(tmp_path):
    from transformers import AutoModelForImageTextToText

    folder, config, _ = made(tmp_path / "m", shards=2)
    native = convert(folder, tmp_path / "native")
    plain = AutoModelForImageTextToText.from_pretrained(native, local_files_only=True).eval()
    loaded = load_base(native)
    assert loaded.form == "native"
    wanted = answer(load_base(folder).model, config)
    assert torch.equal(answer(plain, config), wanted)
    assert torch.equal(answer(loaded.model, config), wanted)


def test_the_fingerprint_is_the_same_in_every_form_and_dtype_and_tells_models_apart(tmp_path):
    config = make_config()
    tensors = {k: v.to(torch.bfloat16) for k, v in make_tensors(config).items()}
    folder = write_checkpoint(tmp_path / "m", config, tensors)
    native = convert(folder, tmp_path / "native")
    prints = {load_base(p, dtype=d).fingerprint for p in (folder, native) for d in ("float32", "bfloat16")}
    assert len(prints) == 1
    other, *_ = made(tmp_path / "other", seed=5)
    assert load_base(other).fingerprint not in prints


def test_the_stored_dtype_survives_conversion(tmp_path):
    config = make_config()
    tensors = {k: v.to(torch.bfloat16) for k, v in make_tensors(config).items()}
    native = convert(write_checkpoint(tmp_path / "m", config, tensors), tmp_path / "native")
    assert {t.dtype for t in load_file(native / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["mlp1.1.weight", "language_model.model.layers.1.attention.wqkv.weight"])
def test_a_missing_tensor_is_named(tmp_path, name):
    config = make_config()
    tensors = make_tensors(config)
    del tensors[name]
    folder = write_checkpoint(tmp_path / "m", config, tensors)
    part = "multi_modal_projector.linear_1" if name.startswith("mlp1") else "layers.1.self_attn"
    with pytest.raises(CheckpointError, match=part):
        load_base(folder)


def broken(tensors, name, how):
    """The tensors with one missing, one row or column longer, or one shorter."""
    changed = dict(tensors)
    tensor = changed.pop(name)
    if how == "longer":
        changed[name] = torch.cat([tensor, tensor[:1]], 0)
    elif how == "wider":
        changed[name] = torch.cat([tensor, tensor[..., :1]], -1)
    elif how == "shorter":
        changed[name] = tensor[:-1]
    return changed


@pytest.mark.parametrize("how", ["missing", "longer", "wider", "shorter"])
def test_whichever_tensor_is_missing_or_misshapen_is_refused(tmp_path, how):
    config = make_config(t_num_hidden_layers=1, v_num_hidden_layers=1)
    tensors = make_tensors(config)
    for name in tensors:
        folder = write_checkpoint(tmp_path / "m", config, broken(tensors, name, how))
        with pytest.raises(CheckpointError):
            load_base(folder)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_native_folder_is_read_just_as_strictly(tmp_path_factory, data):
    folder, *_ = made(tmp_path_factory.mktemp("m") / "m")
    native = convert(folder, folder.with_name("native"))
    file = native / "model.safetensors"
    tensors = load_file(file)
    name = data.draw(st.sampled_from(sorted(tensors)))
    action = data.draw(st.sampled_from(["drop", "extra", "shape"]))
    if action == "drop":
        del tensors[name]
    elif action == "extra":
        tensors["model.surprise.weight"] = torch.zeros(2)
    else:
        tensors[name] = torch.cat([tensors[name], tensors[name][..., -1:]], -1)
    save_file(tensors, str(file), metadata={"format": "pt"})
    with pytest.raises(CheckpointError):
        load_base(native)


def test_an_extra_tensor_is_named(tmp_path):
    config = make_config()
    folder = write_checkpoint(tmp_path / "m", config, make_tensors(config) | {"surprise.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="surprise"):
        load_base(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ps_version": "v1"}, "ps_version"),
        ({"select_layer": -4}, "select_layer"),
        ({"force_image_size": 448}, "force_image_size"),
        ({"model_type": "llava"}, "llava"),
        ({"llm_config": {**make_config()["llm_config"], "architectures": ["Phi3ForCausalLM"]}}, "Phi3"),
        ({"llm_config": {**make_config()["llm_config"], "architectures": ["MambaForCausalLM"]}}, "Mamba"),
        ({"llm_config": {**make_config()["llm_config"], "hidden_size": None}}, "hidden_size"),
        ({"vision_config": None}, "vision_config"),
    ],
)
def test_a_config_without_a_native_twin_is_refused_by_name(tmp_path, change, said):
    config = make_config()
    folder = write_checkpoint(tmp_path / "m", config | change, make_tensors(config))
    with pytest.raises(CheckpointError, match=said):
        load_base(folder)


def test_folders_that_are_no_models_say_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="no folder"):
        load_base(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="config.json"):
        load_base(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        load_base(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(make_config()))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="pickled"):
        load_base(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(CheckpointError):
        load_base(tmp_path)


def test_an_index_naming_a_lost_shard_or_a_file_elsewhere_is_refused(tmp_path):
    folder, *_ = made(tmp_path / "m", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="00002"):
        load_base(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside"):
        load_base(folder)


def test_conversion_never_writes_over_a_folder(tmp_path):
    folder, *_ = made(tmp_path / "m")
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not empty"):
        convert(folder, tmp_path / "dst")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dst", "m"]


# Adapters


def train_a_little(wrapped, config, steps=2):
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("targets", ["language", "language+vision"])
def test_an_adapter_comes_back_from_disk_as_it_was(tmp_path, share, targets):
    folder, config, _ = made(tmp_path / "m")
    loaded = load_base(folder)
    before = answer(loaded.model, config)
    wrapped = new_lora(loaded.model, LoraSettings(r=4, alpha=8, share_qkv_a=share, targets=targets)).eval()
    assert torch.equal(answer(wrapped, config), before)
    train_a_little(wrapped, config)
    wanted = answer(wrapped, config)
    assert (wanted - before).abs().max() > 1e-2
    stored = AdapterSettings(base_fingerprint=loaded.fingerprint, base_name="m", share_qkv_a=share)
    save_adapter(wrapped, tmp_path / "a", stored)
    again = load_base(folder, adapter=tmp_path / "a")
    assert torch.equal(answer(again.model, config), wanted)
    assert again.settings == stored
    assert str(tmp_path) not in (tmp_path / "a" / "adapter_config.json").read_text()
    merged = merge(folder, tmp_path / "a", tmp_path / "merged")
    assert (answer(load_base(merged).model, config) - wanted).abs().max() < 1e-5


def test_language_lora_leaves_the_vit_alone(tmp_path):
    folder, *_ = made(tmp_path / "m")
    wrapped = new_lora(load_base(folder).model, LoraSettings())
    names = [n for n, p in wrapped.named_parameters() if p.requires_grad]
    assert names and all("language_model" in n and ".lora_" in n for n in names)


def test_a_shared_a_learns_as_one_fused_layer_with_one_dropout_mask(tmp_path):
    folder, config, _ = made(tmp_path / "m")
    wrapped = new_lora(load_base(folder).model, LoraSettings(dropout=0.5)).train()
    layer = wrapped.get_base_model().model.language_model.layers[0].self_attn
    assert layer.q_proj.lora_A["default"].weight is layer.v_proj.lora_A["default"].weight
    x = torch.ones(1, 5, 32)
    masks = [getattr(layer, f"{p}_proj").lora_dropout["default"](x) for p in "qkv"]
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])
    assert set(masks[0].unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(layer.q_proj.lora_dropout["default"](x), masks[0])


def test_an_adapter_of_another_base_is_refused_by_fingerprint_and_by_shape(tmp_path):
    folder, *_ = made(tmp_path / "m")
    loaded = load_base(folder)
    mine = AdapterSettings(base_fingerprint=loaded.fingerprint, base_name="m")
    save_adapter(new_lora(loaded.model, LoraSettings(r=4)), tmp_path / "a", mine)
    other, *_ = made(tmp_path / "other", seed=7)
    with pytest.raises(AdapterError, match="another|trained on the base m"):
        load_base(other, adapter=tmp_path / "a")
    (tmp_path / "a" / "ivdetect.json").unlink()
    wider, *_ = made(tmp_path / "wider", t_hidden_size=64)
    with pytest.raises(AdapterError, match="Expected"):
        load_base(wider, adapter=tmp_path / "a")
    shallow, *_ = made(tmp_path / "shallow", t_num_hidden_layers=1)
    with pytest.raises(AdapterError, match="no such layer"):
        load_base(shallow, adapter=tmp_path / "a")


def test_an_adapter_with_a_missing_factor_or_something_else_inside_is_refused(tmp_path):
    folder, *_ = made(tmp_path / "m")
    loaded = load_base(folder)
    save_adapter(new_lora(loaded.model, LoraSettings(r=4)), tmp_path / "a", AdapterSettings())
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    first = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != first}, str(file))
    with pytest.raises(AdapterError, match="only one of lora_A and lora_B"):
        load_base(folder, adapter=tmp_path / "a")
    save_file(tensors | {"base_model.model.lm_head.weight": torch.zeros(2)}, str(file))
    with pytest.raises(AdapterError, match="lm_head"):
        load_base(folder, adapter=tmp_path / "a")
    with pytest.raises(AdapterError, match="no LoRA adapter"):
        attach_adapter(load_base(folder), tmp_path / "nowhere")


def original_lora(config, form, rank=3, seed=4):
    """LoRA factors under the original's names, and the base tensors with B A added: what a merge must give."""
    tensors = make_tensors(config)
    rng = torch.Generator().manual_seed(seed)
    factors, merged = {}, dict(tensors)
    leaves = ("attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
    for name in tensors:
        module = name.removesuffix(".weight")
        if not module.endswith(leaves):
            continue
        out, into = tensors[name].shape
        a, b = torch.randn(rank, into, generator=rng) * 0.2, torch.randn(out, rank, generator=rng) * 0.2
        inner = module.removeprefix("language_model.")
        for side, value in (("A", a), ("B", b)):
            if form == "folder":
                factors[f"base_model.model.{inner}.lora_{side}.weight"] = value
            else:
                factors[f"language_model.base_model.model.{inner}.lora_{side}.default.weight"] = value
        merged[name] = tensors[name] + 2.0 * b @ a
    return tensors, factors, merged


@pytest.mark.parametrize("form", ["folder", "inside"])
def test_an_original_adapter_adds_its_b_a_to_the_fused_weights(tmp_path, form):
    config = make_config(t_num_attention_heads=8)
    tensors, factors, merged = original_lora(config, form)
    wanted = forward(config, merged, ids_for(config), pixels_for(config))
    if form == "folder":
        base = write_checkpoint(tmp_path / "m", config, tensors)
        (tmp_path / "a").mkdir()
        said = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "lora_dropout": 0.05, "target_modules": ["x"]}
        (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(said))
        save_file(factors, str(tmp_path / "a" / "adapter_model.safetensors"))
        loaded = load_base(base, adapter=tmp_path / "a")
    else:
        inside = {}
        for name, value in tensors.items():
            if not name.startswith("language_model."):
                inside[name] = value
                continue
            wrapped = name.replace("language_model.", "language_model.base_model.model.", 1)
            fused = f"{wrapped.removesuffix('.weight')}.lora_A.default.weight" in factors
            inside[wrapped.replace(".weight", ".base_layer.weight") if fused else wrapped] = value
        folder = write_checkpoint(tmp_path / "m", config | {"use_llm_lora": 3}, inside | factors)
        loaded = load_base(folder)
        assert loaded.form == "lora_full"
        native = convert(folder, tmp_path / "native")
        assert (answer(load_base(native).model, config) - wanted).abs().max() < 1e-5
    assert (answer(loaded.model, config) - wanted).abs().max() < 1e-5
