"""Shared fixtures: one thread for torch, and the folder of reference answers where a developer has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def reference() -> Path:
    """The original code's answers; not in the repository, so the tests that need them say so when it is absent."""
    folder = os.environ.get("IVDETECT_REFERENCE", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set IVDETECT_REFERENCE to the folder of the original code's answers to run this comparison")
    return Path(folder)
