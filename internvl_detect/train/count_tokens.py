"""How many tokens a sample will have in training, from the tokenizer and config alone: no weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from internvl_detect.config import TrainConfig
from internvl_detect.data.conversations.meta import Sample
from internvl_detect.model.checkpoint import read_parts
from internvl_detect.train.corpus import Encoding, picture_size


def token_counter(model: str) -> Callable[[Sample], int]:
    """A function that gives the length of a sample in tokens, with as many tiles (frames) as the settings allow.

    Raises CheckpointError when the folder has no config or tokenizer. The function raises IvdetectError for pictures
    that cannot be read.
    """
    parts = read_parts(model)
    encoding = Encoding.of(TrainConfig(), parts.need_tokenizer(), parts.tokens_per_tile, parts.tile_px)
    settings = parts.settings
    endless = replace(encoding, tiles=settings.tiles, system=settings.system_message, max_tokens=2**62)

    def count(sample: Sample) -> int:
        return endless.fit(sample, [picture_size(path) for path in sample.images]).length

    return count
