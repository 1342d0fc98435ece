"""Verdicts shown to people: in the terminal, as Markdown, as one self-contained HTML file.

Not here: JSON (``Verdict.to_dict``) and how a verdict comes about (``detect``). Names are resolved on first use.
Every file name and every word of a model is a stranger's text, and no format lets it act as anything but text.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "headline": "words",
    "explanation": "words",
    "number_meaning": "words",
    "print_rows": "terminal",
    "to_markdown": "markdown",
    "write_report": "html",
    "thumbnail": "html",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
