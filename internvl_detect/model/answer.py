"""Ask a loaded model: a batch of prompts with their tiles through one prefill, then words and further turns from the
same cache.

Prompts of different lengths are padded on the left, and so is each further turn. Not here: reading files or deciding
(``detect``), the prompt's wording (``prompts``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from internvl_detect.errors import DataError
from internvl_detect.media.tiles import MEAN, STD
from internvl_detect.model.checkpoint import LoadedModel
from internvl_detect.model.decoding import LENGTHS, Decoder, fits_graph
from internvl_detect.model.parts import base_of
from internvl_detect.model.score import log_odds
from internvl_detect.model.tokenizer import encode_text, special_id
from internvl_detect.model.yes_no import YesNo, yes_no_sets

KIND_PHRASES = {
    "ai_generated": ". The picture was generated",
    "tampered": ". A part was edited",
    "deepfake": ". The face was swapped",
}
# Tiles that go through the ViT together. On a CPU more of them fall out of its caches (measured: benchmarks/detect.py).
TILES_AT_ONCE = {"cpu": 4}
Tell = Callable[[list[str]], None]  # hears the answers so far, one a row
Hear = Callable[[list[list[int]]], None]


@dataclass(frozen=True)
class Request:
    """One question: its token ids, and the tiles (N, S, S, 3) uint8 that its ``<IMG_CONTEXT>`` tokens stand for."""

    input_ids: Sequence[int]
    tiles: np.ndarray


@dataclass
class Prefilled:
    """A batch after its prefill: log odds of yes (B,), and what is needed to go on.

    ``hidden`` (B, D) are the last position's states after the final norm; ``tiles`` what the projector made of each
    request's tiles, (T, n, D).
    """

    log_odds: torch.Tensor
    first_logits: torch.Tensor
    mask: torch.Tensor
    cache: Any
    hidden: torch.Tensor
    tiles: list[torch.Tensor]

    def select(self, rows: Sequence[int]) -> Prefilled:
        """These rows alone, with a cache of their own."""
        index = torch.tensor(list(rows), device=self.mask.device)
        cache = DynamicCache()
        for layer, held in enumerate(self.cache.layers):
            cache.update(held.keys[index], held.values[index], layer)
        tiles = [self.tiles[row] for row in rows]
        return Prefilled(
            self.log_odds[index], self.first_logits[index], self.mask[index], cache, self.hidden[index], tiles
        )


class Answerer:
    """Holds a model and its token sets; every method works on a batch, without gradients."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.tokenizer = loaded.need_tokenizer()
        self.sets: YesNo = yes_no_sets(self.tokenizer)
        self.stop = special_id(self.tokenizer, "<|im_end|>")
        self.pad = self.tokenizer.pad_token_id or 0
        mean, std = (torch.tensor(v, device=loaded.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        self._mean, self._std = mean, std
        self._decoder: Decoder | None = None

    @torch.inference_mode()
    def prefill(self, requests: Sequence[Request], *, keep_cache: bool = True) -> Prefilled:
        """One forward over all requests; logits of the last position only."""
        ids, mask = self._padded([r.input_ids for r in requests])
        tiles = [r.tiles for r in requests]
        seen = self._seen(tiles)
        more: dict[str, Any] = {}
        if seen is not None:
            more["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=seen)}
        parts = list(seen.split([len(t) for t in tiles])) if seen is not None else [mask.new_zeros(0)] * len(tiles)
        out, hidden = self._forward(ids, mask, use_cache=keep_cache, **more)
        return self._state(out, hidden, mask, parts)

    @torch.inference_mode()
    def follow(self, state: Prefilled, turns: Sequence[Sequence[int]]) -> Prefilled:
        """Go on from a prefilled batch: these further ids of each row, as a fresh prefill of everything would be.

        The cache is extended in place, so ``state`` is used up. Raises DataError for a conversation that is too long.
        """
        ids, real = self._padded(turns, len_before=int(state.mask.sum(1).max()))
        mask = torch.cat([state.mask, real], 1)
        out, hidden = self._forward(ids, mask, past_key_values=state.cache, use_cache=True)
        return self._state(out, hidden, mask, state.tiles)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, **more: Any) -> tuple[Any, torch.Tensor]:
        """The model's answer on the last of ``ids``, and the state (B, D) that its output head was given."""
        heard: list[torch.Tensor] = []
        head = base_of(self.loaded.model).get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
        try:
            out = self.loaded.model(
                input_ids=ids,
                attention_mask=None if ids.shape == mask.shape and bool(mask.all()) else mask,
                position_ids=_positions(mask)[:, -ids.shape[1] :],
                logits_to_keep=1,
                **more,
            )
        finally:
            hook.remove()
        return out, heard[-1][:, -1]

    def _state(self, out: Any, hidden: torch.Tensor, mask: torch.Tensor, tiles: list[torch.Tensor]) -> Prefilled:
        logits = out.logits[:, -1]
        return Prefilled(log_odds(logits, self.sets), logits, mask, out.past_key_values, hidden, tiles)

    @torch.inference_mode()
    def words(self, state: Prefilled, max_tokens: int = 64, tell: Tell | None = None) -> list[str]:
        """Greedy answers that go on from the prefill. Two runs give the same words; see ``said`` for ``tell``."""
        return [self.text(ids) for ids in self.said(state, max_tokens, tell)]

    @torch.inference_mode()
    def said(self, state: Prefilled, max_tokens: int = 64, tell: Tell | None = None) -> list[list[int]]:
        """The token ids of ``words``. ``tell`` is given the texts so far, again and again while they grow.

        The cache is then as it was before, so the conversation can go on with ``follow``.
        """
        first = state.first_logits.argmax(-1)
        length = -(-(state.mask.shape[1] + max_tokens) // LENGTHS) * LENGTHS
        hear: Hear | None = None
        if tell is not None:
            told = tell
            hear = lambda answers: told([self.text(ids) for ids in self._ended(answers)])  # noqa: E731
        if fits_graph(self.loaded.model, length):
            decoder = self._decoder
            if decoder is None or (decoder.model, decoder.batch, decoder.length) != (
                *(self.loaded.model, len(first)),
                length,
            ):
                self._decoder = None  # its buffers go before new ones come
                text = self.loaded.config.text_config
                self._decoder = decoder = Decoder(self.loaded.model, text, len(first), length, graph=True)
            return decoder.run(state.cache, state.mask, first, self.stop, max_tokens, hear)
        answers = self._step_by_step(state, first, max_tokens, hear)
        if (more := state.cache.get_seq_length() - state.mask.shape[1]) > 0:
            state.cache.crop(-more)
        return answers

    def text(self, ids: Sequence[int]) -> str:
        """The words of an answer's ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _ended(self, answers: list[list[int]]) -> list[list[int]]:
        return [ids[: ids.index(self.stop)] if self.stop in ids else ids for ids in answers]

    def _step_by_step(
        self, state: Prefilled, token: torch.Tensor, max_tokens: int, hear: Hear | None = None
    ) -> list[list[int]]:
        mask, cache = state.mask, state.cache
        said = [token]
        done = token == self.stop
        for _ in range(max_tokens - 1):
            if hear is not None:
                hear(torch.stack(said, 1).tolist())
            if bool(done.all()):
                break
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            out = self.loaded.model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=mask.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            token = torch.where(done, torch.full_like(token, self.stop), out.logits[:, -1].argmax(-1))
            said.append(token)
            done = done | (token == self.stop)
        answers = torch.stack(said, 1).tolist()
        if hear is not None:
            hear(answers)
        return self._ended(answers)

    @torch.inference_mode()
    def kinds(self, state: Prefilled, rows: Sequence[int]) -> list[str]:
        """The likeliest kind of fake for each of ``rows`` of a prefilled batch: ai_generated, tampered or deepfake.

        Compares log P("Yes" + phrase) per token over the phrases of KIND_PHRASES, on a copy of the cache.
        """
        if not rows:
            return []
        yes = self.sets.yes[int(state.first_logits[:, list(self.sets.yes)].mean(0).argmax())]
        names = list(KIND_PHRASES)
        phrases = [[yes, *encode_text(self.tokenizer, phrase)] for phrase in KIND_PHRASES.values()]
        longest = max(map(len, phrases))
        ids = torch.tensor([p + [self.pad] * (longest - len(p)) for p in phrases], device=state.mask.device)
        real = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in phrases], device=state.mask.device)
        chosen = state.select(rows)
        cache = chosen.cache
        cache.batch_repeat_interleave(len(names))
        before = chosen.mask.repeat_interleave(len(names), 0)
        tail = real.repeat(len(rows), 1)
        mask = torch.cat([before, tail], 1)
        out = self.loaded.model(
            input_ids=ids.repeat(len(rows), 1),
            attention_mask=mask,
            position_ids=_positions(mask)[:, -longest:],
            past_key_values=cache,
            use_cache=True,
        )
        logs = out.logits[:, :-1].float().log_softmax(-1)  # (rows x kinds, longest - 1, V)
        wanted = ids.repeat(len(rows), 1)[:, 1:]
        each = logs.gather(-1, wanted[..., None])[..., 0] * tail[:, 1:]
        score = (each.sum(1) / tail[:, 1:].sum(1)).view(len(rows), len(names))
        return [names[i] for i in score.argmax(1).tolist()]

    def _padded(self, prompts: Sequence[Sequence[int]], len_before: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, prompts))
        limit = self.loaded.config.text_config.max_position_embeddings
        if len_before + longest > limit:
            raise DataError(
                f"a prompt of {len_before + longest} tokens",
                expected=f"at most {limit} for this model",
                do="use fewer tiles or frames",
            )
        ids = [[self.pad] * (longest - len(p)) + list(p) for p in prompts]
        mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
        device = self.loaded.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _seen(self, tiles: Sequence[np.ndarray]) -> torch.Tensor | None:
        """What the ViT and projector make of all tiles (T, n, D), some at a time: memory stays bounded."""
        filled = [t for t in tiles if len(t)]
        if not filled:
            return None
        whole = np.concatenate(filled)
        inner = base_of(self.loaded.model)
        step = TILES_AT_ONCE.get(self.loaded.device.type, 64)
        features = [
            inner.get_image_features(self._pixels(whole[at : at + step]), return_dict=True).pooler_output
            for at in range(0, len(whole), step)
        ]
        return torch.cat(features)

    def _pixels(self, tiles: np.ndarray) -> torch.Tensor:
        # uint8 goes to the device, a quarter of the bytes; the arithmetic is the reference's, step by step.
        whole = torch.from_numpy(tiles).to(self.loaded.device)
        scaled = whole.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return scaled.sub_(self._mean).div_(self._std).to(self.loaded.dtype)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions that start at the first real token; padding gets 0."""
    return (mask.cumsum(1) - 1).clamp_(min=0)
