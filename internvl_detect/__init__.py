"""InternVL2-8BDetect: detect AI-generated and tampered pictures and clips, say why, and draw where.

Public names are resolved on first use, so importing the package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Detector": "detect",
    "Verdict": "verdict",
    "Failure": "verdict",
    "Frame": "verdict",
    "Region": "verdict",
    "Evidence": "verdict",
    "Stretch": "verdict",
    "load_base": "model.checkpoint",
    "LoadedModel": "model.checkpoint",
    "open_image": "media.image",
    "IvdetectError": "errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
