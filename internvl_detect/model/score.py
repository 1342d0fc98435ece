"""P(fake) from the first token of the answer: one prefill, no generation.

The question is asked so that "yes" means fake. The score is the probability of the yes-tokens against the no-tokens,
softmax over just these: sigmoid(logsumexp(yes) - logsumexp(no)). Words, if wanted, go on from the same cache
(``answer``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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


def p_fake(logits: torch.Tensor, sets: YesNo) -> torch.Tensor:
    """P(fake) in [0, 1] of each row of first-token logits (..., V), in float32."""
    return torch.sigmoid(log_odds(logits, sets))


def log_odds(logits: torch.Tensor, sets: YesNo) -> torch.Tensor:
    """log P(yes) - log P(no) of each row of first-token logits (..., V), in float32."""
    wide = logits.float()
    return wide[..., list(sets.yes)].logsumexp(-1) - wide[..., list(sets.no)].logsumexp(-1)


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
