"""Claims about copies: found after recompressing and resizing, never among different pictures, told by their harm."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.survey import duplicates
from internvl_detect.data.survey.duplicates import MOST_BITS, alike, exact_copies, near_copies
from internvl_detect.data.survey.whole import Survey, survey


def scene(seed: int, size: tuple[int, int] = (200, 160)) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8))


def look(root: Path, rows: list[ManifestRow]) -> Survey:
    return survey(rows, root, workers=1)


def copies(found: Survey) -> list[tuple[str, str]]:
    return [(f.code, f.file) for f in found.findings if "duplicate" in f.code]


def test_a_copy_is_found_after_recompressing_resizing_and_another_format(tmp_path):
    made = []
    for seed in range(6):
        picture = scene(seed)
        picture.save(tmp_path / f"{seed}.png")
        others = {
            "q50.jpg": (picture, {"quality": 50}),
            "half.jpg": (picture.resize((100, 80), Image.Resampling.LANCZOS), {"quality": 80}),
            "large.webp": (picture.resize((500, 400), Image.Resampling.BICUBIC), {"quality": 75}),
            "odd.jpg": (picture.resize((180, 170), Image.Resampling.BICUBIC), {"quality": 90, "progressive": True}),
            "grey.jpg": (picture.convert("L"), {"quality": 85}),
        }
        for name, (changed, options) in others.items():
            changed.save(tmp_path / f"{seed}{name}", **options)
        made += [f"{seed}.png", *(f"{seed}{name}" for name in others)]
    found = look(tmp_path, [ManifestRow(name, "real") for name in made])
    assert copies(found) == [("near-duplicate", name) for name in made if not name.endswith("png")]
    for finding in found.findings[1:]:  # the first says that there are no fakes
        assert f'looks like "{finding.file[0]}' in finding.problem


def test_different_pictures_are_no_copies_and_flat_ones_are_left_out(tmp_path):
    rows = []
    for seed in range(60):
        scene(1000 + seed).save(tmp_path / f"{seed}.jpg")
        rows.append(ManifestRow(f"{seed}.jpg", "real"))
    for grey in (0, 3, 250, 255):
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(tmp_path / f"flat{grey}.png")
        rows.append(ManifestRow(f"flat{grey}.png", "real"))
    assert copies(look(tmp_path, rows)) == []


def test_bytes_that_stand_twice_are_told_by_the_harm_they_do(tmp_path):
    scene(1).save(tmp_path / "a.png")
    for name in ("same", "test", "fake", "both"):
        (tmp_path / f"{name}.png").write_bytes((tmp_path / "a.png").read_bytes())
    rows = [
        ManifestRow("a.png", "real", split="train"),
        ManifestRow("same.png", "real", split="train"),
        ManifestRow("test.png", "real", split="test"),
        ManifestRow("fake.png", "tampered", split="train"),
        ManifestRow("both.png", "tampered", split="val"),
    ]
    found = look(tmp_path, rows)
    assert copies(found) == [
        ("duplicate", "same.png"),
        ("duplicate-leak", "test.png"),
        ("duplicate-label", "fake.png"),
        ("duplicate-leak", "fake.png"),
        ("duplicate-leak", "both.png"),
    ]
    leak = next(f for f in found.findings if f.file == "test.png")
    assert leak.level == "error" and leak.problem == (
        'is in split "test" and has the very bytes of "a.png", in split "train"'
    )
    assert next(f for f in found.findings if f.file == "both.png").problem.endswith("labelled tampered, the other real")


def test_an_edited_picture_and_its_original_of_one_group_are_told_only_across_splits(tmp_path):
    scene(2).save(tmp_path / "original.png")
    edited = scene(2)
    ImageDraw.Draw(edited).rectangle((90, 70, 99, 79), fill=(200, 10, 10))
    edited.save(tmp_path / "edited.jpg", quality=90)

    def told(group: str, split: str) -> list[tuple[str, str]]:
        rows = [
            ManifestRow("original.png", "real", group_id="g", split="train"),
            ManifestRow("edited.jpg", "tampered", group_id=group, split=split),
        ]
        return copies(look(tmp_path, rows))

    assert told("g", "train") == []
    assert told("other", "train") == [("near-duplicate-label", "edited.jpg")]
    assert told("g", "test") == told("other", "test") == [("near-duplicate-leak", "edited.jpg")]


def test_one_file_in_two_rows_is_no_copy_of_itself(tmp_path):
    scene(3).save(tmp_path / "a.png")
    found = look(tmp_path, [ManifestRow("a.png", "real"), ManifestRow("a.png", "real")])
    assert [f.code for f in found.findings] == ["listed-twice"]


def bits(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.bitwise_count(a ^ b).sum())


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40), at_once=st.sampled_from([1, 7, 4_000_000]))
def test_the_search_by_parts_finds_just_the_pairs_that_comparing_all_finds(seed, n, at_once):
    """Centres with 0 to 14 bits flipped, so that pairs lie on both sides of the limit."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, (4, 2), dtype=np.uint64)[rng.integers(0, 4, n)]
    for row in hashes:
        for bit in rng.choice(128, int(rng.integers(0, 15)), replace=False):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    wanted = {(i, j) for i, j in itertools.combinations(range(n), 2) if bits(hashes[i], hashes[j]) <= MOST_BITS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_AT_ONCE", at_once)
        found = {pair for one, two in alike(hashes) for pair in zip(one.tolist(), two.tolist(), strict=True)}
    assert found == wanted


def test_where_too_much_looks_alike_the_search_ends_and_says_so(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    hashes = np.zeros((400, 2), np.uint64)
    hashes[:, 0] = rng.integers(0, 32, 400)
    notes: list[str] = []
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 1000)
    assert sum(len(one) for one, _ in alike(hashes, notes.append)) <= 1000 and len(notes) == 1


def test_a_survey_of_nothing_that_opens_has_no_copies(tmp_path):
    found = look(tmp_path, [ManifestRow("none.jpg", "real")])
    assert list(exact_copies(found.table)) == list(near_copies(found.table)) == []
