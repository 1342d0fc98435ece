"""Claims about a training run: it learns, keeps the best, says what it did, and explains mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import FULL, log_of, losses

from internvl_detect.config import load_train_config
from internvl_detect.errors import ConfigError, ResourceError
from internvl_detect.train import finetune, setup
from internvl_detect.train.corpus import Encoding, open_corpus

pytest_plugins = ["training_fixtures"]


def test_training_everything_tells_the_classes_apart_keeps_the_best_and_calibrates(settings_of):
    from internvl_detect.model.checkpoint import load_base

    config = settings_of(
        *FULL, "val_data_choice=held", "max_steps=40", "eval.steps=8", "save_steps=100", "learning_rate=3e-3"
    )
    result = finetune.run(config)
    assert result.adapter is None and result.model == result.folder / "model"
    assert result.after["auc"] > 0.9 >= result.before["auc"] + 0.1
    evaluated = {line["step"]: line["eval_auc"] for line in log_of(result.folder) if "eval_auc" in line}
    best = max(v for k, v in evaluated.items() if k)
    assert evaluated[result.best_step] == best == result.after["auc"]
    loaded = load_base(result.model)
    assert loaded.form == "native" and loaded.settings.calibration["n_real"] == 6
    assert loaded.settings.tiles.max_tiles == 4
    said = json.loads((result.folder / "metrics.json").read_text())
    assert said["finished"] and said["calibration"]["n_fake"] == 6 and said["after"]["auc"] == best


def test_the_adapter_folder_opens_on_its_base_and_answers_as_the_trained_model(settings_of, place):
    from internvl_detect.model.checkpoint import load_base

    config = settings_of("val_data_choice=held", "learning_rate=1e-2", "eval.steps=6")
    result = finetune.run(config)
    loaded = load_base(place / "base", adapter=result.adapter, dtype="float32", device="cpu")
    encoding = Encoding.of(config, loaded.tokenizer, loaded.tokens_per_tile, loaded.tile_px)
    corpus = open_corpus(config, "held")
    corpus.scan(encoding)
    from accelerate import Accelerator

    from internvl_detect.train.collate import Collator
    from internvl_detect.train.validation import Validator, validation_rows

    collator = Collator(2, loaded.config.image_token_id, loaded.tokens_per_tile, loaded.tile_px)
    again = Validator(validation_rows(corpus, encoding), collator, loaded.tokenizer)(
        loaded.model, Accelerator(cpu=True)
    )
    assert again.metrics()["log_loss"] == pytest.approx(result.after["log_loss"], abs=1e-6)
    assert result.after["log_loss"] != pytest.approx(result.before["log_loss"], abs=1e-4)
    assert loaded.settings.base_fingerprint == loaded.fingerprint


def test_training_goes_on_from_a_stored_adapter(settings_of):
    first = finetune.run(settings_of(out="first"))
    second = finetune.run(settings_of(f"adapter_path={first.adapter}", out="second"))
    assert losses(second.folder)[0] < losses(first.folder)[0]


def test_packing_and_the_number_of_rows_a_forward_change_no_loss(settings_of):
    same = ["lora.dropout=0", "train_data_choice=all", "max_steps=3"]
    runs = [
        finetune.run(settings_of(*same, *more, out=f"run{i}"))
        for i, more in enumerate(
            (["packing=true"], ["packing=false"], ["packing=true", "per_device_batch_size=2"], ["attention=eager"])
        )
    ]
    for other in runs[1:]:
        assert losses(other.folder) == pytest.approx(losses(runs[0].folder), abs=2e-6)


def test_the_run_folder_says_what_was_done(settings_of):
    config = settings_of("val_data_choice=held")
    result = finetune.run(config)
    assert load_train_config(result.folder / "run.yaml", [], {}) == config
    facts = json.loads((result.folder / "run.json").read_text())
    assert set(facts["manifest"]) == {"training", "validation"} and len(facts["manifest"]["training"]) == 64
    assert {"torch", "transformers", "peft", "python", "internvl2-8bdetect"} <= set(facts["versions"])
    assert facts["trainable_parameters"] > 0 and facts["samples"] == 12
    assert not list(result.folder.rglob("*.bin"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_too_little_memory_says_which_settings_to_lower(settings_of, monkeypatch, error):
    def raising(*args, **kwargs):
        raise error

    monkeypatch.setattr(finetune, "load_model", raising)
    with pytest.raises(ResourceError) as caught:
        finetune.run(settings_of("per_device_batch_size=4", "max_tokens=4096"))
    said = str(caught.value)
    order = [said.index(w) for w in ("per_device_batch_size=2", "gradient_checkpointing=true", "max_tokens=2048")]
    assert order == sorted(order) and caught.value.exit_code == 7


def test_an_ordinary_error_is_not_taken_for_lack_of_memory(settings_of):
    assert setup.memory_advice(settings_of(), RuntimeError("shapes do not match")) is None


def test_a_loss_that_is_no_number_ends_the_run(settings_of, monkeypatch):
    from internvl_detect.train import trainer

    monkeypatch.setattr(trainer, "answer_loss", lambda model, batch, n=None: next(model.parameters()).sum() * torch.nan)
    monkeypatch.setattr(trainer.DetectionTrainer, "training_step", lambda self, *a, **k: torch.tensor(torch.nan))
    with pytest.raises(ConfigError, match="loss is nan at step 1"):
        finetune.run(settings_of())


def test_training_ends_early_when_nothing_gets_better(settings_of):
    config = settings_of(
        "val_data_choice=held", "learning_rate=1e-9", "eval.steps=1", "eval.patience=2", "max_steps=20"
    )
    result = finetune.run(config)
    assert result.steps == 3 and result.best_step == 1


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["weight_path="], "weight_path"),
        (["data_path="], "data_path"),
        (["data_path=/nowhere/meta.json"], "not there"),
        (["train_data_choice=picturs"], "picturs"),
        (["gpus=2"], "torchrun --nproc_per_node 2"),
        (["quantize=nf4", "precision=bf16"], "bitsandbytes"),
        (["deepspeed=recipes/deepspeed_zero3.json"], "deepspeed"),
        (["attention=flash_attention_2"], "attention=sdpa"),
        (["precision=fp16"], "CPU"),
        (["fsdp=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_settings_that_cannot_work_here_are_refused_before_anything_is_loaded(settings_of, sets, said):
    with pytest.raises(ConfigError) as caught:
        finetune.run(settings_of(*sets))
    assert said in str(caught.value)


def test_the_learning_rate_of_each_part_follows_its_factor(settings_of, monkeypatch):
    from internvl_detect.train import trainer

    seen = {}
    original = trainer.DetectionTrainer.create_optimizer

    def spy(self, model=None):
        made = original(self, model)
        seen.update({id(p): group["lr"] for group in made.param_groups for p in group["params"]})
        seen["names"] = {id(p): n for n, p in self.model.named_parameters()}
        return made

    monkeypatch.setattr(trainer.DetectionTrainer, "create_optimizer", spy)
    finetune.run(settings_of(*FULL, "lr_scale.vision=0.1", "lr_scale.projector=2", "max_steps=1", "warmup_ratio=0"))
    rates = {}
    for key, rate in seen.items():
        if key != "names":
            rates.setdefault(trainer.part_of(seen["names"][key]), set()).add(rate)
    assert {part: [round(rate, 9) for rate in found] for part, found in rates.items()} == {
        "vision": [1e-4],
        "projector": [2e-3],
        "language": [1e-3],
    }


def test_the_main_recipe_trains_as_it_stands(place, tmp_path):
    recipe = Path(__file__).resolve().parents[1] / "recipes" / "internvl2_8b_lora.yaml"
    env = {
        "OUTPUT_DIR": str(tmp_path / "run"),
        "DATA_PATH": str(place / "data"),
        "WEIGHT_PATH": str(place / "base"),
        "TRAIN_DATA_CHOICE": "pictures,words",
        "VAL_DATA_CHOICE": "held",
        "BATCH_SIZE": "8",
    }
    result = finetune.run(load_train_config(recipe, [], env))
    assert result.steps == 2 and result.adapter.is_dir() and result.after["n_fake"] == 6
    assert list((result.folder / "tensorboard").iterdir())


def test_quantizing_leaves_the_vit_the_projector_and_the_head_alone(place):
    from transformers.quantizers.quantizers_utils import should_convert_module

    from internvl_detect.model.checkpoint import _UNQUANTIZED, load_base

    model = load_base(place / "base").model
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    quantized = [name for name in linear if should_convert_module(name, _UNQUANTIZED)]
    assert quantized and all(name.startswith("model.language_model.layers.") for name in quantized)
    assert len(quantized) == 2 * 7 and len(linear) > len(quantized)


def test_validation_with_one_class_trains_and_says_that_nothing_was_calibrated(settings_of):
    result = finetune.run(settings_of("val_data_choice=words", "max_steps=2"))
    said = json.loads((result.folder / "metrics.json").read_text())
    assert said["after"]["auc"] is None and said["calibration"]["method"] == "none"
    assert "3 real and 0 fake" in said["calibration"]["note"]
    assert json.loads((result.adapter / "ivdetect.json").read_text())["calibration"] is None


@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_no_dropout_mask_outlives_its_layer(settings_of, monkeypatch, checkpointing):
    from internvl_detect.model.lora_layers import SharedDropout
    from internvl_detect.train import callbacks

    kept = []

    def look(self, args, state, control, model=None, **kwargs):
        kept.extend(m for m in model.modules() if isinstance(m, SharedDropout) and m._dropped is not None)
        kept.append(sum(isinstance(m, SharedDropout) for m in model.modules()))

    monkeypatch.setattr(callbacks.Checkpoints, "on_pre_optimizer_step", look)
    finetune.run(settings_of("max_steps=2", "lora.dropout=0.5", f"gradient_checkpointing={checkpointing}"))
    assert kept == [2 * 3] * 2


@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_a_frozen_vision_tower_is_not_gone_through_backward(settings_of, monkeypatch, checkpointing):
    from transformers.models.internvl.modeling_internvl import InternVLVisionModel

    seen, plain = [], InternVLVisionModel.forward

    def look(self, *args, **kwargs):
        out = plain(self, *args, **kwargs)
        seen.append((torch.is_grad_enabled(), out.last_hidden_state.requires_grad))
        return out

    monkeypatch.setattr(InternVLVisionModel, "forward", look)
    finetune.run(settings_of("max_steps=1", f"gradient_checkpointing={checkpointing}"))
    assert (True, False) in seen and not any(needs for _, needs in seen)


def test_lora_alone_in_bfloat16_keeps_its_own_weights_in_float32(settings_of):
    result = finetune.run(settings_of("max_steps=2", "precision=bf16"))
    stored = load_file(str(result.adapter / "adapter_model.safetensors"))
    assert {t.dtype for t in stored.values()} == {torch.float32}
    assert all(t.abs().sum() > 0 for name, t in stored.items() if "lora_B" in name)
