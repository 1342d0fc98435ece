"""The tokens that begin an answer of yes, and of no: ids of a tokenizer, and their texts. No torch.

Not here: what a model makes of them (``score``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from internvl_detect.errors import CheckpointError
from internvl_detect.model.tokenizer import encode_text

YES = ("Yes", "yes", "YES", " Yes", " yes")
NO = ("No", "no", "NO", " No", " no")


@dataclass(frozen=True)
class YesNo:
    """Token ids that begin an answer of yes, and of no; disjoint, neither empty."""

    yes: tuple[int, ...]
    no: tuple[int, ...]


def yes_no_sets(tokenizer: PreTrainedTokenizerFast) -> YesNo:
    """The first tokens of every spelling of yes and no, as they stand after the prompt ``assistant\\n``.

    A token that begins both is left out. Raises CheckpointError when that leaves a side empty.
    """
    yes, no = (_first_tokens(tokenizer, words) for words in (YES, NO))
    both = yes & no
    found = YesNo(tuple(sorted(yes - both)), tuple(sorted(no - both)))
    if not found.yes or not found.no:
        raise CheckpointError(
            "this tokenizer has no token that tells yes from no",
            expected="a token that begins 'Yes' and another that begins 'No'",
            do="use the tokenizer that came with the model",
        )
    return found


def texts(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> frozenset[str]:
    """What each of these tokens says by itself, spaces before it included."""
    return frozenset(tokenizer.decode([token]) for token in ids)


def _first_tokens(tokenizer: PreTrainedTokenizerFast, words: tuple[str, ...]) -> set[int]:
    header = encode_text(tokenizer, "assistant\n")
    found: set[int] = set()
    for word in words:
        after = encode_text(tokenizer, f"assistant\n{word}")
        for ids in (after[len(header) :] if after[: len(header)] == header else [], encode_text(tokenizer, word)):
            if not ids:
                continue
            # A lone space says nothing yet: the word's own first token follows it.
            found.add(ids[0] if tokenizer.decode(ids[:1]).strip() else ids[min(1, len(ids) - 1)])
    return found
