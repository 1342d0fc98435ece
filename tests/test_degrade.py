"""Degradations: pure, seeded, RGB in and RGB out, and unknown names are errors.

Run: ``python -m pytest tests/test_degrade.py``
"""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from internvl_detect.errors import ConfigError
from internvl_detect.media.clip_reencode import encoded
from internvl_detect.media.degrade import LEAST_PX, OPERATIONS, augment, degrade


def picture(width: int = 90, height: int = 70) -> PILImage.Image:
    y, x = np.mgrid[:height, :width]
    values = np.stack([x * 2 % 256, y * 3 % 256, (x * y) % 256], -1).astype(np.uint8)
    return PILImage.fromarray(values)


PARAMETERS = {
    "jpeg": {"quality": 70},
    "webp": {"quality": 60},
    "resize": {"factor": 0.5},
    "blur": {"radius": 1.5},
    "noise": {"sigma": 8.0},
    "crop": {"box_xyxy": (5, 6, 60, 50)},
    "flip": {},
    "double_jpeg": {"first": 70, "quality": 85, "shift_px": 3},
    "screenshot": {"scale": 0.8},
    "social": {"chain": "thumbnail"},
}


def apply(name: str, rgb: PILImage.Image) -> PILImage.Image:
    extra = {"rng": np.random.default_rng(3)} if name == "noise" else {}
    return degrade(rgb, name, **PARAMETERS[name], **extra)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_is_pure_and_repeatable(name: str) -> None:
    rgb = picture()
    rgb.info["comment"] = "kept"
    before = rgb.tobytes()
    first, second = apply(name, rgb), apply(name, rgb)
    assert rgb.tobytes() == before and rgb.info == {"comment": "kept"}
    assert first.mode == "RGB" and first.tobytes() == second.tobytes()
    assert first.tobytes() != before


def test_operations_do_what_their_names_say() -> None:
    rgb = picture()
    values = np.asarray(rgb).astype(int)
    assert apply("resize", rgb).size == (45, 35)
    assert np.array_equal(np.asarray(apply("crop", rgb)), values[6:50, 5:60])
    assert np.array_equal(np.asarray(apply("flip", rgb)), values[:, ::-1])
    assert np.asarray(apply("blur", rgb)).std() < values.std()
    off = [np.abs(np.asarray(degrade(rgb, "jpeg", quality=q)).astype(int) - values).mean() for q in (95, 60, 20)]
    assert off == sorted(off)
    grey = PILImage.new("RGB", (200, 200), (128, 128, 128))
    noisy = np.asarray(degrade(grey, "noise", sigma=10.0, rng=np.random.default_rng(0))).astype(float)
    assert noisy.std() == pytest.approx(10, rel=0.05) and noisy.mean() == pytest.approx(128, abs=0.3)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_augment_gives_the_same_bytes_for_the_same_seed_at_any_size(width: int, height: int, seed: int) -> None:
    rgb = picture(width, height)
    first, second = (augment(rgb, np.random.default_rng(seed)) for _ in range(2))
    assert first.mode == "RGB" and first.size == second.size and first.tobytes() == second.tobytes()
    assert min(first.size) >= min(LEAST_PX, width, height)


def test_augment_uses_every_step_and_leaves_some_pictures_alone() -> None:
    rgb = picture()
    outcomes = [augment(rgb, np.random.default_rng(seed)) for seed in range(120)]
    assert any(out.tobytes() == rgb.tobytes() for out in outcomes)
    assert any(out.width > rgb.width for out in outcomes) and any(out.width < rgb.width for out in outcomes)
    assert any(out.tobytes() == degrade(rgb, "flip").tobytes() for out in outcomes)
    assert len({out.tobytes() for out in outcomes}) > 60


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("melt", {}),
        ("jpeg", {"quality": 0}),
        ("jpeg", {"strength": 3}),
        ("jpeg", {}),
        ("resize", {"factor": 0}),
        ("blur", {"radius": -1}),
        ("crop", {"box_xyxy": (0, 0, 500, 5)}),
        ("crop", {"box_xyxy": (5, 5, 5, 9)}),
    ],
)
def test_unknown_names_and_wrong_parameters_are_errors(name: str, parameters: dict) -> None:
    with pytest.raises(ConfigError):
        degrade(picture(), name, **parameters)


def test_chains_shrink_and_never_grow_and_each_passing_on_changes_more() -> None:
    assert degrade(picture(900, 600), "social", chain="thumbnail").size == (512, 341)
    small = picture()
    assert degrade(small, "social", chain="large").size == small.size
    assert degrade(small, "screenshot", scale=1.5).size == (135, 105)
    values = np.asarray(small).astype(int)
    once, twice = (degrade(small, "social", chain=c) for c in ("messenger", "messenger_twice"))
    assert once.tobytes() == degrade(small, "jpeg", quality=70).tobytes()
    assert np.abs(np.asarray(twice).astype(int) - values).mean() >= np.abs(np.asarray(once).astype(int) - values).mean()
    with pytest.raises(ConfigError, match="messenger"):
        degrade(small, "social", chain="nowhere")


def test_a_second_jpeg_on_the_same_grid_is_two_jpegs_and_a_shift_cuts_the_sides() -> None:
    small = picture()
    two = degrade(degrade(small, "jpeg", quality=70), "jpeg", quality=90)
    assert degrade(small, "double_jpeg", first=70, quality=90).tobytes() == two.tobytes()
    assert degrade(small, "double_jpeg", first=70, quality=90, shift_px=3).size == (87, 67)


def reencode(frames: list[PILImage.Image], *, codec: str, crf: int) -> list[PILImage.Image]:
    width, height = frames[0].size
    with av.open(io.BytesIO(encoded(frames, codec=codec, crf=crf))) as coded:
        decoded = [frame.to_ndarray(format="rgb24")[:height, :width] for frame in coded.decode(video=0)]
    return [PILImage.fromarray(pixels) for pixels in decoded]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_frames_coded_again_keep_their_count_and_size_and_lose_more_at_a_higher_crf(codec: str) -> None:
    frames = [picture(97, 65).rotate(3 * i) for i in range(4)]
    off = []
    for crf in (10, 40):
        coded = reencode(frames, codec=codec, crf=crf)
        assert [f.size for f in coded] == [(97, 65)] * 4
        pairs = zip(frames, coded, strict=True)
        off.append(np.mean([np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() for a, b in pairs]))
    assert 0 < off[0] < off[1]
    with pytest.raises(ConfigError, match="h264"):
        reencode(frames, codec="theora", crf=20)
    with pytest.raises(ConfigError, match="one size"):
        reencode([picture(), picture(80, 80)], codec="h264", crf=20)
