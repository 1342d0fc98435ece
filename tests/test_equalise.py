"""Claims about equalising: size and quality follow from the file's name alone, never from its class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl_detect.evaluate.equalise import common_side, equalise, rng_of, square


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width * 7919 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), side=st.integers(32, 512))
def test_every_picture_becomes_a_square_of_the_asked_side_and_no_more_than_it_has(width, height, side):
    given_ = picture(width, height)
    assert equalise(given_, rng_of("a"), side_px=side).size == (min(side, width, height),) * 2
    assert equalise(given_, rng_of("a"), side_px=side, exact=True).size == (side, side)


def test_the_same_name_is_treated_alike_and_others_otherwise():
    given_ = picture(300, 200)
    same = [np.asarray(equalise(given_, rng_of("x.png"))) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    drawn = {np.asarray(equalise(given_, rng_of(f"{i}.png"))).tobytes() for i in range(20)}
    assert len(drawn) > 5


def test_a_name_with_bytes_that_are_no_text_has_a_draw_too():
    assert rng_of("\udcff.png").integers(10**9) != rng_of("\udcfe.png").integers(10**9)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_other_modes_come_out_as_colours(mode):
    assert equalise(picture(80, 90, mode), rng_of("m")).mode == "RGB"


def test_the_square_is_the_middle_of_native_pixels_and_a_mask_follows_it():
    given_ = picture(101, 60)
    np.testing.assert_array_equal(np.asarray(square(given_, 40)), np.asarray(given_)[10:50, 30:70])
    mask = Image.fromarray(np.tri(60, 60, dtype=np.uint8) * 255)
    assert set(np.unique(np.asarray(square(mask, 96, exact=True)))) <= {0, 255}


def test_the_common_side_is_one_that_all_have():
    assert common_side([(500, 400), (90, 700)]) == 90
    assert common_side([(5000, 4000)]) == 512 and common_side([]) == 512
    assert common_side([(3, 9)]) == 32
