"""A small set of every kind of row, for the tests of shards and stores."""

from __future__ import annotations

import pytest

from internvl_detect.data.conversations.meta import make_row, write_jsonl, write_meta

TEXT = ("Is it fake?", "No.")


@pytest.fixture
def mixed(photo, clip, tmp_path):
    """One, two and no pictures, a picture turned by EXIF, a clip, a list of one; 6 rows."""
    from PIL import Image

    for i in range(4):
        photo(f"root/{i}.png", size=(60 + 10 * i, 40), seed=i)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "root" / "3.png").save(tmp_path / "root" / "turned.jpg", exif=exif)
    clip("root/clip.mp4")
    rows = [
        make_row(*TEXT, image="0.png", id="a", label="real", extra={"kept": [1]}),
        make_row("<image>\n<image>\nSame?", "No.", image=["1.png", "2.png"]),
        make_row("What is JPEG?", "A format."),
        make_row(*TEXT, image="turned.jpg"),
        make_row("<video>\nIs it fake?", "Yes.", video="clip.mp4", clip=[0, 1.5], group_id="g"),
        make_row(*TEXT, image=["3.png"]),
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    given = {"root": "root", "annotation": "rows.jsonl", "data_augment": True, "max_dynamic_patch": 4}
    return write_meta(tmp_path / "meta.json", {"Mixed set": {**given, "repeat_time": 2, "domain": "ps"}})


@pytest.fixture
def encoding(place):
    """How samples are encoded for the tiny base."""
    from internvl_detect.model.checkpoint import read_parts
    from internvl_detect.train.corpus import Encoding

    parts = read_parts(str(place / "base"))
    return Encoding(parts.need_tokenizer(), parts.tokens_per_tile, parts.settings.tiles, frames=3)
