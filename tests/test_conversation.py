"""Claims about a conversation in one cache: going on is the same as beginning anew with everything that was said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.model.answer import Answerer, Request
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.decoding import Decoder
from internvl_detect.model.prompts import encode_conversation, encode_question, encode_turns
from internvl_detect.questions import IMAGE_QUESTION, tagged

SECOND = tagged("photoshop", "Was this picture edited?")


@pytest.fixture(scope="module")
def answerer(tiny_folder):
    return Answerer(load_base(tiny_folder))


def tiles_of(answerer, n):
    side = answerer.loaded.tile_px
    return np.random.default_rng(n).integers(0, 255, (n, side, side, 3), dtype=np.uint8)


def begun(answerer, counts, questions):
    requests = []
    for n, question in zip(counts, questions, strict=True):
        per = answerer.loaded.tokens_per_tile
        ids = encode_question(answerer.tokenizer, question, tiles_per_image=[n], tokens_per_tile=per)
        requests.append(Request(ids, tiles_of(answerer, n)))
    return requests


@pytest.mark.parametrize("counts", [[1], [1, 4, 2], [2, 2]])
def test_following_up_gives_the_logits_of_a_fresh_prefill_of_the_whole_conversation(answerer, counts):
    questions = [IMAGE_QUESTION, "Is it so?", "Is this picture what it seems to be, or is it not?"][: len(counts)]
    requests = begun(answerer, counts, questions)
    first = [encode_turns(answerer.tokenizer, "Yes." if n % 2 else "No.", SECOND[: 20 * n]) for n in counts]
    second = [encode_turns(answerer.tokenizer, [5, 9, 11][:n], "Where?" * n) for n in counts]
    state = answerer.follow(answerer.follow(answerer.prefill(requests), first), second)
    for row, request in enumerate(requests):
        whole = [*request.input_ids, *first[row], *second[row]]
        alone = answerer.prefill([Request(whole, request.tiles)])
        assert torch.allclose(state.first_logits[row], alone.first_logits[0], atol=1e-5)
        assert torch.allclose(state.hidden[row], alone.hidden[0], atol=1e-5)
        assert torch.allclose(state.tiles[row], alone.tiles[0], atol=1e-5)
    alone = [
        answerer.prefill([Request([*r.input_ids, *a, *b], r.tiles)])
        for r, a, b in zip(requests, first, second, strict=True)
    ]
    wanted = [answerer.said(each, 12)[0] for each in alone]
    fixed = Decoder(
        answerer.loaded.model, answerer.loaded.config.text_config, len(counts), state.mask.shape[1] + 20, graph=False
    )
    assert fixed.run(state.cache, state.mask, state.first_logits.argmax(-1), answerer.stop, 12) == wanted
    assert answerer.said(state, 12) == wanted


def test_words_leave_the_conversation_where_it_was(answerer):
    requests = begun(answerer, [1, 3], [IMAGE_QUESTION, "So?"])
    turn = [encode_turns(answerer.tokenizer, "No.", SECOND)] * 2
    plain = answerer.follow(answerer.prefill(requests), turn)
    state = answerer.prefill(requests)
    assert answerer.words(state, 9) == answerer.words(state, 9)
    assert torch.equal(answerer.follow(state, turn).first_logits, plain.first_logits)


def test_words_that_are_heard_as_they_come_are_the_words(answerer):
    requests = begun(answerer, [1, 3], [IMAGE_QUESTION, "So?"])
    state = answerer.prefill(requests)
    heard: list[list[str]] = []
    assert answerer.words(state, 20, heard.append) == heard[-1] == answerer.words(state, 20)
    assert len(heard) > 1 and all(len(texts) == 2 for texts in heard)
    decoder = Decoder(answerer.loaded.model, answerer.loaded.config.text_config, 2, 512, graph=False)
    seen: list[list[list[int]]] = []
    said = decoder.run(state.cache, state.mask, state.first_logits.argmax(-1), answerer.stop, 20, seen.append)
    assert len(seen) > 1 and all(now[: len(ids)] == ids for now, ids in zip(seen[-1], said, strict=True))


@given(question=st.text(min_size=1, max_size=40).filter(str.strip), yes=st.booleans())
def test_turns_are_those_of_the_whole_conversation_and_a_stranger_s_text_adds_no_marker(answerer, question, yes):
    tokenizer, answer = answerer.tokenizer, "Yes." if yes else "No."
    first = encode_question(tokenizer, "Is it?", tiles_per_image=[1], tokens_per_tile=4)
    whole = encode_conversation(
        tokenizer,
        [("user", "<image>\nIs it?"), ("assistant", answer), ("user", question)],
        tiles_per_image=[1],
        tokens_per_tile=4,
    )
    assert first + encode_turns(tokenizer, answer, question) == whole.input_ids
