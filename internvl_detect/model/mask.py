"""The light mask head: what the domain tagger sees and what InternVL2's tile tokens say, prompted by ``<SEG>``.

It works on the tagger's grid (a cell is 8 px of the picture) and starts exactly as the tagger's own map. Also its
files, mask.safetensors and mask.json, and the regions of a map. Not here: training (``train.mask``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from internvl_detect.errors import AdapterError
from internvl_detect.model.folder import read_json
from internvl_detect.model.seg import MaskParts, add_seg

WEIGHTS, SETTINGS = "mask.safetensors", "mask.json"
Box = tuple[int, int, int, int]


class LightHead(nn.Module):
    """Residual on the tagger's logit. ``channels``: of the tagger's features; ``width``: of the language model."""

    def __init__(self, channels: int, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.features = nn.Conv2d(channels, hidden, 1)
        self.tokens = nn.Linear(width, hidden)
        self.prompt = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(
        self, tagged: Tensor, features: Tensor, seg: Tensor, tokens: Tensor | None, boxes: Sequence[Box], size_wh: Any
    ) -> Tensor:
        """Logits (h, w) of edited. ``tagged`` (h, w): the tagger's probabilities; ``features`` (C, h, w); ``seg`` (D,);
        ``tokens`` (T, n, D): the projector's output for the tiles at ``boxes`` of a picture of ``size_wh`` pixels."""
        seen = self.features(features.float()[None])
        if tokens is not None and len(tokens):
            laid = lay(self.tokens(tokens.float()), boxes, size_wh, (tagged.shape[0], tagged.shape[1]))
            seen = seen + laid[None]
        seen = F.gelu(seen + self.prompt(seg.float())[None, :, None, None])
        return torch.logit(tagged.float(), 1e-4) + self.out(F.gelu(self.mix(seen)))[0, 0]


def lay(tokens: Tensor, boxes: Sequence[Box], size_wh: tuple[int, int], grid_hw: tuple[int, int]) -> Tensor:
    """(C, h, w) from tile tokens (T, n, C), n a square: each tile resized into the cells of its box (pixels)."""
    side = int(tokens.shape[1] ** 0.5)
    (width, height), (h, w) = size_wh, grid_hw
    whole = tokens.new_zeros(tokens.shape[2], h, w)
    for tile, (left, top, right, bottom) in zip(tokens, boxes, strict=False):
        a, b = min(left * w // width, w - 1), min(top * h // height, h - 1)
        c, d = max(a + 1, -(-right * w // width)), max(b + 1, -(-bottom * h // height))
        picture = tile.reshape(side, side, -1).permute(2, 0, 1)[None]
        size = (min(d, h) - b, min(c, w) - a)
        part = F.interpolate(picture, size=size, mode="bilinear", align_corners=False)[0]
        whole = F.pad(part, (a, w - a - size[1], b, h - b - size[0])) + whole * _outside(whole, a, b, *size)
    return whole


def _outside(whole: Tensor, left: int, top: int, height: int, width: int) -> Tensor:
    keep = torch.ones_like(whole[0])
    keep[top : top + height, left : left + width] = 0
    return keep


def save_mask(parts: MaskParts, folder: Path, about: dict[str, Any]) -> None:
    """Write mask.safetensors and mask.json into an adapter folder. ``about`` adds to the JSON (threshold, tagger)."""
    save_file({k: v.detach().cpu().contiguous() for k, v in parts.state_dict().items()}, str(folder / WEIGHTS))
    said = {"format": 1, "head": "light", "channels": parts.head.channels, **about}
    (folder / SETTINGS).write_text(json.dumps(said, indent=2) + "\n", "utf-8")


def load_mask(model: Any, folder: Path) -> MaskParts | None:
    """Put a folder's ``<SEG>`` rows and head on a model; None where it has none. Raises AdapterError."""
    if not (folder / WEIGHTS).is_file():
        return None
    said = read_json(folder / SETTINGS)
    channels = said.get("channels")
    if said.get("head") != "light" or isinstance(channels, bool) or not isinstance(channels, int):
        raise AdapterError(f"{folder / SETTINGS}: head {said.get('head')!r}", expected="light, with its channels")
    if not 0 < channels <= 4096:
        raise AdapterError(f"{folder / SETTINGS}: channels is {channels}", expected="1 to 4096")
    try:
        stored = load_file(str(folder / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{folder / WEIGHTS} cannot be read ({error})", do="copy it again") from error
    width = stored["seg_in"].numel() if "seg_in" in stored else 0
    from internvl_detect.model.parts import base_of

    own = base_of(model).get_input_embeddings().weight.shape[1]
    wanted = MaskParts(0, own, LightHead(channels, own)).state_dict()
    odd = sorted(set(wanted) ^ set(stored)) or [k for k, v in stored.items() if v.shape != wanted[k].shape]
    if odd or width != own:
        raise AdapterError(f"{folder / WEIGHTS} does not fit: {odd[0]}", expected="the rows and head of this base")
    parts = add_seg(model, LightHead(channels, own))
    parts.load_state_dict(stored)
    threshold = said.get("threshold", 0.5)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise AdapterError(f"{folder / SETTINGS}: threshold is {threshold!r}", expected="a number, 0 to 1")
    parts.threshold = float(threshold)
    parts.requires_grad_(False)
    return parts
