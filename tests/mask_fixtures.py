"""Fixtures of the tests of masks: marked pictures, the stand-in for the domain tagger in place, a trained adapter."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from marked import FakeTagger, write_marked

from internvl_detect.config import load_train_config


@pytest.fixture
def fake_tagger(monkeypatch):
    monkeypatch.setitem(sys.modules, "internvl_detect.model.domain_tag", SimpleNamespace(DomainTagger=FakeTagger))


@pytest.fixture
def marked(fake_tagger, tmp_path):
    return write_marked(tmp_path / "given")


@pytest.fixture(scope="session")
def drawing(place, tmp_path_factory):
    """An adapter on the tiny base that draws: trained until it finds the red parts."""
    from internvl_detect.train import finetune

    folder = tmp_path_factory.mktemp("drawing")
    sets = [*tiny.tiny_settings(place / "base", Path(), folder / "run"), *write_marked(folder / "given")]
    more = ["val_data_choice=marked", "max_steps=30", "eval.steps=30", "mask.lr_scale=10"]
    with pytest.MonkeyPatch.context() as patch:
        fake = SimpleNamespace(DomainTagger=FakeTagger)
        patch.setitem(sys.modules, "internvl_detect.model.domain_tag", fake)
        return finetune.run(load_train_config(None, [*sets, *more], {}))
