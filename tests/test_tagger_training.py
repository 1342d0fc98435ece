"""Claims about training the domain tagger: it learns, it goes on where it was killed, it passes over what is broken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from internvl_detect.errors import ConfigError, DataError
from internvl_detect.model.domain_tag import DomainTagger
from internvl_detect.model.tagger_net import Shape
from internvl_detect.train.tag_data import TagRow
from internvl_detect.train.tagger import TagTraining, train_tagger

SMALL = Shape(widths=(4, 8, 8, 16, 16), blocks=(0, 1, 1, 1), map_width=8)
HOW = TagTraining(steps=60, batch=12, sizes_px=(64, 96), lr=4e-3, workers=0, save_every=20, shape=SMALL)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Noise is authentic; noise with smooth squares is edited."""
    folder, rng, found = tmp_path_factory.mktemp("tagger"), np.random.default_rng(0), []
    for i in range(6):
        rgb = rng.integers(60, 200, (160, 160, 3), np.uint8)
        Image.fromarray(rgb).save(folder / f"{i}.png")
        found.append(TagRow(str(folder / f"{i}.png"), "authentic"))
        rgb[40:120, 40:120] = 120
        mask = np.zeros((160, 160), np.uint8)
        mask[40:120, 40:120] = 255
        Image.fromarray(rgb).save(folder / f"{i}_e.png")
        Image.fromarray(mask).save(folder / f"{i}_m.png")
        found.append(TagRow(str(folder / f"{i}_e.png"), "photoshop", str(folder / f"{i}_m.png")))
    return found


def test_it_learns_what_is_easy_to_see_and_where_it_is(rows, tmp_path):
    net = train_tagger(rows, tmp_path, HOW)
    tagger = DomainTagger(net)
    real, fake = (tagger.look(Image.open(rows[i].path)) for i in (0, 1))
    assert fake.score > real.score + 0.2
    inside, outside = fake.map[6:14, 6:14].mean(), np.delete(fake.map.ravel(), 0)[:60].mean()
    assert inside > outside + 0.2


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(rows, tmp_path, average):
    how = dataclasses.replace(HOW, average=average)
    whole = train_tagger(rows, tmp_path / "whole", how)

    class Killed(Exception):
        pass

    def kill(step: int, loss: float) -> None:
        raise Killed

    with pytest.raises(Killed):  # told at step 50, after the checkpoint of step 40
        train_tagger(rows, tmp_path / "cut", how, progress=kill)
    told: list[int] = []
    again = train_tagger(rows, tmp_path / "cut", how, progress=lambda step, loss: told.append(step))
    assert told == [50]
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_the_mean_of_the_weights_stays_behind_the_last_ones(rows, tmp_path):
    how = dataclasses.replace(HOW, steps=30)
    first, last, mean = (
        torch.cat([p.detach().flatten() for p in net.parameters()])
        for net in (
            train_tagger(rows, tmp_path / "first", dataclasses.replace(how, lr=0.0)),
            train_tagger(rows, tmp_path / "last", how),
            train_tagger(rows, tmp_path / "mean", dataclasses.replace(how, average=0.95)),
        )
    )
    assert 0 < (mean - first).norm() < (last - first).norm()


def test_other_settings_are_refused_by_name_and_ones_that_change_no_weight_are_not(rows, tmp_path):
    how = dataclasses.replace(HOW, steps=20)
    train_tagger(rows, tmp_path, how)
    with pytest.raises(ConfigError, match="other steps, seed"):
        train_tagger(rows, tmp_path, dataclasses.replace(how, steps=30, seed=1))
    with pytest.raises(ConfigError, match="other pictures"):
        train_tagger(rows[:-2], tmp_path, how)
    drawn = dataclasses.replace(how, workers=1, save_every=7)
    train_tagger(rows, tmp_path, drawn, progress=lambda step, loss: pytest.fail("a step was trained"))


def test_a_loss_that_is_no_number_ends_the_run(rows, tmp_path, monkeypatch):
    lost = torch.zeros(1, requires_grad=True).sum() * float("nan")
    monkeypatch.setattr("internvl_detect.train.tagger.tagger_loss", lambda *given: lost)
    with pytest.raises(ConfigError, match="loss is nan at step 0"):
        train_tagger(rows, tmp_path, HOW)


def test_a_broken_picture_is_passed_over_and_only_broken_ones_are_told(rows, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    broken = TagRow(str(tmp_path / "x.png"), "ai_generated")
    train_tagger([*rows, broken], tmp_path / "a", dataclasses.replace(HOW, steps=3))
    with pytest.raises(DataError, match="twenty pictures"):
        train_tagger([broken, dataclasses.replace(broken, tag="authentic")], tmp_path / "b", HOW)


def test_rows_of_one_class_are_refused(rows, tmp_path):
    with pytest.raises(DataError, match="authentic ones and fakes"):
        train_tagger([r for r in rows if r.tag == "authentic"], tmp_path, HOW)
