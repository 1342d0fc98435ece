"""Claims about folders that strangers filled: every oddity is told with its path, and the rest is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dataset_makers import fill, picture
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.data.datasets.readers import find_datasets
from internvl_detect.data.findings import Finding, printable
from internvl_detect.data.folders import MAX_DEPTH, Walk
from internvl_detect.data.manifest import ManifestRow, read_manifest, write_manifest


def read(root: Path) -> tuple[list[ManifestRow], list[tuple[str, str]], list[Finding]]:
    """(rows, (code, last part of the path) of every finding, findings)."""
    findings: list[Finding] = []
    rows = [r for one in find_datasets(root, note=findings.append) for r in one.rows(findings.append)]
    return rows, [(f.code, f.file.rpartition("/")[2]) for f in findings], findings


def test_names_that_are_no_text_are_told_and_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, ["real/a.jpg", "fake/b.jpg"])
    for name in (b"real/\xff\xfe.jpg", b"fake/\x80.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(picture(".jpg"))
    os.mkdir(os.path.join(os.fsencode(tmp_path), b"real/folder\xff"))
    rows, told, findings = read(tmp_path)
    assert [row.path for row in rows] == ["fake/b.jpg", "real/a.jpg"]
    assert [code for code, _ in told] == ["name-not-text"] * 3
    assert all(f.format().encode("utf-8") and f.level == "error" for f in findings)


def test_line_breaks_and_quotes_in_names_survive_the_manifest(tmp_path: Path) -> None:
    names = ["a\nb.jpg", "c'\"d.jpg", 'e,f;"g.jpg', "$(rm -rf).jpg", "\x1b[31mred.jpg", "é ü 漢.jpg", "-o.jpg"]
    fill(tmp_path, [f"real/{name}" for name in names])
    rows, told, findings = read(tmp_path)
    assert {row.path for row in rows} == {f"real/{name}" for name in names}
    assert sorted(code for code, _ in told) == ["name-control"] * 2
    assert all(f.format().isprintable() for f in findings)
    for name in ("m.csv", "m.jsonl"):
        assert list(read_manifest(write_manifest(tmp_path / name, rows))) == rows


def test_links_are_followed_inside_the_root_and_nowhere_else(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", fill(tmp_path / "outside", ["secret.jpg", "folder/secret.jpg"])
    fill(root, ["real/a.jpg", "store/ffhq/b.jpg", "fake/c.jpg"])
    links = {
        "real/inside.jpg": root / "store/ffhq/b.jpg",
        "real/outside.jpg": outside / "secret.jpg",
        "real/by_steps.jpg": "../../outside/secret.jpg",
        "real/gone.jpg": "nowhere.jpg",
        "real/circle.jpg": "circle.jpg",
        "real/loop": root,
        "real/up": "..",
        "real/self": ".",
        "real/away": outside / "folder",
        "real/other label": root / "fake",
        "deepfake": "store/ffhq",
        "authentic": "fake",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    rows, told, _ = read(root)
    assert [row.path for row in rows] == ["deepfake/b.jpg", "fake/c.jpg", "real/a.jpg", "real/inside.jpg"]
    assert sorted(told) == [
        *[("link-broken", "circle.jpg"), ("link-broken", "gone.jpg"), ("link-folder", "other label")],
        *[("link-loop", "loop"), ("link-loop", "self"), ("link-loop", "up")],
        *[("link-outside", "away"), ("link-outside", "by_steps.jpg"), ("link-outside", "outside.jpg")],
        *[("link-twice", "authentic"), ("no-label", "ffhq")],
    ]


def test_links_that_multiply_are_read_once_each(tmp_path: Path) -> None:
    fill(tmp_path, ["real/a.jpg"])
    for top in ("real", "other"):
        for level in range(20):  # two links a level: a million paths to the last folder
            folder = tmp_path / f"{top}/level{level}"
            folder.mkdir(parents=True)
            for twin in ("x", "y"):
                (folder / twin).symlink_to(tmp_path / f"{top}/level{level + 1}")
        (tmp_path / f"{top}/level20").mkdir()
    rows, told, _ = read(tmp_path)
    assert len(rows) == 1 and {code for code, _ in told} == {"link-twice", "link-folder"} and len(told) <= 80


def test_names_that_differ_in_case_only_are_told(tmp_path: Path) -> None:
    fill(tmp_path, ["real/a.jpg", "real/A.JPG", "real/b.jpg"])
    rows, told, _ = read(tmp_path)
    assert len(rows) == 3 and told == [("case-twins", "a.jpg")]


def test_masks_without_pictures_and_pictures_without_masks_are_told(tmp_path: Path) -> None:
    tree = ["photoshop/CASIAv2_Tp/image/a.jpg", "photoshop/CASIAv2_Tp/image/b.jpg"]
    tree += ["photoshop/CASIAv2_Tp/mask/a_gt.png", "photoshop/CASIAv2_Tp/mask/lonely_gt.png"]
    rows, told, _ = read(fill(tmp_path, [*tree, "photoshop/FR_Tp/image/c.jpg"]))
    assert [bool(row.mask) for row in rows] == [True, False, False]
    assert told == [("mask-missing", "b.jpg"), ("mask-orphan", "lonely_gt.png"), ("no-masks", "image")]


def test_masks_in_another_format_are_told_once(tmp_path: Path) -> None:
    _, told, _ = read(fill(tmp_path, ["ColorFakeImages/1.jpg", "SegmentationFake/1.npz", "SegmentationFake/2.npz"]))
    assert told == [("mask-format", "SegmentationFake"), ("mask-missing", "1.jpg")]


def test_a_folder_of_the_other_label_inside_one_is_not_read(tmp_path: Path) -> None:
    rows, told, _ = read(fill(tmp_path, ["real/a.jpg", "fake/set/Tp/b.jpg", "fake/set/Au/c.jpg"]))
    assert [row.path for row in rows] == ["fake/set/Tp/b.jpg", "real/a.jpg"]
    assert told == [("label-clash", "Au")]


def test_what_is_neither_file_nor_folder_is_told(tmp_path: Path) -> None:
    fill(tmp_path, ["real/a.jpg"])
    os.mkfifo(tmp_path / "real" / "pipe.jpg")
    rows, told, _ = read(tmp_path)
    assert len(rows) == 1 and told == [("not-a-file", "pipe.jpg")]


def test_what_other_programs_leave_behind_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, ["real/a.jpg", "real/.hidden.jpg", "real/._a.jpg", "real/Thumbs.db", "__MACOSX/real/._a.jpg"])
    fill(tmp_path, [".git/real/b.jpg", "real/notes.txt"])
    rows, told, _ = read(tmp_path)
    assert [row.path for row in rows] == ["real/a.jpg"] and told == []


def test_a_folder_that_cannot_be_read_is_told_and_the_rest_is_read(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path, ["real/a.jpg", "real/locked/b.jpg", "real/z.jpg", "fake/c.jpg"])
    scandir = os.scandir

    def guarded(path: str):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    rows, told, _ = read(tmp_path)
    assert len(rows) == 3 and told == [("unreadable-folder", "locked")]


def test_folders_nested_without_end_are_not_followed(tmp_path: Path) -> None:
    deep = "/".join(["d"] * (MAX_DEPTH + 20))
    rows, told, _ = read(fill(tmp_path, ["real/a.jpg", f"real/{deep}/b.jpg", f"other/{deep}/c.jpg"]))
    assert len(rows) == 1 and {code for code, _ in told} == {"too-deep"}


@given(st.text(st.characters(), max_size=20))
def test_every_path_can_be_printed(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and shown.encode("utf-8").decode("utf-8") == shown
    assert shown == text or not text.isprintable()


def test_a_walk_names_folders_from_its_root(tmp_path: Path) -> None:
    fill(tmp_path, ["b/2.jpg", "b/10.jpg", "a.csv", "z.zip"])
    walk = Walk(tmp_path, note=pytest.fail)
    assert walk.enter("") and walk.enter("b") and walk.enter("b")
    assert walk.read("b") == ([], ["10.jpg", "2.jpg"])
    glance = walk.glance("")
    assert (glance.folders, glance.lists, glance.n_media, glance.n_packed) == (("b",), ("a.csv",), 0, 1)
