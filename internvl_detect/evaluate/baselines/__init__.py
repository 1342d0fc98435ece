"""Detectors to compare with, all behind one interface: fitted on pictures, scoring pictures, some drawing maps.

They run here on a CPU, without downloads; ``external`` calls anybody's detector. A baseline gets decoded RGB pictures,
the same as the detector under test. Not here: which pictures (``benchmarks/main_results.py``), metrics.

    baseline = BASELINES["spectral"]()
    baseline.fit(pictures, fake)
    rows = scored(baseline, others)          # [(0.83, ""), (None, "why not"), ...]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from PIL import Image as PILImage

from internvl_detect.errors import DataError, IvdetectError

BATCH = 32


class Baseline(Protocol):
    """``name`` is that of tables; ``fits``: whether it must be fitted before it scores."""

    name: str
    fits: bool

    def fit(
        self, pictures: Iterable[PILImage.Image], fake: Sequence[int], groups: Sequence[Hashable] | None = None
    ) -> None:
        """Learn from pictures, ``fake`` 1 or 0 of each. ``groups`` says which belong together (a photograph and its
        forgery, frames of a clip), so that none is held out from its own twin. Raises DataError without both classes,
        ConfigError for what is not installed."""

    def scores(self, pictures: Sequence[PILImage.Image]) -> list[float]:
        """A number in [0, 1] of each picture that grows with how fake it looks. Raises DataError before ``fit``."""

    def maps(self, pictures: Sequence[PILImage.Image]) -> list[np.ndarray] | None:
        """float32 (H, W) in [0, 1] of each, large where it looks edited; None if it draws none."""


def _late(module: str, name: str, *arguments: object) -> Callable[[], Baseline]:
    def make() -> Baseline:
        return cast(Baseline, getattr(import_module(f"{__name__}.{module}"), name)(*arguments))

    return make


BASELINES: dict[str, Callable[[], Baseline]] = {
    "always_fake": _late("outside", "Constant", 1),
    "always_real": _late("outside", "Constant", 0),
    "shortcut": _late("outside", "ShortcutBaseline"),
    "spectral": _late("handmade", "Spectral"),
    "ela": _late("handmade", "ErrorLevel"),
    "noise": _late("handmade", "Noise"),
    "copy_move": _late("copy_move", "CopyMove"),
    "npr": _late("npr", "Npr"),
    "tagger": _late("tagger", "Tagger"),
}


def both_classes(fake: Sequence[int], name: str) -> np.ndarray:
    """The labels as int64 (N,). Raises DataError unless there are real and fake ones, and only 0 and 1."""
    y = np.asarray(fake, np.int64).reshape(-1)
    if set(y.tolist()) != {0, 1}:
        raise DataError(
            f"{name} was given labels {sorted(set(y.tolist()))}", expected="pictures of both classes, 0 and 1"
        )
    return y


def platt(odds: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(scale, shift) that make log-odds (N,) of labels (N,) a probability (Platt 1999), by regularised Newton steps.

    The scale is kept positive: numbers from few held-out pictures must not turn the order of all others round.
    """
    scale, shift = 1.0, 0.0
    x = np.stack([odds, np.ones_like(odds)])
    for _ in range(50):
        p = sigmoid(scale * odds + shift)
        weight = p * (1 - p) + 1e-6
        gradient = x @ (p - y) + 0.1 * np.array([scale - 1.0, shift])
        step = np.linalg.solve((x * weight) @ x.T + 0.1 * np.eye(2), gradient)
        scale, shift = max(1e-3, scale - float(step[0])), shift - float(step[1])
    return scale, shift


def sigmoid(odds: np.ndarray) -> np.ndarray:
    """Probabilities of log-odds, which are cut to 50 either way."""
    return 1 / (1 + np.exp(-np.clip(odds, -50, 50)))


def scored(baseline: Baseline, pictures: Sequence[PILImage.Image]) -> list[tuple[float | None, str]]:
    """(score, "") of each picture, or (None, what went wrong): one picture's failure is its own row's.

    Raises nothing of a single picture; what concerns all (not fitted, not installed) is raised when it hits the first.
    """
    found: list[tuple[float | None, str]] = []
    for at in range(0, len(pictures), BATCH):
        part = pictures[at : at + BATCH]
        try:
            values: list[float | None] = list(baseline.scores(part))
            found += [_checked(value) for value in values]
        except Exception:  # noqa: BLE001 - whatever it was is found again below, at its own picture
            found += [_one(baseline, picture) for picture in part]
    if pictures and all(score is None for score, _ in found):
        raise DataError(f"{baseline.name} scored none of {len(pictures)} pictures: {found[0][1]}")
    return found


def _one(baseline: Baseline, picture: PILImage.Image) -> tuple[float | None, str]:
    try:
        return _checked(baseline.scores([picture])[0])
    except IvdetectError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - a detector of others may raise anything
        return None, f"{type(error).__name__}: {error}"


def _checked(value: float | None) -> tuple[float | None, str]:
    if value is None or not math.isfinite(value):
        return None, f"the score {value} is no number"
    return float(value), ""
