"""Claims about forging one picture: masks, regions, methods, post-processing, traces, and words that read back."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl_detect.data.forge import (
    METHODS,
    SIZES,
    Facts,
    Finish,
    draw_region,
    facts_of,
    facts_of_record,
    forge,
    measure,
    phrasings,
    place_of,
    visible,
    words_of,
)
from internvl_detect.data.forge.faces import face_region, skin_share
from internvl_detect.data.forge.pasting import Piece, cut_out, feather, lay
from internvl_detect.data.forge.regions import KINDS
from internvl_detect.data.forge.superpixels import grow, superpixels
from internvl_detect.data.forge.words import PLACES, TRACES, place_seen
from internvl_detect.data.labels import LABELS, answer_verity
from internvl_detect.data.samples.sample_set import SAMPLES
from internvl_detect.errors import ConfigError, DataError


def photograph(height: int = 120, width: int = 150, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), 3)
    return np.clip(np.asarray(coarse) + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def face(
    height: int = 128, width: int = 128, seed: int = 0, skin: tuple[int, int, int] = (205, 150, 125)
) -> np.ndarray:
    rgb = photograph(height, width, seed)
    y, x = np.mgrid[0:height, 0:width]
    oval = ((y / height - 0.54) / 0.4) ** 2 + ((x / width - 0.5) / 0.33) ** 2 <= 1
    rgb[oval] = np.clip(np.array(skin) + np.random.default_rng(seed).normal(0, 5, (oval.sum(), 3)), 0, 255)
    return rgb


def halved(rgb: np.ndarray) -> np.ndarray:
    small = Image.fromarray(rgb).resize((max(1, rgb.shape[1] // 3), max(1, rgb.shape[0] // 3)))
    return np.asarray(small.resize((rgb.shape[1], rgb.shape[0])))


def forged(method: str, seed: int, rgb: np.ndarray, **more):
    donor = face(seed=seed + 1, skin=(160, 105, 85)) if method == "face_swap" else photograph(140, 90, seed + 1)
    return forge(rgb, method, np.random.default_rng(seed), donor=donor, rebuild=halved, **more)


@given(st.integers(0, 10**6), st.sampled_from(sorted(METHODS)), st.integers(64, 170), st.integers(64, 170))
@settings(max_examples=60)
def test_only_masked_pixels_change_and_the_same_seed_gives_the_same_forgery(seed, method, height, width):
    rgb = face(height, width, seed) if method == "face_swap" else photograph(height, width, seed)
    before = rgb.copy()
    edited, mask, record = forged(method, seed, rgb)
    assert np.array_equal(rgb, before)
    assert edited.shape == rgb.shape and edited.dtype == np.uint8
    assert mask.shape == rgb.shape[:2] and mask.dtype == bool and mask.any()
    assert np.array_equal(edited[~mask], rgb[~mask])
    assert np.abs(edited[mask].astype(int) - rgb[mask]).mean() >= 1
    again = forged(method, seed, rgb)
    assert np.array_equal(edited, again[0]) and np.array_equal(mask, again[1]) and record == again[2]
    assert (record["label"], record["domain_tag"]) == (METHODS[method].label, METHODS[method].domain_tag)
    if not METHODS[method].whole:
        x0, y0, x1, y1 = record["box_xyxy"]
        assert mask[y0:y1, x0:x1].sum() == mask.sum() and record["place"] == place_of(mask)
        assert abs(record["share"] - mask.mean()) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", sorted(SIZES))
def test_regions_keep_to_their_class_of_size_and_are_mostly_of_their_kind(kind, size):
    low, high = SIZES[size]
    rgb = np.asarray(Image.open(SAMPLES / "coffee.jpg").resize((200, 133)))
    found = [draw_region(rgb, np.random.default_rng(i), size=size, kinds=(kind,)) for i in range(12)]
    assert all(low * 0.8 <= region.mask.mean() <= high * 1.1 for region in found)
    assert sum(region.kind == kind for region in found) >= 6
    assert len({region.mask.tobytes() for region in found}) >= 8


def test_superpixels_and_grabcut_follow_the_object_and_a_blob_does_not():
    rgb = photograph(128, 128, 1) // 8 + 20
    truth = np.zeros((128, 128), bool)
    truth[30:100, 30:94] = True
    rgb[truth] = (210, 190, 60)

    def best_overlap(kind: str) -> float:
        masks = [draw_region(rgb, np.random.default_rng(i), size="large", kinds=(kind,)).mask for i in range(12)]
        return max((m & truth).sum() / (m | truth).sum() for m in masks)

    assert best_overlap("grabcut") > 0.85 and best_overlap("colour") > 0.85 and best_overlap("superpixels") > 0.75
    assert best_overlap("blob") < 0.75


def test_superpixels_part_colours_and_grown_regions_are_whole_segments():
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, 37:] = 250
    labels = superpixels(rgb, count=24)
    assert not set(labels[:, :36].ravel()) & set(labels[:, 38:].ravel())
    region = grow(labels, rgb, np.random.default_rng(0), pixels=900)
    assert region.sum() >= 900
    assert not set(labels[region].ravel()) & set(labels[~region].ravel())


@given(st.integers(0, 1000), st.floats(0, 4), st.integers(-200, 200), st.integers(-200, 200))
def test_a_piece_may_stick_out_and_its_feather_stays_inside_the_region(seed, width, y, x):
    rgb = photograph(80, 90, seed)
    mask = np.random.default_rng(seed).random((20, 30)) < 0.7
    alpha = feather(mask, width)
    assert ((alpha > 0) == mask).all() and alpha.max() <= 1
    edited, where = lay(rgb, Piece(photograph(20, 30, seed + 1), alpha), y, x)
    assert np.array_equal(edited[~where], rgb[~where])


def test_a_cut_out_piece_is_the_region_scaled_turned_and_mirrored():
    rgb = photograph(100, 100)
    mask = np.zeros((100, 100), bool)
    mask[20:50, 30:70] = True
    plain = cut_out(rgb, mask, feather_px=0)
    assert np.array_equal(plain.rgb, rgb[20:50, 30:70]) and plain.alpha.min() == 1
    assert np.array_equal(cut_out(rgb, mask, flip=True, feather_px=0).rgb, plain.rgb[:, ::-1])
    assert cut_out(rgb, mask, scale=2, feather_px=0).shape == (60, 80)
    assert abs((cut_out(rgb, mask, angle_deg=30).alpha > 0).sum() - 1200) < 60


def test_what_cannot_be_forged_is_refused_with_what_is_missing():
    rgb, rng = photograph(), np.random.default_rng(0)
    with pytest.raises(ConfigError, match="splice, copy_move"):
        forge(rgb, "paint", rng)
    with pytest.raises(ConfigError, match="donor="):
        forge(rgb, "splice", rng)
    with pytest.raises(ConfigError, match="rebuild="):
        forge(rgb, "rebuild_whole", rng)
    for shape in ((1, 1, 3), (8, 800, 3)):
        with pytest.raises(DataError, match="64 px"):
            forge(np.zeros(shape, np.uint8), "copy_move", rng)
    with pytest.raises(DataError, match="nothing that could be seen"):
        forge(np.full((90, 90, 3), 7, np.uint8), "copy_move", rng)
    with pytest.raises(DataError, match="colour of skin"):
        forge(photograph(), "face_swap", rng, donor=face())


def test_skin_is_told_by_chroma_in_light_and_dark_and_a_grey_picture_has_none():
    for skin in ((240, 200, 175), (205, 150, 125), (140, 90, 70), (90, 55, 42)):
        assert skin_share(np.array([skin], np.uint8)) == 1
        assert 0.2 < face_region(face(skin=skin), np.random.default_rng(0)).mean() < 0.4
    assert skin_share(np.full((5, 3), 128, np.uint8)) == 0 == skin_share(np.zeros((0, 3), np.uint8))


def test_without_opencv_the_methods_that_need_none_work_and_the_others_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    rgb = photograph()
    for method, about in METHODS.items():
        if method == "face_swap" or about.cv2:
            continue
        forged(method, 0, rgb, kinds=("superpixels", "blob"))
    for method, kinds in (("removal", ("blob",)), ("poisson", ("blob",)), ("splice", ("grabcut",))):
        with pytest.raises(ConfigError, match="ip install opencv-python-headless"):
            forged(method, 0, rgb, kinds=kinds)


def test_a_mask_is_finished_to_the_size_of_its_picture_and_stays_where_it_was():
    mask = np.zeros((100, 140), bool)
    mask[30:60, 40:100] = True
    for scale in (0.75, 0.93, 1.0, 1.25):
        finish = Finish(scale=scale)
        done = finish.apply_mask(mask)
        assert Image.open(io.BytesIO(finish.apply(photograph(100, 140)))).size == done.shape[::-1]
        assert abs(done.mean() - mask.mean()) < 0.01 and place_of(done) == place_of(mask)


def test_the_place_seen_is_that_of_the_most_suspicious_spot_however_much_is_a_little_suspicious():
    cells = np.full((30, 42), 0.04, np.float32)
    cells[2:7, 2:9] = 0.8
    cells[14:29, 12:41] = 0.3  # much larger, and less suspicious
    assert place_seen(cells) == "upper left"
    assert place_seen(cells * 0.01) == "upper left"  # whatever a gate made of it
    assert place_seen(cells.T) == "upper left" and place_seen(cells[::-1]) == "lower left"


def test_a_few_cells_or_none_name_no_place():
    cells = np.zeros((30, 42), np.float32)
    assert place_seen(cells) == ""
    cells[3, 3:6] = 0.9
    assert place_seen(cells) == ""


def test_visible_traces_are_those_that_were_made():
    rgb = photograph(160, 160, 4)
    mask = np.zeros((160, 160), bool)
    mask[40:110, 50:120] = True
    smooth, bright, noisy = rgb.copy(), rgb.copy(), rgb.copy()
    smooth[mask] = np.asarray(Image.fromarray(rgb).resize((20, 20)).resize((160, 160)))[mask]
    bright[mask] = np.clip(rgb[mask].astype(int) + 70, 0, 255)
    noisy[mask] = np.clip(rgb[mask] + np.random.default_rng(0).normal(0, 30, (mask.sum(), 3)), 0, 255)
    assert visible(measure(rgb, rgb, mask), {}) == []
    assert visible(measure(rgb, smooth, mask), {}) == ["smooth"]
    assert {"edges", "light"} <= set(visible(measure(rgb, bright, mask), {}))
    assert "grain" in visible(measure(rgb, noisy, mask), {})
    assert visible(measure(rgb, rgb, mask), {"scale": 1.5}) == ["resolution"]
    assert visible(measure(rgb, rgb, mask), {"scale": 1.1, "source_place": "left"}) == ["repeat"]
    assert visible(measure(rgb, halved(rgb), None), {}) == ["smooth"]


records = st.builds(
    lambda method, place, size, traces, what, source, scale, stretch: {
        "method": method,
        "label": METHODS[method].label,
        "place": place,
        "size": size,
        "traces": [t for t in traces if t in ("smooth", "grain") or not METHODS[method].whole],
        "what": what,
        "source_place": source,
        "scale": scale,
        **({"stretch_s": sorted(stretch)} if what == "clip" else {}),
    },
    st.sampled_from(sorted(METHODS)),
    st.sampled_from(PLACES),
    st.sampled_from(sorted(SIZES)),
    st.lists(st.sampled_from(TRACES), max_size=3, unique=True),
    st.sampled_from(["picture", "clip"]),
    st.sampled_from(PLACES),
    st.floats(0.3, 3),
    st.lists(st.floats(0, 600), min_size=2, max_size=2),
)


@given(records)
def test_every_phrasing_of_a_record_reads_back_to_its_facts(record):
    texts = list(phrasings(record))
    assert len(texts) >= 4 and len(set(texts)) == len(texts)
    for text in texts:
        assert facts_of(text) == facts_of(f"Yes. {text.upper()}") == facts_of_record(record), text
    drawn = words_of(record, np.random.default_rng(0))
    assert drawn in texts and answer_verity(f"Yes. {drawn}") == "fake" and answer_verity(drawn) is None


def test_words_say_whether_then_where_then_why_and_a_photograph_s_say_no():
    record = {"method": "splice", "label": "tampered", "place": "lower left", "size": "small", "traces": ["edges"]}
    for text in phrasings(record):
        assert text.index("lower left") < text.index("outline")
        assert min(text.find(w) for w in ("tampered", "edited", "forgery") if w in text) < text.index("lower left")
    for what in ("picture", "clip"):
        assert {facts_of(text) for text in phrasings({"method": "none", "what": what})} == {Facts(fake=False)}
    assert {about.label for about in METHODS.values()} <= set(LABELS)


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text):
    assert facts_of(text) == facts_of(" ".join(text.split()))


def test_near_words_of_a_model_are_understood():
    said = facts_of("Yes. The image was manipulated: the top-left corner, a small thing cloned from the right.")
    assert (said.fake, said.place, said.method, said.size) == (True, "upper left", "copy_move", "small")
    assert facts_of("I can't tell.") == Facts()
