"""Trains the tagger's semantic branch: small copies of whole pictures, authentic or generated from nothing.

    python -m internvl_detect.train.semantic --tagger runs/tagger/tagger --start efficientnet_lite0.safetensors \\
        --generated flux=downloads/flux --real phones=mine/photos --out runs/semantic

``out/tagger`` is the tagger with its branch, fitted on the validation split; ``out/checkpoint.safetensors`` is what a
run that was killed goes on from. ``--start`` are ImageNet weights of EfficientNet-Lite0; without it the branch that the
tagger has is trained on. Pictures that were edited or rebuilt show what the photographs show, so none is learned from.
Not here: the network (``model.semantic_net``), the tagger's own training (``tagger``).
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageFilter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from internvl_detect.data.findings import did_you_mean, show
from internvl_detect.errors import CheckpointError, ConfigError, DataError, IvdetectError
from internvl_detect.files import alone_in
from internvl_detect.media.image import open_image
from internvl_detect.model.device import device_of
from internvl_detect.model.domain_tag import DomainTagger, read_net
from internvl_detect.model.domain_tag import save as save_tagger
from internvl_detect.model.embedded import tagger_folder
from internvl_detect.model.save import whole_folder
from internvl_detect.model.semantic_net import STRIDE_PX, SemanticNet, from_efficientnet_lite
from internvl_detect.model.tagger_net import TaggerNet
from internvl_detect.train.checkpoints import of_run, restore, store
from internvl_detect.train.fresh_edits import Drawn, one_usable
from internvl_detect.train.material import all_rows, named
from internvl_detect.train.tag_data import TagRow
from internvl_detect.train.tagger_fit import fit, look_at, summary
from internvl_detect.train.tagger_run import drawn

CHECKPOINT = "checkpoint.safetensors"
HARMLESS = ("workers", "save_every")  # settings that change no weight
SIDES = (6, 7, 8, 9, 10)  # of a crop's copy, in steps of 32 px, around the 8 of a square copy
LEAST_PART = 0.35  # share of a picture's area that a crop holds at least
SMOOTHED = 0.05  # of the labels: some pictures show nothing that tells


@dataclass(frozen=True)
class SemanticTraining:
    """``batch`` pictures a step, half of them authentic, sources by the root of how many they have. ``lr`` rises over
    the first 5 % of the steps and falls as a cosine; the weights that come of it are a running mean that keeps
    ``average`` of itself. ``workers`` decode."""

    steps: int = 1000
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    average: float = 0.998
    seed: int = 0
    workers: int = 1
    save_every: int = 200


class SmallCopies(Dataset[tuple[Tensor, Tensor]]):
    """Step -> (uint8 (B, h, w, 3), float (B,) 1 for generated), one size a step. What cannot be read is drawn again."""

    def __init__(self, rows: Sequence[TagRow], how: SemanticTraining, first: int = 0) -> None:
        self.how, self.first = how, first
        sources: dict[str, dict[str, list[TagRow]]] = {"authentic": {}, "ai_generated": {}}
        for row in rows:
            if row.tag in sources:
                sources[row.tag].setdefault(row.source, []).append(row)
        self.rows = [Drawn(sources[tag]) for tag in ("authentic", "ai_generated")]
        if not all(self.rows):
            raise DataError("pictures of one kind", expected="authentic and generated ones")

    def __len__(self) -> int:
        return self.how.steps - self.first

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.how.seed, self.first + at])
        size = tuple(STRIDE_PX * int(n) for n in rng.choice(SIDES, 2))
        kinds = [i % 2 for i in range(self.how.batch)]
        copies = [
            one_usable(lambda rows=self.rows[kind]: varied(open_image(rows(rng).path).rgb, (size[0], size[1]), rng))
            for kind in kinds
        ]
        return torch.from_numpy(np.stack(copies)), torch.tensor(kinds, dtype=torch.float32)


def varied(picture: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A part of the picture in ``size`` (width, height), as it might be posted: mirrored, compressed, softened, toned;
    uint8 (h, w, 3)."""
    part, aspect = rng.uniform(LEAST_PART, 1.0), picture.width / picture.height
    aspect = min(max(aspect, 0.5), 2.0) * math.exp(rng.uniform(-0.2, 0.2))
    area = part * picture.width * picture.height
    w, h = min(picture.width, math.sqrt(area * aspect)), min(picture.height, math.sqrt(area / aspect))
    x, y = rng.uniform(0, picture.width - w), rng.uniform(0, picture.height - h)
    kernel = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)[int(rng.integers(3))]
    copy = picture.resize(size, kernel, (x, y, x + w, y + h))
    chance = rng.random(7)
    if chance[0] < 0.5:
        copy = copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if chance[1] < 0.15:
        copy = copy.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    for at, change in enumerate((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)):
        if chance[2 + at] < 0.3:
            copy = change(copy).enhance(rng.uniform(0.7, 1.4))
    if chance[5] < 0.04:
        copy = copy.convert("L").convert("RGB")
    if chance[6] < 0.6:
        coded = io.BytesIO()
        copy.save(coded, "JPEG", quality=int(rng.integers(40, 97)), subsampling=int(rng.choice([0, 2])))
        copy = Image.open(coded).convert("RGB")
    return np.asarray(copy)


def train_semantic(
    rows: Sequence[TagRow],
    out: str | Path,
    how: SemanticTraining,
    *,
    start: SemanticNet | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> SemanticNet:
    """The trained branch, of the rows that are authentic or generated; goes on from ``out``/checkpoint.safetensors
    where a run with the same settings was killed. ``progress`` is told (steps done, mean loss) every 50 steps.

    Raises DataError for rows that cannot be trained on, ConfigError where the checkpoint is another run's.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(how.seed)
    about = of_run(how, HARMLESS, rows, start)
    net = (SemanticNet() if start is None else start).to(device, memory_format=torch.channels_last)
    mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(how.average), use_buffers=True)
    optimiser = torch.optim.AdamW(net.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    first = restore(folder / CHECKPOINT, net, mean, optimiser, about)
    net.train()
    loader = DataLoader(SmallCopies(rows, how, first), batch_size=None, num_workers=how.workers)
    losses: list[float] = []
    on = torch.device(device).type
    half = torch.autocast(on, torch.bfloat16, enabled=on != "cpu")  # processors are no faster with it here
    for at, (rgb, wanted) in enumerate(loader):
        step = first + at
        rise = min(1.0, (step + 1) / max(1, 0.05 * how.steps))
        for group in optimiser.param_groups:
            group["lr"] = how.lr * rise * (1 + math.cos(math.pi * step / how.steps)) / 2
        torch.manual_seed(how.seed * 1_000_003 + step)  # dropout draws the same after a restart
        x = rgb.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        with half:
            said = net(x.contiguous(memory_format=torch.channels_last)).float()
        target = wanted.to(device) * (1 - 2 * SMOOTHED) + SMOOTHED
        loss = F.binary_cross_entropy_with_logits(said, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        mean.update_parameters(net)
        losses = [*losses[-49:], float(loss.detach())]
        if not math.isfinite(losses[-1]):
            raise ConfigError(f"the loss is {losses[-1]} at step {step}", expected="a number", do="lower --lr")
        if progress is not None and (step + 1) % 50 == 0:
            progress(step + 1, sum(losses) / len(losses))
        if (step + 1) % how.save_every == 0 or step + 1 == how.steps:
            store(folder / CHECKPOINT, net, mean, optimiser, {**about, "step": str(step + 1)})
    return mean.module.eval()


def with_branch(net: TaggerNet, branch: SemanticNet) -> TaggerNet:
    """The same tagger's network with this branch in place of its own or of none."""
    made = TaggerNet(replace(net.shape, semantic=True))
    own = {k: v for k, v in net.state_dict().items() if not k.startswith("semantic.")}
    made.load_state_dict({**own, **{f"semantic.{k}": v for k, v in branch.state_dict().items()}})
    return made.eval()


def recipe_of(values: Mapping[str, Any]) -> SemanticTraining:
    """SemanticTraining of plain values, as YAML gives them. Raises ConfigError for a key or value that does not fit."""
    known = {f.name: f.default for f in fields(SemanticTraining)}
    if unknown := [key for key in values if key not in known]:
        raise ConfigError(f"the recipe has {show(str(unknown[0]))}", do=did_you_mean(str(unknown[0]), known))
    how = SemanticTraining(**values)
    whole = {"steps": 1, "batch": 2, "seed": 0, "workers": 0, "save_every": 1}
    numbers = {"lr": 1.0, "weight_decay": 1e3, "average": 1.0}
    fits = all(type(getattr(how, key)) is int and least <= getattr(how, key) < 2**31 for key, least in whole.items())
    fits &= all(type(v := getattr(how, key)) in (int, float) and 0 <= v < most for key, most in numbers.items())
    if not fits or how.lr <= 0:
        raise ConfigError(
            f"the recipe has numbers that cannot be: {dict(values)!r:.200}",
            expected="steps from 1, batch from 2, workers from 0, lr above 0 and under 1, average from 0 and under 1",
        )
    return how


def start_from(path: Path | None, net: TaggerNet) -> SemanticNet:
    """What training begins with: ImageNet weights of EfficientNet-Lite0 (safetensors), or the tagger's own branch.

    Raises CheckpointError for weights that do not fit, ConfigError where there are neither.
    """
    if path is None:
        if net.semantic is None:
            raise ConfigError("the tagger has no semantic branch", expected="--start with weights to begin with")
        return net.semantic
    try:
        given = load_file(str(path))
    except (OSError, SafetensorError) as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(f"{path} cannot be used ({said})", expected="EfficientNet-Lite0 in safetensors") from None
    return from_efficientnet_lite(given)


def attach(
    net: TaggerNet,
    rows: Sequence[TagRow],
    out: str | Path,
    how: SemanticTraining,
    *,
    start: SemanticNet,
    sources: Collection[str],
    most: int = 1000,
    device: str | torch.device = "cpu",
    echo: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a branch on the ``sources`` among ``rows``, put it into the tagger's network and fit both on ``most``
    validation pictures; ``out``/tagger is what comes of it. Returns the branch's weight and figures of test pictures.

    Raises DataError where a split is missing or of one kind.
    """
    began, folder = time.monotonic(), Path(out)

    def told(step: int, loss: float) -> None:
        echo(f"step {step} of {how.steps}, loss {loss:.3f}, {time.monotonic() - began:.0f} s")

    whole = [row for row in rows if row.source in sources and row.split == "train"]
    branch = train_semantic(whole, folder, how, start=start, device=device, progress=told)
    made = with_branch(net, branch.cpu())
    tagger = DomainTagger(made, name=folder.name, device=device)
    looked = list(look_at(tagger, drawn([row for row in rows if row.split == "val"], most)))
    if len({one.row.tag == "authentic" for one in looked}) < 2:
        raise DataError("no validation pictures, or of one kind", expected="authentic ones and fakes of the split val")
    fit(tagger, looked)
    with whole_folder(folder / "tagger", replace=True) as stored:
        save_tagger(made, tagger.settings(), stored)
    looked = list(look_at(tagger, drawn([row for row in rows if row.split == "test"], most)))
    told_of = summary(looked, tagger.map_threshold) if looked else {}
    return {"semantic_weight": tagger.semantic_weight, "test": told_of, "seconds": round(time.monotonic() - began, 1)}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the docstring of the file. Exit codes are those of the errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tagger", default="nano", help='folder of the tagger, or "nano"')
    parser.add_argument("--start", type=Path, help="EfficientNet-Lite0's weights, safetensors")
    parser.add_argument("--generated", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--real", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--material", type=Path, help="forged sets, for the fit")
    for key in ("steps", "batch", "lr", "seed", "workers"):
        kind = float if key == "lr" else int
        parser.add_argument(f"--{key}", type=kind, default=getattr(SemanticTraining, key))
    parser.add_argument("--most", type=int, default=1000, help="validation pictures that are looked at")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        how = recipe_of({key: getattr(args, key) for key in ("steps", "batch", "lr", "seed", "workers")})
        device, generated, real = device_of(args.device), named(args.generated), named(args.real)
        rows = all_rows(args.material, generated, real)
        net = read_net(tagger_folder(args.tagger))[0]
        start = start_from(args.start, net)
        with alone_in(args.out):
            given = {"start": start, "sources": {*generated, *real}, "most": max(2, args.most), "device": device}
            result = attach(net, rows, args.out, how, echo=lambda line: print(line, file=sys.stderr), **given)
    except IvdetectError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
