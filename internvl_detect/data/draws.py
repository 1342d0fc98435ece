"""Numbers that follow from a text alone: what is drawn by them stays as it is when files come, go or change places.

Splits, samples, questions and lookups by hash all take them from here. Not here: pictures' random choices, which are
numpy's generators.
"""

from __future__ import annotations

import hashlib


def number_of(text: str) -> int:
    """64 bits: BLAKE2b of the text in UTF-8, where bytes of a file name that are no text stand for themselves."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def share_of(text: str) -> float:
    """The same as a number in [0, 1)."""
    return number_of(text) / 2**64
