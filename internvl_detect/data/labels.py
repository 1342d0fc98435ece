"""Labels: the names people give to real and fake, brought to one set; and the yes or no that an answer begins with.

Canonical labels are ``real``, ``ai_generated``, ``tampered``, ``deepfake``, and ``fake`` where the kind is not known.
"""

from __future__ import annotations

import re
from typing import Literal

Verity = Literal["real", "fake"]

LABELS = ("real", "fake", "ai_generated", "tampered", "deepfake")

_ALIASES = {
    "real": "real 0 authentic au pristine original genuine natural nature photo no",
    "fake": "fake 1 synthetic forgery yes",
    "ai_generated": "ai_generated ai aigc generated ai-generated gan diffusion aigenerated",
    "tampered": "tampered tp tamper manipulated edited spliced photoshop photoshopped ps aigc_editing forged",
    "deepfake": "deepfake df faceswap face_swap deep_fake",
}
ALIASES: dict[str, str] = {alias: label for label, words in _ALIASES.items() for alias in words.split()}

_ANSWER = re.compile(r"[\s\"'“‘*_(\[]*(yes|no)(?![\w'’-])", re.IGNORECASE)


def normalise_label(value: object) -> str | None:
    """The canonical label for a name, an alias or 0/1; None when it is not one. True and False are not labels."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, float):
        if not value.is_integer():
            return None
        value = int(value)
    word = (value if isinstance(value, str) else format(value, "d") if abs(value) < 10 else "").strip().lower()
    return ALIASES.get(word) or ALIASES.get(word.replace(" ", "_").replace("-", "_"))


def verity(label: str) -> Verity:
    """``real`` or ``fake`` for a canonical label."""
    return "real" if label == "real" else "fake"


def answer_verity(text: str) -> Verity | None:
    """What an answer claims by its first word: yes means fake (there are artifacts), no means real; None otherwise."""
    match = _ANSWER.match(text)
    if match is None:
        return None
    return "fake" if match.group(1).lower() == "yes" else "real"
