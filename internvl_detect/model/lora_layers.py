"""LoRA layers as they are run: one A over q, k and v where the original has it, and no pass over memory too many.

PEFT gives q, k and v an A each, casts a bfloat16 input to float32 before its dropout, and writes B's product, its
scaled copy and the sum each to memory. Here the input stays in its type, q, k and v share one dropped input, and the
product is added by the matrix multiplication itself. In float32 the answers are PEFT's. Sharing A makes training
equivalent to the original, whose query-key-value layer is one module (same loss, same gradients, 37.7 M instead of
50 M parameters for 8B at rank 16). Checkpointing is safe: a layer's recomputation calls q, k and v in the same order
under the same random state.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn


class LeanLinear(Linear):
    """PEFT's LoRA layer over ``nn.Linear`` with a shorter way for the ordinary case: one adapter, not merged."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """``x`` (..., in_features) to (..., out_features) in the type of the base layer's answer."""
        name = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        plain = name in self.lora_A and name not in self.lora_variant and not self.lora_bias[name]
        sharded = plain and hasattr(self.lora_A[name].weight, "ds_id")  # ZeRO 3 gathers whole modules only
        if not plain or sharded or self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1])
        result = self.base_layer(rows)
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        kind = result.dtype
        low = nn.functional.linear(self.lora_dropout[name](rows).to(kind), a.to(kind))
        result.addmm_(low, b.to(kind).t(), alpha=self.scaling[name])  # in place: nothing needs the base's answer alone
        return result.view(*x.shape[:-1], b.shape[0])


def use_lean(model: nn.Module) -> None:
    """Let every LoRA layer of PEFT's over ``nn.Linear`` take the short way; quantized ones stay as they are."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = LeanLinear


class SharedDropout(nn.Module):
    """Dropout drawn by q and used again by k and v of the same layer and call, which are given the same input.

    The last of them lets go of it: kept, the inputs of all layers would take 1 GB for 8B at 4096 tokens.
    """

    def __init__(self, p: float, leader: SharedDropout | None = None) -> None:
        super().__init__()
        self.p = p
        self._dropped: torch.Tensor | None = None
        self._leader = [leader or self]  # in a list, so that the leader is no submodule of its followers
        self._followers = self._waiting = 0
        if leader is not None:
            leader._followers += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of any shape, scaled by 1 / (1 - p) where kept; unchanged in evaluation."""
        if not self.training or self.p == 0.0:
            return x
        leader = self._leader[0]
        if leader is self:
            self._dropped = nn.functional.dropout(x, self.p, training=True)
            self._waiting = self._followers
        else:
            leader._waiting -= 1
        dropped = leader._dropped
        if dropped is None or dropped.shape != x.shape:
            raise RuntimeError("k or v was called before q of the same layer")
        if leader._waiting <= 0:
            leader._dropped = None
        return dropped

    def extra_repr(self) -> str:
        return f"p={self.p}, {'leads' if self._leader[0] is self else 'follows'}"


def share_qkv(model: nn.Module, adapter: str = "default") -> int:
    """Make k and v of every attention use q's lora_A and dropped input; returns how many attentions were tied."""
    tied = 0
    for module in model.modules():
        parts: list[Any] = [getattr(module, f"{p}_proj", None) for p in "qkv"]
        if not all(adapter in getattr(part, "lora_A", {}) for part in parts):
            continue
        q, *others = parts
        p = getattr(q.lora_dropout[adapter], "p", 0.0)
        leader = SharedDropout(p)
        q.lora_dropout[adapter] = leader
        for other in others:
            other.lora_A[adapter] = q.lora_A[adapter]
            other.lora_dropout[adapter] = SharedDropout(p, leader)
        tied += 1
    return tied
