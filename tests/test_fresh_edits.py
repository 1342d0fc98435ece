"""Forgeries made as they are drawn: what they are of, what they are marked as, and that a draw can be repeated."""

import numpy as np
import pytest
import torch
from PIL import Image

from internvl_detect.errors import OutputError
from internvl_detect.model.tagger_net import METHODS
from internvl_detect.train import tag_data
from internvl_detect.train.fresh_edits import WORN, Drawn, FreshEdits
from internvl_detect.train.tag_data import TAGS, TagRow, keep_decoded, worn
from internvl_detect.train.tagger import Batches, TagTraining, turned

pytest.importorskip("cv2")


def scene(seed, size=(420, 300)):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.integers(-12, 13, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse, np.int16) + grain, 0, 255).astype(np.uint8))


@pytest.fixture
def rows(tmp_path):
    found = []
    for i in range(4):
        scene(i).save(tmp_path / f"{i}.png")
        found.append(TagRow(str(tmp_path / f"{i}.png"), "authentic", source="camera"))
    scene(9).save(tmp_path / "made.png")
    return [*found, TagRow(str(tmp_path / "made.png"), "ai_generated", source="generator")]


def blur(rgb):
    return np.asarray(Image.fromarray(rgb).resize((rgb.shape[1] // 2, rgb.shape[0] // 2)).resize(rgb.shape[1::-1]))


def test_it_makes_only_what_it_has_the_means_for(rows):
    assert set(FreshEdits(rows).methods) == {"authentic", "photoshop"}
    assert set(FreshEdits(rows, rebuilders=[blur]).methods) == {*TAGS} - {"deepfake"}
    assert set(FreshEdits(rows, faces=["camera"]).methods) == {"authentic", "photoshop", "deepfake"}
    assert FreshEdits(rows[-1:]).methods == {}


def test_photographs_beside_forgeries_of_one_source_are_not_forged_again(rows):
    mixed = [*rows, TagRow("x.png", "authentic", source="generator")]
    assert {row.source for part in FreshEdits(mixed).photographs.parts for row in part} == {"camera"}


@pytest.mark.parametrize("tag", ["authentic", "ai_generated", "aigc_editing", "photoshop"])
def test_a_crop_is_marked_as_what_it_was_made(rows, tag):
    fresh = FreshEdits(rows, rebuilders=[blur])
    crops = [fresh.crop(tag, 160, np.random.default_rng(i), strength=0.0) for i in range(12)]
    for crop in crops:
        assert crop.rgb.shape == (160, 160, 3) and crop.maps.shape == (2, 20, 20)
        edited = float(crop.maps[0].clip(0).sum())
        if tag in ("authentic", "ai_generated"):
            assert crop.tag == TAGS.index(tag) and crop.method == -1 and not edited
        else:
            assert crop.tag in (0, -1, TAGS.index(tag)) and (crop.tag != TAGS.index(tag) or edited > 0)
            assert crop.method == -1 or crop.tag == TAGS.index(tag)
    if tag in ("aigc_editing", "photoshop"):
        assert {METHODS[crop.method] for crop in crops if crop.method >= 0} <= {*fresh.methods[tag]}
        assert sum(crop.tag == TAGS.index(tag) for crop in crops) >= 6


def test_the_same_draw_gives_the_same_crop_and_another_another(rows):
    fresh = FreshEdits(rows)
    one, same, other = (fresh.crop("photoshop", 160, np.random.default_rng(i)) for i in (3, 3, 4))
    assert np.array_equal(one.rgb, same.rgb) and np.array_equal(one.maps, same.maps)
    assert not np.array_equal(one.rgb, other.rgb)


def test_a_source_weighs_as_the_root_of_what_it_has():
    few, many = [TagRow(f"a{i}", "authentic") for i in range(4)], [TagRow(f"b{i}", "authentic") for i in range(400)]
    drawn, rng = Drawn({"few": few, "many": many}), np.random.default_rng(0)
    share = np.mean([drawn(rng).path.startswith("a") for _ in range(4000)])
    assert share == pytest.approx(2 / 22, abs=0.02) and not Drawn({})


def test_what_was_compressed_keeps_its_size_and_most_of_its_look():
    rgb = np.asarray(scene(1))
    found = [worn(rgb, np.random.default_rng(i), WORN) for i in range(8)]
    assert any(np.array_equal(f, rgb) for f in found) and not all(np.array_equal(f, rgb) for f in found)
    assert all(f.shape == rgb.shape and np.abs(f.astype(int) - rgb).mean() < 16 for f in found)


def test_batches_are_the_same_with_pictures_kept_decoded(rows, monkeypatch, tmp_path):
    how = TagTraining(steps=3, batch=4, sizes_px=(96,), fresh=(0.5, 0.0, 0.0, 0.0, 1.0))
    plain = Batches(rows, how)[1]
    monkeypatch.setattr(tag_data, "_decoded_in", None)
    paths = [row.path for row in rows] + ["nothing.png"]
    assert keep_decoded(paths, tmp_path / "kept", workers=2) == len(rows)
    assert keep_decoded(paths, tmp_path / "kept", workers=2) == 0  # a later run finds them
    monkeypatch.setattr(tag_data, "_read", None)  # nothing is decoded any more
    assert all(torch.equal(a, b) for a, b in zip(plain, Batches(rows, how)[1], strict=True))


def test_a_broken_file_of_what_was_kept_costs_nothing_but_time(rows, monkeypatch, tmp_path):
    monkeypatch.setattr(tag_data, "_decoded_in", None)
    keep_decoded([rows[0].path], tmp_path / "kept", workers=1)
    kept = next((tmp_path / "kept").iterdir())
    for broken in (b"", kept.read_bytes()[:-5], b"no array"):
        kept.write_bytes(broken)
        assert np.array_equal(tag_data.pixels(rows[0].path), np.asarray(Image.open(rows[0].path)))


def test_a_picture_that_changed_is_not_taken_from_what_was_kept_of_it(monkeypatch, tmp_path):
    monkeypatch.setattr(tag_data, "_decoded_in", None)
    path = str(tmp_path / "a.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(path)
    keep_decoded([path], tmp_path / "kept", workers=1)
    Image.new("RGB", (9, 8), (4, 5, 6)).save(path)
    assert tag_data.pixels(path).shape == (8, 9, 3)


def test_a_folder_that_cannot_hold_decoded_pictures_is_named(rows, monkeypatch, tmp_path):
    monkeypatch.setattr(tag_data, "_decoded_in", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file.* could not be written"):
        keep_decoded([rows[0].path], tmp_path / "file", workers=1)


def test_a_batch_turns_with_its_maps_in_seven_ways():
    rgb = torch.arange(2 * 16 * 16 * 3).reshape(2, 16, 16, 3) % 251
    found = [turned((rgb, torch.zeros(2), rgb[..., 0][:, None], torch.zeros(2)), way) for way in range(7)]
    assert all(torch.equal(one[0][..., 0], one[2][:, 0]) for one in found)
    assert len({one[0].numpy().tobytes() for one in found} | {rgb.numpy().tobytes()}) == 8
