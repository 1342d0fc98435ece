"""The domain tagger's network: fully convolutional, at the picture's own resolution, with a map of where.

Input are RGB and high-pass residuals of it, clipped, so that noise of a grey level weighs as much as content. A stem
halves the resolution at once; most layers work at an eighth and a sixteenth of it through narrow 3x3 convolutions.
BatchNorm keeps magnitudes, which are what forensic traces are made of, and folds into the convolutions afterwards.
An edit is what differs from its surroundings, so the deepest layer also sees how far it is from its mean around.
Not here: pictures in and answers out (``domain_tag``), training (``train.tagger``).

    net = TaggerNet(Shape())
    seen = net(torch.zeros(1, 3, 256, 256))     # seen.maps (1, 2, 32, 32), seen.pooled (1, P)
    net.tags(seen.pooled)                       # (1, 5)
    net.methods(seen.pooled)                    # (1, 7)
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from internvl_detect.model.semantic_net import ConvNorm, SemanticNet
from internvl_detect.questions import METHOD_SENTENCES

METHODS = tuple(METHOD_SENTENCES)  # how a part was edited
AROUND = 15  # cells of 32 px a side, of the mean that the deepest layer is held against
CELL_PX = 8  # side of a cell of the maps, in pixels
STRIP_PX = 64  # rows that the first layer works on at once
STRIDE_PX = 32  # sides of an input are multiples of this
MAPS = ("edited", "generated")


@dataclass(frozen=True)
class Shape:
    """Channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution, how many blocks there are from 1/4 on, and whether
    there is a ``semantic`` branch, which sees a small copy of the whole picture.

    Raises ValueError for numbers that make no network.
    """

    widths: tuple[int, ...] = (24, 48, 96, 192, 256)
    blocks: tuple[int, ...] = (1, 3, 4, 2)
    map_width: int = 64
    tags: int = 5
    semantic: bool = False

    def __post_init__(self) -> None:
        if len(self.widths) != 5 or len(self.blocks) != 4 or self.tags != 5:
            raise ValueError("a shape has five widths, four blocks and five tags")
        least = [*((n, 1) for n in (*self.widths, self.map_width)), *((n, 0) for n in self.blocks)]
        if not all(type(n) is int and low <= n <= 1024 for n, low in least):
            raise ValueError("widths are whole numbers from 1 to 1024, blocks from 0")
        if type(self.semantic) is not bool:
            raise ValueError("semantic is true or false")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


class Seen(NamedTuple):
    """``maps`` (B, 2, H/8, W/8) log odds of MAPS; ``pooled`` (B, P) for the tags; ``features`` (B, C, H/8, W/8)."""

    maps: Tensor
    pooled: Tensor
    features: Tensor


def input_filters() -> Tensor:
    """(12, 1, 3, 3): for each colour itself over 64 levels, the halved second differences along x and y, and the 3x3
    filter that both make.

    From the rich models of steganalysis (Fridrich and Kodovsky, 2012); each difference passes white noise with half
    its deviation.
    """
    itself = torch.zeros(3, 3)
    itself[1, 1] = 1 / 64
    along_x = torch.tensor([[0.0, 0, 0], [1, -2, 1], [0, 0, 0]])
    square = torch.tensor([[-1.0, 2, -1], [2, -4, 2], [-1, 2, -1]])
    kinds = [itself, *(f / f.norm() / 2 for f in (along_x, along_x.T, square))]
    return torch.stack(kinds).repeat(3, 1, 1)[:, None]


class _Conv(nn.Sequential):
    """Convolution, BatchNorm and, unless it ends a block, ReLU."""

    def __init__(self, inp: int, out: int, kernel: int, stride: int = 1, *, act: bool = True, pad: int | None = None):
        padding = (kernel - 1) // 2 if pad is None else pad
        parts: list[nn.Module] = [nn.Conv2d(inp, out, kernel, stride, padding, bias=False), nn.BatchNorm2d(out)]
        super().__init__(*parts, *([nn.ReLU(inplace=True)] if act else []))


class _Block(nn.Module):
    """Identity plus 1x1 down to a third or so, 3x3, 1x1 up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(16, width // 3 // 8 * 8)
        self.body = nn.Sequential(_Conv(width, inner, 1), _Conv(inner, inner, 3), _Conv(inner, width, 1, act=False))
        nn.init.zeros_(self.body[2][1].weight)  # starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class TaggerNet(nn.Module):
    """(B, 3, H, W) in [0, 1], sides multiples of 32 -> ``Seen``; ``tags`` turns pooled numbers into logits (B, 5)."""

    filters: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        w, n, m = shape.widths, shape.blocks, shape.map_width
        self.register_buffer("filters", input_filters(), persistent=False)
        self.stem = _Conv(12, w[0], 4, 2, pad=1)
        self.levels = nn.ModuleList(
            nn.Sequential(_Conv(a, b, 3, 2), *[_Block(b) for _ in range(count)])
            for a, b, count in zip(w[:-1], w[1:], n, strict=True)
        )
        self.around = _Conv(w[-1], w[-1], 1)
        self.lateral = nn.ModuleList(_Conv(width, m, 1) for width in w[2:])
        self.smooth = nn.Sequential(_Conv(m, m, 3), _Conv(m, m, 3))
        self.map_head = nn.Conv2d(m, len(MAPS), 1)
        self.hidden = nn.Sequential(nn.Linear(self.pooled_size, 128), nn.ReLU(), nn.Dropout(0.1))
        self.tag_head, self.method_head = nn.Linear(128, shape.tags), nn.Linear(128, len(METHODS))
        self.semantic = SemanticNet() if shape.semantic else None  # has no part in the forward pass

    @property
    def pooled_size(self) -> int:
        """Length of the pooled vector of one picture."""
        return 2 * self.shape.widths[-1] + 3 * self.shape.map_width + 3 * len(MAPS)

    def forward(self, x: Tensor) -> Seen:
        maps, features, deep = self.dense(x)
        return Seen(maps, self.pool([(maps, features, deep)]), features)

    def dense(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps and features at 1/8, and the deepest layer's at 1/32, before anything is pooled."""
        y = self._stem(x)
        levels = []
        for level in self.levels:
            y = level(y)
            levels.append(y)
        mean = F.avg_pool2d(y, AROUND, 1, AROUND // 2, count_include_pad=False)
        levels[3] = y + self.around(y - mean)
        merged = self.lateral[2](levels[3])
        for at in (2, 1):
            merged = F.interpolate(merged, scale_factor=2.0, mode="nearest") + self.lateral[at - 1](levels[at])
        features = self.smooth(merged)
        return self.map_head(features), features, levels[3]

    def _stem(self, x: Tensor) -> Tensor:
        """The first layer. Where nothing is learned it goes in strips: tensors of a large picture that are made anew by
        every layer cost more than the sums in them."""
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 has no half grey levels
            padded = F.pad(x * 255 - 127.5, (1, 1, 1, 1), mode="replicate")
        height, found = x.shape[2], []
        step = height if self.training else STRIP_PX
        for top in range(0, height, step):
            below = min(height, top + step)
            first, last = max(0, top - 1), min(height, below + 1)  # the stem sees a row more on either side
            with torch.autocast(x.device.type, enabled=False):
                y = F.conv2d(padded[:, :, first : last + 2], self.filters, groups=3).clamp_(-4, 4)
            y = F.pad(y, (1, 1, 1 - (top - first), 1 - (last - below)))
            conv, *rest = self.stem
            y = F.conv2d(y, conv.weight, conv.bias, conv.stride)
            for layer in rest:
                y = layer(y)
            found.append(y)
        return torch.cat(found, 2) if len(found) > 1 else found[0]

    def pool(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """(B, P) from the dense outputs of one picture's parts: means, peaks, and what lies where it looks edited."""
        flat = [torch.cat([p[i].flatten(2) for p in parts], 2) for i in range(3)]
        maps, features, deep = flat  # (B, C, cells)
        inside = maps[:, :1].sigmoid() + 1e-3
        suspect = (features * inside).sum(2) / inside.sum(2)
        top = max(1, maps.shape[2] // 50)
        peaks = maps.topk(top, 2).values.mean(2)
        return torch.cat(
            [
                *(deep.mean(2), deep.amax(2)),
                *(features.mean(2), features.std(2, unbiased=False), suspect),
                *(maps.mean(2), peaks, maps.sigmoid().mean(2)),
            ],
            1,
        )

    def tags(self, pooled: Tensor) -> Tensor:
        """Logits of the tags, (B, 5)."""
        return self.tag_head(self.hidden(pooled))

    def methods(self, pooled: Tensor) -> Tensor:
        """Logits of METHODS, (B, 7), for a picture that was edited in a part."""
        return self.method_head(self.hidden(pooled))


def folded(net: TaggerNet) -> TaggerNet:
    """A copy in evaluation mode with every BatchNorm folded into its convolution: same answers, fewer passes."""
    out = copy.deepcopy(net).eval()
    for module in [m for m in out.modules() if isinstance(m, _Conv | ConvNorm)]:
        module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
    return out
