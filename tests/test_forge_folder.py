"""Claims about sets of forgeries: twins alike, splits apart, the same bytes, bad files told, kills survived."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_forge import face, photograph
from typer.testing import CliRunner

from internvl_detect.cli.entry import app
from internvl_detect.data.forge import facts_of, facts_of_record, forge_folder
from internvl_detect.data.forge.item import view
from internvl_detect.data.forge.sheet import CELL_PX, LABEL_PX, make_sheet
from internvl_detect.data.manifest import read_manifest
from internvl_detect.data.samples.sample_clip import make_clip
from internvl_detect.errors import ConfigError, DataError, MediaError

HALVES = (("train", 0.5), ("test", 0.5))


def save_photographs(folder: Path, count: int = 6, make=photograph, size: tuple[int, int] = (170, 210)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(make(*size, seed=i)).save(folder / f"{i:02d}.png")
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def records_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of photographs, faces and a clip, forged in this process: (sources, its folder, the result)."""
    base = tmp_path_factory.mktemp("forge")
    sources = save_photographs(base / "mine", 8)
    save_photographs(base / "faces", 4, face)
    (base / "clips").mkdir()
    make_clip(photograph(200, 300), base / "clips" / "pan.mp4", seconds=2.0, size_wh=(160, 128), edited_s=(9, 9))
    options = {"faces": [base / "faces"], "clips": [base / "clips"], "per_photo": 3, "size": 160, "shares": HALVES}
    result = forge_folder([sources], base / "out", workers=1, seed=5, **options)
    return base, options, result


def test_each_forgery_has_a_twin_a_mask_words_and_two_manifest_rows_with_every_fact(made):
    base, _, result = made
    rows = list(read_manifest(result.manifest))
    records = records_of(base / "out")
    assert result.made == len(records) == 8 * 3 + 4 * 3 + 1 and len(rows) == 2 * len(records)
    assert not result.problems
    for record, real, fake in zip(records, rows[::2], rows[1::2], strict=True):
        assert (real.label, real.domain_tag, real.mask) == ("real", "authentic", "")
        assert (fake.label, fake.domain_tag, fake.generator) == (
            record["label"],
            record["domain_tag"],
            record["method"],
        )
        assert real.group_id == fake.group_id == record["name"] and real.split == fake.split
        assert real.domain == fake.domain == {"photoshop": "ps", "deepfake": "df"}[record["domain_tag"]]
        assert all((base / "out" / name).is_file() for name in (real.path, fake.path, fake.mask))
        assert facts_of(fake.words) == facts_of_record(record) and facts_of(real.words).fake is False
        if fake.kind == "image":
            mask = np.asarray(Image.open(base / "out" / fake.mask))
            assert set(np.unique(mask)) == {0, 255}
            assert mask.shape[::-1] == Image.open(base / "out" / fake.path).size
            x0, y0, x1, y1 = record["box_xyxy"]
            assert (mask[y0:y1, x0:x1] > 0).sum() == (mask > 0).sum()
    assert {r["method"] for r in records} == {"splice", "copy_move", "removal", "poisson", "face_swap"}
    assert all(r["name"].startswith("faces/") for r in records if r["method"] == "face_swap")


def shortcut(data: bytes) -> str:
    """All that a JPEG tells without its content."""
    picture = Image.open(io.BytesIO(data))
    return repr((picture.size, picture.mode, picture.layer, sorted(picture.quantization.items()), sorted(picture.info)))


def test_sizes_formats_and_quantisation_are_the_same_in_both_classes(made):
    base, _, result = made
    rows = [row for row in read_manifest(result.manifest) if row.kind == "image"]
    files = {name: [(base / "out" / r.path).read_bytes() for r in rows if (r.label == "real") == real]
             for name, real in (("real", True), ("fake", False))}  # fmt: skip
    seen = {name: sorted(map(shortcut, data)) for name, data in files.items()}
    assert seen["real"] == seen["fake"] and len(set(seen["real"])) > 10
    planted = io.BytesIO()
    Image.open(io.BytesIO(files["fake"][0])).save(planted, "JPEG", quality=50)
    assert sorted(map(shortcut, [planted.getvalue(), *files["fake"][1:]])) != seen["real"]


def test_a_sheet_shows_each_method_and_a_folder_without_records_is_refused(made, tmp_path):
    base, _, result = made
    sheet = Image.open(make_sheet(base / "out", tmp_path / "sheet.jpg", each=1))
    assert sheet.format == "JPEG" and sheet.height == 3 * (CELL_PX + LABEL_PX)  # five methods, two in a row
    with pytest.raises(DataError, match="holds no records"):
        make_sheet(base / "mine", tmp_path / "none.jpg")
    assert not (tmp_path / "none.jpg").exists()


def test_no_photograph_and_no_donor_crosses_splits(made):
    base, _, _ = made
    records = records_of(base / "out")
    split_of: dict[str, str] = {}
    for record in records:
        assert split_of.setdefault(record["name"], record["split"]) == record["split"]
    assert set(split_of.values()) == {"train", "test"}
    donors = [(split_of[record["donor"]], record["split"]) for record in records if record["donor"]]
    assert donors and all(a == b for a, b in donors)
    assert all(record["donor"] != record["name"] for record in records)


def test_the_bytes_are_the_same_for_any_number_of_workers(made, tmp_path):
    base, options, _ = made
    forge_folder([base / "mine"], tmp_path / "again", workers=2, seed=5, **options)
    assert contents(tmp_path / "again") == contents(base / "out")


def test_what_a_photograph_becomes_hangs_on_its_name_not_on_the_others(made, tmp_path):
    base, options, _ = made
    methods = {"methods": ["copy_move", "removal"], "size": 160, "workers": 1, "per_photo": 1}
    forge_folder([base / "mine"], tmp_path / "all", **methods)
    few = tmp_path / "mine"
    few.mkdir()
    (few / "03.png").write_bytes((base / "mine" / "03.png").read_bytes())
    forge_folder([few], tmp_path / "one", **methods)
    images = {name: value for name, value in contents(tmp_path / "one").items() if name.startswith("image/")}
    assert len(images) == 2 and images.items() <= contents(tmp_path / "all").items()


def test_a_killed_run_goes_on_to_the_same_bytes_and_makes_nothing_twice(tmp_path):
    sources = save_photographs(tmp_path / "mine")
    options = {"per_photo": 2, "size": 160, "workers": 1, "methods": ["copy_move", "removal"]}
    forge_folder([sources], tmp_path / "whole", **options)

    def killed(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forge_folder([sources], tmp_path / "cut", progress=killed, **options)
    assert not (tmp_path / "cut" / "manifest.csv").exists()
    records = records_of(tmp_path / "cut")
    assert len(records) == 6
    with open(tmp_path / "cut" / "records.jsonl", "ab") as file:
        file.write(b'{"name": "mine/05.png", "numb')  # the line that a kill cut off
    (tmp_path / "cut" / records[0]["path"]).unlink()
    (tmp_path / "cut" / "image" / ".unfinished-x").write_bytes(b"half")
    result = forge_folder([sources], tmp_path / "cut", **options)
    assert (result.made, result.passed_over) == (8, 4)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    result = forge_folder([sources], tmp_path / "cut", **options)
    assert (result.made, result.passed_over) == (0, 12)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_folder_begun_with_other_settings_or_of_another_kind_is_left_alone(tmp_path):
    sources = save_photographs(tmp_path / "mine", 2)
    forge_folder([sources], tmp_path / "out", methods=["copy_move"], size=160, workers=1)
    before = contents(tmp_path / "out")
    with pytest.raises(ConfigError, match="other settings \\(seed\\)"):
        forge_folder([sources], tmp_path / "out", methods=["copy_move"], size=160, workers=1, seed=1)
    save_photographs(tmp_path / "mine", 3)
    with pytest.raises(ConfigError, match="sources"):
        forge_folder([sources], tmp_path / "out", methods=["copy_move"], size=160, workers=1)
    with pytest.raises(ConfigError, match="not empty"):
        forge_folder([sources], sources, methods=["copy_move"], workers=1)
    assert contents(tmp_path / "out") == before


def test_bad_photographs_are_told_one_by_one_and_the_rest_goes_on(tmp_path):
    mine = save_photographs(tmp_path / "mine", 2)
    whole = (mine / "00.png").read_bytes()
    (mine / "text.jpg").write_text("hello")
    (mine / "empty.jpg").write_bytes(b"")
    (mine / "cut.png").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(mine / "pipe.jpg")
    Image.new("RGB", (1, 1)).save(mine / "dot.png")
    Image.fromarray(photograph(100, 4000)).save(mine / "strip.png")
    Image.new("RGB", (200, 200), (9, 9, 9)).save(mine / "flat.png")
    Image.fromarray(photograph(150, 160)).convert("L").save(mine / "grey.png")
    Image.fromarray(photograph(150, 160)).save(os.fsencode(mine) + b"/b\xffd\nname'\".png", "PNG")
    (tmp_path / "secret.png").write_bytes(whole)
    (mine / "link.png").symlink_to(tmp_path / "secret.png")
    (mine / "loop").symlink_to(mine)
    result = forge_folder([mine], tmp_path / "out", methods=["copy_move"], per_photo=1, size=160, workers=2)
    told = {Path(f.file).name: f.problem for f in result.problems}
    assert set(told) == {"text.jpg", "empty.jpg", "cut.png", "pipe.jpg", "dot.png", "strip.png", "flat.png"}
    assert "1x1 px" in told["dot.png"] and "4000x100 px" in told["strip.png"]
    assert "truncated" in told["cut.png"] and "nothing that could be seen" in told["flat.png"]
    groups = {row.group_id for row in read_manifest(result.manifest)}
    assert groups == {"mine/00.png", "mine/01.png", "mine/grey.png", "mine/b\\xffd\nname'\".png"}
    assert all(p["file"] for p in json.loads((tmp_path / "out" / "forge.json").read_text("utf-8"))["problems"])
    assert result.made == 4 and not list((tmp_path / "out").rglob(".unfinished*"))


def test_a_donor_that_cannot_be_opened_is_passed_over_for_the_next(tmp_path):
    mine = save_photographs(tmp_path / "mine", 3)
    (mine / "bad.png").write_bytes(b"not a picture")
    options = {"methods": ["splice"], "per_photo": 4, "size": 160, "workers": 1, "shares": (("all", 1.0),)}
    result = forge_folder([mine], tmp_path / "out", **options)
    assert result.made == 12 and [Path(f.file).name for f in result.problems] == ["bad.png"]


def test_settings_that_make_no_sense_and_nothing_to_forge_are_refused_before_anything_is_written(tmp_path):
    mine = save_photographs(tmp_path / "mine", 1)
    out = tmp_path / "out"
    for options, words in (
        ({"methods": ["paint"]}, "paint"),
        ({"methods": ["rebuild"]}, "autoencoder"),
        ({"methods": ["face_swap"]}, "--faces"),
        ({"per_photo": 0}, "0 forgeries"),
        ({"size": 10}, "10 px"),
        ({"seed": -1}, "seed -1"),
        ({"kinds": ["squares"]}, "squares"),
        ({"shares": (("train", 0.4),)}, "fractions"),
        ({"engine": "cluster"}, "cluster"),
    ):
        with pytest.raises(ConfigError, match=words):
            forge_folder([mine], out, **options)
    with pytest.raises(DataError, match="does not exist"):
        forge_folder([tmp_path / "nowhere"], out)
    with pytest.raises(DataError, match="no files"):
        (tmp_path / "none").mkdir()
        forge_folder([tmp_path / "none"], out)
    with pytest.raises(DataError, match="no other photograph in its split"):
        forge_folder([mine], out, methods=["splice"], workers=1)
    assert not (out / "manifest.csv").exists()


def test_forgeries_made_inside_the_folder_of_photographs_are_not_forged_again(tmp_path):
    mine = save_photographs(tmp_path / "mine", 2)
    options = {"methods": ["copy_move"], "size": 160, "workers": 1}
    assert forge_folder([mine], mine / "forged", **options).made == 4
    assert forge_folder([mine], mine / "forged", **options).passed_over == 4


def test_a_photograph_is_seen_upright_and_always_made_smaller(tmp_path):
    path = tmp_path / "turned.jpg"
    picture = Image.fromarray(photograph(100, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    assert view(str(path), 512).shape == (180, 90, 3)
    assert view(str(path), 150).shape == (150, 75, 3)
    with pytest.raises(MediaError, match="100x200 px, and would be 60x120"):
        view(str(path), 120)


def test_the_command_tells_what_it_made_and_its_exit_code_tells_of_problems(tmp_path):
    mine = save_photographs(tmp_path / "mine", 2)
    common = [str(mine), "--methods", "copy-move", "--size", "160", "--workers", "1"]
    ran = CliRunner().invoke(app, ["data", "forge", *common, "--out", str(tmp_path / "a")])
    assert ran.exit_code == 0 and "4 forgeries made" in ran.output and "manifest.csv" in ran.output
    (mine / "bad\x1b.jpg").write_text("no picture")
    ran = CliRunner().invoke(app, ["data", "forge", *common, "--out", str(tmp_path / "b"), "--per-photo", "1"])
    assert ran.exit_code == 1 and "bad\\x1b.jpg" in ran.output and "\x1b" not in ran.output
    ran = CliRunner().invoke(app, ["data", "forge", *common, "--out", str(tmp_path / "c"), "--json"])
    told = json.loads(ran.output)
    assert told["made"] == 4 and told["by_method"] == {"copy_move": 4} and len(told["problems"]) == 1
    ran = CliRunner().invoke(app, ["data", "forge", str(mine), "--out", str(tmp_path / "d"), "--methods", "splise"])
    assert isinstance(ran.exception, ConfigError) and 'did you mean "splice"?' in str(ran.exception).lower()
