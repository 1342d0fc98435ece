"""Claims about the material of the embedded weights: one split a photograph in every set, stages that go on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from internvl_detect.errors import CheckpointError, DataError
from internvl_detect.train import material
from internvl_detect.train.autoencoders import load_own, new_autoencoder, save_autoencoder
from internvl_detect.train.material import all_rows, as_they_are, forge_by, forge_edits, named, train_decoders
from internvl_detect.train.rebuild import Rebuilder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two folders of lively pictures."""
    rng, folders = np.random.default_rng(0), []
    for name in ("city", "forest"):
        folder = tmp_path_factory.mktemp("photos") / name
        folder.mkdir()
        for i in range(8):
            small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            rgb = np.asarray(small.resize((220, 180), Image.Resampling.BICUBIC), np.int16)
            noisy = np.clip(rgb + rng.integers(-9, 10, rgb.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{i}.png")
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def made(photographs, tmp_path_factory):
    """Edits, and what one untrained network forged."""
    out = tmp_path_factory.mktemp("work")
    forge_edits(photographs, [], out, workers=1, per_photo=1, size=160)
    net = new_autoencoder("style8")
    save_autoencoder(net, out / "style8.safetensors", kind="style8")
    forge_by("style8", Rebuilder(str(out / "style8.safetensors")), photographs, out, workers=1, share=0.7, size=160)
    return out


def test_a_photograph_is_in_one_split_in_all_sets_and_as_it_is(photographs, made):
    rows = all_rows(made, {}, {"kept_city": photographs[0]})
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.group, set()).add(row.split)
    assert {row.source for row in rows} == {"edits", "by_style8", "kept_city"}
    assert all(len(found) == 1 for found in splits.values())
    assert any(group.startswith("city/") for group in splits)


def test_a_network_forges_its_share_and_the_tags_say_what_was_done(made):
    records = [json.loads(line) for line in (made / "by_style8" / "records.jsonl").read_text().splitlines()]
    assert 0 < len({r["name"] for r in records}) < 16
    assert {r["method"] for r in records} <= set(material.BY_DECODER)
    tags = {row.tag for row in all_rows(made, {}, {}) if row.source == "by_style8"}
    assert tags <= {"authentic", "ai_generated", "aigc_editing"} and "authentic" in tags


def test_stages_pass_over_what_is_there(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(material, "KINDS", ("nearest4", "wide8g"))
    train_decoders(photographs, tmp_path, seconds=0.5, device="cpu")
    assert sorted(p.stem for p in (tmp_path / "decoders").iterdir()) == ["nearest4", "wide8g"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "decoders").iterdir()}
    train_decoders(photographs, tmp_path, seconds=0.5, device="cpu")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "decoders").iterdir()}


def test_rows_as_they_are_carry_the_name_they_are_given_by(photographs):
    rows = as_they_are({"woods": photographs[1]}, "authentic")
    assert len(rows) == 8 and {row.source for row in rows} == {"woods"}
    assert named([f"woods={photographs[1]}", str(photographs[0])]) == {"woods": photographs[1], "city": photographs[0]}
    with pytest.raises(DataError, match="no folder"):
        named(["woods=/nowhere"])
    with pytest.raises(DataError, match="no forged sets"):
        all_rows(photographs[0] / "nothing", {}, {})


@pytest.mark.parametrize("kind", ["nearest", "nearest7", "other8", "nearest8z", ""])
def test_a_kind_that_there_is_none_of_is_refused(kind, tmp_path):
    with pytest.raises(ValueError, match="autoencoder"):
        new_autoencoder(kind)
    net = new_autoencoder("nearest4")
    save_autoencoder(net, tmp_path / "x.safetensors", kind=kind)
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_own(tmp_path / "x.safetensors")
