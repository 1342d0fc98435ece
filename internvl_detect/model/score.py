"""P(fake) from the first token of the answer: one prefill, no generation.

The question is asked so that "yes" means fake. The score is the probability of the yes-tokens against the no-tokens,
softmax over just these: sigmoid(logsumexp(yes) - logsumexp(no)). Words, if wanted, go on from the same cache
(``answer``).
"""

from __future__ import annotations

import torch

from internvl_detect.model.yes_no import YesNo


def p_fake(logits: torch.Tensor, sets: YesNo) -> torch.Tensor:
    """P(fake) in [0, 1] of each row of first-token logits (..., V), in float32."""
    return torch.sigmoid(log_odds(logits, sets))


def log_odds(logits: torch.Tensor, sets: YesNo) -> torch.Tensor:
    """log P(yes) - log P(no) of each row of first-token logits (..., V), in float32."""
    wide = logits.float()
    return wide[..., list(sets.yes)].logsumexp(-1) - wide[..., list(sets.no)].logsumexp(-1)
