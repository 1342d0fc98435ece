"""Claims about folders for servers of others: by transformers' own rules they make our very prompt of a chat."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer
from transformers.models.internvl.processing_internvl import InternVLProcessor

from internvl_detect.media.image import open_image
from internvl_detect.media.tiles import cut_tiles
from internvl_detect.model.checkpoint import convert, load_base
from internvl_detect.model.prompts import encode_question


@pytest.fixture(scope="module")
def served(tiny_folder, tmp_path_factory):
    return convert(tiny_folder, tmp_path_factory.mktemp("served") / "tiny")


def rendered(served, content):
    tokenizer = AutoTokenizer.from_pretrained(served)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    return tokenizer, tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_a_chat_about_pictures_becomes_the_prompt_of_this_program(served, photo):
    loaded = load_base(served)
    pictures = [open_image(photo("a.png", (200, 120), 1)).rgb, open_image(photo("b.png", (56, 56), 2)).rgb]
    counts = [len(cut_tiles(p, loaded.settings.tiles)) for p in pictures]
    assert loaded.settings.tiles.thumbnail and counts[0] > 1 and counts[1] == 1
    for shown, tiles, video in ((pictures[:1], counts[:1], False), (pictures, counts, True)):
        content = []
        for i in range(len(shown)):
            content += ([{"type": "text", "text": f"Frame{i + 1}: "}] if video else []) + [{"type": "image"}]
        tokenizer, text = rendered(served, [*content, {"type": "text", "text": "Is it fake?"}])
        processor = InternVLProcessor.__new__(InternVLProcessor)  # its video part needs torchvision
        for name in ("start_image_token", "end_image_token"):
            setattr(processor, name, getattr(tokenizer, name))
        processor.image_token, processor.image_seq_length = tokenizer.context_image_token, loaded.tokens_per_tile
        patches = {"num_patches": loaded.image_processor(shown, return_tensors="np")["num_patches"]}
        assert list(patches["num_patches"]) == tiles
        before, *after = text.split(processor.image_token)
        whole = before + "".join(processor.replace_image_token(patches, i) + part for i, part in enumerate(after))
        ours = encode_question(
            loaded.tokenizer,
            "Is it fake?",
            tiles_per_image=tiles,
            tokens_per_tile=loaded.tokens_per_tile,
            kind="video" if video else "image",
            system="Be brief.",
        )
        assert tokenizer(whole, add_special_tokens=False).input_ids == ours


def test_the_folder_names_what_its_loaders_look_for(served):
    import json

    tokenizer, text = rendered(served, "plain")
    assert text.endswith("<|im_start|>user\nplain<|im_end|><|im_start|>assistant\n") and text.startswith(
        "<s><|im_start|>"
    )
    assert len(tokenizer.encode(tokenizer.video_token, add_special_tokens=False)) == 1
    processor = json.loads((served / "processor_config.json").read_text())
    assert processor == {"processor_class": "InternVLProcessor", "image_seq_length": 4}
