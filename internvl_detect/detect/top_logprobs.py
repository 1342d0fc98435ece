"""P(fake) from the twenty likeliest first tokens that an OpenAI-compatible server names, and how sure that is.

The score is P(yes-tokens) / (P(yes-tokens) + P(no-tokens)) as in ``model.score``; a token that is not among the twenty
is at most as likely as the last of them, and all of those together at most what the twenty leave. Numbers and texts in,
numbers out. Not here: asking (``openai_asker``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from internvl_detect.errors import ServerError

TOP = 20
FLATTENED = -80.0  # no model is that sure of its second token: such a list was made after a temperature near 0
WIDE = 1e-3  # an uncertainty of the score that is worth a word


class Cut(ServerError):
    """A list of tokens that sampling has cut short or sharpened; another temperature may give the whole one."""


@dataclass(frozen=True)
class FirstToken:
    """Log odds of yes, and the bounds of P(fake) that the tokens left out allow."""

    odds: float
    low: float
    high: float

    @property
    def note(self) -> str:
        """A sentence where the bounds are wide, else empty."""
        if self.high - self.low <= WIDE:
            return ""
        return (
            f"the server names the {TOP} likeliest tokens only, and not every spelling of yes and no is among them: "
            f"the score lies between {self.low:.4f} and {self.high:.4f}"
        )


def first_token(listed: Sequence[tuple[str, float]], yes: Collection[str], no: Collection[str]) -> FirstToken:
    """The score by (token, log probability) of at least ``TOP`` tokens.

    A side of which no token is listed gets the most that it can have: the score then errs towards 0.5. Raises Cut for
    a list that sampling has changed, ServerError when neither yes nor no is in it.
    """
    logs = sorted((logprob for _, logprob in listed), reverse=True)
    if len(logs) < TOP:
        raise Cut(f"the server names {len(logs)} tokens", expected=f"the {TOP} likeliest (top_logprobs)")
    if logs[1] < FLATTENED:
        raise Cut("the server's probabilities are those after sampling", expected="those of the model")
    texts = [(_text(token), math.exp(min(0.0, logprob))) for token, logprob in listed]
    masses, most = [], []
    left = max(0.0, 1.0 - sum(p for _, p in texts))
    for words in (yes, no):
        found = [p for text, p in texts if text in words]
        masses.append(sum(found))
        most.append(min(left, max(0, len(words) - len(found)) * math.exp(min(0.0, logs[-1]))))
    if not any(masses):
        names = ", ".join(repr(text)[:20] for text, _ in texts[:5])
        raise ServerError(
            f"the answer begins with none of yes and no, but {names}",
            expected="a model that was trained on this question",
            do="check that the served checkpoint holds the adapter, and its chat template",
        )
    p_yes, p_no = (mass or bound for mass, bound in zip(masses, most, strict=True))
    tiny = 1e-30
    low = masses[0] / (masses[0] + masses[1] + most[1] + tiny)
    high = (masses[0] + most[0]) / (masses[0] + most[0] + masses[1] + tiny)
    return FirstToken(math.log(max(p_yes, tiny)) - math.log(max(p_no, tiny)), low, high)


def listed_tokens(choice: Any) -> list[tuple[str, float]]:
    """(token, log probability) of the first token of a choice: its ``top_logprobs``, and itself where it is not there.

    Raises ServerError where the answer has none.
    """
    try:
        first = choice["logprobs"]["content"][0]
        listed = [(str(t["token"]), _log(t["logprob"])) for t in first["top_logprobs"]]
        own = (str(first["token"]), _log(first["logprob"]))
    except (KeyError, IndexError, TypeError, ValueError):
        raise ServerError(
            "the server's answer has no log probabilities",
            expected="choices[0].logprobs.content[0].top_logprobs",
            do="let it give logprobs, at least 20 of them (vLLM: --max-logprobs)",
        ) from None
    return listed if own in listed else [own, *listed]  # LMDeploy leaves the token itself out of its list


def _text(token: str) -> str:
    """Some servers give a token's text, others its name in the vocabulary, where a space is another sign."""
    return token.replace("▁", " ").replace("Ġ", " ")


def _log(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value > 1e-3:
        raise ValueError(value)
    return float(value)
