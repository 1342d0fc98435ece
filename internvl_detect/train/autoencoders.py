"""Small autoencoders of many shapes: what generators' decoders have in common, and what each has of its own.

A kind is a way of upsampling, how far down the latents lie, and letters for more: ``k`` noise on the latents (as a
variational one), ``v`` latents from a learned codebook (as VQ), ``a`` attention in the middle, ``g`` trained against
a discriminator too. So "transpose8", "nearest16k", "shuffle8va". Not here: training them (``rebuild``).

    net = new_autoencoder("nearest8ka"); save_autoencoder(net, "ae.safetensors", kind="nearest8ka")
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import CheckpointError

UPSAMPLERS = ("nearest", "bilinear", "transpose", "wide", "shuffle", "style")
FACTORS = (4, 8, 16)
CODES = 1024
_KIND = re.compile(rf"({'|'.join(UPSAMPLERS)})({'|'.join(map(str, FACTORS))})([kvag]*)")
_LATENTS = {4: 8, 8: 24, 16: 64}


class SoftClamp(nn.Module):
    """Keeps latents within ±3 smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Noise(nn.Module):
    """While training, noise on the latents; ``std`` of their range of ±3."""

    def __init__(self, std: float = 0.1) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x) if self.training else x


class Codebook(nn.Module):
    """Each group of four latent channels becomes its nearest of CODES vectors; gradients pass straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(CODES, 4))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        flat = x.reshape(b, c // 4, 4, h, w).permute(0, 1, 3, 4, 2).reshape(-1, 4).float()
        near = torch.cdist(flat.detach(), self.codes.detach().float()).argmin(1)
        chosen = self.codes[near].float()
        straight = flat + (chosen - flat).detach() + (chosen - chosen.detach())
        return straight.reshape(b, c // 4, h, w, 4).permute(0, 1, 4, 2, 3).reshape(b, c, h, w).to(x.dtype)


class Attention(nn.Module):
    """One head of self-attention over all positions, beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(4, width), nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, 2)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.out(seen)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Blur(nn.Module):
    """The 4x4 binomial filter that StyleGAN applies after a transposed convolution, one channel at a time."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3, 3, 1]) / 8
        self.register_buffer("kernel", (row[:, None] * row)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])


class Autoencoder(nn.Module):
    """(B, 3, H, W) in [0, 1] -> the same shape, rebuilt; H and W must be multiples of ``factor``."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, factor: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.factor = encoder, decoder, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def _upsample(kind: str, inp: int, out: int) -> nn.Sequential:
    if kind == "transpose":  # kernel 3, stride 2: uneven overlap, the classic checkerboard
        return nn.Sequential(nn.ConvTranspose2d(inp, out, 3, stride=2, padding=1, output_padding=1))
    if kind == "wide":  # kernel 4: even overlap
        return nn.Sequential(nn.ConvTranspose2d(inp, out, 4, stride=2, padding=1))
    if kind == "style":
        return nn.Sequential(nn.ConvTranspose2d(inp, out, 3, stride=2, padding=0), _Blur())
    if kind == "shuffle":
        return nn.Sequential(nn.Conv2d(inp, 4 * out, 3, padding=1), nn.PixelShuffle(2))
    return nn.Sequential(nn.Upsample(scale_factor=2, mode=kind), nn.Conv2d(inp, out, 3, padding=1))


def new_autoencoder(kind: str, *, width: int = 32, deep: int = 64) -> Autoencoder:
    """An untrained network of a kind like "nearest8ka"; its decoder works up to the full resolution.

    Raises ValueError for a kind that there is none of.
    """
    found = _KIND.fullmatch(kind)
    if not found:
        raise ValueError(f"autoencoder {kind!r}: expected one of {', '.join(UPSAMPLERS)}, then 4, 8 or 16, then kvag")
    up, factor, more = found[1], int(found[2]), found[3]
    levels = int(math.log2(factor))
    widths = [16, width, *[deep] * (levels - 1)]  # at 1, 1/2, 1/4 ... of the resolution
    latent = _LATENTS[factor]
    enc: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[1], 3, padding=1), _Residual(widths[1])]
    for a, b in zip(widths[1:], widths[2:], strict=False):
        enc += [nn.SiLU(), nn.Conv2d(a, b, 3, stride=2, padding=1), _Residual(b)]
    enc += [Attention(widths[-1])] if "a" in more else []
    enc += [nn.Conv2d(widths[-1], latent, 1), SoftClamp()]
    enc += [Noise()] if "k" in more else []
    enc += [Codebook()] if "v" in more else []
    dec: list[nn.Module] = [nn.Conv2d(latent, widths[-1], 3, padding=1)]
    dec += [Attention(widths[-1])] if "a" in more else []
    for b, a in zip(widths[::-1], widths[-2::-1], strict=False):
        dec += [_Residual(b), nn.SiLU(), _upsample(up, b, a)]
    dec += [nn.SiLU(), nn.Conv2d(widths[0], 3, 3, padding=1)]
    return Autoencoder(nn.Sequential(*enc), nn.Sequential(*dec), factor).to(memory_format=torch.channels_last)


def new_critic(width: int = 32) -> nn.Sequential:
    """A discriminator of patches (Isola et al., 2017): (B, 3, H, W) -> scores of where it looks real."""
    parts: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for a, b in ((width, 2 * width), (2 * width, 4 * width)):
        parts += [nn.Conv2d(a, b, 4, 2, 1), nn.GroupNorm(4, b), nn.LeakyReLU(0.2)]
    return nn.Sequential(*parts, nn.Conv2d(4 * width, 1, 3, padding=1))


def save_autoencoder(net: Autoencoder, path: str | Path, *, kind: str) -> None:
    """Writes one of our own networks with its kind, for ``load_own``."""
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    with atomically(path) as file:
        file.write(save(state, metadata={"kind": kind}))


def load_own(path: str | Path) -> Autoencoder:
    """Reads what ``save_autoencoder`` wrote, in evaluation mode. Raises CheckpointError."""
    try:
        with safe_open(str(path), "pt") as f:
            kind = (f.metadata() or {}).get("kind", "")
        net = new_autoencoder(kind)
        net.load_state_dict(load_file(str(path)))
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(f"{path} cannot be used ({said})", expected="a file of save_autoencoder") from None
    return net.eval()
