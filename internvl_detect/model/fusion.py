"""One score of two parts: InternVL2's log odds and the domain tagger's, weighed, and what their disagreement means.

The weights are those of a logistic regression of the truth on both log odds, fitted on validation files, and stored
with the adapter as ``fusion`` in ``ivdetect.json``. Without them the score is the model's alone, and the tag stands
beside it as evidence. Numbers only; not here: the parts themselves (``answer``, ``domain_tag``).

    Fusion(model=0.6, tag=0.5, bias=-0.1).log_odds(2.0, -1.0)  # 0.6
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from internvl_detect.errors import DataError

HIGH, LOW = 0.8, 0.2


@dataclass(frozen=True)
class Fusion:
    """log odds = ``model`` * the model's + ``tag`` * the tagger's + ``bias``.

    The parts disagree where one's own probability of fake is above ``high`` and the other's below ``low``.
    """

    model: float = 1.0
    tag: float = 0.0
    bias: float = 0.0
    high: float = HIGH
    low: float = LOW

    def log_odds(self, model_log_odds: float, tag_log_odds: float) -> float:
        """The fused log odds of fake."""
        return self.model * model_log_odds + self.tag * tag_log_odds + self.bias

    def disagree(self, model_probability: float, tag_probability: float) -> bool:
        """Whether the two speak against each other: one for fake, the other for authentic, both clearly."""
        first, second = sorted((model_probability, tag_probability))
        return first < self.low and second > self.high

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any] | None) -> Fusion | None:
        """The inverse of ``to_dict``; None stays None. Raises DataError on unusable values."""
        if stored is None:
            return None
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(stored, dict) or not {"model", "tag", "bias"} <= set(stored) <= known:
            raise DataError(f"a fusion that is {stored!r:.120}", expected=f"an object with {', '.join(sorted(known))}")
        for value in stored.values():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise DataError(f"a fusion with {value!r:.40}", expected="numbers")
        made = cls(**{key: float(value) for key, value in stored.items()})
        if max(abs(made.model), abs(made.tag), abs(made.bias)) > 1000 or not 0 <= made.low <= 0.5 <= made.high <= 1:
            raise DataError(
                f"a fusion with low {made.low}, high {made.high}",
                expected="0 <= low <= 0.5 <= high <= 1, weights to 1000",
            )
        return made
