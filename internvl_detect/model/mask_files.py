"""mask.safetensors and mask.json of an adapter folder: the ``<SEG>`` rows, the head, and what it must be used with.

Not here: the heads (``mask``, ``sam``), LoRA itself (``adapter``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from internvl_detect.errors import AdapterError
from internvl_detect.model.folder import read_json
from internvl_detect.model.mask import LightHead
from internvl_detect.model.parts import base_of
from internvl_detect.model.seg import MaskParts, add_seg

WEIGHTS, SETTINGS = "mask.safetensors", "mask.json"


def has_mask(folder: Path) -> bool:
    """Whether an adapter folder draws masks."""
    return (folder / WEIGHTS).is_file()


def save_mask(parts: MaskParts, folder: Path) -> None:
    """Write both files into an adapter folder; ``parts.about`` goes into the JSON."""
    save_file({k: v.detach().cpu().contiguous() for k, v in parts.state_dict().items()}, str(folder / WEIGHTS))
    head: Any = parts.head
    said = {"format": 1, "head": head.kind, **parts.about, **head.about}
    (folder / SETTINGS).write_text(json.dumps(said, indent=2) + "\n", "utf-8")


def load_mask(model: Any, folder: Path) -> MaskParts | None:
    """Put a folder's ``<SEG>`` rows and head on a model; None where it has none. Raises AdapterError."""
    if not has_mask(folder):
        return None
    file, said = folder / SETTINGS, read_json(folder / SETTINGS)
    threshold = said.get("threshold", 0.5)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise AdapterError(f"{file}: threshold is {threshold!r:.80}", expected="a number, 0 to 1")
    own = base_of(model).get_input_embeddings().weight.shape[1]
    try:
        stored = load_file(str(folder / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{folder / WEIGHTS} cannot be read ({error})", do="copy it again") from error
    with torch.device("meta"):  # a stranger's sizes take no memory before they are found to fit
        wanted = MaskParts(0, own, _head(said, own, file))
    shapes = {k: v.shape for k, v in wanted.state_dict().items()}
    odd = sorted(set(shapes) ^ set(stored)) or [k for k, v in stored.items() if v.shape != shapes[k]]
    if odd:
        raise AdapterError(f"{folder / WEIGHTS} does not fit: {odd[0]}", expected="the rows and head of this base")
    if not all(bool(v.isfinite().all()) for v in stored.values()):
        raise AdapterError(f"{folder / WEIGHTS} holds numbers that are not finite", do="copy it again")
    parts = add_seg(model, _head(said, own, file))
    parts.load_state_dict(stored)
    parts.about = {k: v for k, v in said.items() if k not in ("format", "head")}
    parts.about["threshold"] = float(threshold)
    return parts.requires_grad_(False)


def _head(said: dict[str, Any], width: int, file: Path) -> Any:
    kind = said.get("head")
    try:
        if kind == "light":
            return LightHead.of(said, width)
        if kind == "sam":
            from internvl_detect.model.sam import SamHead

            return SamHead.of(said, width)
    except (ValueError, TypeError) as error:
        raise AdapterError(f"{file} cannot be used ({error})", expected="the settings of a mask head") from None
    raise AdapterError(f"{file}: head {kind!r:.80}", expected="light or sam")
