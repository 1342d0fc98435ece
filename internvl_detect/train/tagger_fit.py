"""After training: what a tagger says of whole validation pictures, and the calibration and threshold fitted on it.

Temperature and one bias a tag minimise the cross-entropy (Guo et al., 2017, with biases); the threshold of the map is
fitted with a gate that keeps the map of untouched pictures empty.

    answers = look_at(tagger, rows); fitted = fit(tagger, answers)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from internvl_detect.errors import IvdetectError
from internvl_detect.evaluate.metrics import auc
from internvl_detect.media.image import open_image
from internvl_detect.model.domain_tag import TAGS, DomainTagger, spread
from internvl_detect.questions import EDITS
from internvl_detect.train.tag_data import TagRow

GATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PRIOR = (0.4, 0.3, 0.1, 0.1, 0.1)  # of the tags: of pictures looked at, more are generated than edited in any one way
GENERATED = TAGS.index("ai_generated")
MISSED = 4  # what a missed edit costs the map, where a mark on an untouched picture costs 1
THRESHOLDS = (*(round(0.05 * i, 2) for i in range(2, 20)), 0.98)


@dataclass(frozen=True)
class Looked:
    """One picture: its row, log probabilities by tag (T,), and (tp, fp, fn) of the map in pixels at each of THRESHOLDS,
    None where the truth of the map is not known; what the semantic branch says of it, 0 where there is none."""

    row: TagRow
    logs: np.ndarray
    counts: np.ndarray | None
    semantic: float = 0.0


def look_at(
    tagger: DomainTagger, rows: Sequence[TagRow], *, problems: Callable[[str, str], None] | None = None
) -> Iterator[Looked]:
    """Every row's picture as it is; what cannot be read is told to ``problems`` (path, reason) and left out."""
    for row in rows:
        try:
            picture = open_image(row.path).rgb
            mask = open_image(row.mask).rgb.convert("L") if row.mask else None
        except IvdetectError as error:
            if problems is not None:
                problems(row.path, str(error))
            continue
        seen = tagger.look(picture)
        logs = np.log(np.maximum([seen.probabilities[tag] for tag in TAGS], 1e-30))
        counts = None
        if row.tag == "authentic" or (mask is not None and mask.size == picture.size):
            truth = np.zeros((picture.height, picture.width), bool) if mask is None else np.asarray(mask) >= 128
            counts = map_counts(spread(seen.map, picture.size), truth)
        yield Looked(row, logs, counts, seen.semantic)


def map_counts(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(len(THRESHOLDS), 3): tp, fp and fn pixels of P(edited) (H, W) against the boolean mask, at each threshold."""
    found = []
    inside, outside = probability[truth], probability[~truth]
    for threshold in THRESHOLDS:
        hit = int(np.count_nonzero(inside >= threshold))
        found.append((hit, int(np.count_nonzero(outside >= threshold)), inside.size - hit))
    return np.array(found)


def pixel_f1(counts: np.ndarray) -> np.ndarray:
    """F1 for counts (..., 3); 1 where there is nothing to mark and nothing is marked."""
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    whole = 2 * tp + fp + fn
    return np.where(whole == 0, 1.0, 2 * tp / np.maximum(whole, 1))


def fit(tagger: DomainTagger, looked: Sequence[Looked]) -> DomainTagger:
    """The same tagger with temperature, biases, the semantic branch's weight, map threshold and gate fitted; the tags
    weigh as PRIOR in the fit.

    The branch's weight comes of pictures whose sources are of one tag, where there are authentic and generated ones
    among them: a forgery shows what its untouched twin shows. A tag without pictures keeps no bias. ``looked`` must
    come from a tagger without a gate (``map_gate`` 0).
    """
    tags = torch.tensor([TAGS.index(one.row.tag) for one in looked])
    logits = torch.from_numpy(np.stack([one.logs for one in looked])) * tagger.temperature
    logits = logits - torch.tensor(tagger.bias, dtype=torch.float64)
    semantic = torch.zeros_like(logits)
    semantic[:, GENERATED] = torch.tensor([one.semantic for one in looked], dtype=torch.float64)
    logits = logits - tagger.semantic_weight * semantic
    tags_of: dict[str, set[str]] = {}
    for one in looked:
        tags_of.setdefault(one.row.source, set()).add(one.row.tag)
    alone = torch.tensor([len(tags_of[one.row.source]) == 1 for one in looked])
    of = alone if {0, GENERATED} <= set(tags[alone].tolist()) else ~torch.zeros_like(alone)
    weight = 0.0
    if bool(semantic.any()):
        weight = max(0.0, _solved(logits[of], tags[of], semantic[of])[2])
    logits = logits + weight * semantic
    scale, bias, _ = _solved(logits, tags)
    tagger.temperature, tagger.bias, tagger.semantic_weight = 1 / scale, tuple(bias.tolist()), weight
    fit_map(tagger, looked, ((logits + bias) * scale).softmax(1).numpy())
    return tagger


def _solved(logits: Tensor, tags: Tensor, semantic: Tensor | None = None) -> tuple[float, Tensor, float]:
    """Scale, biases and the weight of ``semantic`` that minimise the cross-entropy of the logits plus weight times
    ``semantic`` plus biases, all times scale."""
    there = torch.bincount(tags, minlength=len(TAGS))
    share = torch.where(there > 0, torch.tensor(PRIOR) / there.clamp_min(1), 0).double()
    log_scale, bias, weight = (torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (1, len(TAGS), 1))
    fitted = [log_scale, bias, *([] if semantic is None else [weight])]
    solver = torch.optim.LBFGS(fitted, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        found = logits + bias * (there > 0) + (0 if semantic is None else weight * semantic)
        loss = torch.nn.functional.cross_entropy(found * log_scale.exp(), tags, weight=share)
        loss = loss + 1e-3 * (bias.square().sum() + log_scale.square().sum())
        loss.backward()
        return loss

    solver.step(closure)
    return float(log_scale.detach().exp()), (bias * (there > 0)).detach(), float(weight.detach())


def fit_map(tagger: DomainTagger, looked: Sequence[Looked], shares: np.ndarray) -> None:
    """Threshold and gate of the map: the pair with the best sum of two means of pixel F1: over edited pictures, each
    method weighing the same, which counts MISSED times, and over untouched ones, which count as 1 where nothing is
    marked and as 0 otherwise. ``shares`` (N, tags) are calibrated.

    Without a picture that is known in the map both stay. A gate acts on stored counts at the next higher threshold.
    """
    known = [(one, row) for one, row in zip(looked, shares, strict=True) if one.counts is not None]
    if not any(one.row.tag != "authentic" for one, _ in known):
        return
    in_part = np.array([row[[TAGS.index(tag) for tag in EDITS]].sum() for _, row in known])
    edited = np.array([one.row.tag != "authentic" for one, _ in known])
    method = np.unique([one.row.method for one, _ in known], return_inverse=True)[1]
    weight = 1.0 / np.bincount(method[edited], minlength=method.max() + 1)[method[edited]]
    counts = np.stack([one.counts for one, _ in known if one.counts is not None])  # (N, thresholds, 3)
    nothing = np.stack([0 * counts[:, 0, 0], 0 * counts[:, 0, 0], counts[:, 0, 0] + counts[:, 0, 2]], 1)
    best = -1.0
    for gate in GATES:
        scale = np.minimum(1.0, in_part / gate) if gate else np.ones(len(known))
        for threshold in THRESHOLDS:
            at = np.searchsorted(THRESHOLDS, threshold / np.maximum(scale, 1e-9) - 1e-9)
            marked = np.where(
                (at < len(THRESHOLDS))[:, None],
                counts[np.arange(len(known)), np.minimum(at, len(THRESHOLDS) - 1)],
                nothing,
            )
            f1 = pixel_f1(marked)
            value = MISSED * np.average(f1[edited], weights=weight) + (f1[~edited].mean() if (~edited).any() else 0)
            if value > best:
                best, tagger.map_threshold, tagger.map_gate = value, threshold, gate


def summary(looked: Sequence[Looked], threshold: float) -> dict[str, float]:
    """AUC of fake against authentic, of each tag against the rest and their mean (``macro_auc``), and pixel F1; without
    those that these pictures cannot tell."""
    tags = np.array([one.row.tag for one in looked])
    shares = np.exp(np.stack([one.logs for one in looked]))
    found: dict[str, float] = {"pictures": len(looked)}
    if 0 < (tags == "authentic").sum() < len(tags):
        found["image_auc"] = auc(list(1 - shares[:, 0]), [int(tag != "authentic") for tag in tags])
    each = {}
    for at, tag in enumerate(TAGS):
        if 0 < (tags == tag).sum() < len(tags):
            each[f"auc_{tag}"] = auc(list(shares[:, at]), [int(t == tag) for t in tags])
    found |= each
    if each:
        found["macro_auc"] = float(np.mean(list(each.values())))
    at = THRESHOLDS.index(threshold) if threshold in THRESHOLDS else 8
    for name, wanted in (("pixel_f1", lambda t: t != "authentic"), ("pixel_f1_authentic", lambda t: t == "authentic")):
        counts = [one.counts[at] for one in looked if one.counts is not None and wanted(one.row.tag)]
        if counts:
            found[name] = float(pixel_f1(np.array(counts)).mean())
    return {k: round(float(v), 4) for k, v in found.items()}
