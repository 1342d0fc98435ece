"""Load an InternVL2 model from any folder it comes in, exactly, and write it in transformers' own format.

``load_base`` reads an original folder, a native one, or an original one with LoRA layers inside; nothing is run from
the folder. A missing, extra or wrongly shaped tensor is an error that names it. Not here: which tensor goes where
(``convert``), adapters (``adapter``), the files themselves (``folder``).

    ivdetect convert InternVL2-8B InternVL2-8B-native
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, InternVLConfig, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from internvl_detect.errors import CheckpointError, ConfigError, IvdetectError
from internvl_detect.model.adapter import attach_adapter, attach_inner_lora
from internvl_detect.model.convert import tensor_targets
from internvl_detect.model.device import device_of
from internvl_detect.model.embedded import resolve
from internvl_detect.model.fingerprint import fingerprint
from internvl_detect.model.folder import FLOATS, Shards, no_bars, open_shards
from internvl_detect.model.parts import ModelParts, read_parts
from internvl_detect.model.settings import AdapterSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_DTYPES = {name: getattr(torch, name) for name in FLOATS.values()}
_UNQUANTIZED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]  # whole names, as transformers asks
_CPU_FLOAT32_LIMIT = 10**9  # parameters; above, "auto" keeps the stored type so that the model fits


@dataclass
class LoadedModel(ModelParts):
    """A model ready for use, with what belongs to it.

    ``model`` is an InternVLForConditionalGeneration, wrapped by PEFT when an adapter is on it. ``fingerprint``
    identifies the base whatever its form or dtype. ``settings`` say how pictures are tiled and questions asked, and
    hold the calibration; an adapter's own replace the base's. ``mask_settings`` are those of an adapter that only draws
    (``mask_adapter``).
    """

    model: Any = None
    image_processor: GotOcr2ImageProcessorPil | None = None
    fingerprint: str = ""
    name: str = ""
    mask_settings: AdapterSettings | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())


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
    _, adapter = resolve(path, adapter)
    parts = read_parts(path)
    target = device_of(device)
    kind = _dtype(dtype, parts.shards, target)
    parts.config.dtype = kind
    if parts.form == "native":
        model = _load_native(parts.path, parts.config, kind, target, attn, quantize)
    elif quantize:
        raise CheckpointError(
            f"{parts.path} is in the original format, which cannot be quantized while loading",
            expected="a native folder",
            do=f"run 'ivdetect convert {parts.path} DST' once and load DST",
        )
    else:
        model = _empty(parts.config, attn)
        source = (pair for pair in parts.shards.tensors() if ".lora_" not in pair[0])
        _fill(model, _converted(source, parts.config), kind, target)
    model.eval()
    loaded = LoadedModel(
        **vars(parts),
        model=model,
        image_processor=image_processor(parts.config, parts.settings),
        fingerprint=fingerprint(model),
        name=parts.path.name,
    )
    if parts.form == "lora_full":
        attach_inner_lora(loaded, parts.raw, parts.shards)
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
    stored = {_DTYPES[FLOATS[d]] for d in shards.dtypes.values()}
    kind = dtype if dtype != "auto" else str(_widest(stored)).removeprefix("torch.")
    loaded = load_base(source, dtype=kind, device="cpu", adapter="none")
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
    except Exception as error:  # noqa: BLE001 - transformers raises many kinds for a stranger's numbers
        raise CheckpointError(f"a model of this config cannot be built ({error})", do="check config.json") from error


def _converted(
    source: Iterable[tuple[str, torch.Tensor]], config: InternVLConfig
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in source:
        plain = plain_name(name)
        for target, rows in tensor_targets(plain, config):
            try:
                yield target, tensor if rows is None else rows(tensor)
            except CheckpointError as error:
                raise CheckpointError(
                    f"tensor {name}: {error.found}",
                    expected=error.expected,
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
        with no_bars():
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
            llm_int8_skip_modules=_UNQUANTIZED,
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_UNQUANTIZED)
    raise ConfigError(f"quantize={kind!r}", expected="nf4 or int8")


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
    return _widest({_DTYPES[FLOATS[d]] for d in shards.dtypes.values()})


def _widest(stored: set[torch.dtype]) -> torch.dtype:
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        if kind in stored:
            return kind
    return torch.float32
