"""transformers' Trainer, told four things: the loss on answers only, detection metrics, factors on the rate, and how
the trained weights lie in a checkpoint.

Everything else (accumulation, mixed precision, DDP, FSDP, DeepSpeed, optimiser state) is the Trainer's own. Not here:
settings and files (``finetune``), what is printed and logged (``callbacks``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from internvl_detect.config import MaskSection, ScaleSection
from internvl_detect.errors import CheckpointError, DataError
from internvl_detect.model.seg import parts_of
from internvl_detect.train.loss import answer_loss, summed
from internvl_detect.train.mask import forward, pixel_loss, untouched
from internvl_detect.train.validation import Scored, Validator, raise_broken

WEIGHTS = "trainable.safetensors"
PARTS = {"mask": ".mask_parts.", "vision": ".vision_tower.", "projector": ".multi_modal_projector."}


def part_of(parameter_name: str) -> str:
    """language, vision, projector or mask: where a parameter of InternVL belongs; the head counts as language."""
    return next((part for part, mark in PARTS.items() if mark in f".{parameter_name}"), "language")


class DetectionTrainer(Trainer):
    """A Trainer for batches of ``collate.Collator``. ``validator`` None: no evaluation."""

    def __init__(
        self,
        *args: Any,
        validator: Validator | None,
        lr_scale: ScaleSection,
        mask: MaskSection | None = None,
        eyes: Any = None,
        verdict_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.validator, self.lr_scale = validator, lr_scale
        self.last_scored: Scored | None = None
        self.verdict_weight = verdict_weight
        self.mask, self.eyes, self._masks = mask or MaskSection(), eyes, 0
        self.loss_is_scaled_for_ga = True  # by the answer tokens of the whole step

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross entropy over the answer tokens of the whole optimiser step, all processes included."""
        if "broken" in inputs:
            raise_broken(inputs)
        if self.eyes is None:
            loss = answer_loss(model, inputs, num_items_in_batch, verdict_weight=self.verdict_weight)
        else:
            loss = self._with_masks(model, inputs, num_items_in_batch)
        if num_items_in_batch is not None and self.args.world_size > 1:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, None) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The batches of a step and their answer tokens; the masks of the step are counted as well."""
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(len(b.get("masks", ())) for b in batches), device=device)
        self._masks = int(self.accelerator.gather(count).sum()) if self.eyes is not None else 0
        return batches, tokens

    def _with_masks(self, model: Any, inputs: dict[str, Any], tokens: Any) -> Any:
        inner = self.accelerator.unwrap_model(model)
        logits, targets, found = forward(model, inner, inputs, self.eyes)
        words = summed(logits, targets, inputs, self.verdict_weight) / (tokens if tokens is not None else len(targets))
        pixels = pixel_loss(found, self.mask.bce, self.mask.dice) / max(self._masks, 1)
        return self.mask.text * words + pixels + untouched(parts_of(inner))  # type: ignore[arg-type]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Detection metrics of the validation choice, each named eval_..."""
        if self.validator is None:
            return {}
        self.last_scored = self.validator(self.model_wrapped, self.accelerator)
        metrics = {f"{metric_key_prefix}_{k}": float(v) for k, v in self.last_scored.metrics().items()}
        if (wanted := self.args.metric_for_best_model) and f"eval_{wanted.removeprefix('eval_')}" not in metrics:
            raise DataError(
                f"the validation choice gives no {wanted}: none of its pictures has a mask and an answer <SEG>",
                expected="marked pictures in it",
                do="add one to VAL_DATA_CHOICE, or --set eval.metric=auc",
            )
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser; with a group a part where ``lr_scale`` asks for different rates."""
        scale = self.lr_scale.model_dump() | {"mask": self.mask.lr_scale}
        if self.optimizer is not None or set(scale.values()) == {1.0}:
            return super().create_optimizer(model)
        target = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(target))
        groups: dict[tuple[str, bool], list[Any]] = {}
        for name, parameter in target.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((part_of(name), name in decayed), []).append(parameter)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, target)
        self.optimizer = kind(
            [
                {
                    "params": parameters,
                    "weight_decay": self.args.weight_decay if decays else 0.0,
                    "lr": self.args.learning_rate * scale[part],
                }
                for (part, decays), parameters in groups.items()
            ],
            **options,
        )
        return self.optimizer

    # The Trainer would save a whole model under renamed keys, and on resuming load what matches: nothing, silently.
    # Here a checkpoint holds exactly the trained tensors (LoRA, whole parts, or both) by their names in memory.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The trained tensors as one safetensors file, whole, also where they are shared out; all processes call it."""
        values = self.gathered()
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(values, str(folder / WEIGHTS), {"format": "pt"})

    def gathered(self) -> dict[str, torch.Tensor]:
        """The trained tensors, whole and on the CPU, by name; every process must call it, the main one may use it."""
        values: dict[str, Any] = trained(self.model)
        if self.is_deepspeed_enabled:
            state = self.accelerator.get_state_dict(self.model_wrapped) or {}
            values = {k: v for k, v in state.items() if k in values}
        whole = {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in values.items()}
        return {k: v.detach().cpu().contiguous() for k, v in whole.items()}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            load_trained(self.model, Path(self.state.best_model_checkpoint))


def trained(model: Any) -> dict[str, torch.Tensor]:
    """The tensors that training changes, by name; one that several layers share comes once."""
    wrapper = "_checkpoint_wrapped_module."  # FSDP's checkpointing puts it into names
    return {name.replace(wrapper, ""): p for name, p in model.named_parameters() if p.requires_grad}


def load_trained(model: Any, folder: Path) -> None:
    """Puts the trained tensors of a checkpoint into ``model``. Raises CheckpointError unless they fit one to one."""
    put_trained(model, load_file(str(folder / WEIGHTS)), str(folder / WEIGHTS))


def put_trained(model: Any, stored: dict[str, torch.Tensor], source: str) -> None:
    """Puts whole tensors into ``model``, sharded or not. Raises CheckpointError where one does not fit."""
    wanted = trained(model)
    odd = sorted(set(wanted) ^ set(stored)) or [k for k, v in stored.items() if v.shape != wanted[k].shape]
    if odd:
        raise CheckpointError(
            f"{source} does not fit this model: {len(odd)} tensors, first {odd[0]}",
            expected="a checkpoint of this run",
            do="start afresh with --set resume=never",
        )
    with torch.no_grad():
        for name, value in stored.items():
            target: Any = wanted[name]
            if hasattr(target, "full_tensor"):  # a shard of FSDP
                from torch.distributed.tensor import distribute_tensor

                value = distribute_tensor(value.to(target.device, target.dtype), target.device_mesh, target.placements)
            target.copy_(value)
