"""Claims about the tagger's crops: their truth is that of their pixels, whatever is done to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl_detect.data.manifest import ManifestRow
from internvl_detect.errors import DataError
from internvl_detect.train.tag_data import TAGS, TagRow, cut, degraded, tag_rows


@pytest.fixture
def edited(tmp_path):
    """A grey picture with a white square, and the mask of the square."""
    rgb = np.full((300, 400, 3), 90, np.uint8)
    mask = np.zeros((300, 400), np.uint8)
    rgb[120:200, 160:260], mask[120:200, 160:260] = 255, 255
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    return TagRow(str(tmp_path / "a.png"), "photoshop", str(tmp_path / "m.png"))


def test_the_map_lies_where_the_edit_is_after_cropping_scaling_and_mirroring(edited):
    for seed in range(40):
        crop = cut(edited, 96, np.random.default_rng(seed))
        white = (crop.rgb.mean(2) > 172).reshape(12, 8, 12, 8).mean((1, 3))
        assert np.abs(white - crop.maps[0]).max() < 0.35  # degraded outlines move by a pixel or two
        assert (crop.maps[1] == 0).all()


def test_a_crop_beside_the_edit_is_authentic_and_a_sliver_has_no_tag(edited):
    tags = {}
    for seed in range(150):
        crop = cut(edited, 64, np.random.default_rng(seed), strength=0)
        tags.setdefault(crop.tag, []).append(float(crop.maps[0].mean()))
    assert all(share == 0 for share in tags[TAGS.index("authentic")])
    assert min(tags[TAGS.index("photoshop")]) >= 0.004
    assert all(0 < share < 0.004 for share in tags.get(-1, [0.001]))


def test_a_mask_that_does_not_fit_is_told_with_both_sizes(edited, tmp_path):
    Image.new("L", (10, 10)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="10x10.*400x300"):
        cut(edited, 64, np.random.default_rng(0))


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 150), height=st.integers(1, 150), seed=st.integers(0, 10**6))
def test_any_picture_gives_a_crop_of_the_asked_size(tmp_path_factory, width, height, seed):
    path = tmp_path_factory.mktemp("p") / "x.png"
    Image.new("RGB", (width, height), (9, 99, 199)).save(path)
    crop = cut(TagRow(str(path), "ai_generated"), 96, np.random.default_rng(seed))
    assert crop.rgb.shape == (96, 96, 3) and crop.rgb.dtype == np.uint8
    assert crop.tag == TAGS.index("ai_generated") and (crop.maps[1] == 1).all() and (crop.maps[0] == -1).all()


def test_the_same_draw_gives_the_same_pixels(edited):
    first, again = (cut(edited, 96, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.rgb, again.rgb)
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(degraded(rgb, np.random.default_rng(1), 0), rgb)


def test_tags_come_from_the_manifest_and_by_label_where_it_names_none(tmp_path):
    rows = [
        ManifestRow(path="a.png", label="real", domain_tag="photoshop"),
        ManifestRow(path="b.png", label="tampered", mask="m.png"),
        ManifestRow(path="c.png", label="tampered", domain_tag="aigc_editing"),
        ManifestRow(path="d.png", label="ai_generated", mask="m.png"),
    ]
    found = tag_rows(rows, tmp_path)
    assert [row.tag for row in found] == ["authentic", "photoshop", "aigc_editing", "ai_generated"]
    assert [bool(row.mask) for row in found] == [False, True, False, False]
