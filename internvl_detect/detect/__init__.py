"""The main job: files in, verdicts out. ``Detector`` is resolved on first use, so that finding files needs no torch."""

from __future__ import annotations

from typing import Any

__all__ = ["Detector"]


def __getattr__(name: str) -> Any:
    if name != "Detector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from internvl_detect.detect.detector import Detector

    return Detector
