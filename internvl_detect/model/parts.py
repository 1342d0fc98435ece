"""What a model folder says before its weights are loaded: form, config, tokenizer, settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import InternVLConfig, PreTrainedTokenizerFast

from internvl_detect.errors import CheckpointError
from internvl_detect.model.convert import native_config
from internvl_detect.model.embedded import resolve
from internvl_detect.model.folder import Form, Shards, form_of, open_shards, read_json
from internvl_detect.model.settings import AdapterSettings
from internvl_detect.model.tokenizer import build_tokenizer, special_id


@dataclass
class ModelParts:
    """A model folder without weights in memory. ``raw`` is its config.json; ``tokenizer`` is None where it has none."""

    path: Path
    raw: dict[str, Any]
    shards: Shards
    form: Form
    config: InternVLConfig
    tokenizer: PreTrainedTokenizerFast | None
    settings: AdapterSettings
    notes: list[str] = field(default_factory=list)

    @property
    def tokens_per_tile(self) -> int:
        """Language-model tokens that one tile becomes: 256 at 448 px."""
        return int(self.config.image_seq_length)

    @property
    def tile_px(self) -> int:
        """Side of the ViT's input in pixels."""
        return int(self.config.vision_config.image_size[0])

    def need_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer; raises CheckpointError where the folder has none."""
        if self.tokenizer is None:
            raise CheckpointError(
                f"{self.path} has no tokenizer",
                expected="tokenizer.model beside the weights",
                do="copy the tokenizer files of the model into that folder",
            )
        return self.tokenizer


def read_parts(path: str | Path) -> ModelParts:
    """Read a folder (or the embedded model) up to its weights; raises CheckpointError for what does not fit."""
    folder, _ = resolve(path, None)
    raw = read_json(folder / "config.json")
    shards = open_shards(folder)
    form = form_of(folder, raw, shards)
    notes: list[str] = []
    tokenizer = _tokenizer(folder, notes)
    if form == "native":
        config = _stored_config(folder, raw)
    else:
        token = special_id(tokenizer, "<IMG_CONTEXT>") if tokenizer is not None else None
        config = _original_config(folder, raw, token)
    if tokenizer is not None and len(tokenizer) > config.text_config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {config.text_config.vocab_size}",
            expected="the tokenizer of this model",
        )
    settings = AdapterSettings.of_folder(folder, int(config.vision_config.image_size[0]), raw)
    return ModelParts(folder, raw, shards, form, config, tokenizer, settings, notes)


def _original_config(folder: Path, raw: dict[str, Any], token: int | None) -> InternVLConfig:
    try:
        return native_config(raw, image_token_id=token)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - what the checks by name let pass, transformers' own refuse
        raise CheckpointError(f"{folder}/config.json cannot be used ({error})", do="fetch config.json again") from error


def _stored_config(folder: Path, raw: dict[str, Any]) -> InternVLConfig:
    try:
        return InternVLConfig.from_dict(raw)
    except Exception as error:  # noqa: BLE001 - the strict dataclass raises several kinds for a stranger's values
        raise CheckpointError(
            f"{folder}/config.json cannot be used ({error})", do="convert or download the model again"
        ) from error


def _tokenizer(folder: Path, notes: list[str]) -> PreTrainedTokenizerFast | None:
    if any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json", "vocab.json")):
        return build_tokenizer(folder)
    notes.append(f"{folder} has no tokenizer; questions in words cannot be asked")
    return None


def base_of(model: Any) -> Any:
    """The InternVL itself, where PEFT may have wrapped it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
