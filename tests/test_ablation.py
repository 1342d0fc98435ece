"""Claims about the ablation's variants: each takes away what it says and nothing else, and none is trained twice."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from internvl_detect.model.tagger_net import folded
from internvl_detect.train.tag_data import TagRow
from internvl_detect.train.tagger import TagTraining

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "ablation.py"


@pytest.fixture(scope="module")
def ablation():
    spec = importlib.util.spec_from_file_location("ablation", FILE)
    module = sys.modules["ablation"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ablation"]


def rows() -> list[TagRow]:
    """Forty photographs as they are, each also forged with its twin in three sets, and one generator's pictures."""
    found = [TagRow(f"g{i}.png", "ai_generated", "", f"gan/{i}", "train", "gan") for i in range(10)]
    for i in range(40):
        found.append(TagRow(f"{i}.png", "authentic", "", f"city/{i}", "train", "city"))
        for source, tag in (("edits", "photoshop"), ("by_a", "ai_generated"), ("by_b", "aigc_editing")):
            if source != "by_b" or i % 2:
                found.append(TagRow(f"{source}/{i}f.png", tag, "", f"city/{i}", "train", source))
                found.append(TagRow(f"{source}/{i}.png", "authentic", "", f"city/{i}", "train", source))
    return found


def test_unaligned_rows_have_no_photograph_in_both_classes_and_still_both_classes(ablation):
    left = ablation.unaligned(rows())
    fakes = {row.group for row in left if row.tag != "authentic"}
    real = {row.group for row in left if row.tag == "authentic"}
    assert real and len(fakes) > 10 and not fakes & real
    assert {row.source for row in left if row.tag == "authentic"} == {"city"}


def test_one_decoder_is_the_one_that_forged_most_and_nothing_of_a_generator_stays(ablation):
    left = ablation.one_decoder(rows())
    assert {row.source for row in left} == {"city", "edits", "by_a"}
    assert {row.source for row in ablation.no_generators(rows())} == {"city", "edits", "by_a", "by_b"}


def test_a_network_that_sees_residuals_alone_is_blind_to_brightness_and_one_of_colours_to_the_rest(ablation):
    x = torch.rand(1, 3, 64, 64) * 0.5
    deep = {name: folded(ablation.network(v)).dense for name, v in ablation.VARIANTS.items()}
    shifted = x + 0.25
    assert torch.allclose(deep["residuals alone"](x)[2], deep["residuals alone"](shifted)[2], atol=1e-4)
    assert not torch.allclose(deep["colours alone"](x)[2], deep["colours alone"](shifted)[2], atol=1e-4)
    net = folded(ablation.network(ablation.VARIANTS["colours alone"]))
    before = net.dense(x)[2]
    with torch.no_grad():
        net.stem[0].weight[:, list(ablation.RESIDUALS)] += 1  # whatever would be made of residuals
    assert torch.equal(net.dense(x)[2], before)
    grain = torch.where(torch.arange(64) % 2 == 0, 0.01, -0.01).expand(1, 3, 64, 64)  # in the residuals alone
    assert not torch.allclose(deep["residuals alone"](x)[2], deep["residuals alone"](x + grain)[2], atol=1e-4)
    weights = [ablation.network(v).stem[0].weight for v in ablation.VARIANTS.values()]
    assert all(torch.equal(weights[0], w) for w in weights)


def test_a_variant_is_trained_once_for_the_same_settings(ablation, tmp_path, monkeypatch):
    rng, own = np.random.default_rng(0), []
    for i in range(6):
        tag = "authentic" if i % 2 else "ai_generated"
        Image.fromarray(rng.integers(0, 256, (90, 80, 3), np.uint8)).save(tmp_path / f"{i}.png")
        own.append(TagRow(str(tmp_path / f"{i}.png"), tag, "", f"x/{i}", "train", "city" if i % 2 else "gan"))
    shots = [ablation.Shot("known", row.path, int(row.tag != "authentic"), row.group) for row in own]
    how = TagTraining(1, 2, (ablation.SIDE_PX,), workers=0, shape=ablation.SHAPE)
    first = ablation.trained("resized", own, shots, how, 6, tmp_path / "work")
    assert set(first["scores"]) == {row.path for row in own}
    assert {Image.open(path).size for path in (tmp_path / "work" / "small").iterdir()} == {(224, 224)}
    monkeypatch.setattr(ablation, "train_tagger", None)
    assert ablation.trained("resized", own, shots, how, 6, tmp_path / "work") == first
    found = ablation.figures(first["scores"], first["scores"], shots)["known"]
    assert found["gain_95"] == [0, 0] and found["auc_95"][0] <= found["auc"] <= found["auc_95"][1]
