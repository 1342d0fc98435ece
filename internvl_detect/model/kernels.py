"""Fused GPU kernels for a language model's norms, gated MLP and rotary positions, where liger-kernel is installed.

transformers writes each of them as several passes over memory; at 8B's widths those passes cost a GPU as much as a
third of its matrix products. Answers stay within rounding of the plain ones. Only the given model is changed; on a CPU
its modules go on as before. Not here: attention (``train.attention``), LoRA (``lora_layers``).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

from internvl_detect.errors import ConfigError
from internvl_detect.model.parts import base_of


def use_kernels(model: Any, choice: str = "auto") -> bool:
    """Put the kernels into the language model of an InternVL (bare or wrapped by PEFT); True when they are in.

    ``choice`` "auto" takes them where the model is on a GPU and liger-kernel is installed, "liger" insists and raises
    ConfigError otherwise, "none" leaves everything as it is.
    """
    if choice not in ("auto", "liger", "none"):
        raise ConfigError(f"kernels {choice!r}", expected="auto, liger or none")
    base = base_of(model)
    on_gpu = next(base.parameters()).device.type == "cuda"
    there = importlib.util.find_spec("liger_kernel") is not None
    if choice == "none" or (choice == "auto" and not (on_gpu and there)):
        return False
    if not on_gpu or not there:
        found = "the model is not on a GPU" if there else "liger-kernel is not installed"
        raise ConfigError(
            f"kernels=liger, and {found}",
            do="pip install 'internvl2-8bdetect[gpu]'" if not there else "use kernels=auto or a GPU",
        )
    for module in base.model.language_model.modules():
        fused = _FUSED.get(type(module))
        if fused is not None and (fused is not _Mlp or module.config.hidden_act == "silu"):
            module.__class__ = _subclass(fused, type(module))
    for library in (modeling_llama, modeling_qwen2):
        if not hasattr(library.apply_rotary_pos_emb, "plain"):
            library.apply_rotary_pos_emb = _rotary(library.apply_rotary_pos_emb)
    return True


class _Norm:
    """RMSNorm in one pass."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not hidden_states.is_cuda:
            return super().forward(hidden_states)  # type: ignore[misc]
        from liger_kernel.ops import LigerRMSNormFunction

        weight, eps = self.weight, self.variance_epsilon  # type: ignore[attr-defined]
        return LigerRMSNormFunction.apply(hidden_states, weight, eps, 0.0, "llama", False, None)


class _Mlp:
    """silu(gate) * up in one pass, whose backward computes it again instead of keeping it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_cuda:
            return super().forward(x)  # type: ignore[misc]
        from liger_kernel.ops import LigerSiLUMulFunction

        return self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x), 1.0, 1.0))  # type: ignore[attr-defined]


_FUSED: dict[type, type] = {
    modeling_llama.LlamaRMSNorm: _Norm,
    modeling_qwen2.Qwen2RMSNorm: _Norm,
    modeling_llama.LlamaMLP: _Mlp,
    modeling_qwen2.Qwen2MLP: _Mlp,
}
_MADE: dict[type, type] = {}


def _subclass(fused: type, plain: type[nn.Module]) -> type:
    if plain not in _MADE:
        _MADE[plain] = type(f"Fused{plain.__name__}", (fused, plain), {})
    return _MADE[plain]


def _rotary(plain: Any) -> Any:
    """The plain function on a CPU, the fused one on a GPU: the library's is one for all models of a process."""

    def apply(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, **options: Any) -> Any:
        if not q.is_cuda or options:
            return plain(q, k, cos, sin, **options)
        from liger_kernel.transformers.rope import liger_rotary_pos_emb

        return liger_rotary_pos_emb(q, k, cos, sin)

    apply.plain = plain  # type: ignore[attr-defined]
    return apply
