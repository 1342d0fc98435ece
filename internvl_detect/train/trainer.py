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

from internvl_detect.config import ScaleSection
from internvl_detect.errors import CheckpointError
from internvl_detect.train.loss import answer_loss
from internvl_detect.train.validation import Scored, Validator, raise_broken

WEIGHTS = "trainable.safetensors"
PARTS = {"vision": ".vision_tower.", "projector": ".multi_modal_projector."}


def part_of(parameter_name: str) -> str:
    """language, vision or projector: where a parameter of InternVL belongs; the head counts as language."""
    return next((part for part, mark in PARTS.items() if mark in f".{parameter_name}"), "language")


class DetectionTrainer(Trainer):
    """A Trainer for batches of ``collate.Collator``. ``validator`` None: no evaluation."""

    def __init__(self, *args: Any, validator: Validator | None, lr_scale: ScaleSection, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.validator, self.lr_scale = validator, lr_scale
        self.last_scored: Scored | None = None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross entropy over the answer tokens of the whole optimiser step, all processes included."""
        if "broken" in inputs:
            raise_broken(inputs)
        loss = answer_loss(model, inputs, num_items_in_batch)
        if num_items_in_batch is not None and self.args.world_size > 1:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, None) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Detection metrics of the validation choice, each named eval_..."""
        if self.validator is None:
            return {}
        self.last_scored = self.validator(self.model_wrapped, self.accelerator)
        metrics = {f"{metric_key_prefix}_{k}": float(v) for k, v in self.last_scored.metrics().items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser; with a group a part where ``lr_scale`` asks for different rates."""
        scale = self.lr_scale.model_dump()
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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        values = trained(self.model)
        if state_dict is not None:  # gathered from the shards of all processes
            values = {k: v for k, v in state_dict.items() if k in values}
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in values.items()}, str(folder / WEIGHTS), {"format": "pt"}
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            load_trained(self.model, Path(self.state.best_model_checkpoint))


def trained(model: Any) -> dict[str, torch.Tensor]:
    """The tensors that training changes, by name; one that several layers share comes once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def load_trained(model: Any, folder: Path) -> None:
    """Puts the trained tensors of a checkpoint into ``model``. Raises CheckpointError unless they fit one to one."""
    wanted = trained(model)
    stored = load_file(str(folder / WEIGHTS))
    odd = sorted(set(wanted) ^ set(stored)) or [k for k, v in stored.items() if v.shape != wanted[k].shape]
    if odd:
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit this model: {len(odd)} tensors, first {odd[0]}",
            expected="a checkpoint of this run",
            do="start afresh with --set resume=never",
        )
    with torch.no_grad():
        for name, value in stored.items():
            wanted[name].copy_(value)
