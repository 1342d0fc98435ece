"""From settings to the parts of a run: the model with what is trained on it, and the Trainer's arguments.

Not here: data (``corpus``), the order of things (``finetune``).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainingArguments

from internvl_detect.config import TrainConfig
from internvl_detect.data.engine import cores
from internvl_detect.errors import ConfigError, ResourceError
from internvl_detect.model.adapter import LoraSettings, attach_adapter, new_lora
from internvl_detect.model.checkpoint import LoadedModel, load_base
from internvl_detect.model.kernels import use_kernels
from internvl_detect.model.mask import LightHead, TaggerEyes
from internvl_detect.model.seg import add_seg, parts_of
from internvl_detect.train.attention import use_by_sample
from internvl_detect.train.packing import Plan
from internvl_detect.train.trainer import part_of

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "Cannot allocate memory")


def check_environment(config: TrainConfig) -> None:
    """What can be said before anything is loaded. Raises ConfigError."""
    if not config.weight_path:
        raise ConfigError(
            "weight_path is not set", expected="a model folder, or nano", do="set WEIGHT_PATH or --set weight_path=..."
        )
    if config.gpus > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"gpus is {config.gpus} and this is a single process",
            expected="one process a GPU",
            do=f"start it with: torchrun --nproc_per_node {config.gpus} -m internvl_detect.cli train ...",
        )
    wanted = {"deepspeed": config.deepspeed, "bitsandbytes": config.quantize != "none"}
    wanted["flash_attn"] = config.attention == "flash_attention_2"
    for module, needed in wanted.items():
        if needed and importlib.util.find_spec(module) is None:
            do = "pip install 'internvl2-8bdetect[gpu]'" if module != "flash_attn" else "--set attention=sdpa"
            raise ConfigError(f"these settings need {module}, which is not installed", do=do)
    for name in (config.fsdp, config.deepspeed):
        if name and not Path(name).is_file():
            raise ConfigError(f"the settings file {name} is not there", do="see recipes/")
    if (config.fsdp or config.deepspeed) and not torch.cuda.is_available():
        raise ConfigError(
            "fsdp and deepspeed share a model out over GPUs, and there is none here", do="leave them empty"
        )
    if config.quantize != "none" and not torch.cuda.is_available():
        # On a CPU bitsandbytes goes over to a kernel without a gradient after the first evaluation.
        found = f"training with quantize {config.quantize} on a CPU"
        raise ConfigError(found, expected="a GPU", do="--set quantize=none")
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("precision fp16 on a CPU", expected="bf16 or fp32", do="--set precision=fp32")


def load_model(config: TrainConfig) -> LoadedModel:
    """The base with the layers to train on it: fresh LoRA, a stored adapter, or parts of the base itself."""
    parts = config.train.model_dump()
    full = [name for name, how in parts.items() if how == "full"]
    in_place = not (config.fsdp or config.deepspeed) and torch.cuda.is_available()
    loaded = load_base(
        config.weight_path,
        dtype="float32" if config.precision == "fp32" or not config.uses_lora else "bfloat16",
        device="auto" if in_place else "cpu",
        attn=config.attention,
        adapter="none",
        quantize=None if config.quantize == "none" else config.quantize,
    )
    loaded.need_tokenizer()
    if config.adapter_path:
        if full or not config.uses_lora:
            raise ConfigError("adapter_path goes with LoRA alone", do="merge the adapter first: ivdetect merge")
        attach_adapter(loaded, Path(config.adapter_path), trainable=True)
        leave_inputs_alone(loaded.model)
    elif config.uses_lora:
        lora = config.lora
        targets: Any = "+".join(part for part in ("language", "vision") if parts[part] == "lora")
        settings = LoraSettings(
            r=lora.r, alpha=lora.alpha, dropout=lora.dropout, share_qkv_a=lora.share_qkv_a, targets=targets
        )
        loaded.model = new_lora(loaded.model, settings)
        leave_inputs_alone(loaded.model)
    for name, parameter in loaded.model.named_parameters():
        if part_of(name) in full:
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()
    loaded.model.config.use_cache = False
    if config.attention == "sdpa":
        use_by_sample(loaded.model)
    use_kernels(loaded.model, config.kernels)
    return loaded


def mask_parts(config: TrainConfig, loaded: LoadedModel) -> Any:
    """Puts the ``<SEG>`` rows and the head on the model where ``mask`` asks for them; gives the frozen eyes of the
    head, or None.

    Rows and head of ``adapter_path`` are taken over where that folder has them. Raises ConfigError where they are of
    another kind, CheckpointError.
    """
    kind = config.mask.head
    if kind == "none":
        return None
    width, parts, eyes = loaded.config.text_config.hidden_size, parts_of(loaded.model), None
    if kind == "sam":
        from internvl_detect.model.sam import SamEyes, SamHead, open_sam

        sam = open_sam(config.mask.sam_path)
        head: Any = SamHead.of_sam(sam, width)
        eyes = SamEyes.of(sam, config.mask.sam_path, loaded.device)
    else:
        from internvl_detect.model.domain_tag import DomainTagger

        tagger = DomainTagger.load(config.mask.tagger, device=str(loaded.device))
        head, eyes = LightHead(tagger.channels, width), TaggerEyes(tagger)
    if parts is not None and parts.head.kind == "light":
        parts.head.strength = 1.0  # one that was held back on validation learns as a whole
    if parts is not None and (parts.head.kind, parts.head.about) != (kind, head.about):
        raise ConfigError(
            f"the mask head in {config.adapter_path} is {parts.head.kind} {parts.head.about}",
            expected=f"{kind} {head.about}, as mask asks for",
            do="set mask as that adapter was trained, or leave its mask.safetensors and mask.json out of the folder",
        )
    parts = parts or add_seg(loaded.model, head)
    parts.about |= eyes.about
    parts.requires_grad_(True)
    return eyes


def training_arguments(config: TrainConfig, plan: Plan, folder: Path, world: int, validates: bool) -> TrainingArguments:
    """The Trainer's arguments: one pass over ``plan``, in its order."""
    per_forward = config.per_device_batch_size * world
    eval_steps = config.eval.steps or max(1, plan.steps // 10)
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=config.per_device_batch_size,
        gradient_accumulation_steps=plan.rows_per_step // per_forward,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        bf16=config.precision == "bf16" and not lora_in_half(config),
        fp16=config.precision == "fp16",
        **_checkpointing(config),
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=config.keep_checkpoints + int(validates),
        eval_strategy="steps" if validates else "no",
        eval_steps=eval_steps if validates else None,
        metric_for_best_model=config.eval.metric if validates else None,
        greater_is_better=greater_is_better(config) if validates else None,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_num_workers=workers_of(config),
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        use_cpu=not cuda,
        ddp_backend="gloo" if world > 1 and not cuda else None,
        ddp_find_unused_parameters=False,
        average_tokens_across_devices=True,
        fsdp=True if config.fsdp else None,
        fsdp_config=_fsdp(config),
        deepspeed=config.deepspeed or None,
        log_level="error",
        log_level_replica="error",
    )
    # Set late: the Trainer asks for equal save and eval steps, and a callback saves at each evaluation as well.
    arguments.load_best_model_at_end = validates
    if world == 1:
        arguments._n_gpu = min(arguments.n_gpu, 1)  # never DataParallel, which averages without regard to tokens
    return arguments


def lora_in_half(config: TrainConfig) -> bool:
    """Whether the base is in bfloat16 and LoRA is all that is trained: its layers then cast what they must themselves.

    Autocast would cost a dispatch and a copy or two an operation, and compute norms otherwise than detection does.
    """
    alone = "full" not in config.train.model_dump().values() and config.uses_lora
    return alone and config.precision == "bf16" and config.quantize == "none" and not (config.fsdp or config.deepspeed)


def leave_inputs_alone(model: Any) -> None:
    """Checkpointing without reentry needs no gradient of its inputs; asked for one, the frozen ViT would go backward.

    transformers asks by itself when checkpointing is turned on under PEFT.
    """
    for module in (model, model.get_base_model()):
        module.enable_input_require_grads = lambda: None


def workers_of(config: TrainConfig) -> int:
    """Decoding processes: as many as asked for, and no more than there are cores."""
    return min(config.workers, cores())


def greater_is_better(config: TrainConfig) -> bool:
    """Whether the chosen metric grows with quality."""
    return config.eval.metric in ("auc", "balanced_accuracy", "pixel_f1", "pixel_value")


def memory_advice(config: TrainConfig, error: BaseException) -> ResourceError | None:
    """The error to raise when ``error`` is a lack of memory, saying what to lower first; None for any other error."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if not known and not (isinstance(error, RuntimeError) and any(w in str(error) for w in _OUT_OF_MEMORY)):
        return None
    steps = []
    if config.per_device_batch_size > 1:
        steps.append(f"per_device_batch_size={config.per_device_batch_size // 2}")
    if not config.gradient_checkpointing:
        steps.append("gradient_checkpointing=true")
    if config.max_tokens > 1024:
        steps.append(f"max_tokens={config.max_tokens // 2}")
    if config.max_tiles > 1:
        steps.append(f"max_tiles={max(1, config.max_tiles // 2)}")
    if config.uses_lora and config.quantize == "none" and torch.cuda.is_available():
        steps.append("quantize=nf4")
    where = "GPU memory" if torch.cuda.is_available() else "memory"
    said = (str(error).splitlines() or ["no detail given"])[0][:160]
    return ResourceError(
        f"{where} does not suffice for these settings ({said})",
        do="lower in this order: " + ", then ".join(f"--set {s}" for s in steps) if steps else "use a larger machine",
    )


def _checkpointing(config: TrainConfig) -> dict[str, Any]:
    """Recomputing activations in the backward pass, under the name that this transformers has for it."""
    known = TrainingArguments.__dataclass_fields__
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    wanted = config.gradient_checkpointing and not config.fsdp  # FSDP has its own
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}} if wanted else {}


def _fsdp(config: TrainConfig) -> dict[str, Any] | None:
    """The mapping of recipes/fsdp.yaml, as the Trainer's ``fsdp_config`` takes it. Raises ConfigError."""
    if not config.fsdp:
        return None
    try:
        values = yaml.safe_load(Path(config.fsdp).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{config.fsdp} cannot be read ({error})", do="see recipes/fsdp.yaml") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{config.fsdp} holds no key: value lines", do="see recipes/fsdp.yaml")
    if values.get("version", 2) != 2:
        raise ConfigError(f"{config.fsdp}: version {values['version']}", expected="2, which takes frozen tensors")
    return {"activation_checkpointing": config.gradient_checkpointing, **values}
