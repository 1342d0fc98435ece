"""What the tests of training share: a tiny base with data, settings of a short run, and how to read its log."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from internvl_detect.config import load_train_config

FULL = ["train.language=full", "train.vision=full", "train.projector=full"]


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


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time_s"} for line in lines]


def losses(folder):
    return [line["loss"] for line in log_of(folder) if "loss" in line]
