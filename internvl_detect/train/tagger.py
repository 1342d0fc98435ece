"""Trains the domain tagger: steps over degraded crops, a checkpoint that a killed run goes on from.

Every batch holds the tags in fixed shares and crops of one size, all drawn from (seed, step) alone, so a run that was
killed and goes on sees what it would have seen. Loss: cross-entropy of the tags plus binary cross-entropy and soft Dice
(Milletari et al., 2016) of the maps, where their truth is known. Not here: crops (``tag_data``), the network.

    net = train_tagger(rows, "runs/tagger", TagTraining(steps=2000))
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import CheckpointError, ConfigError, DataError, IvdetectError
from internvl_detect.model.domain_tag import read_net
from internvl_detect.model.tagger_net import Shape, TaggerNet
from internvl_detect.train.tag_data import TAGS, TagRow, cut

CHECKPOINT = "checkpoint.safetensors"
HARMLESS = ("workers", "save_every")  # settings that change no weight


@dataclass(frozen=True)
class TagTraining:
    """``batch`` crops a step, of one of ``sizes_px``; ``shares`` of the tags in a batch where rows of all are there;
    ``map_weight`` multiplies the maps' loss. ``lr`` rises over the first 3 % of steps and falls as a cosine to 0.
    ``strength`` scales how often a crop is resized, blurred, made noisy and compressed: 0 never, 1 mostly."""

    steps: int = 2000
    batch: int = 32
    sizes_px: tuple[int, ...] = (128, 192, 256, 320)
    shares: tuple[float, ...] = (0.4, 0.25, 0.15, 0.05, 0.15)
    lr: float = 2e-3
    weight_decay: float = 0.02
    map_weight: float = 1.0
    strength: float = 1.0
    seed: int = 0
    workers: int = 1
    save_every: int = 200
    shape: Shape = Shape()


class Batches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Step -> (uint8 (B, S, S, 3), tags (B,), maps (B, 2, S/8, S/8)). A row that cannot be read is drawn again."""

    def __init__(self, rows: Sequence[TagRow], how: TagTraining, first: int = 0) -> None:
        self.how, self.first = how, first
        self.sources: dict[str, dict[str, list[TagRow]]] = {}
        for row in rows:
            self.sources.setdefault(row.tag, {}).setdefault(row.source, []).append(row)
        if "authentic" not in self.sources or len(self.sources) < 2:
            raise DataError(f"rows of {', '.join(self.sources) or 'no tag'}", expected="authentic ones and fakes")
        self.tags = [tag for tag in TAGS if tag in self.sources]
        weights = np.array([how.shares[TAGS.index(tag)] for tag in self.tags])
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return self.how.steps - self.first

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor, Tensor]:
        step = self.first + at
        rng = np.random.default_rng([self.how.seed, step])
        size = int(rng.choice(self.how.sizes_px))
        crops = []
        for _ in range(max(2, round(self.how.batch * (self.how.sizes_px[0] / size) ** 0.5))):
            crops.append(self._crop(size, rng))
        rgb, maps = (torch.from_numpy(np.stack([getattr(c, k) for c in crops])) for k in ("rgb", "maps"))
        return rgb, torch.tensor([c.tag for c in crops]), maps

    def _crop(self, size: int, rng: np.random.Generator) -> Any:
        for _ in range(20):
            tag = self.tags[int(rng.choice(len(self.tags), p=self.weights))]
            names = sorted(self.sources[tag])
            rows = self.sources[tag][names[int(rng.integers(len(names)))]]
            try:
                return cut(rows[int(rng.integers(len(rows)))], size, rng, strength=self.how.strength)
            except IvdetectError as error:
                problem = error
        raise DataError(f"twenty pictures in a row could not be used; the last: {problem}")


def tagger_loss(net: TaggerNet, rgb: Tensor, tags: Tensor, maps: Tensor, map_weight: float) -> tuple[Tensor, Tensor]:
    """(loss, its share of the maps) of a batch of uint8 (B, S, S, 3) crops."""
    x = rgb.permute(0, 3, 1, 2).float().div(255).contiguous(memory_format=torch.channels_last)
    seen = net(x)
    logits, found = net.tags(seen.pooled.float()), seen.maps.float()
    known = tags >= 0
    tag_loss = (
        F.cross_entropy(logits[known], tags[known], label_smoothing=0.02) if bool(known.any()) else logits.sum() * 0
    )
    where = maps >= 0
    bce = F.binary_cross_entropy_with_logits(found, maps.clamp_min(0), reduction="none")
    bce = (bce * where).sum() / where.sum().clamp_min(1)
    edited = (maps[:, 0].flatten(1) >= 0).all(1) & (maps[:, 0].flatten(1).sum(1) > 0.5)
    share, truth = found[edited, 0].sigmoid().flatten(1), maps[edited, 0].flatten(1)
    dice = 1 - (2 * (share * truth).sum(1) + 1) / (share.sum(1) + truth.sum(1) + 1)
    map_loss = bce + 0.5 * (dice.mean() if len(dice) else found.sum() * 0)
    return tag_loss + map_weight * map_loss, map_loss.detach()


def train_tagger(
    rows: Sequence[TagRow],
    out: str | Path,
    how: TagTraining,
    *,
    device: str = "cpu",
    start: str | Path | TaggerNet | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> TaggerNet:
    """The trained network; goes on from ``out``/checkpoint.safetensors where a run with the same settings and rows was
    killed, and trains nothing where it had come to its end.

    ``start`` is a network, or a tagger's folder, that is trained on in place of a drawn one; its shape is taken too.
    ``progress`` is told (steps done, mean loss of the last ones). Raises DataError for rows that cannot be trained on,
    ConfigError where the checkpoint is that of another run or the loss is no number.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(how.seed)
    drawn = TaggerNet(how.shape) if start is None else start
    net = drawn if isinstance(drawn, TaggerNet) else read_net(Path(drawn))[0]
    about = _about(rows, how, net if start is not None else None)
    net = net.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    first = _restore(folder / CHECKPOINT, net, optimiser, about)
    net.train()
    batches = Batches(rows, how, first)
    loader = DataLoader(batches, batch_size=None, num_workers=how.workers, pin_memory=device != "cpu")
    losses: list[float] = []
    half = torch.autocast(torch.device(device).type, torch.bfloat16)
    for at, (rgb, tags, maps) in enumerate(loader):
        step = first + at
        rate = how.lr * min(1.0, (step + 1) / max(1, 0.03 * how.steps)) * (1 + math.cos(math.pi * step / how.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(how.seed * 1_000_003 + step)  # dropout draws the same after a restart
        with half:
            loss, _ = tagger_loss(net, rgb.to(device), tags.to(device), maps.to(device), how.map_weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        if step % 10 == 0:
            losses = [*losses[-19:], float(loss.detach())]
            if not math.isfinite(losses[-1]):
                raise ConfigError(f"the loss is {losses[-1]} at step {step}", expected="a number", do="lower lr")
        if progress is not None and (step + 1) % 50 == 0:
            progress(step + 1, sum(losses) / len(losses))
        if (step + 1) % how.save_every == 0 or step + 1 == how.steps:
            _store(folder / CHECKPOINT, net, optimiser, {**about, "step": str(step + 1)})
    return net.eval()


def _about(rows: Sequence[TagRow], how: TagTraining, start: TaggerNet | None) -> dict[str, str]:
    """What must be the same for a run to go on: settings, pictures, weights that it began with."""
    said = {f.name: repr(getattr(how, f.name)) for f in fields(how) if f.name not in HARMLESS}
    said["pictures"] = hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()
    weights = b"" if start is None else save({k: v.cpu().contiguous() for k, v in start.state_dict().items()})
    said["start"] = hashlib.sha256(weights).hexdigest()
    return said


def _store(path: Path, net: TaggerNet, optimiser: torch.optim.Optimizer, about: dict[str, str]) -> None:
    tensors = {f"net.{k}": v.contiguous() for k, v in net.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{k}": v.contiguous() for k, v in state.items()}
    with atomically(path) as file:
        file.write(save(tensors, metadata=about))


def _restore(path: Path, net: TaggerNet, optimiser: torch.optim.Optimizer, about: dict[str, str]) -> int:
    """The step to go on from: 0 where there is no checkpoint."""
    if not path.is_file():
        return 0
    try:
        with safe_open(str(path), "pt") as file:
            stored = file.metadata() or {}
        if differs := [key for key, value in about.items() if stored.get(key) != value]:
            raise ConfigError(
                f"{path.parent} holds a run with other {', '.join(differs)}",
                expected="the same command, to go on with it",
                do=f"choose another folder, or remove {path.name} there to train anew",
            )
        tensors = load_file(str(path))
        net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, number, name = key.split(".", 2)
                state.setdefault(int(number), {})[name] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        return int(stored["step"])
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(f"{path} cannot be used ({said})", do="remove it to train anew") from None
