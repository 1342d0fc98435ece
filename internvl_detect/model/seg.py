"""The ``<SEG>`` token of a loaded InternVL2: one new input row and one new output row, beside the base's own tables.

The base's tensors keep names, shapes and values; the token's id is the first one beyond the embedding table. No text
becomes that token: the tokenizer does not know it. Not here: the head that it prompts (``mask``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from internvl_detect.model.parts import base_of

TOKEN = "<SEG>"
PARTS = "mask_parts"  # the module on the InternVL that holds the rows and the head


class MaskParts(nn.Module):
    """What a mask needs beside the base: the two ``<SEG>`` rows (D,), float32, and the ``head``."""

    def __init__(self, token: int, width: int, head: nn.Module) -> None:
        super().__init__()
        self.token, self.threshold = token, 0.5
        self.seg_in = nn.Parameter(torch.zeros(width))
        self.seg_out = nn.Parameter(torch.zeros(width))
        self.head = head


def parts_of(model: Any) -> MaskParts | None:
    """The mask parts on a model (bare or wrapped by PEFT), or None."""
    return getattr(base_of(model), PARTS, None)


def seg_id(loaded: Any) -> int | None:
    """The id of ``<SEG>`` in a loaded model, or None where it has no such row."""
    parts = parts_of(loaded.model)
    return parts.token if parts is not None else None


def add_seg(model: Any, head: nn.Module) -> MaskParts:
    """Put the rows and ``head`` on a model, in place. The input row starts as the table's mean, the output row too."""
    base = base_of(model)
    embed, out = base.get_input_embeddings(), base.get_output_embeddings()
    size, width = embed.weight.shape
    parts = MaskParts(size, width, head).to(embed.weight.device)
    with torch.no_grad():
        parts.seg_in.copy_(embed.weight.float().mean(0))
        parts.seg_out.copy_(out.weight.float().mean(0))
    base.add_module(PARTS, parts)
    places: list[torch.Tensor] = []

    def before(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        places[:] = [args[0] == size]
        return (args[0].masked_fill(places[0], 0), *args[1:])

    def after(_: Any, __: Any, found: torch.Tensor) -> torch.Tensor:
        return torch.where(places.pop()[..., None], parts.seg_in.to(found.dtype), found)

    def widen(_: Any, args: tuple[torch.Tensor, ...], logits: torch.Tensor) -> torch.Tensor:
        more = args[0] @ parts.seg_out.to(args[0].dtype)
        return torch.cat([logits, more[..., None].to(logits.dtype)], -1)

    embed.register_forward_pre_hook(before)
    embed.register_forward_hook(after)
    out.register_forward_hook(widen)
    return parts
