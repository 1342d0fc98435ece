"""Settings of a training run: a YAML file, then environment variables, then ``--set key=value``; the last one wins.

Every key has a default (the original's hyper-parameters) and a meaning, written at its field. An unknown key or a
value of the wrong kind is a ConfigError that names it. Imports no torch; running the training is ``train.finetune``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from internvl_detect.errors import ConfigError
from internvl_detect.files import YamlLoader, read_yaml

ENVIRONMENT = {
    "OUTPUT_DIR": "output_dir",
    "DATA_PATH": "data_path",
    "WEIGHT_PATH": "weight_path",
    "TRAIN_DATA_CHOICE": "train_data_choice",
    "VAL_DATA_CHOICE": "val_data_choice",
    "GPUS": "gpus",
    "BATCH_SIZE": "batch_size",
    "PER_DEVICE_BATCH_SIZE": "per_device_batch_size",
}
# Changing one of these in the middle of a run changes no loss (the last three: but for the draws of dropout).
HARMLESS: tuple[str, ...] = ("resume", "logging_steps", "save_steps", "keep_checkpoints", "workers", "tensorboard")
HARMLESS += ("allow_remote",)
HARMLESS += ("gpus", "per_device_batch_size", "gradient_checkpointing")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class LoraSection(_Section):
    """LoRA in the original's terms."""

    r: int = Field(default=16, ge=1, le=1024, description="rank")
    alpha: float = Field(default=32, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="on the input of A")
    share_qkv_a: bool = Field(
        default=True, description="q, k and v share one A and one dropout mask, as in the original"
    )


class PartsSection(_Section):
    """What is trained: by LoRA, in full, or not at all."""

    language: Literal["lora", "full", "frozen"] = "lora"
    vision: Literal["lora", "full", "frozen"] = "frozen"
    projector: Literal["full", "frozen"] = "frozen"


class ScaleSection(_Section):
    """Factors on the learning rate, part by part."""

    language: float = Field(default=1.0, gt=0)
    vision: float = Field(default=1.0, gt=0)
    projector: float = Field(default=1.0, gt=0)


class EvalSection(_Section):
    """Evaluation on the validation choice, by detection metrics."""

    steps: int = Field(default=0, ge=0, description="every so many optimiser steps; 0: ten times a run")
    metric: Literal["auc", "balanced_accuracy", "log_loss", "loss", "pixel_f1", "pixel_value"] = Field(
        default="auc", description="chooses the best"
    )
    patience: int = Field(default=0, ge=0, description="stop after so many evaluations without a better one; 0: never")
    max_samples: int = Field(
        default=0, ge=0, description="look at so many validation samples at most, evenly spread; 0: all"
    )
    target_error: float = Field(default=0.05, gt=0, lt=0.5, description="error rate each side of the decision may have")


class MaskSection(_Section):
    """The ``<SEG>`` row and the mask head, trained together with LoRA (docs/masks.md)."""

    head: Literal["none", "light", "sam"] = Field(
        default="none", description="light: on the tagger's grid; sam: on SAM"
    )
    sam_path: str = Field(default="", description="SAM's folder (SamModel of transformers), for head sam")
    text: float = Field(default=1.0, ge=0, description="weight of the text loss")
    bce: float = Field(default=2.0, ge=0, description="weight of the pixels' binary cross entropy")
    dice: float = Field(default=0.5, ge=0, description="weight of the Dice loss")
    lr_scale: float = Field(default=1.0, gt=0, description="factor on the learning rate of rows and head")
    tagger: str = Field(default="nano", min_length=1, description="the domain tagger's folder, or nano")


class TrainConfig(_Section):
    """One training run. Paths are relative to the working directory."""

    output_dir: str = Field(default="runs/internvl2_8b_lora", min_length=1, description="the run folder")
    weight_path: str = Field(default="", description="the base model's folder, or nano")
    adapter_path: str = Field(default="", description="start from this adapter instead of a new one")
    data_path: str = Field(default="", description="meta JSON, a folder of datasets, or a manifest")
    allow_remote: bool = Field(
        default=False, description="read pictures from object storage where the meta JSON's root is an address"
    )
    train_data_choice: str = Field(
        default="all", description="like ps|CASIA2,FR; all: all but what is for validation or test"
    )
    val_data_choice: str = Field(default="", description="names to validate on, by commas; empty: no validation")
    resume: Literal["auto", "never"] = Field(
        default="auto", description="go on from the newest whole checkpoint, if any"
    )
    seed: int = Field(default=42, ge=0, le=2**32 - 1)

    gpus: int = Field(default=1, ge=1, description="processes, one GPU each")
    batch_size: int = Field(default=128, ge=1, description="samples per optimiser step, over all processes")
    per_device_batch_size: int = Field(
        default=1, ge=1, description="rows per forward; packed rows hold several samples"
    )

    lora: LoraSection = LoraSection()
    train: PartsSection = PartsSection()
    lr_scale: ScaleSection = ScaleSection()
    mask: MaskSection = MaskSection()
    quantize: Literal["none", "nf4"] = Field(default="none", description="nf4: 4-bit base (QLoRA), needs bitsandbytes")

    verdict_weight: float = Field(
        default=1.0, gt=0, le=1000, description="how often the answer's first token counts, beside the words'"
    )
    learning_rate: float = Field(default=4e-5, gt=0)
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0, description="0: no clipping")
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int = Field(default=0, ge=0, description="stop after so many optimiser steps; 0: by epochs")

    max_tokens: int = Field(default=4096, ge=16, description="longest row")
    max_tiles: int = Field(
        default=6, ge=1, le=256, description="per picture, when the dataset sets no max_dynamic_patch"
    )
    min_tiles: int = Field(default=1, ge=1, le=256)
    tile_mode: Literal["dynamic", "native"] = "dynamic"
    thumbnail: bool = True
    frames: int = Field(default=8, ge=1, le=256, description="frames per clip")
    video_last_newline: bool = Field(default=True, description="a newline after the last frame, as the original infers")
    packing: bool = Field(default=True, description="several samples in one row, without attention between them")
    group_by_length: bool = Field(default=False, description="batches of samples of like length; pays without packing")
    on_broken: Literal["skip", "error"] = Field(default="skip", description="a sample that cannot be read")
    workers: int = Field(default=2, ge=0, le=256, description="processes that decode pictures ahead")

    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    gradient_checkpointing: bool = True
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    kernels: Literal["auto", "liger", "none"] = Field(
        default="auto", description="fused norms, MLP and rotary positions on a GPU, where liger-kernel is installed"
    )

    eval: EvalSection = EvalSection()
    logging_steps: int = Field(default=1, ge=1)
    save_steps: int = Field(default=200, ge=1, description="a checkpoint to resume from, every so many steps")
    keep_checkpoints: int = Field(default=2, ge=2, description="besides the best one")
    tensorboard: bool = True
    fsdp: str = Field(default="", description="FSDP settings file (recipes/fsdp.yaml)")
    deepspeed: str = Field(default="", description="DeepSpeed settings file (recipes/deepspeed_zero3.json)")

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_is_the_default(cls, value: Any, info: Any) -> Any:
        if value is None and info.field_name is not None:
            return cls.model_fields[info.field_name].get_default()
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.min_tiles > self.max_tiles:
            raise ValueError(f"min_tiles {self.min_tiles} is more than max_tiles {self.max_tiles}")
        if self.parts_frozen:
            raise ValueError("train: language, vision and projector are all frozen, so there is nothing to train")
        if self.quantize != "none" and "full" in (self.train.language, self.train.vision, self.train.projector):
            raise ValueError(f"quantize {self.quantize} keeps the base in 4 bits: nothing of it can be trained in full")
        if self.quantize != "none" and self.precision == "fp32":
            raise ValueError("quantize nf4 computes in bf16 or fp16: set precision to one of them")
        if self.mask.head != "none" and (not self.uses_lora or "full" in self.train.model_dump().values()):
            raise ValueError("mask.head goes with LoRA alone: set no part of train to full")
        if self.mask.head == "sam" and not self.mask.sam_path.strip():
            raise ValueError("mask.head sam needs SAM's folder: set mask.sam_path")
        if self.eval.metric.startswith("pixel_") and self.mask.head == "none":
            raise ValueError(f"eval.metric {self.eval.metric} needs masks: set mask.head=light or sam")
        if self.mask.head != "none" and (self.fsdp or self.deepspeed):
            raise ValueError("mask.head goes with one GPU or DDP")
        if self.fsdp and self.deepspeed:
            raise ValueError("fsdp and deepspeed are both set: choose one")
        return self

    @property
    def parts_frozen(self) -> bool:
        """True when no part is trained."""
        return {self.train.language, self.train.vision, self.train.projector} == {"frozen"}

    @property
    def uses_lora(self) -> bool:
        """True when the result is an adapter, False when it is a whole checkpoint."""
        return "lora" in (self.train.language, self.train.vision)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, nested as in the file."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved settings, in the order of the fields; ``load_train_config`` reads it back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def fingerprint(self) -> str:
        """sha256 over everything that changes a loss."""
        kept = {k: v for k, v in self.to_dict().items() if k not in (*HARMLESS, "output_dir")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def load_train_config(
    path: str | Path | None = None,
    sets: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
) -> TrainConfig:
    """The settings of ``path`` (YAML; None: all defaults), overridden by ``env`` (None: this process's environment),
    overridden by ``sets`` ("key=value", "section.key=value"; values are read as YAML). Empty variables do not count.

    Raises ConfigError: unreadable file, unknown key, value of the wrong kind.
    """
    values = read_yaml(path) if path is not None else {}
    origin = dict.fromkeys(_flat(values), f"{path}")
    _known(values, str(path))
    for name, key in ENVIRONMENT.items():
        given = (os.environ if env is None else env).get(name, "")
        if given.strip():
            values[key], origin[key] = _scalar(key, given), f"environment variable {name}"
    for item in sets:
        key, equals, text = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"--set {item!r}", expected="--set key=value, for example --set lora.r=32")
        nested: dict[str, Any] = {}
        _put(nested, key, _scalar(key, text))
        _known(nested, "--set")
        _put(values, key, _scalar(key, text))
        origin[key] = "--set"
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise _explained(error, origin) from None


def field_help() -> dict[str, str]:
    """What each dotted key means, where its field says so: for the documentation and its check."""
    out: dict[str, str] = {}
    for name, field in TrainConfig.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            out.update({f"{name}.{k}": f.description or "" for k, f in inner.model_fields.items()})
        else:
            out[name] = field.description or ""
    return out


def _scalar(key: str, text: str) -> Any:
    inner = _field_type(key)
    if inner is str:
        return text.strip()
    try:
        return yaml.load(text, Loader=YamlLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _field_type(key: str) -> Any:
    model: Any = TrainConfig
    for part in key.split("."):
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return None
        model = field.annotation
    return model


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for name in sections:
        inner = values.get(name)
        if inner is None:
            inner = values[name] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {name} is {inner!r}", expected="a section with keys below it")
        values = inner
    values[last] = value


def _flat(values: Mapping[Any, Any], prefix: str = "") -> list[str]:
    out = []
    for key, value in values.items():
        out += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return out


def _known(values: Mapping[Any, Any], where: str) -> None:
    keys = list(field_help())
    sections = {k.split(".")[0] for k in keys if "." in k}
    for key in [str(k) for k in values if str(k) in sections and not isinstance(values[k], dict | None)]:
        inside = [k for k in keys if k.startswith(key + ".")]
        raise ConfigError(f"{where}: {key} is {values[key]!r}", expected=f"a section with {', '.join(inside)}")
    for key in _flat(values):
        if key in keys or key in sections:
            continue
        last = {k.split(".")[-1]: k for k in keys}
        near = difflib.get_close_matches(key, keys, 1, 0.6) or [
            last[n] for n in difflib.get_close_matches(key.split(".")[-1], list(last), 1, 0.75)
        ]
        hint = f"perhaps {near[0]} is meant" if near else "`ivdetect train --show` prints all keys"
        raise ConfigError(f"unknown setting {key} in {where}", do=hint)


def _explained(error: ValidationError, origin: Mapping[str, str]) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(p) for p in first["loc"])
    if not key:
        return ConfigError(str(first["ctx"]["error"]) if "ctx" in first else first["msg"])
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value should ")
    where = f" (from {origin[key]})" if key in origin else ""
    more = f"; {len(error.errors()) - 1} more settings are wrong" if len(error.errors()) > 1 else ""
    return ConfigError(f"{key} is {first['input']!r}{where}", expected=expected + more)
