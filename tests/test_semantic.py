"""Claims about the semantic branch: it sees any picture, learns, goes on after a kill, and weighs what it tells."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from test_domain_tag import lively, with_lively_norms

from internvl_detect.errors import CheckpointError, ConfigError, DataError
from internvl_detect.model import semantic_net
from internvl_detect.model.domain_tag import MOST_SEMANTIC, TAGS, DomainTagger, save
from internvl_detect.model.semantic_net import (
    MOST_ASPECT,
    SIDE_PX,
    SemanticNet,
    copy_size,
    from_efficientnet_lite,
    small_copy,
)
from internvl_detect.model.tagger_net import folded
from internvl_detect.train.semantic import (
    SemanticTraining,
    main,
    recipe_of,
    start_from,
    train_semantic,
    varied,
    with_branch,
)
from internvl_detect.train.tag_data import TagRow
from internvl_detect.train.tagger_fit import Looked, fit

HOW = SemanticTraining(steps=4, batch=2, lr=1e-3, average=0.5, workers=0, save_every=2)


@pytest.fixture(scope="module")
def branch():
    torch.manual_seed(0)
    return with_lively_norms(SemanticNet()).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Photographs of noise; generated pictures of one colour. Names of all three splits are among them."""
    root, rng = tmp_path_factory.mktemp("semantic"), np.random.default_rng(0)
    for kind in ("camera", "painter"):
        (root / kind).mkdir()
        for i in range(24):
            rgb = rng.integers(0, 256, (72, 96, 3), np.uint8) if kind == "camera" else np.full((72, 96, 3), 8 * i)
            Image.fromarray(rgb.astype(np.uint8)).save(root / kind / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def rows(folders):
    kinds = (("camera", "authentic"), ("painter", "ai_generated"))
    return [TagRow(str(f), tag, source=kind) for kind, tag in kinds for f in sorted((folders / kind).iterdir())]


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_a_small_copy_keeps_its_size_and_as_much_of_the_shape_as_is_allowed(width, height):
    w, h = copy_size(width, height)
    assert w % 32 == h % 32 == 0 and 0.75 < w * h / SIDE_PX**2 < 1.3
    want = min(max(width / height, 1 / MOST_ASPECT), MOST_ASPECT)
    assert 0.8 < (w / h) / want < 1.25


@pytest.mark.parametrize(("size", "mode"), [((1, 1), "RGB"), ((3000, 7), "L"), ((40, 900), "RGBA"), ((64, 64), "P")])
def test_any_picture_has_a_small_copy(size, mode):
    copy = small_copy(Image.new("RGB", size, (255, 0, 128)).convert(mode))
    assert copy.dtype == torch.float32 and copy.shape[:2] == (1, 3) and 0 <= copy.min() <= copy.max() <= 1


def test_folding_the_norms_changes_nothing_that_the_branch_says(branch):
    net, x = with_branch(lively(), branch), torch.rand(2, 3, 256, 192)
    with torch.inference_mode():
        want, got = net.semantic(x), folded(net).semantic(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert want.abs().max() > 1e-3


def test_weights_of_the_usual_names_are_taken_and_others_refused(branch, tmp_path):
    usual = {}
    renamed = {"stem.0": "_conv_stem", "stem.1": "_bn0", "head.0": "_conv_head", "head.1": "_bn1"}
    for at, block in enumerate(branch.blocks):
        parts = ["_expand_conv", "_bn0"] if len(block.body) == 3 else []
        for place, name in enumerate([*parts, "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]):
            renamed[f"blocks.{at}.body.{place // 2}.{place % 2}"] = f"_blocks.{at}.{name}"
    for key, value in branch.state_dict().items():
        part, _, end = key.rpartition(".")
        if part in renamed:
            usual[f"{renamed[part]}.{end}"] = value
    made = from_efficientnet_lite(usual)
    for key, value in branch.state_dict().items():
        if not key.startswith("out."):
            torch.testing.assert_close(made.state_dict()[key], value)
    assert made.eval()(torch.rand(1, 3, 64, 64)).item() == 0
    with pytest.raises(CheckpointError, match="_conv_stem.weight is missing"):
        from_efficientnet_lite({})
    with pytest.raises(CheckpointError, match="has the shape"):
        from_efficientnet_lite({**usual, "_conv_head.weight": torch.zeros(2)})
    save_file({"a": torch.zeros(1)}, str(tmp_path / "other.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    for name in ("other", "broken", "none"):
        with pytest.raises(CheckpointError):
            start_from(tmp_path / f"{name}.safetensors", lively())
    with pytest.raises(ConfigError, match="no semantic branch"):
        start_from(None, lively())


@pytest.mark.parametrize(("says", "counts"), [(-5.0, 0.0), (1.25, 1.25), (9.0, MOST_SEMANTIC)])
def test_the_branch_is_saved_with_its_tagger_and_speaks_for_ai_generated_alone(branch, tmp_path, says, counts):
    shown = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8))
    net = with_branch(lively(), branch)
    torch.nn.init.zeros_(net.semantic.out.weight)
    torch.nn.init.constant_(net.semantic.out.bias, says)
    plain, weighed = DomainTagger(net), DomainTagger(net, semantic_weight=0.5)
    save(net, weighed.settings(), tmp_path, half=False)
    loaded = DomainTagger.load(tmp_path, "cpu")
    before, after = plain.look(shown), loaded.look(shown)
    assert loaded.fingerprint == plain.fingerprint != DomainTagger(lively()).fingerprint
    assert before.semantic == after.semantic == counts
    moved = {tag: np.log(after.probabilities[tag] / before.probabilities[tag]) for tag in TAGS}
    own = moved.pop("ai_generated")
    assert np.ptp(list(moved.values())) < 1e-9
    assert own - moved["authentic"] == pytest.approx(0.5 * counts)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 900), st.integers(1, 900))
def test_a_varied_copy_has_the_size_that_was_asked_for(seed, width, height):
    copy = varied(Image.new("RGB", (width, height), (9, 99, 200)), (64, 96), np.random.default_rng(seed))
    assert copy.shape == (96, 64, 3) and copy.dtype == np.uint8


@pytest.fixture
def small(monkeypatch):
    """The same network with fewer layers."""
    monkeypatch.setattr(semantic_net, "BLOCKS", ((1, 3, 2, 1, 16), (2, 5, 2, 4, 24)))
    monkeypatch.setattr(semantic_net, "WIDTH", 32)


def test_it_learns_what_is_easy_to_see(rows, tmp_path, small):
    torch.manual_seed(0)
    net = train_semantic(rows, tmp_path, dataclasses.replace(HOW, steps=30, batch=6, lr=5e-3, average=0.8))
    with torch.inference_mode():
        said = [net(small_copy(Image.open(row.path))).item() for row in (rows[3], rows[-3])]
    assert said[1] > said[0] + 1


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(rows, tmp_path, small):
    def trained(name, how=HOW):
        torch.manual_seed(5)  # of what it begins with
        return train_semantic(rows, tmp_path / name, how, start=SemanticNet())

    whole = trained("whole")
    kept = tmp_path / "cut" / "checkpoint.safetensors"
    with pytest.raises(DataError):  # stops at step 3, after the checkpoint of step 2
        torch.manual_seed(5)
        train_semantic(rows, tmp_path / "cut", HOW, start=_Stops())
    assert kept.is_file()
    for a, b in zip(whole.state_dict().values(), trained("cut").state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="other lr"):
        trained("cut", dataclasses.replace(HOW, lr=0.5))
    with pytest.raises(ConfigError, match="other start"):
        train_semantic(rows, tmp_path / "cut", HOW, start=SemanticNet())
    kept.write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="Remove it"):
        trained("cut")


class _Stops(SemanticNet):
    """A network that fails in the third step."""

    def forward(self, x):
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen > 2:
            raise DataError("stopped")
        return super().forward(x)


def test_pictures_of_one_kind_are_refused(rows, tmp_path):
    with pytest.raises(DataError, match="one kind"):
        train_semantic([row for row in rows if row.tag == "authentic"], tmp_path, HOW)


@pytest.mark.parametrize(("truth", "least", "most"), [(1.0, 0.5, 50), (0.0, 0.0, 0.2), (-1.0, 0.0, 0.0)])
def test_a_branch_weighs_as_much_as_it_tells(branch, truth, least, most):
    rng = np.random.default_rng(0)
    tagger = DomainTagger(with_branch(lively(), branch))
    nothing, looked = np.log(np.full(len(TAGS), 1 / len(TAGS))), []
    for i in range(400):
        tag = TAGS[i % len(TAGS)]
        said = truth * (1.0 if tag == "ai_generated" else -1.0) + rng.normal(0, 1)
        looked.append(Looked(TagRow("", tag), nothing, None, float(said)))
    fit(tagger, looked)
    assert least <= tagger.semantic_weight <= most


def test_forgeries_which_show_what_their_twins_show_take_no_weight_from_the_branch(branch):
    rng = np.random.default_rng(0)
    nothing = np.log(np.full(len(TAGS), 1 / len(TAGS)))

    def looked(kinds, source):
        rows = [(TagRow("", kind, source=source or kind), kind) for kind in kinds for _ in range(60)]
        return [
            Looked(r, nothing, None, float((kind == "ai_generated" and not source) + rng.random())) for r, kind in rows
        ]

    weights = []
    for forged in ([], looked(TAGS, "forged")):
        tagger = DomainTagger(with_branch(lively(), branch))
        fit(tagger, [*looked(("authentic", "ai_generated"), ""), *forged])
        weights.append(tagger.semantic_weight)
    assert weights[0] > 1 and weights[1] == pytest.approx(weights[0], rel=0.3)


def test_the_command_gives_a_tagger_its_branch(folders, tmp_path, capsys, small):
    branch = SemanticNet()
    tagger = DomainTagger(with_branch(lively(), branch))
    save(with_branch(lively(), branch), tagger.settings(), tmp_path / "old")
    sources = ["--real", str(folders / "camera"), "--generated", f"paint={folders / 'painter'}"]
    how = ["--steps", "2", "--batch", "2", "--workers", "0", "--device", "cpu"]
    assert main(["--tagger", str(tmp_path / "old"), *sources, *how, "--out", str(tmp_path / "run")]) == 0
    said = json.loads(capsys.readouterr().out)
    made = DomainTagger.load(tmp_path / "run" / "tagger", "cpu")
    assert made.semantic_weight == said["semantic_weight"] >= 0 and made.net.semantic is not None
    assert said["test"]["pictures"] > 0
    again = ["--out", str(tmp_path / "run2")]
    assert main(["--real", "nowhere", "--generated", str(folders / "painter"), *again]) == DataError.exit_code
    assert "nowhere is no folder" in capsys.readouterr().err
    assert main([*sources, "--steps", "0", *again]) == ConfigError.exit_code
    assert "steps from 1" in capsys.readouterr().err


@pytest.mark.parametrize("values", [{"stesp": 3}, {"steps": 0}, {"batch": 1}, {"lr": float("nan")}, {"average": 1.0}])
def test_a_recipe_with_what_cannot_be_is_refused(values):
    with pytest.raises(ConfigError):
        recipe_of(values)
