"""Gathering and twins: what is there is read, what is missing is named, and twins differ in the edit alone.

Run: ``python -m pytest tests/test_gather.py``
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import readme_tree
from PIL import Image

from internvl_detect.data.forge.methods import METHODS
from internvl_detect.data.manifest import ManifestRow, write_manifest
from internvl_detect.errors import DataError
from internvl_detect.evaluate.gather import README_PARTS, gather
from internvl_detect.evaluate.twins import methods_here, twins


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return readme_tree.build(tmp_path_factory.mktemp("tree") / "dataset")


def test_the_whole_tree_is_read_with_its_masks_and_nothing_of_it_twice(tree):
    found = gather(tree, limit=10, side_px=24)
    names = {name for sets in (readme_tree.WITH_MASKS, readme_tree.WITHOUT) for part in sets.values() for name in part}
    assert found.missing == [] and len(found.items) == 3 * len(names)
    assert len({item.row.path for item in found.items}) == len(found.items)
    assert names == set(README_PARTS)
    assert all(item.pictures[0].size == (24, 24) and len(item.pictures) == 1 for item in found.items)
    assert all(bool(item.row.mask) == bool(item.fake) for item in found.items)
    assert {item.fits for item in found.items if "_Train/" in item.row.path} == {True}
    assert {item.fits for item in found.items if "_Val/" in item.row.path} == {False}
    assert found.items[0].outside.info["file"]["quality"] == 95 and found.items[0].outside.size == (1, 1)


def test_what_is_missing_of_the_tree_is_named_with_where_it_is_expected(tree, tmp_path):
    for name in ("photoshop/Columbia", "photoshop/CASIAv1+_Au", "aigc/COCO2017_Val"):
        shutil.copytree(tree / name, tmp_path / name)
    (tmp_path / "photoshop/Columbia/image").joinpath("broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    found = gather(tmp_path, limit=10, side_px=24)
    assert {item.row.dataset for item in found.items} == {"Columbia", "CASIA1+", "COCO2017"}
    said = "\n".join(found.missing)
    assert "CASIAv1+_Tp is not there; expected in photoshop/CASIAv1+_Tp/image and mask" in said
    assert "expected in deepfake/FFHQ_Val/image." in said and "expected in aigc/COCO2017_Train/image" in said
    assert "Columbia is not there" not in said and "broken.jpg" in said and str(tmp_path) not in said


def test_a_set_that_lies_there_as_published_is_not_said_to_be_missing(tree, tmp_path):
    shutil.copytree(tree / "photoshop/CASIAv2_Tp/image", tmp_path / "CASIA2/Tp")
    said = "\n".join(gather(tmp_path, limit=10, side_px=24).missing)
    assert "CASIAv2_Tp is not there" not in said and "CASIAv2_Au is not there" in said


def test_a_manifest_is_read_too_its_clips_as_frames_and_small_files_are_counted_and_left_out(photo, clip, tmp_path):
    clip("a.mp4"), photo("b.png"), photo("c.png", (40, 40)), photo("grid.png", (200, 160))
    rows = [
        ManifestRow("a.mp4", "ai_generated", kind="video"),
        ManifestRow("b.png", "real"),
        ManifestRow("c.png", "real"),
        ManifestRow("gone.png", "real"),
        ManifestRow("grid.png", "ai_generated", kind="a 2x2 grid of pictures"),
    ]
    write_manifest(tmp_path / "manifest.csv", rows)
    found = gather(tmp_path, limit=10, side_px=64, frames=3)
    shot, still, grid = found.items
    assert len(shot.pictures) == len(shot.times_s) == 3 and shot.window is None and shot.fake
    assert still.window is not None and still.window.size == (90, 90) and still.outside.info["file"]["format"] == "PNG"
    assert grid.outside.info["file"]["width"] == 200  # cut to a quarter before anything else, which is 100x80
    assert any("1 files under 64 px left out" in text for text in found.missing)
    assert any("gone.png" in text for text in found.missing) and not any("expected in" in t for t in found.missing)
    with pytest.raises(DataError):
        gather(tmp_path / "nowhere", limit=1, side_px=64)


def test_the_choice_stays_what_it_is_when_other_files_come(photo, tmp_path):
    rows = [ManifestRow(photo(f"{i}.png", (40, 40), i).name, "real" if i % 2 else "fake") for i in range(24)]
    write_manifest(tmp_path / "manifest.csv", rows[:12])
    few = {item.row.path for item in gather(tmp_path, limit=2, side_px=32).items}
    write_manifest(tmp_path / "manifest.csv", rows)
    more = {item.row.path for item in gather(tmp_path, limit=4, side_px=32).items}
    assert len(few) == 4 and len(more) == 8
    assert {item.row.path for item in gather(tmp_path, limit=2, side_px=32).items} <= more


def photographs(n: int, side: int = 150) -> list[tuple[str, Image.Image]]:
    made = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        blocks = Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).resize((side, side - 20), 3)
        values = np.asarray(blocks, float) + rng.normal(0, 9, (side - 20, side, 3))
        made.append((f"{seed}.jpg", Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))))
    return made


def test_every_pair_is_one_photograph_in_one_condition_and_the_edit_is_inside_what_is_looked_at():
    def decoder(rgb):
        return np.clip(rgb.astype(int) + 25, 0, 255).astype(np.uint8)

    given = photographs(9)
    made = twins(given, side_px=96, rebuilds=[decoder], qualities=[None, 80], per_photo=2)
    assert made.fake == [0, 1] * (len(made.fake) // 2) and len(made.pictures) + 2 * len(made.failed) == 36
    assert set(made.method) == set(METHODS) - {"face_swap"} == set(methods_here(True))
    for real, fake in zip(made.pictures[::2], made.pictures[1::2], strict=True):
        assert real.size == fake.size == (96, 96) and real.info["file"] == fake.info["file"]
        assert np.abs(np.asarray(real, int) - np.asarray(fake, int)).max() >= 5
    for i, method in enumerate(made.method):
        assert made.masks[i].shape == (96, 96) and made.masks[i].any() == made.fake[i]
        assert made.masks[i].all() == (bool(made.fake[i]) and method.endswith("_whole"))
    again = twins(given, side_px=96, rebuilds=[decoder], qualities=[None, 80], per_photo=2)
    assert [p.tobytes() for p in again.pictures] == [p.tobytes() for p in made.pictures]
    assert made.group[::2] == made.group[1::2] and made.part([1, 0])[1] == [1, 0]


def test_without_decoders_there_are_no_rebuilt_twins_and_small_photographs_are_told():
    assert not any("rebuild" in m or "decoder" in m for m in methods_here(False))
    made = twins([*photographs(2), ("small.jpg", Image.new("RGB", (50, 50)))], side_px=96)
    assert made.failed == ["small.jpg"] and twins([], side_px=96).pictures == []
