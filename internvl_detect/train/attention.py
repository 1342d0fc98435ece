"""Attention inside each sample of a packed row, without a mask: the cost is that of the samples alone.

A mask over a whole row costs the square of the row and keeps the fast kernels away. So every sample goes through sdpa
by itself, causal; on a GPU in half precision one kernel takes all samples where there are many (flash attention over
rows of variable length, part of torch). Nothing else of the model changes. Used while training (``collate`` gives the
lengths).
"""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from internvl_detect.model.parts import base_of

NAME = "sdpa_by_sample"
FEW = (
    4  # so many samples or fewer go one by one: sdpa's kernel is the faster one, until its launches are what takes time
)


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
    lengths = segments or (query.shape[2],)
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    if len(lengths) > FEW and half and _varlen() is not None and not options.get("dropout"):
        return _in_one_kernel(query, key, value, tuple(lengths), options.get("scaling")), None
    parts = zip(*(t.split(list(lengths), dim=2) for t in (query, key, value)), strict=True)
    done = [sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in parts]
    return torch.cat(done, dim=1), None


def use_by_sample(model: Any) -> None:
    """Make the language model of an InternVL (bare or wrapped by PEFT) attend by sample."""
    AttentionInterface.register(NAME, attend_by_sample)
    base_of(model).model.language_model.config._attn_implementation = NAME


def _in_one_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: tuple[int, ...], scale: float | None
) -> torch.Tensor:
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))  # (T, H, D)
    ends, longest = _ends(lengths, query.device), max(lengths)
    attend, options = _varlen()  # type: ignore[misc]
    if "enable_gqa" in options:
        options = {**options, "enable_gqa": k.shape[1] != q.shape[1]}
    else:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    if scale is not None and abs(scale - q.shape[-1] ** -0.5) > 1e-9:
        options = {**options, "scale": scale}
    return attend(q, k, v, ends, ends, longest, longest, **options)[None]


@functools.lru_cache(maxsize=8)
def _ends(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """(n + 1,) int32: where each sample begins, and the end; made once for all layers of a step."""
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)


@functools.cache
def _varlen() -> tuple[Any, dict[str, Any]] | None:
    """torch's function for rows of variable length with the options that make it causal; None where it lacks it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    return varlen_attn, options | ({"enable_gqa": True} if "enable_gqa" in known else {})
