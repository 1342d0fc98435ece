"""The light mask head: what the domain tagger sees and what InternVL2's tile tokens say, prompted by ``<SEG>``.

It works on the tagger's grid (a cell is 8 px of the picture) and starts exactly as the tagger's own map. Not here: the
head on SAM (``sam``), files (``mask_files``), training (``train.mask``), drawing (``masker``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from internvl_detect.media.connected import Box
from internvl_detect.model.domain_tag import spread
from internvl_detect.model.tagger_net import CELL_PX

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class TaggerEyes:
    """What the light head sees of a picture: the frozen domain tagger's map and features, from one look."""

    tagger: Any

    def see(self, picture: Image.Image) -> tuple[Tensor, ...]:
        """(h, w) probabilities and (C, h, w) features."""
        tagged, features = self.tagger.look_with_features(picture)
        return torch.from_numpy(tagged.map), features

    @property
    def about(self) -> dict[str, Any]:
        """For mask.json: which tagger it is."""
        return {"tagger": {"name": self.tagger.name, "weights": self.tagger.fingerprint}}


class LightHead(nn.Module):
    """Residual on the tagger's logit. ``channels``: of the tagger's features; ``width``: of the language model;
    ``strength``, 0 to 1, is how much of the residual is added: 0 leaves the tagger's map as it is."""

    kind = "light"

    def __init__(self, channels: int, width: int, hidden: int = 64, strength: float = 1.0) -> None:
        super().__init__()
        self.channels, self.strength = channels, strength
        self.features = nn.Conv2d(channels, hidden, 1)
        self.tokens = nn.Linear(width, hidden)
        self.prompt = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    @classmethod
    def of(cls, about: Mapping[str, Any], width: int) -> LightHead:
        """From mask.json. Raises ValueError."""
        channels = about.get("channels")
        if isinstance(channels, bool) or not isinstance(channels, int) or not 0 < channels <= 4096:
            raise ValueError(f"channels {channels!r:.80}")
        strength = about.get("strength", 1.0)
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
            raise ValueError(f"strength {strength!r:.80}")
        return cls(channels, width, strength=float(strength))

    @property
    def about(self) -> dict[str, Any]:
        """For mask.json."""
        return {"channels": self.channels, "strength": self.strength}

    @staticmethod
    def start(seen: Sequence[Tensor]) -> Tensor:
        """Logits (h, w) before anything is added: the tagger's."""
        return torch.logit(seen[0].float(), 1e-4)

    def forward(
        self, seen: Sequence[Tensor], seg: Tensor, tokens: Tensor | None, boxes: Sequence[Box], size: Size
    ) -> Tensor:
        """Logits (h, w) of edited. ``seen``: of TaggerEyes; ``seg`` (D,); ``tokens`` (T, n, D): the projector's output
        for the tiles at ``boxes`` of a picture of ``size``."""
        tagged, features = (each.to(seg.device).float() for each in seen)
        mixed = self.features(features[None])
        if tokens is not None and len(tokens):
            mixed = mixed + lay(self.tokens(tokens.float()), boxes, (tagged.shape[0], tagged.shape[1]))[None]
        mixed = F.gelu(mixed + self.prompt(seg.float())[None, :, None, None])
        return self.start((tagged,)) + self.strength * self.out(F.gelu(self.mix(mixed)))[0, 0]

    @staticmethod
    def wanted(mask: Tensor) -> Tensor:
        """The share of each cell that a mask (H, W) of 0 and 1 marks; a cell that juts out has what its edge has."""
        height, width = mask.shape
        pad = (0, -width % CELL_PX, 0, -height % CELL_PX)
        return F.avg_pool2d(F.pad(mask.float()[None, None], pad, mode="replicate"), CELL_PX)[0, 0]

    @staticmethod
    def drawn(logits: Tensor, size: Size) -> np.ndarray:
        """P(edited), float32 (H, W) in the picture's own pixels: the cells', bilinear, as the tagger's."""
        return spread(logits.detach().float().sigmoid().cpu().numpy(), size)


def lay(tokens: Tensor, boxes: Sequence[Box], grid_hw: tuple[int, int]) -> Tensor:
    """(C, h, w) from tile tokens (T, n, C), n a square: each tile resized into the cells that its box (px) touches."""
    side = int(tokens.shape[1] ** 0.5)
    h, w = grid_hw
    whole = tokens.new_zeros(tokens.shape[2], h, w)
    for tile, box in zip(tokens, boxes, strict=False):  # a thumbnail has tokens and no box
        a, b = min(box[0] // CELL_PX, w - 1), min(box[1] // CELL_PX, h - 1)
        c, d = min(max(a + 1, -(-box[2] // CELL_PX)), w), min(max(b + 1, -(-box[3] // CELL_PX)), h)
        picture = tile.reshape(side, side, -1).permute(2, 0, 1)[None]
        part = F.interpolate(picture, size=(d - b, c - a), mode="bilinear", align_corners=False)[0]
        keep = torch.ones_like(whole[0])
        keep[b:d, a:c] = 0
        whole = F.pad(part, (a, w - c, b, h - d)) + whole * keep
    return whole
