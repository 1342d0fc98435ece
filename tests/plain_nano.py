"""The embedded model for tests that need its answers and nothing that draws: no mask head, no weights to fuse by."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from internvl_detect.model.embedded import FOLDER
from internvl_detect.model.settings import AdapterSettings


def plain_adapter(to: Path) -> Path:
    """A copy of nano's adapter in the folder ``to``, which must not exist."""
    shutil.copytree(FOLDER / "nano_lora", to, ignore=shutil.ignore_patterns("mask.*", "*.md"))
    dataclasses.replace(AdapterSettings.read(to), fusion=None).write(to)
    return to
