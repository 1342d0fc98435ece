"""Claims about finding datasets: the README's tree, each set's own layout, plain folders and manifests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from dataset_makers import README_TREE, fill, readme_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from published_layouts import PUBLISHED

from internvl_detect.data.datasets.catalog import catalog
from internvl_detect.data.datasets.readers import FoundSet, find_datasets
from internvl_detect.data.findings import Finding
from internvl_detect.data.manifest import ManifestRow, write_manifest
from internvl_detect.errors import DataError


def read(root: Path) -> tuple[list[FoundSet], dict[str, ManifestRow], list[Finding]]:
    findings: list[Finding] = []
    found = find_datasets(root, note=findings.append)
    rows = [row for one in found for row in one.rows(findings.append)]
    assert len({row.path for row in rows}) == len(rows), "a file was read twice"
    return found, {row.path: row for row in rows}, findings


def test_the_whole_tree_of_the_readme_is_found_with_labels_masks_and_splits(tmp_path: Path) -> None:
    found, rows, findings = read(readme_tree(tmp_path))
    assert not findings
    assert {one.folder for one in found} == {*README_TREE, "MMTD_Set"}
    assert {one.layout for one in found} == {"readme"}
    assert len(rows) == sum(map(len, README_TREE.values()))
    for folder, names in README_TREE.items():
        part = folder.rpartition("/")[2]
        for name in names:
            row = rows[f"{folder}/image/{name}"]
            is_real = part.endswith("_Au") or part.startswith(("FFHQ", "COCO"))
            assert (row.label == "real") == is_real
            assert (row.domain_tag == "authentic") == is_real
            assert bool(row.mask) == (not is_real) and (not row.mask or (tmp_path / row.mask).is_file())
            assert row.split == {"Train": "train", "Val": "val"}.get(part.rpartition("_")[2], "")
            assert row.domain == {"photoshop": "ps", "deepfake": "df", "aigc": "aigc"}[folder.partition("/")[0]]
            assert row.kind == "image"
    assert rows["aigc/SD_inpaint_Val/image/000000000025.jpg"].domain_tag == "aigc_editing"
    assert rows["deepfake/FaceAPP_Train/image/00012.png"].label == "deepfake"


def test_the_tree_is_found_from_each_of_its_folders(tmp_path: Path) -> None:
    readme_tree(tmp_path / "deep" / "dataset")
    whole = read(tmp_path)[1]
    assert len(whole) == sum(map(len, README_TREE.values()))
    _, rows, _ = read(tmp_path / "deep" / "dataset" / "photoshop")
    assert rows["CASIAv2_Tp/image/Tp_S_NNN_S_N_ani00018_ani00018_00138.tif"].dataset == "CASIA2"


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_dataset_is_found_as_it_is_published(tmp_path: Path, name: str) -> None:
    paths, expected = PUBLISHED[name]
    found, rows, findings = read(fill(tmp_path, paths))
    assert {one.dataset.name for one in found} == {name}
    assert [f.code for f in findings] == []
    for path, (label, mask, split) in expected.items():
        row = rows[path]
        assert (row.label, row.mask, row.split) == (label, mask, split), path
        assert row.dataset == name and row.kind == ("video" if path.endswith(".mp4") else "image")
    masks = {row.mask for row in rows.values()}
    media = [p for p in paths if not any(word in p.lower() for word in ("mask", "groundtruth", "ground-truth", "segm"))]
    assert set(rows) == set(media) - masks


def test_every_dataset_of_the_catalog_has_a_layout_that_is_tested() -> None:
    elsewhere = {"NIST16", "Deepfake-Eval-2024", "SD_inpaint", "MMTD-Set"}  # lists below; only in the README's tree
    assert {row.name for row in catalog()} == set(PUBLISHED) | elsewhere


def test_labels_splits_and_masks_that_stand_in_a_list_are_read(tmp_path: Path) -> None:
    nist = fill(
        tmp_path / "NC2016_Test0613", ["probe/NC2016_1.jpg", "probe/NC2016_2.jpg", "reference/manipulation/m1.png"]
    )
    (nist / "reference/manipulation/NC2016-manipulation-ref.csv").write_text(
        "TaskID|ProbeFileID|ProbeFileName|IsTarget|ProbeMaskFileName\n"
        "m|1|probe/NC2016_1.jpg|Y|reference/manipulation/m1.png\nm|2|probe/NC2016_2.jpg|N|\n"
    )
    evaluation = fill(tmp_path / "Deepfake-Eval-2024", ["image-data/a.jpg", "image-data/b.webp", "video-data/c.mp4"])
    (evaluation / "image-metadata-publish.csv").write_text("Filename,Ground Truth,Finetuning Set\na.jpg,Fake,Train\n")
    (evaluation / "video-metadata-publish.csv").write_text("Filename,Video Ground Truth\nc.mp4,Real\n")
    dfdc = fill(tmp_path / "dfdc_preview_set", ["method_A/6/6_A/1_6_A_001.mp4", "original_videos/6/6_A_001.mp4"])
    (dfdc / "dataset.json").write_text('{"method_A/6/6_A/1_6_A_001.mp4": {"label": "fake", "set": "test"}}')
    clips = [f"manipulated_sequences/FaceSwap/c40/videos/{n}.mp4" for n in ("001_002", "003_004")]
    ff = fill(tmp_path / "ff", [*clips, "original_sequences/youtube/c40/videos/002.mp4", "splits/x.txt"])
    (ff / "splits" / "val.json").write_text('[["001", "002"]]')
    _, rows, findings = read(tmp_path)
    assert rows["NC2016_Test0613/probe/NC2016_1.jpg"].mask == "NC2016_Test0613/reference/manipulation/m1.png"
    assert rows["NC2016_Test0613/probe/NC2016_2.jpg"].label == "real"
    assert rows["Deepfake-Eval-2024/image-data/a.jpg"].label == "fake"
    assert rows["Deepfake-Eval-2024/image-data/a.jpg"].split == "train"
    assert rows["Deepfake-Eval-2024/video-data/c.mp4"].label == "real"
    assert "Deepfake-Eval-2024/image-data/b.webp" not in rows
    assert [(f.code, f.file.rpartition("/")[2]) for f in findings] == [("no-label", "b.webp")]
    assert rows["dfdc_preview_set/method_A/6/6_A/1_6_A_001.mp4"].split == "test"
    assert rows["ff/manipulated_sequences/FaceSwap/c40/videos/001_002.mp4"].split == "val"
    assert rows["ff/original_sequences/youtube/c40/videos/002.mp4"].split == "val"
    assert rows["ff/manipulated_sequences/FaceSwap/c40/videos/003_004.mp4"].split == ""


@pytest.mark.parametrize("broken", [b"", b"{", b"[1, 2]", b'{"a": 1}', b"\xff\xfe", b'"' + b"x" * 100])
def test_a_broken_list_is_a_finding_and_the_clips_are_read(tmp_path: Path, broken: bytes) -> None:
    fill(tmp_path, PUBLISHED["DFDC-preview"][0])
    (tmp_path / "d" / "dataset.json").write_bytes(broken)
    _, rows, findings = read(tmp_path)
    assert len(rows) == 2
    assert {f.code for f in findings} <= {"listing"}


def groups(root: Path) -> dict[str, set[str]]:
    made: dict[str, set[str]] = {}
    for row in read(root)[1].values():
        made.setdefault(row.group_id, set()).add(row.path.rpartition("/")[2].partition(".")[0])
    return made


def test_what_comes_from_one_source_shares_a_group(tmp_path: Path) -> None:
    fill(tmp_path, PUBLISHED["FaceForensics++"][0])
    assert list(groups(tmp_path).values()) == [{"033", "097", "500", "033_097", "500_033"}]
    casia = fill(tmp_path / "two", PUBLISHED["CASIA2"][0])
    fill(casia, ["any name/Au/Au_art_00014.jpg", "any name/Au/Au_art_00099.jpg"])
    tied = {"Au_cha_00063", "Au_art_00014", "Tp_D_CRN_M_N_cha00063_art00014_11818"}
    assert sorted(groups(casia).values(), key=len) == [{"Au_art_00099"}, tied]
    assert set(map(frozenset, groups(fill(tmp_path / "three", PUBLISHED["IMD2020"][0])).values())) == {
        frozenset({"1a1ogs_orig", "c8_0", "c9"})
    }
    korus = read(fill(tmp_path / "four", PUBLISHED["Korus"][0]))[1]
    same, other = (korus[f"k/{c}/pristine/DPP0012.TIF"].group_id for c in ("Canon_60D", "Sony_A57"))
    assert korus["k/Canon_60D/tampered-realistic/DPP0012.TIF"].group_id == same != other
    assert set(map(len, groups(fill(tmp_path / "five", PUBLISHED["DFDC-preview"][0])).values())) == {2}
    assert set(map(len, groups(fill(tmp_path / "six", PUBLISHED["coverage"][0])).values())) == {2}


def test_frames_of_a_clip_are_one_source_and_twins_are_too(tmp_path: Path) -> None:
    fill(tmp_path, [f"{k}/{c}/{n:04}.png" for k in ("real", "fake") for c in ("clip_a", "clip_b") for n in range(3)])
    fill(tmp_path, ["real/one.png", "fake/one.jpg", "real/0001.mp4"])
    found = groups(tmp_path)
    assert sorted(len(paths) for paths in found.values()) == [1, 1, 3, 3]


def test_plain_folders_are_read_by_their_names(tmp_path: Path) -> None:
    fill(
        tmp_path, ["mine/real/a.jpg", "mine/AI/b.png", "mine/deepfake/c.mp4", "mine/tampered/d.png", "mine/masks/d.png"]
    )
    fill(tmp_path, ["train/0_real/e.png", "train/1_fake/f.png", "val/real images/g.png", "val/fake_images/h.png"])
    fill(tmp_path, ["other/cats/0/i.png", "other/cats/1/j.png"])
    found, rows, findings = read(tmp_path)
    told = {path: (row.label, row.split) for path, row in rows.items()}
    assert told == {
        "mine/real/a.jpg": ("real", ""),
        "mine/AI/b.png": ("ai_generated", ""),
        "mine/deepfake/c.mp4": ("deepfake", ""),
        "mine/tampered/d.png": ("tampered", ""),
        "train/0_real/e.png": ("real", "train"),
        "train/1_fake/f.png": ("fake", "train"),
        "val/fake_images/h.png": ("fake", "val"),
        "other/cats/0/i.png": ("real", ""),
        "other/cats/1/j.png": ("fake", ""),
    }
    assert rows["mine/tampered/d.png"].mask == "mine/masks/d.png"
    assert Counter(one.layout for one in found) == {"real/fake": 6, "imagefolder": 3}
    assert {one.dataset.name for one in found} == {"mine", tmp_path.name, "cats"}
    assert [f.code for f in findings] == ["no-label"] and "real images" in findings[0].file
    assert find_datasets(tmp_path / "mine" / "real", note=lambda f: None) == []


def test_sets_of_ones_own_find_their_place_in_the_readme_s_tree(tmp_path: Path) -> None:
    fill(tmp_path, [f"photoshop/Mine_{p}" for p in ("Tp/image/1.jpg", "Tp/mask/1.png", "Au/image/2.jpg")])
    fill(tmp_path, ["aigc/new/image/3.jpg", "aigc/new/mask/3.png", "deepfake/strange/image/4.jpg"])
    _, rows, findings = read(tmp_path)
    told = {(r.dataset, r.domain, r.label, r.domain_tag) for r in rows.values()}
    assert told == {
        ("Mine", "ps", "tampered", "photoshop"),
        ("Mine", "ps", "real", "authentic"),
        ("new", "aigc", "tampered", "aigc_editing"),
    }
    assert [f.code for f in findings] == ["no-label"]


def test_downloaded_sets_may_lie_in_the_readme_s_tree(tmp_path: Path) -> None:
    for name in ("CASIA2", "DSO", "Columbia"):
        fill(tmp_path / "photoshop", PUBLISHED[name][0])
    found, rows, _ = read(tmp_path)
    assert {one.dataset.name for one in found} == {"CASIA2", "DSO", "Columbia"}
    assert {row.label for row in rows.values() if "/Au/" in row.path or "auth" in row.path} == {"real"}


def test_a_stray_picture_does_not_make_a_tree_of_datasets_a_folder_of_fakes(tmp_path: Path) -> None:
    readme_tree(tmp_path)
    before = read(tmp_path)[1]
    _, rows, findings = read(fill(tmp_path, ["photoshop/stray.jpg", "deepfake/stray.jpg", "aigc/stray.png", "x.jpg"]))
    assert rows == before and [f.code for f in findings] == ["no-label"] * 4
    fill(tmp_path / "fake", PUBLISHED["CASIA2"][0])
    assert read(tmp_path)[1]["fake/any name/Au/Au_cha_00063.jpg"].label == "real"


def test_a_name_that_is_nearly_right_is_told_with_the_right_one(tmp_path: Path) -> None:
    _, rows, findings = read(fill(tmp_path, ["photoshop/CASIAv2_Tpp/image/1.jpg"]))
    assert not rows and findings[0].code == "no-label" and "CASIAv2_Tp" in findings[0].hint


def test_packed_sets_say_that_they_have_to_be_unpacked(tmp_path: Path) -> None:
    _, rows, findings = read(fill(tmp_path, ["SID_Set/data/train-00000.parquet"]))
    assert not rows and [f.code for f in findings] == ["packed"]


def test_a_manifest_stands_for_its_folder(tmp_path: Path) -> None:
    fill(tmp_path, ["sub/real/a.png", "sub/fake/b.png"])
    made = [ManifestRow("real/a.png", "real", dataset="CASIA2", domain="ps"), ManifestRow("fake/b.png", "tampered")]
    made += [ManifestRow("../../etc/passwd", "real"), ManifestRow("/etc/passwd", "real")]
    write_manifest(tmp_path / "sub" / "manifest.csv", made)
    with open(tmp_path / "sub" / "manifest.csv", "a") as file:
        file.write("x/../fake/c.png,ai" + "," * 11 + "\nlast,perhaps" + "," * 11 + "\n")
    for root, prefix in ((tmp_path, "sub/"), (tmp_path / "sub" / "manifest.csv", "")):
        found, rows, findings = read(root)
        assert [one.layout for one in found] == ["manifest"]
        assert list(rows) == [f"{prefix}real/a.png", f"{prefix}fake/b.png", f"{prefix}fake/c.png"]
        assert [row.dataset for row in rows.values()] == ["CASIA2", "sub", "sub"]
        assert [f.code for f in findings] == ["outside-root", "outside-root", "manifest"]
        assert findings[-1].line == 7
    write_manifest(tmp_path / "train.jsonl", made[:1])
    assert [one.part for one in find_datasets(tmp_path, note=lambda f: None)] == ["train.jsonl"]


def test_a_folder_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not there"):
        find_datasets(tmp_path / "none", note=lambda f: None)


NAMES = st.sampled_from(
    ["real", "fake", "image", "mask", "Tp", "Au", "train", "0", "1", "x", "a.jpg", "a_gt.png", "a.png"]
)


@settings(max_examples=60)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=12))
def test_any_tree_is_read_once_and_without_an_error(tmp_path_factory: pytest.TempPathFactory, paths: list) -> None:
    root = tmp_path_factory.mktemp("tree")
    for steps in paths:
        path = root.joinpath(*(s.replace(".", "_") for s in steps[:-1]), steps[-1])
        if not path.exists() and not any(p.is_file() for p in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    _, rows, findings = read(root)
    for row in rows.values():
        assert (root / row.path).is_file() and (not row.mask or (root / row.mask).is_file())
        assert row.mask not in rows
    assert all(f.code and f.problem for f in findings)


def test_beside_a_file_called_manifest_other_lists_are_about_its_files(tmp_path: Path) -> None:
    fill(tmp_path, ["image/1.png", "image/2.png"])
    write_manifest(tmp_path / "manifest.csv", [ManifestRow("image/1.png", "real"), ManifestRow("image/2.png", "fake")])
    (tmp_path / "records.jsonl").write_text('{"path": "image/2.png", "label": "tampered", "method": "splice"}\n')
    found = find_datasets(tmp_path, note=lambda finding: None)
    assert [(one.layout, one.part) for one in found] == [("manifest", "manifest.csv")]


def test_numbers_count_anew_in_each_split_and_names_do_not(tmp_path: Path) -> None:
    names = ("0001", "img_12", "0000 (2)", "harbour")
    fill(
        tmp_path,
        [f"{split}/{label}/{n}.jpg" for split in ("train", "test") for label in ("real", "fake") for n in names],
    )
    rows = [row for one in find_datasets(tmp_path, note=lambda f: None) for row in one.rows(lambda f: None)]
    for name in names:
        groups = {(row.split, row.group_id) for row in rows if f"/{name}.jpg" in row.path}
        assert len(groups) == 2 and len({group for _, group in groups}) == (1 if name == "harbour" else 2)
