"""Attention inside each sample of a packed row, without a mask: the cost is that of the samples alone.

A mask over a whole row costs the square of the row and keeps the fast kernels away; here every sample goes through
sdpa by itself, causal. Nothing else of the model changes. Used while training (``collate`` gives the lengths); where
flash-attn is installed, ``attention: flash_attention_2`` does the same in one kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "sdpa_by_sample"


def attend_by_sample(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    segments: tuple[int, ...] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """``query`` (1, H, T, D), ``key`` and ``value`` (1, H_kv, T, D); ``segments``: lengths that add up to T.

    Returns (1, T, H, D). Without ``segments`` the row is one sample.
    """
    lengths = list(segments or (query.shape[2],))
    parts = zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True)
    done = [sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in parts]
    return torch.cat(done, dim=1), None


def use_by_sample(model: Any) -> None:
    """Make the language model of an InternVL (bare or wrapped by PEFT) attend by sample."""
    AttentionInterface.register(NAME, attend_by_sample)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.model.language_model.config._attn_implementation = NAME
