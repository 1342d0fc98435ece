"""Claims about decoding in place: the tokens are those of the ordinary cache, whatever the batch and its padding."""

from __future__ import annotations

import pytest
import torch

from internvl_detect.model.answer import Answerer, Request
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.decoding import Decoder, fits_graph
from internvl_detect.model.prompts import IMAGE_QUESTION, encode_question


@pytest.fixture(scope="module")
def answerer(tiny_folder):
    return Answerer(load_base(tiny_folder, device="cpu"))


def request(answerer, tiles, text=IMAGE_QUESTION):
    import numpy as np

    side = answerer.loaded.tile_px
    pixels = np.random.default_rng(tiles).integers(0, 255, (tiles, side, side, 3), dtype=np.uint8)
    per = answerer.loaded.tokens_per_tile
    ids = encode_question(answerer.tokenizer, text, tiles_per_image=[tiles] if tiles else [], tokens_per_tile=per)
    return Request(ids, pixels)


@pytest.mark.parametrize("tiles", [[2], [1, 4, 2], [0, 3]])
@pytest.mark.parametrize("max_tokens", [1, 9, 20])
def test_the_tokens_are_those_of_the_growing_cache(answerer, tiles, max_tokens):
    asked = [request(answerer, n, IMAGE_QUESTION if n else "Is it so?") for n in tiles]
    state = answerer.prefill(asked)
    first = state.first_logits.argmax(-1)
    decoder = Decoder(
        answerer.loaded.model, answerer.loaded.config.text_config, len(tiles), state.mask.shape[1] + 30, graph=False
    )
    for _ in range(2):  # buffers are used again
        fixed = decoder.run(state.cache, state.mask, first, answerer.stop, max_tokens)
    grown = answerer._step_by_step(answerer.prefill(asked), first, max_tokens)
    assert fixed == grown
    assert all(len(ids) <= max_tokens for ids in fixed)


def test_an_answer_ends_at_its_stop_and_the_others_go_on(answerer):
    asked = [request(answerer, 1), request(answerer, 3)]
    state = answerer.prefill(asked)
    first = state.first_logits.argmax(-1)
    config = answerer.loaded.config.text_config
    decoder = Decoder(answerer.loaded.model, config, 2, state.mask.shape[1] + 30, graph=False)
    whole = decoder.run(state.cache, state.mask, first, -1, 16)
    stop = whole[0][4]
    ended = decoder.run(state.cache, state.mask, first, stop, 16)
    assert ended == [ids[: ids.index(stop)] if stop in ids else ids for ids in whole]


def test_no_graph_is_made_on_a_cpu_nor_where_rotary_scaling_is_in_play(answerer):
    assert not fits_graph(answerer.loaded.model, 64)
    assert torch.device("cpu") == answerer.loaded.device
