"""The heads of a trained tagger, trained on with whole pictures.

Crops have few cells; peaks over the thousands of cells of a photograph are higher by chance, so a tagger that saw crops
alone takes many a large photograph for an edited one. Every picture is looked at once, the convolutions stay as they
are, and only what turns pooled numbers into tags and methods is trained. Not here: the crops' training (``tagger``).

    net = train_heads(net, seen_whole(net, rows, seed=0, kept=kept), shares=(0.4, 0.28, 0.12, 0.04, 0.16))
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from internvl_detect.data.jsonl import remembered
from internvl_detect.errors import IvdetectError
from internvl_detect.media.degrade import jpeg
from internvl_detect.media.image import open_image
from internvl_detect.model.domain_tag import DomainTagger
from internvl_detect.model.tagger_net import METHODS, TaggerNet
from internvl_detect.train.tag_data import TAGS, TagRow

SHRUNK = 0.4  # share of the pictures that are made smaller and compressed, as what is posted again is
SIDES_PX = (384, 1024)  # longer side of these
MOST_PX = (2304, 1800)  # width and height that are looked at of a larger picture
STEPS, BATCH, LR = 300, 256, 5e-4  # more steps make them experts of the collections that they see
HELD = 3e-3  # pull towards the weights before
NOISE = 0.05  # deviations of noise on the pooled numbers


@dataclass(frozen=True)
class Whole:
    """A picture's row and its pooled numbers (P,)."""

    row: TagRow
    pooled: np.ndarray


def seen_whole(
    net: TaggerNet,
    rows: Sequence[TagRow],
    *,
    seed: int,
    kept: Path,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Whole]:
    """Every row's whole picture as the network pools it; what cannot be read is left out. ``progress`` is told (done,
    of how many) every 50.

    What was seen is added to ``kept``, and not looked at again by a run that goes on with the same network and rows.
    """
    tagger = DomainTagger(net, device=device)
    about = [tagger.fingerprint, seed, [row.path for row in rows]]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    known = remembered(kept, key)
    with kept.open("a", encoding="utf-8") as file:
        print(file=file)  # ends a line that was cut off
        for at, row in enumerate(rows):
            line = known.get(str(at))
            if line is None:
                try:
                    picture = _posted(open_image(row.path).rgb, np.random.default_rng([seed, at]))
                except IvdetectError:
                    continue
                numbers = base64.b64encode(tagger.pooled(picture).tobytes()).decode()
                line = {"picture": str(at), "key": key, "pooled": numbers}
                print(json.dumps(line), file=file, flush=True)
            yield Whole(row, np.frombuffer(base64.b64decode(line["pooled"]), np.float32))
            if progress is not None and (at + 1) % 50 == 0:
                progress(at + 1, len(rows))


def _posted(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < SHRUNK:
        scale = min(1.0, int(rng.integers(SIDES_PX[0], SIDES_PX[1] + 1)) / max(picture.size))
        to = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return jpeg(picture.resize(to, Image.Resampling.LANCZOS), quality=int(rng.integers(70, 96)), subsampling=2)
    width, height = (min(a, b) for a, b in zip(picture.size, MOST_PX, strict=True))
    x, y = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
    return picture.crop((x, y, x + width, y + height))


def train_heads(net: TaggerNet, seen: Iterable[Whole], *, shares: Sequence[float], seed: int = 0) -> TaggerNet:
    """A copy whose hidden layer and heads were trained on; tags are drawn by ``shares``, sources by the root of how
    many they have. The same network where nothing was seen."""
    known = list(seen)
    net = copy.deepcopy(net)
    if not known:
        return net
    x = torch.from_numpy(np.stack([one.pooled for one in known]))
    tags = torch.tensor([TAGS.index(one.row.tag) for one in known])
    methods = torch.tensor([METHODS.index(one.row.method) if one.row.method in METHODS else -1 for one in known])
    weights, rng = _weights(known, shares), np.random.default_rng(seed)
    torch.manual_seed(seed)
    spread = NOISE * x.std(0, unbiased=False)
    own = [*net.hidden.parameters(), *net.tag_head.parameters(), *net.method_head.parameters()]
    before = [each.detach().clone() for each in own]
    optimiser = torch.optim.AdamW(own, lr=LR, weight_decay=0.0)
    net.train()
    for step in range(STEPS):
        at = rng.choice(len(known), BATCH, p=weights)
        noisy = x[at] + spread * torch.randn(BATCH, x.shape[1])
        loss = F.cross_entropy(net.tags(noisy), tags[at], label_smoothing=0.02)
        if (methods[at] >= 0).any():
            loss = loss + 0.3 * F.cross_entropy(net.methods(noisy), methods[at], ignore_index=-1)
        loss = loss + HELD * torch.stack([(a - b).square().sum() for a, b in zip(own, before, strict=True)]).sum()
        optimiser.param_groups[0]["lr"] = LR * (1 - step / STEPS)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return net.eval()


def _weights(known: Sequence[Whole], shares: Sequence[float]) -> np.ndarray:
    count = Counter((one.row.tag, one.row.source) for one in known)
    weights = np.array([count[one.row.tag, one.row.source] ** -0.5 for one in known])
    for tag, share in zip(TAGS, shares, strict=True):
        own = np.array([one.row.tag == tag for one in known])
        weights[own] *= share / max(float(weights[own].sum()), 1e-9)
    return weights / weights.sum()
