"""What a tagger's training goes on from: another tagger, or the mean of several.

Taggers that come of one another lie in one basin: the mean of their weights is often better on pictures of new sources
than each (Wortsman et al., Robust fine-tuning of zero-shot models, 2022). Not here: the training (``tagger``).

    net = start_of(["runs/eighth/tagger=0.75", "runs/seventh/tagger=0.25"])
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from internvl_detect.errors import ConfigError
from internvl_detect.model.domain_tag import read_net
from internvl_detect.model.embedded import tagger_folder
from internvl_detect.model.tagger_net import TaggerNet


def start_of(given: Sequence[str]) -> TaggerNet | None:
    """The network of one tagger's folder, or of several FOLDER=SHARE their mean; None for none. "nano" is the embedded
    one. Raises ConfigError for shares and shapes that do not fit, CheckpointError for a folder that is no tagger's."""
    parts = [_part(text) if len(given) > 1 else (text, 1.0) for text in given]
    nets = [read_net(tagger_folder(folder))[0] for folder, _ in parts]
    if not nets:
        return None
    if differs := [folder for (folder, _), net in zip(parts, nets, strict=True) if net.shape != nets[0].shape]:
        raise ConfigError(f"{differs[0]} has another shape than {parts[0][0]}", expected="taggers of one shape")
    whole = sum(share for _, share in parts)
    states = [(share / whole, net.state_dict()) for (_, share), net in zip(parts, nets, strict=True)]
    mean = {
        name: sum(share * state[name] for share, state in states) if value.is_floating_point() else value
        for name, value in states[0][1].items()
    }
    nets[0].load_state_dict(mean)
    return nets[0]


def _part(text: str) -> tuple[str, float]:
    folder, _, said = text.rpartition("=")
    try:
        share = float(said)
    except ValueError:
        share = math.nan
    if not folder or not math.isfinite(share) or share <= 0:
        raise ConfigError(f"--start {text}", expected="FOLDER=SHARE, with a share above 0, where several are given")
    return folder, share
