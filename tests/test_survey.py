"""Claims about the survey of a set: each defect is found on made files, nothing stops it, a second run agrees."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_makers import png
from PIL import Image

from internvl_detect.data.findings import Finding
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.survey import facts_cache
from internvl_detect.data.survey import measure as measure_module
from internvl_detect.data.survey import whole as survey_module
from internvl_detect.data.survey.facts import NAMES, FileFacts, facts_of
from internvl_detect.data.survey.facts_cache import CACHE_NAME, open_cache
from internvl_detect.data.survey.whole import Survey, survey
from internvl_detect.media.jpeg_damage import jpeg_damage
from internvl_detect.media.provenance.jpeg_tables import nearest_quality


def scene(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8))


def save(picture: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def disc(size: tuple[int, int] = (96, 80), value: int = 255) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.where(np.hypot(y - 40, x - 40) < 20, value, 0).astype(np.uint8))


def look(root: Path, rows: list[ManifestRow], **options: object) -> Survey:
    return survey(rows, root, workers=1, **options)  # type: ignore[arg-type]


def told(found: Survey) -> list[tuple[str, str]]:
    return [(finding.code, finding.file) for finding in found.findings]


def test_a_clean_set_has_no_findings_and_its_facts_are_right(tmp_path, clip):
    save(scene(1), tmp_path / "a.jpg", quality=83, subsampling=0)
    save(scene(2), tmp_path / "b.png")
    save(disc(), tmp_path / "b_mask.png")
    clip("c.mp4")
    rows = [ManifestRow("a.jpg", "real"), ManifestRow("b.png", "tampered", mask="b_mask.png")]
    found = look(tmp_path, [*rows, ManifestRow("c.mp4", "fake")])
    assert found.findings == [] and found.exit_code == 0 and found.usable().all()
    table = found.table
    assert table["width"].tolist() == [96, 96, 96] and table["height"].tolist() == [80, 80, 64]
    assert [table.texts("format")[n] for n in table["format"]] == ["JPEG", "PNG", "mov"]
    assert table["quality"].tolist() == [83, 0, 0] and table.texts("sampling")[table["sampling"][0]] == "4:4:4"
    assert table["fps"].tolist() == [0, 0, 10] and table.mask(1) == "b_mask.png"
    assert [(row["label"], row["files"], row["masks"]) for row in found.counts()] == [
        ("real", 1, 0),
        ("fake", 1, 0),
        ("tampered", 1, 1),
    ]


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 96, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(tmp_path, quality):
    path = save(scene(0), tmp_path / "a.jpg", quality=quality)
    with Image.open(path) as picture:
        assert nearest_quality(tuple(picture.quantization[0])) == quality
    assert facts_of((str(path), "image")).quality == quality


def test_facts_are_of_the_upright_picture_and_say_what_the_file_says_of_itself(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x0131] = 6, "Maker 1.0"
    plain, turned = save(scene(3), tmp_path / "a.jpg"), tmp_path / "b.jpg"
    with Image.open(plain) as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif, quality=90)
    a, b = facts_of((str(plain), "image")), facts_of((str(turned), "image"))
    assert (b.width, b.height, b.marks, b.tag) == (96, 80, "exif", "Maker 1.0") and a.marks == a.tag == ""
    assert (a.across ^ b.across).bit_count() + (a.down ^ b.down).bit_count() <= 6


def test_damage_in_the_middle_of_a_jpeg_is_found_and_whole_files_pass(tmp_path):
    for options in ({}, {"optimize": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"progressive": True}):
        path = save(scene(4, (320, 256)), tmp_path / "a.jpg", quality=90, **options)
        data = path.read_bytes()
        assert jpeg_damage(data) == "" and facts_of((str(path), "image")).code == ""
        middle = len(data) // 2
        path.write_bytes(data[:middle] + data[middle + 2000 :])
        if "progressive" not in options:
            assert facts_of((str(path), "image")).code == "damaged-media", options
    smooth = save(Image.new("RGB", (2000, 1500), (255, 255, 255)), tmp_path / "white.jpg", optimize=True)
    assert bytes(64) in smooth.read_bytes() and facts_of((str(smooth), "image")).code == ""


def test_a_block_of_zeros_in_a_jpeg_is_found_though_it_decodes(tmp_path):
    path = save(scene(5, (320, 256)), tmp_path / "a.jpg", quality=95, subsampling=0)
    data = path.read_bytes()
    at = len(data) // 2
    assert "zero bytes" in jpeg_damage(data[:at] + bytes(4096) + data[at + 4096 :])


def test_every_defect_of_a_file_is_reported_with_its_path_and_the_rest_goes_on(tmp_path):
    good = save(scene(6), tmp_path / "good.jpg").read_bytes()
    save(scene(7, (320, 256)), tmp_path / "torn.jpg", quality=90)
    data = (tmp_path / "torn.jpg").read_bytes()
    (tmp_path / "torn.jpg").write_bytes(data[:3000] + data[5000:])
    (tmp_path / "cut.jpg").write_bytes(good[:-200])
    (tmp_path / "empty.png").touch()
    header = b"\x00\x01\x00\x00" * 2 + b"\x08\x02\x00\x00\x00"
    (tmp_path / "bomb.png").write_bytes(png([(b"IHDR", header), (b"IDAT", b"x"), (b"IEND", b"")]))
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink("loop2.jpg", tmp_path / "loop1.jpg")
    os.symlink("loop1.jpg", tmp_path / "loop2.jpg")
    (tmp_path / "folder.jpg").mkdir()
    outside = save(scene(8), tmp_path.parent / f"{tmp_path.name}_outside.jpg")
    os.symlink(outside, tmp_path / "link.jpg")
    (tmp_path / "text.jpg").write_text("not a picture")
    odd = ["new\nline.jpg", "quo\"te'.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    for i, name in enumerate(odd):
        save(scene(20 + i), tmp_path / name)
    names = ["good.jpg", "torn.jpg", "cut.jpg", "empty.png", "bomb.png", "pipe.jpg", "loop1.jpg", "folder.jpg"]
    names += ["link.jpg", str(outside), f"../{outside.name}", "text.jpg", "none.jpg", "x" * 5000, "\ud800.jpg", *odd]
    found = look(tmp_path, [ManifestRow(name, "real") for name in names])
    assert told(found) == [
        ("damaged-media", "torn.jpg"),
        *(("unreadable-media", name) for name in ("cut.jpg", "empty.png", "bomb.png")),
        *(("missing-file", name) for name in ("pipe.jpg", "loop1.jpg", "folder.jpg")),
        *(("outside-root", name) for name in ("link.jpg", str(outside), f"../{outside.name}")),
        ("unreadable-media", "text.jpg"),
        *(("missing-file", name) for name in ("none.jpg", "x" * 5000, "\ud800.jpg")),
    ]
    assert found.exit_code == 5 and int(found.usable().sum()) == 1 + len(odd)
    assert all(finding.problem.isprintable() for finding in found.findings)
    assert str(tmp_path) not in "".join(finding.problem for finding in found.findings)


def test_every_defect_of_a_mask_is_reported(tmp_path):
    masks = {
        "fine": disc(),
        "size": disc((80, 96)),
        "empty": Image.new("L", (96, 80), 0),
        "full": Image.new("L", (96, 80), 255),
        "dark": disc(value=1),
        "grey": Image.fromarray(np.tile(np.linspace(0, 255, 96, dtype=np.uint8), (80, 1))),
        "one_bit": disc().convert("1"),
    }
    rows = []
    for i, (name, mask) in enumerate(masks.items()):
        save(scene(30 + i), tmp_path / f"{name}.png")
        save(mask, tmp_path / f"masks/{name}.png")
        rows.append(ManifestRow(f"{name}.png", "tampered", mask=f"masks/{name}.png"))
    (tmp_path / "masks/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("gone", "broken"):
        save(scene(len(rows) + 30), tmp_path / f"{name}.png")
        rows.append(ManifestRow(f"{name}.png", "tampered", mask=f"masks/{name}.png"))
    found = look(tmp_path, rows)
    assert told(found) == [
        ("mask-empty", "empty.png"),
        ("mask-full", "full.png"),
        ("mask-dark", "dark.png"),
        ("mask-grey", "grey.png"),
        ("missing-mask", "gone.png"),
        ("unreadable-mask", "broken.png"),
        ("mask-size", "size.png"),
    ]
    assert "80x96 px and the picture 96x80 px" in found.findings[-1].problem
    assert found.usable().tolist() == [True] * 7 + [False] * 2


def test_splits_classes_and_names_are_held_against_each_other(tmp_path):
    rows = [ManifestRow(f"{i}.png", "tampered", dataset="one", split="train", group_id=f"g{i}") for i in range(25)]
    rows += [ManifestRow("t.png", "real", dataset="two", split="test", group_id="g3")]
    rows += [ManifestRow("T.png", "real", dataset="two"), ManifestRow("t.png", "real", dataset="two", split="test")]
    for i, row in enumerate(rows):
        save(scene(100 + i), tmp_path / row.path)
    found = look(tmp_path, rows, open_media=False)
    said = [(f.level, f.code, f.file) for f in found.findings]
    assert said == [
        ("warning", "label-balance", "one"),
        ("warning", "no-mask", "one"),
        ("warning", "listed-twice", "t.png"),
        ("warning", "case-clash", "T.png"),
        ("error", "group-split", "t.png"),
    ]
    assert '"3.png" of the same group_id in split "train"' in found.findings[-1].problem
    lopsided = look(tmp_path, rows[:25], open_media=False)
    assert ("label-balance", "all files") in told(lopsided)
    assert told(look(tmp_path, [])) == [("no-rows", str(tmp_path))]


def test_findings_of_the_finder_are_kept_and_each_code_is_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(survey_module, "MAX_KEPT", 3)
    given_findings = [Finding("error", "no-picture", "m.png", 0, "a mask without a picture")]
    found = look(tmp_path, [ManifestRow(f"{i}.png", "real") for i in range(9)], findings=given_findings)
    assert found.by_code["missing-file"] == 9 and len([f for f in found.findings if f.code == "missing-file"]) == 3
    assert found.by_code["no-picture"] == 1 and found.n_errors == 10


def mixed_rows(root: Path, n: int = 12) -> list[ManifestRow]:
    rows = []
    for i in range(n):
        save(scene(i % 9), root / f"{i}.jpg", quality=70 + i % 9)
        mask = ""
        if i % 3 == 0:
            mask = f"m{i}.png"
            save(disc(value=0 if i == 6 else 255), root / mask)
        rows.append(
            ManifestRow(f"{i}.jpg", "tampered" if mask else "real", mask=mask, split="train" if i < 8 else "test")
        )
    (root / "4.jpg").write_bytes(b"")
    return rows


def everything(found: Survey) -> object:
    return found.findings, found.counts(), found.table["sha"].tolist(), found.table["across"].tolist(), found.notes


@settings(max_examples=8)
@given(after=st.integers(0, 16), together=st.sampled_from([1, 3, 256]), waiting=st.sampled_from([1, 4096]))
def test_a_survey_that_was_killed_goes_on_to_the_same_report(tmp_path_factory, after, together, waiting):
    """Killed after any file, with any size of batches; files of the cache and new ones keep their order."""
    root = tmp_path_factory.mktemp("set")
    rows = mixed_rows(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_module, "_TOGETHER", together)
        patch.setattr(measure_module, "_MOST_WAITING", waiting)
        plain = look(root, rows)
        calls = 0

        def stop(task):
            nonlocal calls
            calls += 1
            if calls > after:
                raise KeyboardInterrupt
            return facts_of(task)

        cache = root / CACHE_NAME
        patch.setattr(measure_module, "facts_of", stop)
        try:
            look(root, rows, cache=cache)
        except KeyboardInterrupt:
            assert calls == after + 1
        calls, after = 0, 1000
        again = look(root, rows, cache=cache)
        assert everything(again) == everything(plain)
        calls = 0
        assert everything(look(root, rows, cache=cache)) == everything(plain) and calls == 1  # the broken one


def test_a_changed_file_is_looked_at_again_and_a_moved_root_is_not(tmp_path):
    rows = mixed_rows(tmp_path / "a")
    before = look(tmp_path / "a", rows, cache=tmp_path / "a" / CACHE_NAME)
    save(scene(77), tmp_path / "a" / "2.jpg")
    after = look(tmp_path / "a", rows, cache=tmp_path / "a" / CACHE_NAME)
    changed = np.flatnonzero(before.table["sha"] != after.table["sha"])
    assert changed.tolist() == [2]
    shutil.move(tmp_path / "a", tmp_path / "b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_module, "facts_of", lambda task: FileFacts(code="unreadable-media", problem="looked at"))
        moved = look(tmp_path / "b", rows, cache=tmp_path / "b" / CACHE_NAME)
    assert moved.by_code["unreadable-media"] == 1


@pytest.mark.parametrize("damage", ["text", "cut", "middle", "schema", "version"])
def test_a_damaged_cache_of_ours_is_made_anew(tmp_path, damage):
    rows = mixed_rows(tmp_path)
    cache = tmp_path / CACHE_NAME
    plain = look(tmp_path, rows, cache=cache)
    data = cache.read_bytes()
    if damage == "text":
        cache.write_text("this is no database, whatever its name says" * 20)
    elif damage == "cut":
        cache.write_bytes(data[: len(data) // 2])
    elif damage == "middle":
        cache.write_bytes(data[:4096] + os.urandom(len(data) - 4096))
    else:
        with sqlite3.connect(cache) as connection:
            connection.execute("DROP VIEW version")
            connection.execute(
                "CREATE VIEW version AS SELECT 'old' AS version"
                if damage == "version"
                else "CREATE TRIGGER t AFTER INSERT ON facts BEGIN DELETE FROM facts; END"
            )
        connection.close()
    again = look(tmp_path, rows, cache=cache)
    assert len(again.notes) == 1 and "made anew" in again.notes[0]
    again.notes.clear()
    assert everything(again) == everything(plain) == everything(look(tmp_path, rows, cache=cache))


def test_a_stranger_s_file_is_never_written_to_and_lies_in_a_cache_are_not_taken(tmp_path):
    rows = mixed_rows(tmp_path)
    plain = look(tmp_path, rows)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = other.read_bytes()
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    os.symlink(letter, tmp_path / CACHE_NAME)
    os.mkfifo(tmp_path / "pipe")
    for path in (other, letter, tmp_path / CACHE_NAME, tmp_path / "pipe", tmp_path / "no" / "such" / "folder"):
        found = look(tmp_path, rows, cache=path)
        assert len(found.notes) == 1
        found.notes.clear()
        assert everything(found) == everything(plain)
    assert other.read_bytes() == before and letter.read_text() == "dear"
    cache = tmp_path / "good.sqlite"
    look(tmp_path, rows, cache=cache)
    with sqlite3.connect(cache) as connection:
        lies = ["[]", "{", "null", '["", "", -1]', 5, b"\xff", str(FileFacts(quality=101).to_list()).replace("'", '"')]
        for i, lie in enumerate(lies):
            connection.execute("UPDATE facts SET facts = ? WHERE path = ?", (lie, f"{i}.jpg".encode()))
    connection.close()
    assert everything(look(tmp_path, rows, cache=cache)) == everything(plain)


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), max_size=len(NAMES)))
def test_no_list_of_values_is_taken_for_facts_unless_it_is_one(values):
    made = FileFacts.from_list(values)
    assert made is None or made.to_list() == values


def test_a_cache_that_is_locked_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(facts_cache, "_PATIENCE_S", 0.01)
    cache = tmp_path / CACHE_NAME
    rows = mixed_rows(tmp_path)
    plain = look(tmp_path, rows, cache=cache)
    holder = sqlite3.connect(cache)
    holder.execute("BEGIN EXCLUSIVE")
    found = look(tmp_path, rows, cache=cache)
    holder.close()
    assert len(found.notes) == 1 and "lock" in found.notes[0]
    found.notes.clear()
    assert everything(found) == everything(plain) and cache.exists()


def test_the_cache_gives_back_what_was_put(tmp_path):
    key = (os.fsdecode(b"\xff\n.jpg"), "image", 5, 7)
    facts = FileFacts(width=3, sha=2**64 - 1, tag="é", white=0.5, flat=False)
    with open_cache(tmp_path / CACHE_NAME, print) as cache:
        cache.put([(key, facts)])
        assert cache.get([key, ("b", "image", 1, 1)]) == {key: facts}
        assert cache.get([(*key[:3], 8)]) == cache.get([(key[0], "mask", 5, 7)]) == {}


def test_processes_give_the_same_survey_as_one(tmp_path):
    rows = mixed_rows(tmp_path)
    assert everything(survey(rows, tmp_path, workers=2)) == everything(look(tmp_path, rows))
