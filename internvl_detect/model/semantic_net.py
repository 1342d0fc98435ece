"""The semantic branch of the domain tagger: what a picture shows and how it is drawn, read off a small copy of it.

The tagger's main network sees noise and rebuilt texture at the picture's own resolution; generators differ in them,
and compression takes them away. What they draw, and how, is seen in a copy of 256 px as well. The network is
EfficientNet-Lite0 (Tan and Le, 2019; its Lite variant of 2020: no squeeze and excitation, ReLU6), so that weights
trained on ImageNet can be gone on from. Not here: training (``train.semantic``), what is made of it (``domain_tag``).

    net = SemanticNet()
    net(small_copy(Image.open("photo.jpg")))     # (1,) log odds of generated against authentic
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from internvl_detect.errors import CheckpointError

SIDE_PX = 256  # side of a square copy; others have about as many pixels
STRIDE_PX = 32
MOST_ASPECT = 2.0  # longer or wider pictures are squeezed to that
WIDTH = 1280  # numbers that the last layer makes of a picture
BLOCKS = (  # (how many, kernel, stride of the first, expansion, channels)
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class ConvNorm(nn.Sequential):
    """Convolution, BatchNorm and, unless it ends a block, ReLU6. With stride 2 of an even side the border is one wider
    on the right and below, as in TensorFlow, where these weights come from."""

    def __init__(self, inp: int, out: int, kernel: int, stride: int = 1, groups: int = 1, *, act: bool = True) -> None:
        conv = nn.Conv2d(inp, out, kernel, stride, 0 if stride == 2 else kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out, eps=1e-3), *([nn.ReLU6()] if act else []))
        self.border = ((kernel - 2) // 2, (kernel - 1) // 2) * 2 if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.border) if self.border else x)


class _Block(nn.Module):
    """1x1 up, a 3x3 or 5x5 of each channel, 1x1 down, and the input again where it fits."""

    def __init__(self, inp: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inp * expansion
        up = [ConvNorm(inp, inner, 1)] if expansion > 1 else []
        deep = ConvNorm(inner, inner, kernel, stride, inner)
        self.body = nn.Sequential(*up, deep, ConvNorm(inner, out, 1, act=False))
        self.same = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


class SemanticNet(nn.Module):
    """(B, 3, H, W) in [0, 1], sides multiples of 32 -> (B,) log odds of generated against authentic."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, 2)
        blocks, inp = [], 32
        for count, kernel, stride, expansion, out in BLOCKS:
            for at in range(count):
                blocks.append(_Block(inp, out, kernel, stride if at == 0 else 1, expansion))
                inp = out
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(inp, WIDTH, 1)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(self.blocks(self.stem((x * 255 - 127) / 128)))
        return self.out(self.drop(features.mean((2, 3))))[:, 0]


def copy_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a picture's small copy: about SIDE_PX squared, multiples of 32."""
    aspect = min(max(width / height, 1 / MOST_ASPECT), MOST_ASPECT)
    w, h = SIDE_PX * math.sqrt(aspect), SIDE_PX / math.sqrt(aspect)
    return round(w / STRIDE_PX) * STRIDE_PX, round(h / STRIDE_PX) * STRIDE_PX


def small_copy(picture: Image.Image) -> Tensor:
    """The whole picture as the network takes it: float32 (1, 3, h, w) in [0, 1]."""
    small = picture.convert("RGB").resize(copy_size(*picture.size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None].float().div_(255)


def from_efficientnet_lite(given: Mapping[str, Tensor]) -> SemanticNet:
    """A network that begins with ImageNet weights of EfficientNet-Lite0 under their usual names (``_conv_stem.weight``,
    ``_blocks.0._bn1.bias``, ...); its last layer is new and says 0. Raises CheckpointError for other weights."""
    net = SemanticNet()
    state = net.state_dict()
    names = {"stem.0": "_conv_stem", "stem.1": "_bn0", "head.0": "_conv_head", "head.1": "_bn1"}
    for at, block in enumerate(net.blocks):
        parts = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        parts = ["_expand_conv", "_bn0", *parts] if len(block.body) == 3 else parts
        for place, name in enumerate(parts):
            names[f"blocks.{at}.body.{place // 2}.{place % 2}"] = f"_blocks.{at}.{name}"
    found = {}
    for ours, theirs in names.items():
        for key in [k for k in state if k.startswith(f"{ours}.")]:
            value = given.get(theirs + key.removeprefix(ours))
            if value is None or value.shape != state[key].shape:
                said = "is missing" if value is None else f"has the shape {tuple(value.shape)}"
                raise CheckpointError(
                    f"{theirs}{key.removeprefix(ours)} {said}", expected="the weights of EfficientNet-Lite0"
                )
            found[key] = value
    nn.init.zeros_(net.out.weight)
    nn.init.zeros_(net.out.bias)
    net.load_state_dict({**net.state_dict(), **found})
    return net
