"""The mask's part of training: pixel targets through the head in the same forward as the words, its loss and its F1.

The loss is LISA's (Lai et al., arXiv 2308.00692): text + 2 BCE + 0.5 Dice, weights in the recipe; Dice is
1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1). Both compare the head's grid with the mask averaged over a grid cell (8
px), mean over the pictures of an optimiser step. A picture's mask loss reaches LoRA through the hidden state at
``<SEG>``. Not here: the head (``model.mask``), the words' loss (``loss``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from internvl_detect.model.parts import base_of
from internvl_detect.model.seg import MaskParts, parts_of
from internvl_detect.train.loss import IGNORE, answer_logits

THRESHOLDS = np.linspace(0.05, 0.95, 19)


@contextmanager
def listening(model: Any) -> Iterator[dict[str, Tensor]]:
    """Keeps, of one forward, the hidden states that the output head was given and what the projector made."""
    base, heard = base_of(model), {}
    hooks = [
        base.get_output_embeddings().register_forward_pre_hook(lambda _, args: heard.update(hidden=args[0])),
        base.model.multi_modal_projector.register_forward_hook(lambda _, __, out: heard.update(tiles=out)),
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def forward(model: Any, inner: Any, batch: dict[str, Any], tagger: Any) -> tuple[Tensor, Tensor, list[Any]]:
    """(logits (K, V), targets (K,), [(mask logits (h, w), target (h, w)), ...]) of one batch from one forward.

    ``model`` may be wrapped for DDP; ``inner`` is the same without that wrapper.
    """
    parts: MaskParts = parts_of(inner)  # type: ignore[assignment]
    with listening(inner) as heard:
        logits, targets = answer_logits(model, batch)
    goals = batch.get("masks", [])
    keep = batch["shift_labels"] != IGNORE
    states = heard["hidden"].reshape(-1, heard["hidden"].shape[-1])[batch["input_ids"][keep] == parts.token]
    if len(states) != len(goals):
        raise RuntimeError(f"{len(states)} <SEG> tokens and {len(goals)} masks in a batch")
    found = []
    for goal, seg in zip(goals, states, strict=True):
        picture = Image.fromarray(goal["picture"].cpu().numpy())
        with torch.no_grad():
            tagged = torch.from_numpy(tagger.look(picture).map).to(seg.device)
            features = tagger.features(picture).to(seg.device)
        features = features.clone()  # made in inference mode, which backward refuses
        first, boxes = goal["first_tile"], goal["boxes"]
        tokens = heard["tiles"][first : first + len(boxes)] if "tiles" in heard else None
        made = parts.head(tagged, features, seg, tokens, boxes, picture.size)
        wanted = F.interpolate(goal["mask"].to(seg.device).float()[None, None], size=made.shape, mode="area")[0, 0]
        found.append((made, wanted))
    return logits, targets, found


def pixel_loss(found: Sequence[tuple[Tensor, Tensor]], bce: float, dice: float) -> Tensor | float:
    """The sum over pictures of ``bce`` * BCE + ``dice`` * Dice; 0.0 for none."""
    total: Tensor | float = 0.0
    for made, wanted in found:
        p = made.sigmoid()
        overlap = 1 - (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)
        total = total + bce * F.binary_cross_entropy_with_logits(made, wanted) + dice * overlap
    return total


def untouched(parts: MaskParts) -> Tensor:
    """Zero that hangs on every parameter of the mask, so that no process of DDP waits for a gradient."""
    return sum((p.sum() * 0.0 for p in parts.parameters()), torch.zeros((), device=parts.seg_in.device))


class PixelScores:
    """Counts over pictures, at each of ``THRESHOLDS``, and a histogram of cells, for pixel F1, IoU and AUC."""

    def __init__(self) -> None:
        self.counts = np.zeros((len(THRESHOLDS), 3))  # hit, claimed, true cells
        self.bins = np.zeros((2, 1000))

    def add(self, probability: np.ndarray, truth: np.ndarray) -> None:
        """One picture: (h, w) in [0, 1] and its mask, edited where at least half a cell is."""
        real = truth >= 0.5
        for row, threshold in zip(self.counts, THRESHOLDS, strict=True):
            said = probability >= threshold
            row += (said & real).sum(), said.sum(), real.sum()
        at = np.minimum((probability * 1000).astype(int), 999)
        for side in (0, 1):
            self.bins[side] += np.bincount(at[real == bool(side)], minlength=1000)

    def metrics(self) -> dict[str, float]:
        """pixel_f1 and pixel_iou over all cells at the threshold with the best F1, that threshold, and pixel_auc."""
        hit, said, real = self.counts.T
        f1 = 2 * hit / np.maximum(said + real, 1)
        best = int(f1.argmax())
        negative, positive = self.bins
        below = np.cumsum(negative) - negative / 2
        pairs = positive.sum() * negative.sum()
        return {
            "pixel_f1": float(f1[best]),
            "pixel_iou": float(hit[best] / max(said[best] + real[best] - hit[best], 1)),
            "pixel_auc": float((positive * below).sum() / pairs) if pairs else float("nan"),
            "pixel_threshold": float(THRESHOLDS[best]),
        }
