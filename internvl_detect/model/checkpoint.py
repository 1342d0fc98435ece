"""Load an InternVL2 model from any folder it comes in, exactly, and write it in transformers' own format.

``load_base`` reads an original folder, a native one, or an original one with LoRA layers inside; nothing is run from
the folder. A missing, extra or wrongly shaped tensor is an error that names it. Not here: which tensor goes where
(``convert``), adapters (``adapter``), the files themselves (``folder``).

    ivdetect convert InternVL2-8B InternVL2-8B-native
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from internvl_detect.errors import CheckpointError, ConfigError, IvdetectError
from internvl_detect.model.adapter import attach_adapter, attach_inner_lora
from internvl_detect.model.convert import native_config, tensor_targets
from internvl_detect.model.embedded import resolve
from internvl_detect.model.fingerprint import fingerprint
from internvl_detect.model.folder import Form, Shards, form_of, open_shards, read_json
from internvl_detect.model.settings import AdapterSettings
from internvl_detect.model.tokenizer import build_tokenizer, special_id

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_CPU_FLOAT32_LIMIT = 10**9  # parameters; above, "auto" keeps the stored type so that the model fits


@dataclass
class LoadedModel:
    """A model ready for use, with what belongs to it.

    ``model`` is an InternVLForConditionalGeneration, wrapped by PEFT when an adapter is on it. ``tokenizer`` is None
    when the folder has none. ``fingerprint`` identifies the base whatever its form or dtype. ``settings`` say how
    pictures are tiled and questions asked, and hold the calibration.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast | None
    image_processor: GotOcr2ImageProcessorPil
    config: InternVLConfig
    path: Path
    form: Form
    fingerprint: str
    name: str
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

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    def need_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer; raises CheckpointError where the folder has none."""
        if self.tokenizer is None:
            raise CheckpointError(
                f"{self.path} has no tokenizer",
                expected="tokenizer.model beside the weights",
                do="copy the tokenizer files of the model into that folder",
            )
        return self.tokenizer


def load_base(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    attn: str = "sdpa",
    adapter: str | Path | None = None,
    quantize: str | None = None,
) -> LoadedModel:
    """Load a model folder (or ``"nano"``, the embedded one) and optionally an adapter on it, in evaluation mode.

    ``dtype`` is "auto", "float32", "bfloat16" or "float16"; auto takes the stored type on a GPU, and float32 on a CPU
    for models under a billion parameters. ``device`` "auto" takes a GPU where there is one. ``attn`` is "sdpa",
    "eager" or an attention kernel that transformers knows. ``quantize`` "nf4" or "int8" needs a native folder, a GPU
    and bitsandbytes. Raises CheckpointError (AdapterError) saying what does not fit.
    """
    folder, adapter = resolve(path, adapter)
    config_file = read_json(folder / "config.json")
    shards = open_shards(folder)
    form = form_of(folder, config_file, shards)
    target = _device(device)
    notes: list[str] = []
    tokenizer = _tokenizer(folder, notes)
    if form == "native":
        config = InternVLConfig.from_dict(config_file)
    else:
        token = special_id(tokenizer, "<IMG_CONTEXT>") if tokenizer is not None else None
        config = native_config(config_file, image_token_id=token)
    if tokenizer is not None and len(tokenizer) > config.text_config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {config.text_config.vocab_size}",
            expected="the tokenizer of this model",
        )
    kind = _dtype(dtype, shards, target)
    config.dtype = kind
    settings = AdapterSettings.of_folder(folder, config, config_file)
    if form == "native":
        model = _load_native(folder, config, kind, target, attn, quantize)
    elif quantize:
        raise CheckpointError(
            f"{folder} is in the original format, which cannot be quantized while loading",
            expected="a native folder",
            do=f"run 'ivdetect convert {folder} DST' once and load DST",
        )
    else:
        model = _empty(config, attn)
        source = (pair for pair in shards.tensors() if ".lora_" not in pair[0])
        _fill(model, _converted(source, config), kind, target)
    model.eval()
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor(config, settings),
        config=config,
        path=folder,
        form=form,
        fingerprint=fingerprint(model),
        name=folder.name,
        settings=settings,
        notes=notes,
    )
    if form == "lora_full":
        attach_inner_lora(loaded, config_file, shards)
    if adapter is not None:
        attach_adapter(loaded, Path(adapter))
    loaded.model.eval()
    return loaded


def convert(source: str | Path, destination: str | Path, *, dtype: str = "auto") -> Path:
    """Write ``source`` (any form; LoRA layers inside are merged) as a native folder that transformers opens by itself.

    The stored dtype is kept unless ``dtype`` says otherwise. The folder appears whole or not at all. Raises
    ConfigError when ``destination`` exists and is not empty.
    """
    from internvl_detect.model.save import save_native

    shards = open_shards(resolve(source, None)[0])
    stored = {_STORED[d] for d in shards.dtypes.values() if d in _STORED}
    kind = dtype if dtype != "auto" else str(_widest(stored)).removeprefix("torch.")
    loaded = load_base(source, dtype=kind, device="cpu")
    if loaded.form == "lora_full":
        loaded.model = loaded.model.merge_and_unload()
    return save_native(loaded, Path(destination))


def image_processor(config: InternVLConfig, settings: AdapterSettings) -> GotOcr2ImageProcessorPil:
    """transformers' own PIL processor, told InternVL2's size and statistics (its defaults are another model's)."""
    side = int(config.vision_config.image_size[0])
    return GotOcr2ImageProcessorPil(
        size={"height": side, "width": side},
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
        crop_to_patches=True,
        min_patches=1,
        max_patches=settings.tiles.max_tiles,
    )


def _empty(config: InternVLConfig, attn: str) -> InternVLForConditionalGeneration:
    """The model on the meta device: shapes without memory."""
    try:
        with torch.device("meta"):
            return InternVLForConditionalGeneration._from_config(config, attn_implementation=attn)
    except (ValueError, ImportError, TypeError) as error:
        raise CheckpointError(f"a model of this config cannot be built ({error})", do="check config.json") from error


def _converted(
    source: Iterable[tuple[str, torch.Tensor]], config: InternVLConfig
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in source:
        plain = plain_name(name)
        for target, rows in tensor_targets(plain, config):
            try:
                yield target, tensor if rows is None else rows(tensor)
            except RuntimeError as error:
                raise CheckpointError(
                    f"tensor {name} of shape {tuple(tensor.shape)} does not divide into the heads of config.json",
                    do="check that weights and config.json come from one model",
                ) from error


def plain_name(name: str) -> str:
    """The name that a tensor had before PEFT wrapped its model."""
    return name.replace(".base_model.model.", ".", 1).replace(".base_layer.", ".")


def _fill(
    model: torch.nn.Module, source: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype, device: torch.device
) -> None:
    """Give every parameter of a meta model its tensor; each must come once, in its shape, and none may be left."""
    wanted = dict(model.named_parameters(remove_duplicate=False))
    shared = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    seen: set[str] = set()
    for name, tensor in source:
        if name not in wanted:
            raise CheckpointError(
                f"the checkpoint holds a tensor for {name}, which this config does not have",
                do="check that weights and config.json come from one model",
            )
        if name in seen:
            raise CheckpointError(f"the checkpoint holds {name} twice", do="remove one of the copies")
        if tuple(tensor.shape) != tuple(wanted[name].shape):
            raise CheckpointError(
                f"the tensor for {name} has shape {tuple(tensor.shape)}",
                expected=f"{tuple(wanted[name].shape)} from config.json",
                do="check that weights and config.json come from one model",
            )
        seen.add(name)
        owner, _, leaf = name.rpartition(".")
        value = tensor.to(device=device, dtype=dtype)
        value = value.clone(memory_format=torch.contiguous_format) if value is tensor else value.contiguous()
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False))
    absent = sorted(set(wanted) - seen)
    if shared and absent == ["lm_head.weight"]:
        absent = []
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    if absent:
        raise CheckpointError(
            f"the checkpoint lacks {len(absent)} tensors, first {absent[0]}",
            expected=f"all {len(wanted)}",
            do="download the model again",
        )
    text = model.model.language_model
    text.rotary_emb = type(text.rotary_emb)(text.config).to(device)  # its buffers were born without memory
    model.generation_config = GenerationConfig.from_model_config(model.config)


def _load_native(
    folder: Path, config: InternVLConfig, dtype: torch.dtype, device: torch.device, attn: str, quantize: str | None
) -> InternVLForConditionalGeneration:
    options: dict[str, Any] = {}
    if quantize:
        options["quantization_config"] = _quantization(quantize)
        options["device_map"] = {"": device}
    try:
        model, info = InternVLForConditionalGeneration.from_pretrained(
            str(folder),
            config=config,
            dtype=dtype,
            attn_implementation=attn,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except IvdetectError:
        raise
    except Exception as error:  # shape mismatches arrive as RuntimeError, broken files as several kinds
        raise CheckpointError(f"{folder} cannot be loaded ({error})", do="convert or download it again") from error
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(k) for k in set(info.get(what) or ()) - tied)
        if names:
            raise CheckpointError(
                f"{folder} has {len(names)} {what.replace('_', ' ')}, first {names[0]}",
                expected="exactly the tensors of its config.json",
                do="download or convert the model again",
            )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model if quantize else model.to(device)


def _quantization(kind: str) -> Any:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"quantize={kind} needs bitsandbytes, which is not installed", do="pip install 'internvl2-8bdetect[gpu]'"
        ) from error
    from transformers import BitsAndBytesConfig

    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=True,
            llm_int8_skip_modules=["vision_tower", "multi_modal_projector", "lm_head"],
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["vision_tower", "lm_head"])
    raise ConfigError(f"quantize={kind!r}", expected="nf4 or int8")


def _tokenizer(folder: Path, notes: list[str]) -> PreTrainedTokenizerFast | None:
    if any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json", "vocab.json")):
        return build_tokenizer(folder)
    notes.append(f"{folder} has no tokenizer; questions in words cannot be asked")
    return None


def _device(device: str | torch.device) -> torch.device:
    if device != "auto":
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise ConfigError(f"device {device!r}", expected="auto, cpu, cuda, cuda:0, ...") from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(dtype: str | torch.dtype, shards: Shards, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype in _DTYPES:
        return _DTYPES[dtype]
    if dtype != "auto":
        raise ConfigError(f"dtype {dtype!r}", expected="auto, float32, bfloat16 or float16")
    size = sum(torch.Size(shape).numel() for shape in shards.shapes.values())
    if device.type == "cpu" and size < _CPU_FLOAT32_LIMIT:
        return torch.float32
    return _widest({_STORED[d] for d in shards.dtypes.values() if d in _STORED})


def _widest(stored: set[torch.dtype]) -> torch.dtype:
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        if kind in stored:
            return kind
    return torch.float32
