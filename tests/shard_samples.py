"""What training sees of a small set, to compare one way of storing it with another."""

from __future__ import annotations

import numpy as np

from internvl_detect.data.conversations.meta import read_meta
from internvl_detect.train.dataset import encode_sample


def encoded(meta, encoding, **allowed):
    """Every sample of the only dataset of a meta JSON, as training sees it."""
    for sample in read_meta(meta, **allowed)[0].samples():
        yield encode_sample(sample, encoding, np.random.default_rng(0), tag=0)


def same_items(first, second):
    """Whether two encoded samples are one: ids, labels, truth and every pixel."""
    words = (first.input_ids, first.labels, first.truth) == (second.input_ids, second.labels, second.truth)
    if first.pixels is None or second.pixels is None:
        return words and first.pixels is second.pixels
    return words and np.array_equal(first.pixels, second.pixels)
