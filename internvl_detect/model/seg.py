"""The ``<SEG>`` token of a loaded InternVL2: one new input row and one new output row, beside the base's own tables.

The base's tensors keep names, shapes and values; the token's id is the first one beyond the embedding table. No text
becomes that token, for the tokenizer does not know it, and no answer in words can: the output row is learned from
(``train.mask``) and never chosen by, so the logits stay the base's. A turn of its own holds it. Not here: the head that
it prompts (``mask``).

    state = answerer.follow(state, [seg_turn(loaded, ids) for ids in said])     # state.hidden: at <SEG>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from internvl_detect.model.parts import base_of
from internvl_detect.model.prompts import encode_turns
from internvl_detect.questions import SEGMENT_QUESTION

PARTS = "mask_parts"  # the module on the InternVL that holds the rows and the head


class MaskParts(nn.Module):
    """What a mask needs beside the base: the two ``<SEG>`` rows (D,), float32, and the ``head``.

    ``about`` is what mask.json says.
    """

    def __init__(self, token: int, width: int, head: nn.Module) -> None:
        super().__init__()
        self.token, self.about = token, {"threshold": 0.5}
        self.seg_in = nn.Parameter(torch.zeros(width))
        self.seg_out = nn.Parameter(torch.zeros(width))
        self.head = head
        self.hooks: list[Any] = []

    @property
    def threshold(self) -> float:
        """Of the drawn probability, fitted on validation."""
        return float(self.about["threshold"])

    def widen(self, _: Any, args: tuple[torch.Tensor, ...], logits: torch.Tensor) -> torch.Tensor:
        """A forward hook of the output head for training: one more logit, that of ``<SEG>``."""
        more = args[0] @ self.seg_out.to(args[0].dtype)
        return torch.cat([logits, more[..., None].to(logits.dtype)], -1)


def parts_of(model: Any) -> MaskParts | None:
    """The mask parts on a model (bare or wrapped by PEFT), or None."""
    return getattr(base_of(model), PARTS, None)


def seg_id(loaded: Any) -> int | None:
    """The id of ``<SEG>`` in a loaded model, or None where it has no such row."""
    parts = parts_of(loaded.model)
    return parts.token if parts is not None else None


def seg_turn(loaded: Any, answer: str | Sequence[int]) -> list[int]:
    """Ids that go on from a prompt for an answer: the answer (text or ids), the question for a mask, and ``<SEG>``."""
    token = seg_id(loaded)
    if token is None:
        raise ValueError(f"{loaded.name} has no <SEG>: see Masker.needs_seg")
    return [*encode_turns(loaded.need_tokenizer(), answer, SEGMENT_QUESTION), token]


def add_seg(model: Any, head: nn.Module) -> MaskParts:
    """Put the rows and ``head`` on a model, in place, instead of those it had. A row starts as its table's mean."""
    base = base_of(model)
    for hook in old.hooks if (old := parts_of(model)) is not None else ():
        hook.remove()
    embed, out = base.get_input_embeddings(), base.get_output_embeddings()
    size, width = embed.weight.shape
    parts = MaskParts(size, width, head).to(embed.weight.device)
    with torch.no_grad():
        parts.seg_in.copy_(embed.weight.mean(0, dtype=torch.float32))
        parts.seg_out.copy_(out.weight.mean(0, dtype=torch.float32))
    base.add_module(PARTS, parts)
    places: list[torch.Tensor] = []

    def before(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        places[:] = [args[0] == size]
        return (args[0].masked_fill(places[0], 0), *args[1:])

    def after(_: Any, __: Any, found: torch.Tensor) -> torch.Tensor:
        return torch.where(places.pop()[..., None], parts.seg_in.to(found.dtype), found)

    parts.hooks = [embed.register_forward_pre_hook(before), embed.register_forward_hook(after)]
    return parts
