"""NPR: a small network on neighbouring-pixel residuals, x - up(down(x)), trained here on a CPU in minutes.

The idea is of Tan et al., "Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable
Deepfake Detection", CVPR 2024: up-sampling layers leave relations between neighbouring pixels. This is code of our own
with a far smaller network, trained on what ``fit`` is given; it is not the authors' model or weights.

    Npr(steps=600).fit(pictures, fake)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PILImage

from internvl_detect.errors import DataError
from internvl_detect.evaluate.baselines import both_classes, platt, sigmoid

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = np.ndarray
CROP_PX = 128
VIEWS = 4  # crops whose log-odds are averaged for a score


class Npr:
    """Four convolution blocks on the residual at native pixels; random crops and flips, AdamW, one cycle.

    ``steps`` of ``batch`` crops, half of each class; ``seed`` fixes weights and order. The log-odds are scaled on a
    tenth of the groups that the network did not see (Platt 1999).
    """

    name, fits = "NPR, small", True

    def __init__(self, *, steps: int = 600, batch: int = 24, lr: float = 3e-3, seed: int = 0) -> None:
        self.steps, self.batch, self.lr, self.seed = steps, batch, lr, seed
        self._net: Any = None
        self._scale = (1.0, 0.0)

    def fit(
        self, pictures: Iterable[PILImage.Image], fake: Sequence[int], groups: Sequence[Hashable] | None = None
    ) -> None:
        """Train. The pictures are held in memory as bytes. Raises DataError without both classes."""
        import torch
        from torch.nn import functional as F

        y = both_classes(fake, self.name)
        arrays = [_padded(picture) for picture in pictures]
        rng = np.random.default_rng(self.seed)
        group = np.arange(len(y)) if groups is None else np.unique(np.array(groups, str), return_inverse=True)[1]
        n_groups = int(group.max()) + 1
        held = np.isin(group, rng.permutation(n_groups)[: n_groups // 10])
        parts = [np.flatnonzero((y == label) & ~held) for label in (0, 1)]
        if not all(len(part) for part in parts):  # one group has a class to itself: nothing is held out
            held[:] = False
            parts = [np.flatnonzero(y == label) for label in (0, 1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = _network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.lr, total_steps=self.steps)
        truth = torch.tensor([0.0, 1.0]).repeat_interleave(self.batch // 2)
        net.train()
        for _ in range(self.steps):
            chosen = np.concatenate([rng.choice(part, self.batch // 2) for part in parts])
            crops = np.stack([_crop(arrays[i], rng) for i in chosen])
            seen = residual(_tensor(crops))
            with torch.autocast("cpu", torch.bfloat16):
                odds = net(seen)[:, 0]
            loss = F.binary_cross_entropy_with_logits(odds.float(), truth)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        self._net = net.eval()
        if held.any() and len(set(y[held].tolist())) == 2:
            rows = np.flatnonzero(held)
            self._scale = platt(np.array([self._log_odds(arrays[i]) for i in rows]), y[rows])

    def scores(self, pictures: Sequence[PILImage.Image]) -> list[float]:
        """Calibrated P(fake), the mean log-odds of the corners' crops. Raises DataError before ``fit``."""
        if self._net is None:
            raise DataError(f"{self.name} was not fitted", do="call fit first")
        scale, shift = self._scale
        odds = np.array([self._log_odds(_padded(picture)) for picture in pictures])
        return sigmoid(scale * odds + shift).tolist()

    def maps(self, pictures: Sequence[PILImage.Image]) -> list[Array] | None:
        """None: it judges whole crops."""

    def _log_odds(self, rgb: Array) -> float:
        import torch

        h, w = (side - CROP_PX for side in rgb.shape[:2])
        corners = [(0, 0), (0, w), (h, 0), (h, w)][:VIEWS]
        crops = np.stack([rgb[y : y + CROP_PX, x : x + CROP_PX] for y, x in corners])
        with torch.inference_mode():
            return float(self._net(residual(_tensor(crops))).mean())


def residual(x: Tensor) -> Tensor:
    """x - up(down(x)) of (B, 3, H, W): each 2x2 block less its upper left pixel, nearest neighbours both ways."""
    from torch.nn import functional as F

    return x - F.interpolate(F.interpolate(x, scale_factor=0.5, mode="nearest"), size=x.shape[-2:], mode="nearest")


def _network() -> nn.Module:
    from torch import nn

    layers: list[nn.Module] = []
    for inp, out in ((3, 24), (24, 32), (32, 48), (48, 64)):
        layers += [nn.Conv2d(inp, out, 3, stride=2 if inp > 3 else 1, padding=1, bias=False), nn.BatchNorm2d(out)]
        layers += [nn.ReLU(), *([nn.MaxPool2d(2)] if inp == 3 else [])]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1))


def _tensor(crops: Array) -> Tensor:
    import torch

    x = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 32
    return x.contiguous(memory_format=torch.channels_last)


def _padded(picture: PILImage.Image) -> Array:
    rgb = np.asarray(picture.convert("RGB"))
    need = [max(0, CROP_PX - side) for side in rgb.shape[:2]]
    return np.pad(rgb, [(0, need[0]), (0, need[1]), (0, 0)], mode="symmetric") if any(need) else rgb


def _crop(rgb: Array, rng: np.random.Generator) -> Array:
    y, x = (int(rng.integers(side - CROP_PX + 1)) for side in rgb.shape[:2])
    cut = rgb[y : y + CROP_PX, x : x + CROP_PX]
    return cut[:, ::-1] if rng.random() < 0.5 else cut
