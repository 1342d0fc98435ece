"""Claims about the domain tagger: any picture, whole or in windows, and nothing odd is loaded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from internvl_detect.errors import CheckpointError
from internvl_detect.model import domain_tag
from internvl_detect.model.domain_tag import TAGS, DomainTagger, save, spread
from internvl_detect.model.tagger_net import METHODS, Shape, TaggerNet, folded

SMALL = Shape(widths=(4, 8, 8, 16, 16), blocks=(0, 1, 1, 1), map_width=8)


def lively(seed: int = 0) -> TaggerNet:
    """A network whose norms and blocks have something to say."""
    torch.manual_seed(seed)
    return with_lively_norms(TaggerNet(SMALL))


def with_lively_norms(net):
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return net


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_folding_the_norms_changes_no_answer():
    net = lively().eval()
    x = torch.rand(2, 3, 96, 128)
    with torch.inference_mode():
        for got, want in zip(folded(net)(x), net(x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (63, 64), (800, 10), (65, 200), (257, 96)])
def test_any_size_gets_probabilities_and_a_map_of_its_own_cells(size):
    seen = DomainTagger(lively()).look(picture(*size))
    assert sum(seen.probabilities.values()) == pytest.approx(1) and set(seen.probabilities) == set(TAGS)
    assert seen.map.shape == (-(-size[1] // 8), -(-size[0] // 8))
    assert seen.map.min() >= 0 and seen.map.max() <= 1
    assert seen.score == pytest.approx(1 / (1 + np.exp(-seen.log_odds))) and seen.method in METHODS
    assert spread(seen.map, size).shape == (size[1], size[0])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_a_picture_of_another_mode_is_read_as_its_colours(mode):
    given = picture(80, 72).convert(mode)
    tagger = DomainTagger(lively())
    assert tagger.look(given).probabilities == tagger.look(given.convert("RGB")).probabilities


def test_one_colour_is_answered_like_any_other():
    seen = DomainTagger(lively()).look(Image.new("RGB", (200, 100), (7, 7, 7)))
    assert np.isfinite(seen.log_odds) and np.isfinite(seen.map).all()


def test_windows_see_what_the_whole_picture_shows(monkeypatch):
    tagger, given = DomainTagger(lively()), picture(1300, 420)
    whole, grid = tagger.look_with_features(given)
    monkeypatch.setattr(domain_tag, "WINDOW_PX", 1120)  # windows of 96 px with margins of 512 on either side
    parts, laid = tagger.look_with_features(given)
    assert np.array_equal(parts.map, tagger.look(given).map)
    assert len(tagger._parts(given)) > 4
    np.testing.assert_allclose(parts.map, whole.map, atol=1e-4)
    torch.testing.assert_close(laid, grid, rtol=1e-3, atol=1e-3)
    assert parts.log_odds == pytest.approx(whole.log_odds, abs=1e-3)


def test_what_is_saved_answers_the_same_when_loaded(tmp_path):
    net = lively()
    before = DomainTagger(net, temperature=1.7, bias=(0.1, 0, 0, -0.2, 0), map_threshold=0.4)
    save(net, before.settings(), tmp_path / "t", half=False)
    after = DomainTagger.load(tmp_path / "t")
    assert (after.name, after.map_threshold, after.fingerprint) == ("t", 0.4, before.fingerprint)
    assert before.fingerprint != DomainTagger(lively(1)).fingerprint
    assert after.look(picture(90, 70)).probabilities == pytest.approx(before.look(picture(90, 70)).probabilities)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0}, {"temperature": float("nan")}, {"bias": [0]}, {"tags": ["authentic"]},
        {"format": 1}, {"shape": {}},
        {"shape": {"widths": [9999999] * 5}}, {"shape": {"widths": "many"}}, {"shape": None},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_with_their_file(tmp_path, change):
    net = lively()
    save(net, DomainTagger(net).settings() | change, tmp_path)
    with pytest.raises(CheckpointError, match=r"tagger\.(json|safetensors)"):
        DomainTagger.load(tmp_path)


def test_weights_that_are_cut_missing_or_not_finite_are_refused(tmp_path):
    net = lively()
    save(net, DomainTagger(net).settings(), tmp_path)
    weights = tmp_path / "tagger.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-40])
    with pytest.raises(CheckpointError):
        DomainTagger.load(tmp_path)
    with torch.no_grad():
        net.map_head.bias.fill_(float("inf"))
    save(net, json.loads((tmp_path / "tagger.json").read_text()), tmp_path)
    with pytest.raises(CheckpointError, match="not finite"):
        DomainTagger.load(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError):
        DomainTagger.load(tmp_path)
