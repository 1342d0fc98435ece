"""Fixtures of the tests of training: a tiny base with data, and the settings of a short run on it."""

from __future__ import annotations

import pytest
import tiny
import torch

from internvl_detect.config import load_train_config


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    torch.set_num_threads(1)
    tiny.write_base(folder / "base")
    tiny.write_data(folder / "data", data_augment=True)
    return folder


@pytest.fixture
def settings_of(place, tmp_path):
    def make(*sets, out="run"):
        items = tiny.tiny_settings(place / "base", place / "data" / "meta.json", tmp_path / out)
        return load_train_config(None, [*items, *sets], {})

    return make
