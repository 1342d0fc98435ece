"""The domain tagger: a picture in; calibrated probabilities of five tags and a coarse map of where it was edited out.

It looks at a picture's own pixels; a large picture is gone through in windows that overlap by more than a cell sees, so
memory stays bounded. Where it has a semantic branch, that reads a small copy of the whole as well and can speak for
"ai_generated"; nothing that it shows counts against that. A folder holds ``tagger.safetensors`` and ``tagger.json``.
Not here: the network (``tagger_net``), what a verdict makes of the tag (``detect``).

    tagger = DomainTagger.load("tagger")
    seen = tagger.look(Image.open("photo.jpg"))
    seen.tag, seen.probabilities["photoshop"], seen.map.shape
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from internvl_detect.errors import CheckpointError
from internvl_detect.model.device import device_of
from internvl_detect.model.embedded import NAME, tagger_folder
from internvl_detect.model.folder import read_json
from internvl_detect.model.semantic_net import small_copy
from internvl_detect.model.tagger_net import CELL_PX, METHODS, STRIDE_PX, Shape, TaggerNet, folded
from internvl_detect.questions import EDITS, TAG_SENTENCES

TAGS = tuple(TAG_SENTENCES)
WEIGHTS, ABOUT = "tagger.safetensors", "tagger.json"
WINDOW_PX = 2048  # side of what goes through the network at once, its margins included
MARGIN_PX = 512  # seen around a window and thrown away
LEAST_PX = 64  # smaller pictures are mirrored up to this
MOST_SEMANTIC = 3.0  # log odds that what a picture shows counts for at most


@dataclass(frozen=True)
class Tagged:
    """``probabilities`` by tag sum to 1; ``map`` is float32 (h, w) in [0, 1], P(edited) of cells of 8 px over the whole
    picture; ``log_odds`` are the raw ones of fake against authentic; ``methods`` are the probabilities of METHODS, of
    how it was edited, if in a part: they sum to 1, or there are none where nothing is told of it. ``semantic`` are the
    log odds by which what it shows speaks for "ai_generated", 0 to MOST_SEMANTIC; 0 where there is no branch.

    One without "authentic" among its tags is of FakeShield's tagger: empty ``map``, ``log_odds`` 0.
    """

    probabilities: dict[str, float]
    map: np.ndarray = field(repr=False)
    log_odds: float
    methods: dict[str, float] = field(default_factory=dict)
    semantic: float = 0.0

    @property
    def method(self) -> str:
        """The likeliest method, "" where nothing is told of it."""
        return max(self.methods, key=self.methods.__getitem__, default="")

    @property
    def tag(self) -> str:
        """The likeliest tag."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def forgery(self) -> str:
        """The likeliest tag of a picture that is not authentic."""
        return max((tag for tag in self.probabilities if tag != "authentic"), key=self.probabilities.__getitem__)

    @property
    def tells(self) -> bool:
        """Whether it speaks for fake or authentic at all, or only of what kind a forgery would be."""
        return "authentic" in self.probabilities

    @property
    def score(self) -> float:
        """P(fake): all that is not authentic; 0.5 where it tells nothing."""
        return 1.0 - self.probabilities["authentic"] if self.tells else 0.5


class DomainTagger:
    """A network with its calibration, ready to look at pictures.

    ``temperature`` divides the logits of the tags after ``bias`` is added to them, and to that of "ai_generated"
    ``semantic_weight`` times what the semantic branch says. Where P(edited in part) of the whole
    picture is under ``map_gate``, the map is scaled down by as much, so that the map of an untouched picture stays
    empty. All four, and ``map_threshold``, were fitted on validation pictures. ``fingerprint`` tells its weights from
    another's.
    """

    def __init__(
        self,
        net: TaggerNet,
        *,
        name: str = "tagger",
        temperature: float = 1.0,
        bias: Sequence[float] = (0.0,) * len(TAGS),
        map_threshold: float = 0.5,
        map_gate: float = 0.0,
        semantic_weight: float = 0.0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name, self.temperature, self.semantic_weight = name, temperature, semantic_weight
        self.map_threshold, self.map_gate = map_threshold, map_gate
        self.bias = tuple(bias)
        self.device = torch.device(device)
        self.fingerprint = fingerprint_of(net)
        self.net = folded(net).to(self.device, memory_format=torch.channels_last)
        self.channels = net.shape.map_width

    @classmethod
    def load(cls, path: str | Path = NAME, device: str | torch.device = "auto") -> DomainTagger:
        """From a folder that ``save`` wrote; "nano" is the embedded one. ``device`` "auto" takes a GPU where one is.

        Raises CheckpointError for what is missing, odd or does not fit.
        """
        folder = tagger_folder(path)
        net, fitted = read_net(folder)
        return cls(net, name=folder.name, device=device_of(device), **fitted)

    @torch.inference_mode()
    def look(self, picture: Image.Image) -> Tagged:
        """What it makes of one picture of any mode and size; smaller than 64 px it is mirrored up to that."""
        return self._tagged(picture, self._parts(picture))

    @torch.inference_mode()
    def look_with_features(self, picture: Image.Image) -> tuple[Tagged, Tensor]:
        """``look`` and, of the same pass, (C, h, w): its last features on the map's grid, for a head to draw from."""
        parts = self._parts(picture)
        return self._tagged(picture, parts), self._laid(picture, parts, lambda part: part[1][0])

    @torch.inference_mode()
    def pooled(self, picture: Image.Image) -> np.ndarray:
        """What the tags follow from: float32 (P,), means and peaks over the whole picture."""
        return self._pool(self._parts(picture))[0].cpu().numpy()

    def _pool(self, parts: list[Any]) -> Tensor:
        return self.net.pool([(maps, features, deep) for maps, features, deep, _ in parts]).float()

    def _tagged(self, picture: Image.Image, parts: list[Any]) -> Tagged:
        pooled = self._pool(parts)
        logits, semantic = self.net.tags(pooled)[0].double(), self._semantic(picture)
        logits[TAGS.index("ai_generated")] += self.semantic_weight * semantic
        logits = (logits + torch.tensor(self.bias, dtype=torch.float64, device=logits.device)) / self.temperature
        fake = float(torch.logsumexp(logits[1:], 0) - logits[0])
        shares = logits.softmax(0).tolist()
        edited = self._laid(picture, parts, lambda part: part[0][0, :1].sigmoid())[0]
        in_part = sum(shares[TAGS.index(tag)] for tag in EDITS)
        scale = min(1.0, in_part / self.map_gate) if self.map_gate else 1.0
        methods = dict(zip(METHODS, self.net.methods(pooled)[0].double().softmax(0).tolist(), strict=True))
        tags = dict(zip(TAGS, shares, strict=True))
        return Tagged(tags, (edited.float() * scale).cpu().numpy(), fake, methods, semantic)

    def _semantic(self, picture: Image.Image) -> float:
        if self.net.semantic is None:
            return 0.0
        copy = small_copy(picture).to(self.device).contiguous(memory_format=torch.channels_last)
        return min(max(float(self.net.semantic(copy)), 0.0), MOST_SEMANTIC)

    def look_many(self, pictures: Sequence[Image.Image]) -> list[Tagged]:
        """``look`` at each: pictures differ in size, and one of them fills two cores."""
        return [self.look(picture) for picture in pictures]

    def _parts(self, picture: Image.Image) -> list[tuple[Tensor, Tensor, Tensor, tuple[int, int]]]:
        """Dense outputs of each window without its margins, and where in the map they belong (row, column)."""
        rgb = torch.from_numpy(_padded(np.asarray(picture.convert("RGB"))))
        h, w = rgb.shape[:2]
        found = []
        for top, bottom in _spans(h):
            for left, right in _spans(w):
                y0, x0 = max(0, top - MARGIN_PX), max(0, left - MARGIN_PX)
                part = rgb[y0 : min(h, bottom + MARGIN_PX), x0 : min(w, right + MARGIN_PX)]
                x = part.to(self.device).permute(2, 0, 1)[None].float().div_(255)
                dense = self.net.dense(x.contiguous(memory_format=torch.channels_last))
                cut = []
                for each, px in zip(dense, (CELL_PX, CELL_PX, STRIDE_PX), strict=True):
                    rows = slice((top - y0) // px, (bottom - y0) // px)
                    cut.append(each[:, :, rows, (left - x0) // px : (right - x0) // px])
                found.append((cut[0], cut[1], cut[2], (top // CELL_PX, left // CELL_PX)))
        return found

    @staticmethod
    def _laid(picture: Image.Image, parts: list[Any], take: Any) -> Tensor:
        """The windows' cells side by side, cut to the picture: (C, ceil(height / 8), ceil(width / 8))."""
        size = [max(at[i] + part.shape[2 + i] for part, _, _, at in parts) for i in range(2)]
        first = take(parts[0])
        whole = first.new_zeros(first.shape[0], *size)
        for part in parts:
            cells, (row, column) = take(part), part[3]
            whole[:, row : row + cells.shape[1], column : column + cells.shape[2]] = cells
        return whole[:, : -(-picture.height // CELL_PX), : -(-picture.width // CELL_PX)]

    def settings(self) -> dict[str, Any]:
        """What ``tagger.json`` holds."""
        numbers = {"temperature": self.temperature, "bias": list(self.bias)}
        numbers |= {"map_threshold": self.map_threshold, "map_gate": self.map_gate}
        numbers |= {"semantic_weight": self.semantic_weight} if self.net.semantic is not None else {}
        return {"format": 2, "shape": self.net.shape.to_dict(), "tags": list(TAGS), **numbers}


def read_net(folder: Path) -> tuple[TaggerNet, dict[str, Any]]:
    """The network of a tagger's folder, norms not folded, and what was fitted: temperature, bias, semantic_weight, the
    map's threshold and gate.

    Raises CheckpointError for what is missing, odd or does not fit.
    """
    about = read_json(folder / ABOUT)
    try:
        given = dict(about["shape"])
        shape = Shape(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
        numbers = {key: float(about[key]) for key in ("temperature", "map_threshold")}
        numbers |= {key: float(about.get(key, 0.0)) for key in ("map_gate", "semantic_weight")}
        bias = [float(b) for b in about["bias"]]
        if about["format"] != 2:
            raise ValueError(f"format {about['format']!r:.20} where this version has 2: train it anew")
        if tuple(about["tags"]) != TAGS or len(bias) != len(TAGS):
            raise ValueError(f"tags {about['tags']}")
        if not all(map(math.isfinite, [*numbers.values(), *bias])) or numbers["temperature"] <= 0:
            raise ValueError("a number that is not finite, or no temperature")
        net = TaggerNet(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / ABOUT} cannot be used ({error})", expected="a domain tagger's") from None
    try:
        state = {k: v.float() for k, v in load_file(str(folder / WEIGHTS)).items()}
        net.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(
            f"{folder / WEIGHTS} cannot be used ({said})", expected="the weights that belong to tagger.json"
        ) from None
    if not all(bool(v.isfinite().all()) for v in state.values()):
        raise CheckpointError(f"{folder / WEIGHTS} holds numbers that are not finite", do="fetch it again")
    return net, {**numbers, "bias": bias}


def save(net: TaggerNet, settings: dict[str, Any], folder: str | Path, *, half: bool = True) -> Path:
    """Writes a tagger's folder: weights (in float16 if ``half``) and its settings (``DomainTagger.settings``)."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu() for k, v in net.state_dict().items()}
    state = {k: (v.half() if half and v.is_floating_point() else v).contiguous() for k, v in state.items()}
    save_file(state, str(out / WEIGHTS), metadata={"format": "pt"})
    (out / WEIGHTS).chmod(0o644)
    (out / ABOUT).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    return out


def spread(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The map of cells, float32 (h, w), in the picture's own pixels: float32 (H, W) for ``size`` (width, height)."""
    width, height = size
    whole = Image.fromarray(cells.astype(np.float32)).resize(
        (cells.shape[1] * CELL_PX, cells.shape[0] * CELL_PX), Image.Resampling.BILINEAR
    )
    return np.clip(np.asarray(whole)[:height, :width], 0, 1)


def fingerprint_of(net: torch.nn.Module) -> str:
    """16 hex digits over norms and biases, in which two trainings differ everywhere."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        if tensor.ndim == 1:
            digest.update(f"{name} {len(tensor)}\n".encode() + tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _padded(rgb: np.ndarray) -> np.ndarray:
    """Mirrored at the right and lower edge up to a multiple of 32 px, 64 at least."""
    pad = [(0, max(LEAST_PX, -(-n // STRIDE_PX) * STRIDE_PX) - n) for n in rgb.shape[:2]]
    return np.pad(rgb, [*pad, (0, 0)], mode="symmetric")


def _spans(length: int) -> list[tuple[int, int]]:
    """Where windows begin and end along a side; multiples of 32 px. One where the whole fits into a window."""
    if length <= WINDOW_PX:
        return [(0, length)]
    step = WINDOW_PX - 2 * MARGIN_PX
    return [(at, min(length, at + step)) for at in range(0, length, step)]
