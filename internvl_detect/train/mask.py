"""The mask's part of training: pixel targets through the head in the same forward as the words, its loss and its F1.

The loss is LISA's (Lai et al., 2024, arXiv 2308.00692): text + 2 BCE + 0.5 Dice, weights in the recipe; Dice is
1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1). Both compare the head's own grid with the mask averaged over it, mean over
the pictures of an optimiser step. A picture's mask loss reaches LoRA through the hidden state at ``<SEG>``. What is
measured are the picture's own pixels, drawn as detection draws them. Not here: the heads (``model.mask``,
``model.sam``), the words' loss (``loss``).
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

STEPS = 1024  # a power of two, so that `probability >= step / STEPS` is exact in float32


@contextmanager
def listening(model: Any) -> Iterator[dict[str, Tensor]]:
    """Keeps, of one forward, the hidden states that the output head was given and what the projector made; the logits
    have one more, of ``<SEG>``."""
    base, heard = base_of(model), {}
    parts: MaskParts = parts_of(model)  # type: ignore[assignment]
    hooks = [
        base.get_output_embeddings().register_forward_hook(parts.widen),
        base.get_output_embeddings().register_forward_pre_hook(lambda _, args: heard.update(hidden=args[0])),
        base.model.multi_modal_projector.register_forward_hook(lambda _, __, out: heard.update(tiles=out)),
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def forward(model: Any, inner: Any, batch: dict[str, Any], eyes: Any) -> tuple[Tensor, Tensor, list[Any]]:
    """(logits (K, V + 1), targets (K,), [(mask logits (h, w), target (h, w)), ...]) of one batch from one forward.

    ``model`` may be wrapped for DDP; ``inner`` is the same without that wrapper. ``eyes``: what the head sees with.
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
            seen = [each.clone() for each in eyes.see(picture)]  # made in inference mode, which backward refuses
        first, boxes = goal["first_tile"], goal["boxes"]
        tokens = heard["tiles"][first : first + len(boxes)] if "tiles" in heard else None
        made = parts.head(seen, seg, tokens, boxes, picture.size)
        found.append((made, parts.head.wanted(goal["mask"].to(seg.device))))
    return logits, targets, found


def draw(inner: Any, made: Tensor, goal: dict[str, Any]) -> np.ndarray:
    """P(edited) in the own pixels of a batch's picture ``goal``, from what ``forward`` made of it."""
    height, width = goal["mask"].shape
    drawn: np.ndarray = parts_of(inner).head.drawn(made, (width, height))  # type: ignore[union-attr]
    return drawn


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
    """Counts of pixels over pictures, by probability in steps of 1 / STEPS, for pixel F1, IoU and AUC."""

    def __init__(self) -> None:
        self.bins = np.zeros((2, STEPS))  # authentic and edited pixels

    def add(self, probability: np.ndarray, truth: np.ndarray) -> None:
        """One picture: (H, W) in [0, 1] and its mask, of 0 and 1."""
        at = np.minimum((probability * np.float32(STEPS)).astype(np.int32), STEPS - 1)
        real = truth.astype(bool)
        edited = np.bincount(at[real], minlength=STEPS)
        self.bins += np.bincount(at.ravel(), minlength=STEPS) - edited, edited

    def metrics(self) -> dict[str, float]:
        """pixel_f1 and pixel_iou over all pixels at the threshold with the best F1, that threshold, and pixel_auc.

        Every step is tried; of neighbours that are as good the middle one is taken. Empty where nothing is edited.
        """
        negative, positive = self.bins
        if not positive.any():
            return {}
        hit, false = (side[::-1].cumsum()[::-1] for side in (positive, negative))  # at or above each step
        f1 = 2 * hit / (hit + false + positive.sum())
        first = 1 + int(f1[1:].argmax())
        last = first
        while last + 1 < STEPS and f1[last + 1] == f1[first]:
            last += 1
        best = (first + last) // 2
        below = np.cumsum(negative) - negative / 2
        pairs = positive.sum() * negative.sum()
        return {
            "pixel_f1": float(f1[best]),
            "pixel_iou": float(hit[best] / (positive.sum() + false[best])),
            "pixel_auc": float((positive * below).sum() / pairs) if pairs else float("nan"),
            "pixel_threshold": best / STEPS,
        }
