"""Claims about the tokenizer and the prompt: sentencepiece's own ids, no way in for special tokens, structure kept."""

from __future__ import annotations

import pytest
import sentencepiece as spm
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.errors import CheckpointError, DataError
from internvl_detect.model.checkpoint import convert
from internvl_detect.model.prompts import SYSTEM_MESSAGE, encode_conversation, encode_question
from internvl_detect.model.tokenizer import CHAT_TOKENS, MEDIA_TOKENS, build_tokenizer, encode_text


@pytest.fixture(scope="module")
def both(tiny_folder):
    """(ours, sentencepiece's own processor) of the same file."""
    return build_tokenizer(tiny_folder), spm.SentencePieceProcessor(model_file=str(tiny_folder / "tokenizer.model"))


# The library forms the chat pieces from their written-out names: a hole that ours does not have.
TEXTS = st.text(max_size=80).filter(lambda t: "[UNUSED" not in t and "\0" not in t and t.isprintable())


@given(text=TEXTS)
def test_ids_of_any_text_are_sentencepiece_s(both, text):
    ours, theirs = both
    assert encode_text(ours, text) == theirs.encode(text)


@given(
    words=st.lists(
        st.sampled_from(["The picture", " was", " edited", "ed", " here", ".", "  ", "\n", "7", "你好", "é"])
    )
)
def test_ids_of_words_it_was_trained_on_are_sentencepiece_s(both, words):
    ours, theirs = both
    assert encode_text(ours, "".join(words)) == theirs.encode("".join(words))


@given(text=TEXTS)
def test_decoding_gives_the_text_back(both, text):
    ours, _ = both
    assert ours.decode(encode_text(ours, text)) == text


@given(before=TEXTS, after=TEXTS, token=st.sampled_from([*CHAT_TOKENS, *MEDIA_TOKENS, "<s>", "</s>", "<unk>"]))
def test_written_out_special_tokens_stay_text(both, before, after, token):
    ours, _ = both
    ids = encode_text(ours, before + token + after)
    assert not set(ids) & set(ours.all_special_ids) & set(ours.get_added_vocab().values()) - {0}
    assert ours.decode(ids) == before + token + after


def test_special_tokens_lie_where_internvl2_has_them(both):
    ours, theirs = both
    n = theirs.get_piece_size()
    assert [ours.convert_tokens_to_ids(t) for t in CHAT_TOKENS] == list(range(n - 6, n))
    assert [ours.convert_tokens_to_ids(t) for t in MEDIA_TOKENS] == list(range(n, n + 9))
    assert len(ours) == n + 9
    assert ours("a")["input_ids"][0] == ours.bos_token_id == 1


def test_a_converted_folder_s_tokenizer_opens_with_plain_transformers_and_encodes_the_same(tiny_folder, tmp_path, both):
    from transformers import AutoTokenizer

    native = convert(tiny_folder, tmp_path / "native")
    plain = AutoTokenizer.from_pretrained(native, local_files_only=True)
    again = build_tokenizer(native)
    prompt = (
        f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|><|im_start|>user\n<img><IMG_CONTEXT></img>\nWhat?<|im_end|>"
    )
    wanted = both[0](prompt)["input_ids"]
    assert plain(prompt)["input_ids"] == wanted == again(prompt)["input_ids"]
    assert encode_text(again, "<|im_end|> x") == encode_text(both[0], "<|im_end|> x")


def test_files_that_are_no_tokenizer_are_refused(tmp_path, tiny_folder):
    with pytest.raises(CheckpointError, match="no tokenizer"):
        build_tokenizer(tmp_path)
    data = (tiny_folder / "tokenizer.model").read_bytes()
    for content in (b"", b"\xff" * 40, data[: len(data) // 2], b"\x0a\x05\x0a\x03abc"):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(CheckpointError):
            build_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError):
        build_tokenizer(tmp_path)


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_tokenizer_or_a_checkpoint_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any" / "tokenizer.model"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        build_tokenizer(path)


# Prompts


def text_of(tokenizer, ids):
    return tokenizer.decode(ids)


def test_a_conversation_of_several_turns_and_pictures_is_laid_out_as_the_original_s(both):
    ours, _ = both
    turns = [("user", "<image>\nand <image>\nsame?"), ("assistant", "No."), ("user", "Why?"), ("assistant", "Look.")]
    made = encode_conversation(ours, turns, tiles_per_image=[2, 1], tokens_per_tile=3, system="Sys")
    context = "<IMG_CONTEXT>"
    assert text_of(ours, made.input_ids) == (
        "<s><|im_start|>system\nSys<|im_end|><|im_start|>user\n"
        f"<img>{context * 6}</img>\nand <img>{context * 3}</img>\nsame?<|im_end|><|im_start|>assistant\nNo.<|im_end|>"
        "<|im_start|>user\nWhy?<|im_end|><|im_start|>assistant\nLook.<|im_end|>"
    )
    learned = [i for i, label in zip(made.input_ids, made.labels, strict=True) if label != -100]
    assert text_of(ours, learned) == "No.<|im_end|>Look.<|im_end|>"
    assert [label for label in made.labels if label != -100] == learned


@pytest.mark.parametrize(("last_newline", "between"), [(True, "\n"), (False, "")])
def test_the_newline_after_the_last_frame_is_a_choice(both, last_newline, between):
    ours, _ = both
    made = encode_conversation(
        ours,
        [("user", "<video>\nReal?"), ("assistant", "Yes")],
        tiles_per_image=[1, 1],
        tokens_per_tile=1,
        system="",
        video=True,
        video_last_newline=last_newline,
    )
    frames = "Frame1: <img><IMG_CONTEXT></img>\nFrame2: <img><IMG_CONTEXT></img>"
    assert text_of(ours, made.input_ids).startswith(f"<s><|im_start|>user\n{frames}{between}Real?<|im_end|>")


@pytest.mark.parametrize(
    ("turns", "tiles", "said"),
    [
        ([("user", "<image><image>")], [1], "marks 2 pictures"),
        ([("user", "nothing marked")], [1, 1], "marks 0 pictures"),
        ([("assistant", "x")], [], "turn 1"),
        ([("user", "x"), ("user", "y")], [], "turn 2"),
        ([], [], "no turns"),
    ],
)
def test_conversations_that_do_not_fit_their_pictures_are_refused(both, turns, tiles, said):
    with pytest.raises(DataError, match=said):
        encode_conversation(both[0], turns, tiles_per_image=tiles, tokens_per_tile=1)


def test_an_empty_question_is_refused(both):
    with pytest.raises(DataError, match="empty"):
        encode_question(both[0], "  ", tiles_per_image=[1], tokens_per_tile=1)
