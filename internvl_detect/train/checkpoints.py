"""A checkpoint of a network in training, its running mean and its optimiser: one safetensors file, whose metadata say
of which run and step it is. Not here: runs of ``ivdetect train``, whose trainer keeps its own.

    about = of_run(how, ("workers",), rows, start)
    first = restore(path, net, mean, optimiser, about)      # 0 where there is none
    store(path, net, mean, optimiser, {**about, "step": "200"})
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import CheckpointError, ConfigError
from internvl_detect.train.tag_data import TagRow


def of_run(how: Any, harmless: Collection[str], rows: Sequence[TagRow], start: nn.Module | None) -> dict[str, str]:
    """What must be the same for a run to go on: the settings (a dataclass) but for the ``harmless`` ones, the pictures,
    the weights that it began with."""
    said = {f.name: repr(getattr(how, f.name)) for f in fields(how) if f.name not in harmless}
    said["pictures"] = hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()
    weights = b"" if start is None else save({k: v.cpu().contiguous() for k, v in start.state_dict().items()})
    said["start"] = hashlib.sha256(weights).hexdigest()
    return said


def store(
    path: Path,
    net: nn.Module,
    mean: AveragedModel | None,
    optimiser: torch.optim.Optimizer,
    about: dict[str, str],
) -> None:
    """Written whole or not at all; ``about`` has the step too."""
    tensors = {f"net.{k}": v.contiguous() for k, v in net.state_dict().items()}
    tensors |= {f"mean.{k}": v.contiguous() for k, v in mean.state_dict().items()} if mean is not None else {}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{k}": v.contiguous() for k, v in state.items()}
    with atomically(path) as file:
        file.write(save(tensors, metadata=about))


def restore(
    path: Path,
    net: nn.Module,
    mean: AveragedModel | None,
    optimiser: torch.optim.Optimizer,
    about: dict[str, str],
) -> int:
    """Fills all three from a checkpoint; the step to go on from, 0 where there is none.

    Raises ConfigError for a run that differs in ``about``, CheckpointError for a file that cannot be used.
    """
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
        if mean is not None:
            mean.load_state_dict({k.removeprefix("mean."): v for k, v in tensors.items() if k.startswith("mean.")})
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
