"""Claims about copies within a picture: found and marked wherever they were moved; nothing where nothing was copied."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from internvl_detect.data.forge.pasting import cut_out, lay
from internvl_detect.model.copies import Copied, find_copy
from internvl_detect.model.domain_tag import Tagged

SIZE = (448, 336)


def scene(seed: int, size=SIZE) -> np.ndarray:
    """Many overlapping shapes with shading and grain: no two parts are alike."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", size, (120, 130, 140))
    draw = ImageDraw.Draw(picture)
    for _ in range(400):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        corners = rng.integers(-30, 30, (int(rng.integers(3, 7)), 2)) + (x, y)
        draw.polygon([tuple(map(int, c)) for c in corners], fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    rgb = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.7)), np.float32)
    return np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)


def saved(rgb: np.ndarray, quality: int = 85) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality)
    return Image.open(file)


def forged(seed: int = 1, **how) -> tuple[Image.Image, np.ndarray]:
    """A disc from the left laid into the right, and where it lies."""
    rgb = scene(seed)
    y, x = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
    piece = cut_out(rgb, (x - 110) ** 2 + (y - 150) ** 2 < 50**2, **how)
    edited, mask = lay(rgb, piece, 130, 280)
    return saved(edited), mask


def overlap(found: Copied, mask: np.ndarray) -> float:
    marked = found.mask(mask.shape[::-1]) >= 0.5
    return np.count_nonzero(marked & mask) / np.count_nonzero(marked | mask)


@pytest.mark.parametrize(
    "how",
    [{}, {"flip": True}, {"angle_deg": 20}, {"scale": 0.8}, {"scale": 1.3}]
    + [{"scale": 1.2, "angle_deg": -15, "flip": True, "feather_px": 2}],
    ids=str,
)
def test_a_copy_is_found_and_marked_however_it_was_moved(how):
    picture, mask = forged(**how)
    edited = np.asarray(Image.fromarray(mask).resize((56, 42))).astype(np.float32)
    found = find_copy(picture, edited)
    assert found.found and overlap(found, mask) > 0.7
    assert found.mirrored == how.get("flip", False)
    assert found.source[:, : found.source.shape[1] // 2].sum() > 0.9 * found.source.sum() > 0
    assert not (found.copy & found.source).any()


def test_what_looked_edited_to_the_tagger_is_the_copy():
    picture, mask = forged(flip=True)
    left = np.zeros((42, 56), np.float32)
    left[10:28, 6:21] = 0.9
    assert overlap(find_copy(picture, left), mask) < 0.1 < 0.7 < overlap(find_copy(picture, left[:, ::-1]), mask)


def test_a_copy_in_a_large_picture_is_marked_in_its_own_pixels():
    picture, mask = forged()
    size = (picture.width * 4, picture.height * 4)
    mask = np.asarray(Image.fromarray(mask).resize(size))
    found = find_copy(picture.resize(size, Image.Resampling.BICUBIC))
    assert found.found and max(overlap(found, mask), overlap(Copied(copy=found.source), mask)) > 0.6


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found_where_nothing_was_copied(seed):
    assert not find_copy(saved(scene(seed))).found


def windows() -> np.ndarray:
    """A front of equal windows in uneven light."""
    rng = np.random.default_rng(0)
    picture = np.full((336, 448, 3), 150.0)
    for y in range(20, 300, 60):
        for x in range(20, 420, 50):
            picture[y : y + 40, x : x + 30] = rng.normal((70, 80, 100), 12)
            picture[y + 19 : y + 21, x : x + 30] = picture[y : y + 40, x + 14 : x + 16] = 220
    light = np.linspace(0.6, 1.1, 448)[None, :, None] * np.linspace(1, 0.8, 336)[:, None, None]
    grain = np.asarray(Image.fromarray(rng.integers(0, 256, (84, 112, 3), np.uint8)).resize((448, 336)), np.float32)
    return np.clip(picture * light + 0.15 * (grain - 128) + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def test_windows_that_only_resemble_each_other_are_no_copies():
    assert not find_copy(saved(windows())).found


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (300, 200), "red"),
        Image.new("L", (1, 1)),
        Image.new("RGB", (8000, 100)),
        Image.new("1", (40, 4000)),
    ]
    + [Image.fromarray(scene(5, (8000, 100))), Image.fromarray(scene(6)).convert("L"), Image.new("RGBA", (64, 64))]
    + [Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)), Image.new("RGB", (33, 32))],
    ids=lambda p: f"{p.mode}-{p.width}x{p.height}",
)
def test_odd_pictures_hold_no_copy_and_raise_nothing(picture):
    found = find_copy(picture)
    assert not found.found
    assert found.mask(picture.size).shape == picture.size[::-1]


def test_the_same_picture_gives_the_same_answer():
    picture, _ = forged(angle_deg=10)
    one, two = find_copy(picture), find_copy(picture)
    assert one.score == two.score and (one.copy == two.copy).all() and (one.source == two.source).all()


def test_a_found_copy_raises_the_odds_of_an_edit_by_hand_and_names_the_method():
    shares = {"authentic": 0.5, "ai_generated": 0.2, "aigc_editing": 0.05, "deepfake": 0.05, "photoshop": 0.2}
    look = Tagged(shares, np.zeros((4, 4), np.float32), 0.0, {"splice": 1.0})
    told = Copied(score=0.9).told(look)
    assert told.method == "copy_move" and told.tag == "photoshop"
    assert sum(told.probabilities.values()) == pytest.approx(1)
    assert told.probabilities["ai_generated"] / told.probabilities["authentic"] == pytest.approx(0.4)
    assert told.log_odds == pytest.approx(np.log(told.score / (1 - told.score)))
    assert Copied(score=1.0).told(look).log_odds > told.log_odds


def test_where_no_copy_is_found_another_method_is_named_if_it_was_nearly_as_likely():
    shares, cells = {"authentic": 0.5, "photoshop": 0.5}, np.zeros((4, 4), np.float32)
    for methods, named in (
        ({"copy_move": 0.6, "splice": 0.4}, "splice"),
        ({"copy_move": 0.9, "splice": 0.1}, "copy_move"),
    ):
        told = Copied(score=0.4).told(Tagged(shares, cells, 0.0, methods))
        assert told.method == named and sum(told.methods.values()) == pytest.approx(1)
        assert (told.probabilities, told.log_odds) == (shares, 0.0)
    assert Copied().told(Tagged(shares, cells, 0.0)).method == ""
