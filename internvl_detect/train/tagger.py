"""Trains the domain tagger: steps over degraded crops, a checkpoint that a killed run goes on from.

Every batch holds the tags in fixed shares and crops of one size, all drawn from (seed, step) alone, so a run that was
killed and goes on sees what it would have seen. Loss: cross-entropy of the tags plus binary cross-entropy and soft Dice
(Milletari et al., 2016) of the maps, where their truth is known. Not here: crops (``tag_data``), the network.

    net = train_tagger(rows, "runs/tagger", TagTraining(steps=2000))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from internvl_detect.errors import ConfigError, DataError
from internvl_detect.model.tagger_net import Shape, TaggerNet
from internvl_detect.train.checkpoints import of_run, restore, store
from internvl_detect.train.fresh_edits import Drawn, FreshEdits, one_usable
from internvl_detect.train.processes import ALONE, Processes
from internvl_detect.train.rebuild import Rebuilder
from internvl_detect.train.tag_data import TAGS, Crop, TagRow, cut, keep_decoded

CHECKPOINT = "checkpoint.safetensors"
HARMLESS = ("workers", "save_every", "decoded", "whole")  # settings that change no weight of these steps


@dataclass(frozen=True)
class TagTraining:
    """``batch`` crops a step and process, of one of ``sizes_px``; ``shares`` of the tags in a batch where rows of all
    are there; ``map_weight`` multiplies the maps' loss, ``method_weight`` that of how a part was edited. ``lr``
    rises over the first 3 % of steps and falls as a cosine to 0. ``strength`` scales how often a crop is resized,
    blurred, made noisy and compressed: 0 never, 1 mostly. ``repeats`` updates are made of each batch, turned and
    mirrored, where making batches takes longer than learning from them. The weights that come of it are the running
    mean of those after each update, which keeps ``average`` of itself; 0 takes the last ones. ``fresh`` is the share
    of each tag's crops that are made of photographs as they are drawn (``fresh_edits``): ``faces`` are the sources
    of faces to swap, ``decoders`` the files of each autoencoder that rebuilds. ``decoded`` is a folder to keep decoded
    pictures in. After the steps the heads are trained on with ``whole`` pictures (``tagger_heads``)."""

    steps: int = 2000
    batch: int = 32
    sizes_px: tuple[int, ...] = (128, 192, 256, 320)
    shares: tuple[float, ...] = (0.4, 0.25, 0.15, 0.05, 0.15)
    lr: float = 2e-3
    weight_decay: float = 0.02
    map_weight: float = 1.0
    method_weight: float = 0.3
    strength: float = 1.0
    repeats: int = 1
    average: float = 0.0
    fresh: tuple[float, ...] = (0.0,) * len(TAGS)
    faces: tuple[str, ...] = ()
    decoders: tuple[tuple[str, ...], ...] = ()
    seed: int = 0
    workers: int = 1
    save_every: int = 200
    decoded: str = ""
    whole: int = 0
    shape: Shape = Shape()


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class Batches(Dataset[Batch]):
    """Step -> (uint8 (B, S, S, 3), tags (B,), maps (B, 2, S/8, S/8), methods (B,)). A row that cannot be read is drawn
    again. Each process of a run, by its ``rank``, draws crops of its own."""

    def __init__(self, rows: Sequence[TagRow], how: TagTraining, first: int = 0, rank: int = 0) -> None:
        self.how, self.first, self.rank = how, first, rank
        sources: dict[str, dict[str, list[TagRow]]] = {}
        for row in rows:
            sources.setdefault(row.tag, {}).setdefault(row.source, []).append(row)
        if "authentic" not in sources or len(sources) < 2:
            raise DataError(f"rows of {', '.join(sources) or 'no tag'}", expected="authentic ones and fakes")
        self.rows = {tag: Drawn(parts) for tag, parts in sources.items()}
        rebuilders = [Rebuilder(*one).checked() for one in how.decoders]
        self.fresh = FreshEdits(rows if any(how.fresh) else (), faces=how.faces, rebuilders=rebuilders)
        self.tags = [tag for tag in TAGS if tag in sources or tag in self.fresh.methods]
        weights = np.array([how.shares[TAGS.index(tag)] for tag in self.tags])
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return self.how.steps - self.first

    def __getitem__(self, at: int) -> Batch:
        step = self.first + at
        rng = np.random.default_rng([self.how.seed, step])
        size = int(rng.choice(self.how.sizes_px))  # the same for all processes, which wait for each other
        if self.rank:
            rng = np.random.default_rng([self.how.seed, step, self.rank])
        crops = []
        for _ in range(max(2, round(self.how.batch * (self.how.sizes_px[0] / size) ** 0.5))):
            crops.append(one_usable(lambda: self._crop(size, rng)))
        rgb, maps = (torch.from_numpy(np.stack([getattr(c, k) for c in crops])) for k in ("rgb", "maps"))
        tags, methods = (torch.tensor([getattr(c, k) for c in crops]) for k in ("tag", "method"))
        return rgb, tags, maps, methods

    def _crop(self, size: int, rng: np.random.Generator) -> Crop:
        tag = self.tags[int(rng.choice(len(self.tags), p=self.weights))]
        if tag in self.fresh.methods and (tag not in self.rows or rng.random() < self.how.fresh[TAGS.index(tag)]):
            return self.fresh.crop(tag, size, rng, strength=self.how.strength)
        return cut(self.rows[tag](rng), size, rng, strength=self.how.strength)


def tagger_loss(net: TaggerNet, batch: Batch, how: TagTraining) -> Tensor:
    """The loss of a batch of ``Batches``, on the network's device."""
    rgb, tags, maps, methods = batch
    x = rgb.permute(0, 3, 1, 2).float().div(255).contiguous(memory_format=torch.channels_last)
    seen = net(x)
    pooled, found = seen.pooled.float(), seen.maps.float()
    tag_loss = _cross_entropy(net.tags(pooled), tags)
    method_loss = _cross_entropy(net.methods(pooled), methods)
    where = maps >= 0
    bce = F.binary_cross_entropy_with_logits(found, maps.clamp_min(0), reduction="none")
    bce = (bce * where).sum() / where.sum().clamp_min(1)
    edited = (maps[:, 0].flatten(1) >= 0).all(1) & (maps[:, 0].flatten(1).sum(1) > 0.5)
    share, truth = found[edited, 0].sigmoid().flatten(1), maps[edited, 0].flatten(1)
    dice = 1 - (2 * (share * truth).sum(1) + 1) / (share.sum(1) + truth.sum(1) + 1)
    map_loss = bce + 0.5 * (dice.mean() if len(dice) else found.sum() * 0)
    return tag_loss + how.map_weight * map_loss + how.method_weight * method_loss


def turned(batch: Batch, way: int) -> Batch:
    """The batch in one of the other seven ways to turn and mirror a square."""
    rgb, tags, maps, methods = batch
    k, mirrored = divmod(1 + way % 7, 2)
    rgb, maps = rgb.rot90(k, (1, 2)), maps.rot90(k, (2, 3))
    return (rgb.flip(2), tags, maps.flip(3), methods) if mirrored else (rgb, tags, maps, methods)


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Over those that are known, not -1; 0 where none is."""
    each = F.cross_entropy(logits, wanted, label_smoothing=0.02, ignore_index=-1, reduction="sum")
    return each / (wanted >= 0).sum().clamp_min(1)


def train_tagger(
    rows: Sequence[TagRow],
    out: str | Path,
    how: TagTraining,
    *,
    device: str = "cpu",
    start: TaggerNet | None = None,
    progress: Callable[[int, float], None] | None = None,
    us: Processes = ALONE,
) -> TaggerNet:
    """The trained network; goes on from ``out``/checkpoint.safetensors where a run with the same settings and rows was
    killed, and trains nothing where it had come to its end.

    ``start`` is a network (``tagger_start``) that is trained on in place of a drawn one; its shape is taken too.
    ``progress`` is told (steps done, mean loss of the last ones). Of several processes (``us``) the first tells and
    writes the checkpoint; all end with its weights but for the statistics of their own batches. Raises DataError
    for rows that cannot be trained on, ConfigError where the checkpoint is that of another run or the loss is no
    number.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(how.seed)
    about = of_run(how, HARMLESS, rows, start) | {"number of processes": str(us.count)}
    net = TaggerNet(how.shape) if start is None else start
    net = net.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(how.average), use_buffers=True) if how.average else None
    first = restore(folder / CHECKPOINT, net, mean, optimiser, about)
    net.train()
    if how.decoded:
        paths = [*dict.fromkeys(path for row in rows for path in (row.path, row.mask) if path)]
        keep_decoded(paths[us.rank :: us.count], how.decoded, workers=how.workers)
        us.wait()
    batches = Batches(rows, how, first, us.rank)
    loader = DataLoader(batches, batch_size=None, num_workers=how.workers, pin_memory=device != "cpu")
    losses: list[float] = []
    half = torch.autocast(torch.device(device).type, torch.bfloat16)
    for at, batch in enumerate(loader):
        step = first + at
        rate = how.lr * min(1.0, (step + 1) / max(1, 0.03 * how.steps)) * (1 + math.cos(math.pi * step / how.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(how.seed * 1_000_003 + step)  # dropout draws the same after a restart
        on_device = tuple(each.to(device, non_blocking=True) for each in batch)
        for turn in range(how.repeats):
            with half:
                loss = tagger_loss(net, turned(on_device, step + 3 * turn) if turn else on_device, how)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            us.mean_gradients(net.parameters())
            torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimiser.step()
            if mean is not None:
                mean.update_parameters(net)
        if step % 10 == 0:
            losses = [*losses[-19:], float(loss.detach())]
            if not math.isfinite(losses[-1]):
                raise ConfigError(f"the loss is {losses[-1]} at step {step}", expected="a number", do="lower lr")
        if us.first and progress is not None and (step + 1) % 50 == 0:
            progress(step + 1, sum(losses) / len(losses))
        if us.first and ((step + 1) % how.save_every == 0 or step + 1 == how.steps):
            store(folder / CHECKPOINT, net, mean, optimiser, {**about, "step": str(step + 1)})
    return (net if mean is None else mean.module).eval()
