"""Pictures with a red part, its mask and the answer <SEG>, and a stand-in for the domain tagger, for tests of masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tiny
import torch
from PIL import Image

from internvl_detect.data.conversations.meta import make_row, write_jsonl, write_meta
from internvl_detect.media.tiles import cut_tiles
from internvl_detect.model.answer import Answerer, Request
from internvl_detect.model.prompts import encode_question
from internvl_detect.model.seg import seg_turn
from internvl_detect.questions import SEG, SEGMENT_QUESTION


class FakeTagger:
    """As DomainTagger: it finds 0.3 everywhere, and its features are the picture's colours."""

    channels, name, fingerprint, map_threshold, looks = 4, "fake", "f" * 16, 0.25, 0

    @classmethod
    def load(cls, path="nano", device="auto"):
        return cls()

    def look(self, picture):
        return self.look_with_features(picture)[0]

    def look_with_features(self, picture):
        self.looks += 1
        h, w = -(-picture.height // 8), -(-picture.width // 8)
        small = np.asarray(picture.resize((w, h)).convert("RGBA"), np.float32) / 255
        seen = SimpleNamespace(map=np.full((h, w), 0.3, np.float32))
        return seen, torch.from_numpy(small).permute(2, 0, 1)


def write_marked(folder: Path, **entry: Any) -> list[str]:
    """Eight pictures of 64x40 px, every other one with a red part and its mask; gives the ``--set`` items of a run."""
    root = folder / "masks"
    root.mkdir(parents=True)
    rng = np.random.default_rng(3)
    rows = []
    for i in range(8):
        pixels = np.full((40, 64, 3), 120, np.uint8)
        answer, more = "No.", {}
        if i % 2:
            left = int(rng.integers(0, 4)) * 8
            pixels[8:32, left : left + 32] = (250, 20, 20)
            mask = (pixels[..., 0] > 200).astype(np.uint8) * 255
            Image.fromarray(mask).save(root / f"{i}m.png")
            answer, more = "Yes.", {"mask": f"{i}m.png"}
        Image.fromarray(pixels).save(root / f"{i}.png")
        rows.append(make_row(tiny.QUESTION, answer, SEGMENT_QUESTION, SEG, image=f"{i}.png", id=str(i)) | more)
    write_jsonl(folder / "marked.jsonl", rows)
    about = {"root": str(root), "annotation": str(folder / "marked.jsonl"), **entry}
    write_meta(folder / "meta.json", {"marked": about})
    return [f"data_path={folder / 'meta.json'}", "train_data_choice=marked", "mask.head=light", "lora.dropout=0"]


def picture(width=64, height=40, at=(16, 8, 48, 32)):
    """Grey, with a red part."""
    whole = Image.new("RGB", (width, height), (120, 120, 120))
    whole.paste((250, 20, 20), at)
    return whole


def asked(loaded, seen, question=tiny.QUESTION, own=None):
    """The request about a picture, and the boxes of its tiles."""
    cut = cut_tiles(seen, replace((own or loaded.settings).tiles, tile_px=loaded.tile_px))
    ids = encode_question(
        loaded.tokenizer, question, tiles_per_image=[len(cut.pixels)], tokens_per_tile=loaded.tokens_per_tile
    )
    boxes = [tuple(map(int, b)) for b, whole in zip(cut.boxes_xyxy, cut.is_thumbnail, strict=True) if not whole]
    return Request(ids, cut.pixels), boxes


def drawn_in_a_turn(loaded, seen, masker):
    """The map of a conversation that goes on to <SEG> in its cache."""
    answerer = Answerer(loaded)
    request, boxes = asked(loaded, seen)
    state = answerer.follow(answerer.prefill([request]), [seg_turn(loaded, "Yes.")])
    tagged, features = masker.eyes.tagger.look_with_features(seen)
    return masker.draw(seen, tagged, state.hidden[0], state.tiles[0], boxes, features)
