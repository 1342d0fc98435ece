"""Autoencoders that rebuild photographs: the same content with a decoder's traces, an aligned "fake".

Two kinds. ``load_autoencoder`` reads the encoder and decoder of a TAESD-style network from safetensors files and
builds the layers from the tensors' names and shapes alone. ``train_autoencoder`` trains a small one of our own in a
minute or two (``autoencoders`` has their kinds), so that a detector does not learn one decoder by heart.
Not here: which photographs become what (``train.material``), nor anything that detects.

    net = load_autoencoder("encoder.safetensors", "decoder.safetensors")
    twin = rebuild(net, np.asarray(photograph))
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from internvl_detect.errors import CheckpointError
from internvl_detect.train.autoencoders import Autoencoder, SoftClamp, load_own


class _Block(nn.Module):
    """Three 3x3 convolutions beside the identity; some blocks first add a branch of 1x1 convolutions."""

    def __init__(self, width: int, pooled: int = 0) -> None:
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        self.pool: nn.Module | None = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(width, pooled, 1, bias=False),
                nn.GroupNorm(4, pooled),  # 4 groups: the round trip is 26.5 dB on average, and under 25 for any other
                nn.ReLU(),
                nn.Conv2d(pooled, width, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


def _half_from_names(state: dict[str, Tensor], *, decoder: bool, path: Path) -> nn.Sequential:
    names: dict[int, set[str]] = {}
    for key in state:
        number, _, rest = key.partition(".")
        if not number.isdigit() or not rest:
            raise CheckpointError(f"{path}: tensor {key!r}", expected="names such as 3.conv.0.weight")
        names.setdefault(int(number), set()).add(rest)
    layers: list[nn.Module] = []
    for i in range(max(names) + 1):
        if i not in names:  # layers without weights leave gaps in the numbering
            layers.append(SoftClamp() if i == 0 else nn.ReLU() if i == 2 else nn.Upsample(scale_factor=2))
        elif "conv.0.weight" in names[i]:
            pool = state.get(f"{i}.pool.0.weight")
            layers.append(_Block(state[f"{i}.conv.0.weight"].shape[0], 0 if pool is None else pool.shape[0]))
        else:
            out, inp = state[f"{i}.weight"].shape[:2]
            bias = "bias" in names[i]
            layers.append(nn.Conv2d(inp, out, 3, padding=1, bias=bias, stride=1 if bias or decoder else 2))
    half = nn.Sequential(*layers)
    try:
        half.load_state_dict({k: v.float() for k, v in state.items()})
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}", expected="the encoder or decoder of a TAESD-style network") from None
    return half


def load_autoencoder(encoder: str | Path, decoder: str | Path) -> Autoencoder:
    """The network that two safetensors files hold, in fp32 and evaluation mode. Raises CheckpointError."""
    enc = _half_from_names(_load(encoder), decoder=False, path=Path(encoder))
    dec = _half_from_names(_load(decoder), decoder=True, path=Path(decoder))
    halvings = sum(isinstance(m, nn.Conv2d) and m.stride == (2, 2) for m in enc)
    return Autoencoder(enc, dec, 2**halvings).eval().to(memory_format=torch.channels_last)


def _load(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})", expected="a safetensors file") from None


def train_autoencoder(
    net: Autoencoder,
    pictures: Sequence[np.ndarray],
    *,
    seconds: float = 120.0,
    crop_px: int = 64,
    batch: int = 12,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    critic: nn.Module | None = None,
) -> float:
    """Trains ``net`` on random crops of the (H, W, 3) uint8 ``pictures`` for a time; returns its last PSNR in dB.

    The loss is the mean absolute error plus the difference of the crops' Fourier magnitudes: without the second part
    the network only blurs, and a detector would learn blur. A ``critic`` adds hinge losses in the second half.
    """
    rng = np.random.default_rng(seed)
    usable = [p for p in pictures if min(p.shape[:2]) >= crop_px]
    net.to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0)
    judge = None
    if critic is not None:
        judge = torch.optim.AdamW(critic.to(device).parameters(), lr=2e-4, betas=(0.5, 0.9), weight_decay=0.0)
    half = torch.autocast(torch.device(device).type, torch.bfloat16)
    began, mse, step = time.monotonic(), 1.0, 0
    net.train()
    while (part := (time.monotonic() - began) / seconds) < 1:
        crops, step = [], step + 1
        for _ in range(batch):
            p = usable[rng.integers(len(usable))]
            y, x = (int(rng.integers(n - crop_px + 1)) for n in p.shape[:2])
            crops.append(p[y : y + crop_px, x : x + crop_px])
        want = _to_tensor(torch.from_numpy(np.stack(crops)).to(device))
        optimiser.param_groups[0]["lr"] = lr * min(1.0, step / 50) * (0.02 + 0.98 * (1 - part))
        with half:
            got = net(want)
        got = got.float()
        spectra = torch.fft.rfft2(got, norm="ortho").abs() - torch.fft.rfft2(want, norm="ortho").abs()
        loss = (got - want).abs().mean() + 0.1 * spectra.abs().mean()
        if critic is not None and judge is not None and part > 0.5:
            with half:
                told = F.relu(1 - critic(want)).mean() + F.relu(1 + critic(got.detach())).mean()
            judge.zero_grad()
            told.backward()
            judge.step()
            with half:
                loss = loss - 0.02 * critic(got).float().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        if step % 10 == 0:
            mse = 0.9 * mse + 0.1 * float((got.detach() - want).square().mean())
    net.eval().cpu()
    return -10 * math.log10(mse)


def _to_tensor(rgb: Tensor) -> Tensor:
    x = rgb.permute(0, 3, 1, 2).float() / 255
    return x.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def rebuild(net: Autoencoder, rgb: np.ndarray) -> np.ndarray:
    """The (H, W, 3) uint8 picture after one round trip; edges are mirrored up to a multiple of the factor."""
    h, w = rgb.shape[:2]
    pad = [(0, -h % net.factor), (0, -w % net.factor), (0, 0)]
    x = _to_tensor(torch.from_numpy(np.pad(rgb, pad, mode="reflect")[None]))
    with torch.autocast("cpu", torch.bfloat16):
        latents = net.encoder(x)
        y = net.decoder[:-1](latents) if isinstance(net.decoder, nn.Sequential) else net.decoder(latents)
    if isinstance(net.decoder, nn.Sequential):  # the last layer in fp32: bf16 has one grey level of rounding near white
        y = net.decoder[-1](y.float())
    out = y.clamp(0, 1)[0].permute(1, 2, 0).mul(255).round().to(torch.uint8).numpy()
    return out[:h, :w]


@dataclass(frozen=True)
class Rebuilder:
    """``rebuild`` by the network of one or two safetensors files, as forging wants it: it travels to a process as
    paths, is loaded there once, and works on one thread, so that the bytes are the same for any number of processes.

    Without ``decoder`` the first file is one of our own. Raises CheckpointError when called, if the files do not hold
    an encoder and its decoder.
    """

    encoder: str
    decoder: str = ""

    def checked(self) -> Rebuilder:
        """Itself, after the files were loaded once: a wrong one is told before any work."""
        _loaded(self.encoder, self.decoder)
        return self

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        net, threads = _loaded(self.encoder, self.decoder), torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return rebuild(net, rgb)
        finally:
            torch.set_num_threads(threads)


@lru_cache(maxsize=64)
def _loaded(encoder: str, decoder: str) -> Autoencoder:
    return load_autoencoder(encoder, decoder) if decoder else load_own(encoder)
