"""Claims about masks: each set's naming habit leads to its mask, every mask goes to one picture, in linear time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.data.datasets.catalog import dataset_named
from internvl_detect.data.datasets.pairing import MaskIndex, is_mask_folder, mask_stems, masks_beside


@pytest.mark.parametrize(
    ("picture", "mask"),
    [
        ("Tp_D_CRN_M_N_cha00063_art00014_11818.tif", "Tp_D_CRN_M_N_cha00063_art00014_11818_gt.png"),
        ("c8tf5mq_0.png", "c8tf5mq_0_mask.png"),
        ("canong3_canonxt_sub_01.tif", "canong3_canonxt_sub_01_edgemask.jpg"),
        ("splicing-01.png", "splicing-01.png"),
        ("DPP0012.TIF", "DPP0012.PNG"),
        ("a.JPG", "A-mask.Png"),
        ("a.jpg", "mask_a.bmp"),
        ("a.jpg", "a.jpg.png"),
    ],
)
def test_each_naming_habit_leads_to_its_mask(picture: str, mask: str) -> None:
    index = MaskIndex([mask, "another.png"])
    assert index.mask_of(picture) == mask
    assert index.orphans() == ["another.png"]


def test_coverage_has_one_mask_of_its_three(tmp_path) -> None:
    part = dataset_named("coverage").parts[0]
    names = [f"{n}{kind}.tif" for n in (1, 11) for kind in ("copy", "paste", "forged")]
    index = MaskIndex(names, part.mask_of, part.masks_aside)
    assert [index.mask_of(f"{n}t.tif") for n in (1, 11, 2)] == ["1forged.tif", "11forged.tif", None]
    assert index.orphans() == []


def test_the_exact_name_wins_over_one_that_differs_in_case() -> None:
    index = MaskIndex(["a.png", "A.png"])
    assert (index.mask_of("A.jpg"), index.mask_of("a.jpg")) == ("A.png", "a.png")
    assert MaskIndex(["a.jpg", "a.png"]).mask_of("a.tif") == "a.png"


def test_masks_beside_pictures_are_no_pictures_and_pictures_are_no_masks() -> None:
    names = ["a.jpg", "a_mask.png", "b.png", "photo_mask.jpg", "c_gt.png", "forged.png", "c.tif", "a_forged.jpg"]
    assert masks_beside(names) == {"a.jpg": "a_mask.png", "c.tif": "c_gt.png"}


def test_folders_of_masks_go_by_few_names() -> None:
    assert all(is_mask_folder(name) for name in ("mask", "Masks", "GT", "groundtruth", "edgemask"))
    assert not any(is_mask_folder(name) for name in ("image", "masked", "masks2", ""))


stems = st.lists(st.text("abAB_01", min_size=1, max_size=5), unique_by=str.casefold, max_size=20)


@given(stems, st.sampled_from(["{}.png", "{}_gt.png", "{}_mask.png", "mask_{}.tif"]))
def test_masks_made_by_one_habit_are_all_found(names: list[str], habit: str) -> None:
    masks = [habit.format(name) for name in names]
    index = MaskIndex(masks)
    for name in names:
        found = index.mask_of(f"{name}.jpg")
        assert found is not None and found.partition(".")[0] in set(mask_stems(f"{name}.jpg"))
    if habit == "{}.png":
        assert [index.mask_of(f"{name}.jpg") for name in names] == masks and index.orphans() == []


def test_the_time_for_a_picture_does_not_grow_with_the_masks() -> None:
    looks = []

    class Counted(dict):
        def __contains__(self, stem: object) -> bool:
            looks.append(stem)
            return super().__contains__(stem)

    for n in (10, 10_000):
        index = MaskIndex([f"{i}_gt.png" for i in range(n)])
        index._by_stem, index._folded = Counted(index._by_stem), Counted(index._folded)
        looks.clear()
        assert index.mask_of("7.jpg") == "7_gt.png" and index.mask_of("none.jpg") is None
        assert len(looks) < 40
