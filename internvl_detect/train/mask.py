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
from internvl_detect.train.tagger_fit import MISSED

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
    """(logits (K, V + 1), targets (K,), [(mask logits (h, w), target (h, w), logits that the head began with, None for
    a head that begins with nothing), ...]) of one batch from one forward.

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
        start = parts.head.start(seen).to(made.device) if parts.head.kind == "light" else None
        found.append((made, parts.head.wanted(goal["mask"].to(seg.device)), start))
    return logits, targets, found


def draw(inner: Any, made: Tensor, goal: dict[str, Any]) -> np.ndarray:
    """P(edited) in the own pixels of a batch's picture ``goal``, from what ``forward`` made of it."""
    height, width = goal["mask"].shape
    drawn: np.ndarray = parts_of(inner).head.drawn(made, (width, height))  # type: ignore[union-attr]
    return drawn


def pixel_loss(found: Sequence[tuple[Tensor, Tensor, Tensor | None]], bce: float, dice: float) -> Tensor | float:
    """The sum over pictures of ``bce`` * BCE + ``dice`` * Dice; 0.0 for none."""
    total: Tensor | float = 0.0
    for made, wanted, _ in found:
        p = made.sigmoid()
        overlap = 1 - (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)
        total = total + bce * F.binary_cross_entropy_with_logits(made, wanted) + dice * overlap
    return total


def untouched(parts: MaskParts) -> Tensor:
    """Zero that hangs on every parameter of the mask, so that no process of DDP waits for a gradient."""
    return sum((p.sum() * 0.0 for p in parts.parameters()), torch.zeros((), device=parts.seg_in.device))


class PixelScores:
    """Sums over pictures, by probability in steps of 1 / STEPS, for pixel F1, IoU and AUC.

    ``sums`` (5, STEPS): authentic and edited pixels at each step; F1 and IoU of the edited pictures, and how many
    untouched ones stay unmarked, at or above it. ``edited`` and ``untouched`` count pictures. All of it adds up.
    """

    def __init__(self) -> None:
        self.sums, self.edited, self.untouched = np.zeros((5, STEPS)), 0, 0

    def add(self, probability: np.ndarray, truth: np.ndarray) -> None:
        """One picture: (H, W) in [0, 1] and its mask, of 0 and 1."""
        at = np.minimum((probability * np.float32(STEPS)).astype(np.int32), STEPS - 1)
        positive = np.bincount(at[truth.astype(bool)], minlength=STEPS)
        negative = np.bincount(at.ravel(), minlength=STEPS) - positive
        hit, false = (side[::-1].cumsum()[::-1] for side in (positive, negative))  # at or above each step
        self.sums[:2] += negative, positive
        if size := positive.sum():
            self.sums[2:4] += 2 * hit / (hit + false + size), hit / (size + false)
            self.edited += 1
        else:
            self.sums[4] += false == 0
            self.untouched += 1

    def __add__(self, other: PixelScores) -> PixelScores:
        both = PixelScores()
        both.sums, both.edited = self.sums + other.sums, self.edited + other.edited
        both.untouched = self.untouched + other.untouched
        return both

    def metrics(self) -> dict[str, float]:
        """Means over the edited pictures, pixel_f1 and pixel_iou, at the pixel_threshold that is best for pixel_value:
        MISSED parts pixel_f1, one part the share of untouched pictures on which nothing is marked; and pixel_auc, over
        all pixels.

        Every step is tried; of neighbours that are as good the middle one is taken. Empty where nothing is edited.
        """
        if not self.edited:
            return {}
        negative, positive, *means = self.sums
        f1, iou = (mean / self.edited for mean in means[:2])
        value = (MISSED * f1 + (means[2] / self.untouched if self.untouched else f1)) / (MISSED + 1)
        first = last = 1 + int(value[1:].argmax())
        while last + 1 < STEPS and value[last + 1] == value[first]:
            last += 1
        best = (first + last) // 2
        below = np.cumsum(negative) - negative / 2
        pairs = positive.sum() * negative.sum()
        return {
            "pixel_f1": float(f1[best]),
            "pixel_iou": float(iou[best]),
            "pixel_auc": float((positive * below).sum() / pairs) if pairs else float("nan"),
            "pixel_value": float(value[best]),
            "pixel_threshold": best / STEPS,
        }
