"""Which device a name means, for everything that loads weights. Not here: what is loaded onto it."""

from __future__ import annotations

import os

import torch

from internvl_detect.errors import ConfigError


def device_of(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one, of several processes' each its own, as torchrun
    numbers them. Raises ConfigError for one that cannot be used."""
    if device == "auto":
        own = os.environ.get("LOCAL_RANK")
        gpu = "cuda" if own is None else f"cuda:{own}"
        return torch.device(gpu if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = (str(error).splitlines() or [""])[0][:80]
        raise ConfigError(
            f"device {str(device)!r} cannot be used here ({why})", expected="auto, cpu, cuda or cuda:1"
        ) from None
    return found
