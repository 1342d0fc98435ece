"""From encoded samples to the tensors of one forward: packed rows, positions that restart, answers to learn.

Samples in one row do not see each other: the positions restart with each, and ``segments`` gives their lengths.
Tiles travel as bytes and are normalised on the device, a quarter of the memory of floats. Not here: ``loss``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

IGNORE = -100


@dataclass(frozen=True)
class Target:
    """Pixels to learn: the picture and its mask (H, W) 0 or 1, uint8, and the boxes of the tiles, no thumbnail."""

    picture: np.ndarray
    mask: np.ndarray
    boxes: list[tuple[int, int, int, int]]


@dataclass(frozen=True)
class Item:
    """One encoded sample: ids, labels (-100 outside answers), tiles uint8 (N, S, S, 3), and what it is.

    ``truth`` is 1 fake, 0 real, -1 unknown. ``tag`` numbers the sample among its kind, to find its score again.
    """

    input_ids: Sequence[int]
    labels: Sequence[int]
    pixels: np.ndarray | None = None
    truth: int = -1
    tag: int = -1
    target: Target | None = None


@dataclass(frozen=True)
class Broken:
    """A sample that must end the run (``on_broken: error``): the parts of its DataError, carried out of a worker."""

    found: str
    expected: str = ""
    do: str = ""


Row = list[Item | Broken]


@dataclass(frozen=True)
class Collator:
    """Makes a batch of rows in one of three layouts.

    "rows": padded rows, for which transformers makes the mask from positions that restart. "flat": all rows end to
    end, unpadded, for kernels that take rows of variable length. "segments": flat, and the samples' lengths beside it
    (``attention``).

    ``image_token_id``, ``tokens_per_tile`` and ``tile_px`` describe the filler: one black tile nobody answers about,
    put in (``with_pictures``) where a batch has no picture, because with several processes all must run the ViT.
    """

    pad_id: int
    image_token_id: int
    tokens_per_tile: int
    tile_px: int
    layout: Literal["rows", "flat", "segments"] = "rows"
    with_pictures: bool = False
    filler: Item = field(init=False)

    def __post_init__(self) -> None:
        black = np.zeros((1, self.tile_px, self.tile_px, 3), np.uint8)
        ids = [self.image_token_id] * self.tokens_per_tile
        object.__setattr__(self, "filler", Item(ids, [IGNORE] * len(ids), black))

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Tensors: input_ids, position_ids, labels, shift_labels (B, T); pixel_values uint8 (N, S, S, 3) if any.

        ``shift_labels[b, t]`` is the label of token t + 1 of the same sample. ``first_answer`` (samples with a known
        truth) holds [row, position of the token whose logits give the first answer token, truth, tag].
        """
        broken = [i for row in rows for i in row if isinstance(i, Broken)]
        if broken:
            return {"broken": [(b.found, b.expected, b.do) for b in broken]}
        full: list[list[Item]] = [[i for i in row if isinstance(i, Item)] for row in rows]
        if self.with_pictures and not any(i.pixels is not None for row in full for i in row):
            full[0] = [*full[0], self.filler]
        full = [row or [Item([self.pad_id], [IGNORE])] for row in full]
        if self.layout != "rows":
            full = [[item for row in full for item in row]]
        width = max(sum(len(i.input_ids) for i in row) for row in full)
        ids = np.full((len(full), width), self.pad_id, np.int64)
        positions = np.zeros((len(full), width), np.int64)
        shifted = np.full((len(full), width), IGNORE, np.int64)
        pixels, first = [], []
        targets_of, seen = [], 0
        for r, row in enumerate(full):
            at = 0
            for item in row:
                n = len(item.input_ids)
                labels = np.asarray(item.labels, np.int64)
                ids[r, at : at + n] = item.input_ids
                positions[r, at : at + n] = np.arange(n)
                shifted[r, at : at + n - 1] = labels[1:]
                answers = np.flatnonzero(labels[1:] != IGNORE)
                if item.truth >= 0 and answers.size:
                    first.append((r, at + int(answers[0]), item.truth, item.tag))
                if item.pixels is not None:
                    pixels.append(item.pixels)
                if item.target is not None:
                    goal = item.target
                    targets_of.append(
                        {
                            "picture": torch.from_numpy(goal.picture),
                            "mask": torch.from_numpy(goal.mask),
                            "boxes": goal.boxes,
                            "first_tile": seen,
                        }
                    )
                seen += len(item.pixels) if item.pixels is not None else 0
                at += n
            positions[r, at:] = np.arange(width - at)  # padding is a sample of its own: nothing attends to it
        targets = torch.from_numpy(shifted)
        batch: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids),
            "position_ids": torch.from_numpy(positions),
            "labels": targets,
            "shift_labels": targets,
            "first_answer": torch.tensor(first, dtype=torch.int64).reshape(-1, 4),
        }
        if self.layout == "segments":
            batch["segments"] = tuple(len(item.input_ids) for item in full[0])
        if targets_of:
            batch["masks"] = targets_of
        if pixels:
            batch["pixel_values"] = torch.from_numpy(np.concatenate(pixels))
        return batch
