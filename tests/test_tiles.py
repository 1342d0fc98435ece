"""Tiles: dynamic tiling equals the reference to the bit, native tiling never resamples, and every tile knows its place.

Run: ``python -m pytest tests/test_tiles.py``
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from internvl_detect.errors import ConfigError
from internvl_detect.media.native import choose_windows, covering_grid
from internvl_detect.media.tiles import MEAN, STD, TileSettings, best_grid, count_tiles, cut_tiles

FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
SIZES = [
    (448, 448),
    (449, 447),
    (13, 7),
    (5, 9),
    (640, 480),
    (480, 640),
    (1200, 500),
    (333, 1999),
    (896, 448),
    (101, 900),
]


def noise(width: int, height: int, seed: int = 0) -> PILImage.Image:
    rng = np.random.default_rng(seed)
    return PILImage.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def oracle():
    """transformers' PIL processor, told InternVL's settings: another program with the reference's result."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    def process(rgb: PILImage.Image, side: int, least: int, most: int) -> np.ndarray:
        size = {"height": side, "width": side}
        how = {"crop_to_patches": True, "min_patches": least, "max_patches": most}
        processor = GotOcr2ImageProcessorPil(size=size, image_mean=MEAN, image_std=STD, **how)
        return np.stack(processor(images=[rgb], input_data_format="channels_last")["pixel_values"])

    return process


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [1, 6, 12])
def test_dynamic_tiles_equal_the_transformers_processor_to_the_bit(oracle, size: tuple[int, int], most: int) -> None:
    rgb = noise(*size)
    ours = cut_tiles(rgb, TileSettings(max_tiles=most))
    assert np.array_equal(ours.normalised(), oracle(rgb, 448, 1, most))
    assert len(ours) == count_tiles(*size, TileSettings(max_tiles=most))


@given(st.integers(1, 700), st.integers(4, 700), st.integers(1, 4), st.integers(0, 12), st.sampled_from([14, 56, 112]))
@FEW
def test_dynamic_tiles_equal_it_for_any_size(oracle, width: int, height: int, least: int, more: int, side: int) -> None:
    rgb = noise(width, height)
    how = TileSettings(tile_px=side, min_tiles=least, max_tiles=least + more)
    if how.max_tiles > 1:  # told one tile at most, that processor does not look at the smallest number
        assert np.array_equal(cut_tiles(rgb, how).normalised(), oracle(rgb, side, least, least + more))


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.sampled_from([112, 224, 448]))
@MANY
def test_the_grid_is_the_processors_for_any_size(width: int, height: int, most: int, side: int) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    ours = best_grid(width, height, TileSettings(tile_px=side, max_tiles=most))
    assert ours == get_optimal_tiled_canvas((height, width), (side, side), 1, most)


def test_normalised_is_float32_arithmetic_step_by_step() -> None:
    tiles = cut_tiles(noise(500, 333), TileSettings(tile_px=56))
    plain = tiles.pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    assert np.array_equal(tiles.normalised(), (plain - mean) / std)
    assert tiles.normalised().dtype == np.float32 and tiles.normalised().flags.c_contiguous


def test_tile_counts_are_the_references(reference: Path) -> None:
    cases = json.loads((reference / "preprocess.json").read_text())
    seen = 0
    for size, answers in cases.items():
        width, height = map(int, size.split("x"))
        for key, answer in answers.items():
            if key.startswith("s") and "_m" in key:
                side, most = (int(part[1:]) for part in key.split("_"))
                how = TileSettings(tile_px=side, max_tiles=most)
                assert count_tiles(width, height, how) == answer["n_tiles"], (size, key)
                seen += 1
    assert seen > 100


def test_one_tile_has_no_thumbnail_and_more_have_one_at_the_end() -> None:
    assert cut_tiles(noise(448, 448), TileSettings()).is_thumbnail == [False]
    assert cut_tiles(noise(896, 448), TileSettings()).is_thumbnail == [False, False, True]
    assert cut_tiles(noise(896, 448), TileSettings(thumbnail=False)).is_thumbnail == [False, False]
    assert cut_tiles(noise(896, 448), TileSettings(max_tiles=1)).is_thumbnail == [False]


@given(st.sampled_from(["dynamic", "native"]), st.integers(1, 400), st.integers(1, 400), st.integers(1, 9), st.data())
@MANY
def test_points_go_to_the_picture_and_back(mode: str, width: int, height: int, most: int, data) -> None:
    side = 28
    tiles = cut_tiles(noise(width, height), TileSettings(mode=mode, tile_px=side, max_tiles=most))
    assert len(tiles) == count_tiles(width, height, TileSettings(mode=mode, tile_px=side, max_tiles=most))
    assert len(tiles.boxes_xyxy) == len(tiles.is_thumbnail) == len(tiles.real_wh) == len(tiles.pixels)
    i = data.draw(st.integers(0, len(tiles) - 1))
    x, y = data.draw(st.floats(0, side)), data.draw(st.floats(0, side))
    assert tiles.to_tile(i, *tiles.to_picture(i, x, y)) == pytest.approx((x, y), abs=1e-9)
    x0, y0, x1, y1 = tiles.boxes_xyxy[i]
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert tiles.to_picture(i, 0, 0) == (x0, y0)
    assert tiles.to_picture(i, *tiles.real_wh[i]) == pytest.approx((x1, y1), abs=1e-9)
    found = {j: (u, v) for j, u, v in tiles.from_picture((x0 + x1) / 2, (y0 + y1) / 2)}
    assert found[i] == pytest.approx((tiles.real_wh[i][0] / 2, tiles.real_wh[i][1] / 2))


@given(st.integers(1, 300), st.integers(1, 300))
@MANY
def test_dynamic_boxes_tile_the_picture_and_windows_cover_it(width: int, height: int) -> None:
    for mode in ("dynamic", "native"):
        tiles = cut_tiles(noise(width, height), TileSettings(mode=mode, tile_px=28, max_tiles=256, thumbnail=False))
        covered = np.zeros((height, width), int)
        for x0, y0, x1, y1 in tiles.boxes_xyxy:
            covered[round(y0) : round(y1), round(x0) : round(x1)] += 1
        if mode == "native":
            assert covered.min() >= 1
        else:
            area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in tiles.boxes_xyxy)
            assert area == pytest.approx(width * height)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 9), st.integers(0, 5))
@FEW
def test_native_tiles_are_the_pictures_own_pixels(width: int, height: int, most: int, seed: int) -> None:
    rgb = noise(width, height)
    whole = np.asarray(rgb)
    tiles = cut_tiles(rgb, TileSettings(mode="native", tile_px=56, max_tiles=most), seed=seed)
    for pixels, box, (wide, high), small in zip(
        tiles.pixels, tiles.boxes_xyxy, tiles.real_wh, tiles.is_thumbnail, strict=True
    ):
        if small:
            assert np.array_equal(pixels, np.asarray(rgb.resize((56, 56), PILImage.Resampling.BICUBIC)))
            continue
        x0, y0, x1, y1 = map(int, box)
        assert (wide, high) == (x1 - x0, y1 - y0) == (min(56, width), min(56, height))
        assert np.array_equal(pixels[:high, :wide], whole[y0:y1, x0:x1])
        padded = np.pad(whole[y0:y1, x0:x1], ((0, 56 - high), (0, 56 - wide), (0, 0)), mode="reflect")
        assert np.array_equal(pixels, padded)


def test_native_windows_start_on_a_jpegs_blocks_except_at_the_far_edges() -> None:
    for x0, y0, x1, y1 in choose_windows(noise(1000, 700), 448, 100, 0):
        assert (x0 % 8 == 0 or x1 == 1000) and (y0 % 8 == 0 or y1 == 700)


def test_native_windows_prefer_texture_and_spread_out() -> None:
    values = np.full((56 * 6, 56 * 6, 3), 128, np.uint8)
    values[:, : 56 * 3] = np.random.default_rng(0).integers(0, 256, (56 * 6, 56 * 3, 3))
    rgb = PILImage.fromarray(values)
    windows = choose_windows(rgb, 56, 6, 0)
    assert sum(x0 < 56 * 3 for x0, *_ in windows) >= 5, "the textured half"
    busy = noise(56 * 8, 56 * 8)
    for seed in range(5):
        quarters = {(x0 >= 56 * 4, y0 >= 56 * 4) for x0, y0, *_ in choose_windows(busy, 56, 6, seed)}
        assert len(quarters) == 4, "each quarter of an evenly textured picture is looked at"


def test_native_windows_are_the_same_for_the_same_seed_and_never_repeat() -> None:
    rgb = noise(1500, 1100)
    assert covering_grid(1500, 1100, 112) == (14, 10)
    first = [choose_windows(rgb, 112, 12, seed) for seed in range(6)]
    assert first == [choose_windows(rgb, 112, 12, seed) for seed in range(6)]
    assert len({tuple(windows) for windows in first}) > 1
    assert all(len(set(windows)) == 12 for windows in first)
    flat = PILImage.new("RGB", (1500, 1100))
    assert len(set(choose_windows(flat, 112, 12, 0))) == 12


def test_settings_survive_a_dictionary_and_refuse_nonsense() -> None:
    how = TileSettings(mode="native", tile_px=224, max_tiles=9, thumbnail=False)
    assert TileSettings.from_dict(json.loads(json.dumps(how.to_dict()))) == how
    for wrong in (
        {"mode": "other"}, {"tile_px": 0}, {"max_tiles": 0}, {"min_tiles": 7}, {"max_tiles": 2.5}, {"thumbnail": "no"},
        {"tiles": 3},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            TileSettings.from_dict(wrong)
