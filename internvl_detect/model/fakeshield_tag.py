"""FakeShield's domain tagger, DTG.pth, in the place of ours: which kind of forgery a picture would be, if it were one.

A ResNet-50 with three classes, in torchvision's names, on a 224 px centre crop of a picture made smaller. It has no
class for authentic pictures and no map, so a look of it is no evidence for fake, and nothing is drawn from it: it only
opens InternVL2's second question. Read as bare tensors (``weights_only``), or from a .safetensors file of the same
names. Not here: our own tagger (``domain_tag``), which training and baselines need.

    seen = FakeShieldTagger.load("weight/fakeshield-v1-22b/DTG.pth").look(Image.open("photo.jpg"))
    seen.tag, seen.probabilities  # of aigc_editing, deepfake and photoshop, in the order of the file's classes
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification

from internvl_detect.errors import CheckpointError
from internvl_detect.model.device import device_of
from internvl_detect.model.domain_tag import Tagged, fingerprint_of
from internvl_detect.questions import EDITS

SHORT_PX, CROP_PX = 256, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
MOST_BYTES = 2**28  # float32 takes 94 MB
MOST_PICKLE_BYTES = 2**22  # of names and shapes; 320 tensors take 0.05 MB
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
COUNTER = ".num_batches_tracked"  # of training alone
_BLOCK = re.compile(r"resnet\.encoder\.stages\.(\d)\.layers\.(\d)\.(?:layer\.(\d)|shortcut)\.(\w+)\.(\w+)")


class FakeShieldTagger:
    """The network, ready to look at pictures; for detection as a ``DomainTagger`` without features and map."""

    channels, map_threshold = 0, 0.5

    def __init__(
        self, net: ResNetForImageClassification, *, name: str = "DTG.pth", device: str | torch.device = "cpu"
    ) -> None:
        self.name, self.device = name, torch.device(device)
        self.fingerprint = fingerprint_of(net)
        self.net = net.eval().to(self.device)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "auto") -> FakeShieldTagger:
        """From a .pth or a .safetensors file; "auto" takes a GPU where one is. Raises CheckpointError."""
        path = Path(path)
        with torch.device("meta"):
            net = ResNetForImageClassification(ResNetConfig(num_labels=len(EDITS)))
        weights = fitting(_read(path), net, path)
        net.to_empty(device="cpu").load_state_dict(weights)
        return cls(net, name=path.name, device=device_of(device))

    @torch.inference_mode()
    def look(self, picture: Image.Image) -> Tagged:
        """What it makes of one picture of any mode and size. Raises CheckpointError for an answer that is no number."""
        logits = self.net(prepared(picture).to(self.device)).logits[0].double()
        if not bool(logits.isfinite().all()):
            raise CheckpointError(f"the answer of {self.name} is not a number", do="fetch it again")
        return Tagged(dict(zip(EDITS, logits.softmax(0).tolist(), strict=True)), np.zeros((0, 0), np.float32), 0.0)


def prepared(picture: Image.Image) -> Tensor:
    """(1, 3, 224, 224): the shorter side made 256 px (bilinear), its centre cut out, normalised.

    Only what the crop shows is made smaller, so that a picture a thousand times as long as it is wide takes no more.
    """
    sides = [SHORT_PX * side // min(picture.size) for side in picture.size]
    box: list[float] = []
    for shift in (0, CROP_PX):
        for side, whole in zip(sides, picture.size, strict=True):
            box.append(min((round((side - CROP_PX) / 2) + shift) * whole / side, whole))
    crop = picture.convert("RGB").resize((CROP_PX, CROP_PX), Image.Resampling.BILINEAR, box=tuple(box))  # type: ignore[arg-type]
    x = (np.asarray(crop, np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(x).permute(2, 0, 1)[None].contiguous()


def fitting(found: Any, net: torch.nn.Module, path: Path) -> dict[str, Tensor]:
    """The state of ``net`` in float32 from tensors in torchvision's names, or in those with ``module.`` before them.

    Raises CheckpointError for anything more, anything less, another shape, another type or a number not finite.
    """
    wanted = {name: tensor.shape for name, tensor in net.state_dict().items()}
    names = {torchvision_name(name): name for name in wanted}
    expected = f"the tensors of torchvision's resnet50 with {len(EDITS)} classes, and nothing else"
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"{path} holds no names with tensors", expected=expected)
    if found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    absent = [name for name in names if name not in found and not name.endswith(COUNTER)]
    odd = [name for name in found if name not in names] or absent
    if odd:
        raise CheckpointError(f"{path} {'lacks' if odd is absent else 'holds'} {odd[0]!r:.80}", expected=expected)
    state = {}
    for name, ours in names.items():
        if name.endswith(COUNTER):
            state[ours] = torch.zeros((), dtype=torch.int64)
            continue
        tensor = found[name]
        is_plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
        if not is_plain or tensor.device.type != "cpu" or tensor.dtype not in FLOATS or tensor.shape != wanted[ours]:
            said = f"{tuple(tensor.shape)}, {tensor.dtype}" if is_plain else f"a {type(tensor).__name__}"
            raise CheckpointError(
                f"{path}: {name} is {said:.80}", expected=f"floating point numbers, {tuple(wanted[ours])}"
            )
        state[ours] = tensor.detach().float()
        if not bool(state[ours].isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite", do="fetch it again")
    return state


def torchvision_name(ours: str) -> str:
    """What torchvision's resnet50 calls a tensor of transformers' ResNetForImageClassification."""
    if block := _BLOCK.fullmatch(ours):
        stage, at, layer, kind, what = block.groups()
        if layer is None:
            part = "downsample.0" if kind == "convolution" else "downsample.1"
        else:
            part = f"{'conv' if kind == 'convolution' else 'bn'}{int(layer) + 1}"
        return f"layer{int(stage) + 1}.{at}.{part}.{what}"
    stem = {"resnet.embedder.embedder.convolution": "conv1", "resnet.embedder.embedder.normalization": "bn1"}
    part, _, what = ours.rpartition(".")
    return f"{(stem | {'classifier.1': 'fc'})[part]}.{what}"


def _read(path: Path) -> Any:
    """What a file holds, mapped and not copied; nothing of it is run. Raises CheckpointError."""
    expected = "a tagger's folder, FakeShield's DTG.pth as torch.save writes it, or the same as .safetensors"
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{size} bytes, more than {MOST_BYTES}")
        if path.suffix == ".safetensors":
            return load_file(str(path))
        with zipfile.ZipFile(path) as whole:
            entries = whole.infolist()
        pickles = [entry.file_size for entry in entries if entry.filename.endswith(".pkl")]
        if len(pickles) != 1 or pickles[0] > MOST_PICKLE_BYTES:
            raise ValueError("not one small list of tensors")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed, which torch.save never does")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's file makes of its readers
        said = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise CheckpointError(f"{path} cannot be used ({said})", expected=expected) from None
