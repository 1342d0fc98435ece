"""Adapters trained with the original code, in native names: the same numbers, q, k and v each with their rows of B.

Two stored forms: a PEFT folder around the language model (or the whole InternVLChatModel), and LoRA layers inside a
full checkpoint. Conversion is exact: (B A) x row by row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch
from transformers import InternVLConfig

from internvl_detect.errors import AdapterError, CheckpointError
from internvl_detect.model.convert import module_targets

_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
_NATIVE = re.compile(r"(^|\.)model\.(language_model\.layers|vision_tower)\.")


def is_native(names: Iterable[str]) -> bool:
    """Whether LoRA tensors are already in the names of transformers' InternVL."""
    return any(_NATIVE.search(name) for name in names)


def to_native(tensors: Iterable[tuple[str, torch.Tensor]], config: InternVLConfig) -> dict[str, torch.Tensor]:
    """``{native module + ".lora_A" | ".lora_B": tensor}`` from an original adapter's tensors.

    Raises AdapterError for a tensor that is no LoRA factor of an InternVL2 model.
    """
    factors: dict[str, torch.Tensor] = {}
    for name, module, side, tensor in _parsed(tensors):
        try:
            for target, rows in module_targets(_plain(module), config):
                whole = side == "A" or rows is None
                factors[f"{target}.lora_{side}"] = tensor if whole else rows(tensor).contiguous()
        except (CheckpointError, RuntimeError) as error:
            raise AdapterError(
                f"the adapter's {name} does not fit this base ({error})", do="give the base that it was trained on"
            ) from error
    return factors


def strip_native(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The same from a PEFT folder in native names."""
    return {f"{m.removeprefix('base_model.model.')}.lora_{side}": tensor for _, m, side, tensor in _parsed(tensors)}


def _parsed(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, str, str, torch.Tensor]]:
    """(name, module, "A" or "B", tensor) of each; raises AdapterError for a tensor that is no LoRA factor."""
    for name, tensor in tensors:
        found = _KEY.fullmatch(name)
        if found is None or not tensor.is_floating_point():
            raise AdapterError(
                f"the adapter holds {name!r}", expected="lora_A and lora_B weights only", do="use a plain LoRA adapter"
            )
        yield name, found["module"], found["side"], tensor


def _plain(module: str) -> str:
    """An original module's name as in the checkpoint, whichever model PEFT was wrapped around."""
    if module.startswith(("language_model.", "vision_model.")):
        return module.replace(".base_model.model.", ".", 1)
    module = module.removeprefix("base_model.model.")
    if module.startswith(("language_model.", "vision_model.")):
        return module
    return ("vision_model." if module.startswith("encoder.") else "language_model.") + module
