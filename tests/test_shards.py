"""Claims about shards we write: the same bytes however they are made, read by WebDataset, trained from as files are."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile

import pytest
import shard_killers
import tiny
import webdataset
from shard_samples import encoded, same_items

from internvl_detect.data.conversations.check import check
from internvl_detect.data.conversations.meta import read_meta, write_meta
from internvl_detect.data.shards import writing as shards
from internvl_detect.data.shards.writing import write_shards
from internvl_detect.data.storage.members import opened, stated_size
from internvl_detect.errors import ConfigError, DataError, MediaError
from internvl_detect.train import finetune
from internvl_detect.train.corpus import picture_size

pytest_plugins = ["training_fixtures", "shard_fixtures"]


def bytes_of(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_any_number_of_workers_gives_the_same_bytes(mixed, tmp_path):
    one = write_shards(mixed, tmp_path / "one", max_samples=2, workers=1)
    two = write_shards(mixed, tmp_path / "two", max_samples=2, workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert (one.samples, one.shards, one.exit_code) == (two.samples, two.shards, two.exit_code) == (6, 3, 0)
    assert sorted(p.name for p in (tmp_path / "one").iterdir() if p.suffix == ".tar") == [
        f"Mixed_set-{n:06d}.tar" for n in range(3)
    ]


def test_webdataset_reads_them_and_every_file_is_byte_for_byte_the_original(mixed, tmp_path):
    write_shards(mixed, tmp_path / "out", workers=1)
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "Mixed_set-000000.tar"), shardshuffle=False))
    root = tmp_path / "root"
    assert [s["__key__"] for s in samples] == [f"{n:09d}" for n in range(1, 7)]
    assert samples[0]["png"] == (root / "0.png").read_bytes()
    assert [samples[1][end] for end in ("0.png", "1.png")] == [(root / f"{n}.png").read_bytes() for n in (1, 2)]
    assert samples[4]["mp4"] == (root / "clip.mp4").read_bytes()
    row = json.loads(samples[0]["json"])
    assert row["image"] == "000000001.png" and row["extra"] == {"kept": [1]} and row["id"] == "a"
    assert "image" not in json.loads(samples[2]["json"])


def test_the_index_says_where_each_file_is_and_the_headers_say_nothing_of_this_machine(mixed, tmp_path):
    write_shards(mixed, tmp_path / "out", workers=1)
    tar = tmp_path / "out" / "Mixed_set-000000.tar"
    index = [json.loads(line) for line in tar.with_suffix("").with_suffix(".idx.jsonl").read_text().splitlines()]
    with tarfile.open(tar) as archive:
        members = archive.getmembers()
    assert [(m.name, m.offset_data, m.size) for m in members] == [(e["member"], e["offset"], e["size"]) for e in index]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    turned = next(e for e in index if e["member"] == "000000004.jpg")
    assert (turned["width"], turned["height"]) == (40, 90)


def test_samples_from_shards_are_encoded_as_those_from_loose_files(mixed, tmp_path, encoding):
    write_shards(mixed, tmp_path / "out", max_samples=2, workers=1)
    loose, sharded = encoded(mixed, encoding), encoded(tmp_path / "out" / "meta.json", encoding)
    assert [same_items(a, b) for a, b in zip(loose, sharded, strict=True)] == [True] * 6
    before, after = (read_meta(m)[0] for m in (mixed, tmp_path / "out" / "meta.json"))
    settings = ("name", "data_augment", "max_tiles", "repeat_time", "domain")
    assert [getattr(before, s) for s in settings] == [getattr(after, s) for s in settings]


def test_training_from_shards_gives_the_losses_of_training_from_loose_files(place, settings_of, tmp_path):
    write_shards(place / "data" / "meta.json", tmp_path / "out", max_samples=5, workers=1)
    loose = finetune.run(settings_of(out="loose"))
    sharded = finetune.run(settings_of(f"data_path={tmp_path / 'out' / 'meta.json'}", "workers=2", out="sharded"))
    assert tiny.losses(loose.folder) == tiny.losses(sharded.folder) and len(tiny.losses(loose.folder)) == 6


def test_without_an_index_the_headers_are_read_and_the_check_is_content(mixed, tmp_path):
    write_shards(mixed, tmp_path / "out", workers=1)
    sample = next(read_meta(tmp_path / "out" / "meta.json")[0].samples())
    assert stated_size(sample.images[0]) == picture_size(sample.images[0]) == (60, 40)
    assert check(tmp_path / "out" / "meta.json").rows == []
    (tmp_path / "out" / "Mixed_set-000000.idx.jsonl").unlink()
    os.utime(tmp_path / "out" / "Mixed_set-000000.tar")  # what was read before is not asked again
    assert stated_size(sample.images[0]) is None and picture_size(sample.images[0]) == (60, 40)
    assert check(tmp_path / "out" / "meta.json").rows == []


def test_an_index_of_another_tar_is_found_out(mixed, tmp_path):
    write_shards(mixed, tmp_path / "out", workers=1)
    index = tmp_path / "out" / "Mixed_set-000000.idx.jsonl"
    sample = next(read_meta(tmp_path / "out" / "meta.json")[0].samples())
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    lines[0]["offset"] += 512
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(MediaError, match="is not at byte 1024"), opened(sample.images[0]):
        pass


def test_a_size_that_the_index_makes_up_is_found_out(mixed, tmp_path, encoding):
    write_shards(mixed, tmp_path / "out", workers=1)
    index = tmp_path / "out" / "Mixed_set-000000.idx.jsonl"
    index.write_text(index.read_text().replace('"width": 60', '"width": 6000'))
    with pytest.raises(MediaError, match="not of the size"):
        next(encoded(tmp_path / "out" / "meta.json", encoding))


@pytest.mark.parametrize("line", ["{", "[]", '{"member": 1}', '{"member": "a", "offset": -1}', '{"member": "\\ud800"}'])
def test_a_broken_index_is_the_problem_of_the_rows_that_need_it(mixed, tmp_path, line):
    write_shards(mixed, tmp_path / "out", workers=1)
    (tmp_path / "out" / "Mixed_set-000000.idx.jsonl").write_text(line + "\n")
    report = check(tmp_path / "out" / "meta.json")
    assert report.by_code == {"missing-file": 6} and "idx.jsonl:1" in report.rows[0].problem


def test_a_missing_member_is_missing_and_a_folder_called_tar_is_a_folder(mixed, tmp_path):
    write_shards(mixed, tmp_path / "out", workers=1)
    rows = tmp_path / "out" / "Mixed_set.jsonl"
    rows.write_text(rows.read_text().replace("000000001.png", "nowhere.png"))
    assert [f.code for f in check(tmp_path / "out" / "meta.json").rows] == ["missing-file"]
    (tmp_path / "root" / "folder.tar").mkdir()
    shutil.copy(tmp_path / "root" / "0.png", tmp_path / "root" / "folder.tar" / "x.png")
    assert picture_size(str(tmp_path / "root" / "folder.tar" / "x.png")) == (60, 40)


def test_shards_of_shards_are_the_same_pictures_again(mixed, tmp_path):
    write_shards(mixed, tmp_path / "one", workers=1, max_bytes=5000)
    write_shards(tmp_path / "one" / "meta.json", tmp_path / "two", workers=1, max_bytes=5000)
    tars = [sorted((tmp_path / name).glob("*.tar")) for name in ("one", "two")]
    assert len(tars[0]) > 1 and [t.read_bytes() for t in tars[0]] == [t.read_bytes() for t in tars[1]]


@pytest.fixture
def broken(mixed, tmp_path):
    whole = (tmp_path / "root" / "1.png").read_bytes()
    (tmp_path / "root" / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "root" / "3.png").unlink()
    with open(tmp_path / "rows.jsonl", "a") as file:
        file.write("{broken\n")
    return mixed


def test_rows_that_cannot_be_used_are_left_out_without_a_trace_and_told(broken, tmp_path):
    report = write_shards(broken, tmp_path / "out", workers=1, max_samples=3)
    codes = [(f.line, f.code) for f in report.findings]
    assert codes == [(2, "unreadable-media"), (6, "missing-file"), (7, "bad-json")]
    assert (report.samples, report.left_out, report.exit_code) == (4, 3, DataError.exit_code)
    with tarfile.open(tmp_path / "out" / "Mixed_set-000000.tar") as archive:
        assert archive.getnames() == ["000000001.png", "000000001.json", "000000003.json"]
    assert check(tmp_path / "out" / "meta.json").rows == []
    assert not list((tmp_path / "out").glob(".*")) and len(list((tmp_path / "out").glob("*.tar"))) == 2


def test_strict_ends_at_the_first_and_leaves_nothing_that_looks_whole(broken, tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl:2: .*1\.png"):
        write_shards(broken, tmp_path / "out", workers=1, strict=True)
    assert not (tmp_path / "out" / "meta.json").exists()


DIES = """
import os, signal, sys
from internvl_detect.data.shards.writing import write_shards
count = iter(range(9))
def die(done, total):
    if next(count) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
write_shards(sys.argv[1], sys.argv[2], max_samples=1, workers=1, progress=die)
"""


def test_a_killed_job_goes_on_with_what_is_whole_and_gives_the_same_bytes(mixed, tmp_path):
    ran = subprocess.run([sys.executable, "-c", DIES, str(mixed), str(tmp_path / "out")])
    assert ran.returncode == -signal.SIGKILL
    with pytest.raises(ConfigError, match="unfinished job"):
        write_shards(mixed, tmp_path / "out", max_samples=2, workers=1)
    (tmp_path / "out" / ".unfinished-x").write_bytes(b"half")
    report = write_shards(mixed, tmp_path / "out", max_samples=1, workers=1)
    write_shards(mixed, tmp_path / "afresh", max_samples=1, workers=1)
    assert report.kept == 2 and bytes_of(tmp_path / "out") == bytes_of(tmp_path / "afresh")
    with pytest.raises(ConfigError, match="not empty"):
        write_shards(mixed, tmp_path / "out", max_samples=1, workers=1)


def test_a_job_whose_input_changed_meanwhile_keeps_only_what_is_still_true(mixed, tmp_path, photo):
    subprocess.run([sys.executable, "-c", DIES, str(mixed), str(tmp_path / "out")])
    photo("root/0.png", size=(61, 40))
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text(lines[0] + "\n")
    report = write_shards(mixed, tmp_path / "out", max_samples=1, workers=1)
    write_shards(mixed, tmp_path / "afresh", max_samples=1, workers=1)
    assert report.kept == 0 and bytes_of(tmp_path / "out") == bytes_of(tmp_path / "afresh")


def test_a_row_that_kills_its_process_is_left_out_alone(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "write_shard", shard_killers.write_or_die)
    monkeypatch.setattr(shards, "check_alone", shard_killers.look_or_die)
    report = write_shards(mixed, tmp_path / "out", max_samples=3, workers=2)
    assert [(f.line, f.code) for f in report.findings] == [(4, "lost")] and report.samples == 5
    assert check(tmp_path / "out" / "meta.json").rows == []


def test_names_of_datasets_from_strangers_name_files_in_the_folder_only(mixed, tmp_path):
    meta = json.loads(mixed.read_text())["Mixed set"]
    given = {**meta, "root": str(tmp_path / "root"), "annotation": str(tmp_path / "rows.jsonl")}
    write_meta(tmp_path / "names.json", {"../../x": given, ".X": given, "é\n": given})
    write_shards(tmp_path / "names.json", tmp_path / "deep" / "out", workers=1)
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"out"}
    tars = {p.name for p in (tmp_path / "deep" / "out").glob("*.tar")}
    assert tars == {f"{name}-000000.tar" for name in ("_x", "_X_2", "_")}
    assert [e.name for e in read_meta(tmp_path / "deep" / "out" / "meta.json")] == ["../../x", ".X", "é\n"]


def test_a_member_is_a_file_with_a_name_that_reads_and_seeks(mixed, tmp_path):
    write_shards(mixed, tmp_path / "out", workers=1)
    path = str(tmp_path / "out" / "Mixed_set-000000.tar" / "000000001.png")
    whole = (tmp_path / "root" / "0.png").read_bytes()
    with opened(path) as file:
        assert file.name == path and file.read() == whole and file.read(1) == b""
        assert file.seek(-4, io.SEEK_END) == len(whole) - 4 and file.read(100) == whole[-4:]
        assert file.seek(2) == 2 and file.seek(3, io.SEEK_CUR) == 5 and file.read(3) == whole[5:8]
