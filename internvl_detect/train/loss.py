"""The loss on answer positions only, and the logits of each first answer token, from one forward.

The head runs on the hidden states whose next token is learned, never on the whole row: at 4096 tokens and 92,553
words full logits would cost 1.5 GB in fp32, and their gradient as much again. Not here: accumulation (``trainer``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from internvl_detect.media.tiles import MEAN, STD

IGNORE = -100


def normalised(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (N, S, S, 3) to (N, 3, S, S): (value / 255 - mean) / std in float32, as ``media.tiles.normalise``."""
    if pixels.dtype != torch.uint8:
        return pixels
    mean = torch.tensor(MEAN, dtype=torch.float32, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, dtype=torch.float32, device=pixels.device).view(1, 3, 1, 1)
    return ((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous().to(dtype)


def answer_logits(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(logits (K, V) in fp32, targets (K,)) of the K positions whose next token is part of an answer.

    K may be 0; the logits then still hang on the model's graph, so that every process can run backward.
    """
    targets = batch["shift_labels"]
    keep = targets != IGNORE
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    if "pixel_values" in batch:
        inputs["pixel_values"] = normalised(batch["pixel_values"])
    if "segments" in batch:
        inputs["segments"] = batch["segments"]
    logits = model(**inputs, use_cache=False, logits_to_keep=keep).logits
    return logits.float(), targets[keep]


def answer_loss(
    model: Any, batch: dict[str, Any], n_tokens: Tensor | int | None = None, *, verdict_weight: float = 1.0
) -> Tensor:
    """Summed cross entropy of the batch's answer tokens over ``n_tokens`` (None: over their own number)."""
    logits, targets = answer_logits(model, batch)
    return summed(logits, targets, batch, verdict_weight) / (n_tokens if n_tokens is not None else max(len(targets), 1))


def summed(logits: Tensor, targets: Tensor, batch: dict[str, Any], verdict_weight: float) -> Tensor:
    """The sum over answer tokens; the first one of a sample with a known truth counts ``verdict_weight`` times."""
    total = F.cross_entropy(logits, targets, reduction="sum")
    if verdict_weight != 1.0:
        at = first_answers(batch)[:, 0]
        total = total + (verdict_weight - 1) * F.cross_entropy(logits[at], targets[at], reduction="sum")
    return total


def first_answers(batch: dict[str, Any]) -> Tensor:
    """(n, 3): index into the K positions of ``answer_logits``, truth and tag of every sample with a known truth."""
    first = batch["first_answer"]
    keep = (batch["shift_labels"] != IGNORE).to(torch.int64)
    number = keep.flatten().cumsum(0) - 1  # the position's number among the kept ones
    at = first[:, 0] * keep.shape[1] + first[:, 1]
    return torch.stack([number[at], first[:, 2], first[:, 3]], dim=1) if len(first) else first[:, :3]
