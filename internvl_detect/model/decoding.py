"""Greedy decoding in place: one step of fixed shape, which a GPU replays without the interpreter in between.

A step of 8B moves its weights once, 5 ms on an H100, while launching its kernels one by one takes ten times as long.
So the step reads and writes buffers that stay where they are (a static cache, its mask, the next token), is captured
as a CUDA graph once a batch size and length, and replayed. On a CPU the same step simply runs. Not here: the prefill,
what is asked (``answer``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import StaticCache

from internvl_detect.model.parts import base_of

LENGTHS = 256  # caches are a multiple of this long, so that a graph serves prompts of like length
LOOK_EVERY = 8  # steps between two looks at whether all answers have ended: a look waits for the device


class Decoder:
    """Buffers and one step for ``batch`` answers in ``length`` tokens, prompt and answer together.

    ``model`` is called as transformers' InternVL, bare or wrapped by PEFT; ``text_config`` is its language model's.
    """

    def __init__(self, model: Any, text_config: Any, batch: int, length: int, *, graph: bool) -> None:
        device = next(model.parameters()).device
        self.model, self.batch, self.length, self.graph = model, batch, length, graph
        self.cache = StaticCache(config=text_config, max_cache_len=length)
        self.token = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.mask = torch.zeros(batch, 1, 1, length, dtype=torch.bool, device=device)
        self.said = torch.zeros(batch, length, dtype=torch.long, device=device)
        self.recorded: Any = None

    @torch.inference_mode()
    def run(
        self,
        cache: Any,
        mask: torch.Tensor,
        first: torch.Tensor,
        stop: int,
        max_tokens: int,
        hear: Callable[[list[list[int]]], None] | None = None,
    ) -> list[list[int]]:
        """The tokens of each answer, ``first`` (B,) included, ended by ``stop`` or ``max_tokens`` long.

        ``cache`` and ``mask`` (B, T) are those of the prefill, padding on the left; the cache is left as it is.
        ``hear`` is given the answers so far every ``LOOK_EVERY`` steps.
        """
        start = mask.shape[1]
        self._fill(cache, mask, first)
        done = 1
        while done < max_tokens:
            turns = min(LOOK_EVERY, max_tokens - done)
            for _ in range(turns):
                self._next()
            done += turns
            if hear is not None:
                hear(self.said[:, start : start + done].tolist())
            if bool((self.said[:, start : start + done] == stop).any(1).all()):
                break
        answers = self.said[:, start : start + done].tolist()
        return [ids[: ids.index(stop)] if stop in ids else ids for ids in answers]

    def _fill(self, cache: Any, mask: torch.Tensor, first: torch.Tensor) -> None:
        start = mask.shape[1]
        for mine, given in zip(self.cache.layers, cache.layers, strict=True):
            if not mine.is_initialized:
                mine.lazy_initialization(given.keys, given.values)
            mine.keys[:, :, :start] = given.keys
            mine.values[:, :, :start] = given.values
            mine.cumulative_length.fill_(start)
        self.mask.zero_()
        self.mask[:, 0, 0, :start] = mask.bool()
        self.token.copy_(first[:, None])
        self.position.copy_(mask.sum(1, keepdim=True))
        self.slot.fill_(start)
        self.said[:, start] = first

    def _step(self) -> None:
        """One token for every answer: written to ``said``, and ready as the next step's input."""
        self.mask.index_fill_(3, self.slot, True)
        out = self.model(
            input_ids=self.token,
            attention_mask=self.mask,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.token.copy_(out.logits[:, -1].argmax(-1, keepdim=True))
        self.position.add_(1)
        self.slot.add_(1)
        self.said.index_copy_(1, self.slot, self.token)

    def _next(self) -> None:
        with _fixed_frequencies(self.model, self.length):
            if not self.graph:
                self._step()
            elif self.recorded is None:
                self._record()
            else:
                self.recorded.replay()

    def _record(self) -> None:
        """The first step is run, which also warms up; then the step is captured, which runs nothing."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self.recorded = graph


@contextmanager
def _fixed_frequencies(model: Any, length: int) -> Iterator[None]:
    """Dynamic rotary scaling looks at positions on the host, which no graph can; below its length it does nothing."""
    rotary = base_of(model).model.language_model.rotary_emb
    kind = rotary.rope_type
    if "dynamic" not in kind or length >= rotary.original_max_seq_len:
        yield
        return
    rotary.rope_type = "default"
    try:
        yield
    finally:
        rotary.rope_type = kind


def fits_graph(model: Any, length: int) -> bool:
    """Whether a step of this length can be captured: on a GPU, not quantized, and no rotary scaling in play."""
    base = base_of(model)
    rotary = base.model.language_model.rotary_emb
    still = rotary.rope_type == "default" or ("dynamic" in rotary.rope_type and length < rotary.original_max_seq_len)
    return next(base.parameters()).device.type == "cuda" and still and not getattr(base, "is_quantized", False)
