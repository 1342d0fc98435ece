"""Claims about shards from strangers: WebDataset's are read whole, and no tar can harm, stall or fool the reader."""

from __future__ import annotations

import io
import json
import os
import tarfile

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from internvl_detect import cli
from internvl_detect.data.conversations.check import check
from internvl_detect.data.conversations.meta import read_meta
from internvl_detect.data.shards.foreign import ShardSample, read_shards, shards_to_meta
from internvl_detect.data.shards.writing import write_shards
from internvl_detect.data.storage.tar_file import MAX_LONG_NAME, walk
from internvl_detect.errors import ConfigError, DataError

pytest_plugins = ["shard_fixtures"]


def tar_of(path, members, form=tarfile.GNU_FORMAT):
    """A tar of (name or TarInfo, bytes)."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def read(*tars, **options):
    """(samples, messages) of tars."""
    errors = []
    samples = list(read_shards(tars, on_error=errors.append, **options))
    return samples, [str(error) for error in errors]


def test_what_webdataset_wrote_is_read(tmp_path):
    path = tmp_path / "theirs.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for n in range(3):
            writer.write({"__key__": f"folder.d/{n:04d}", "jpg": b"\xff\xd8" * n, "json": {"n": n}, "seg.PNG": b"x"})
    samples, errors = read(path)
    assert errors == [] and [s.key for s in samples] == [f"folder.d/{n:04d}" for n in range(3)]
    assert [json.loads(s.files["json"]) for s in samples] == [{"n": n} for n in range(3)]
    assert samples[2].files["jpg"] == b"\xff\xd8" * 2 and samples[2].files["seg.png"] == b"x"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_common_form_of_tar_is_read_like_tarfile_reads_it(tmp_path, form):
    names = ["a.txt", "x/" * 40 + "b.txt", "c.0.jpg", "d/e.f/g.json"]
    if form != tarfile.USTAR_FORMAT:
        names += ["n" * 150 + ".jpg", "ü/Ä" * 60 + ".png"]
    info = tarfile.TarInfo("t.cls")
    info.mtime = 1.5  # a POSIX header of its own
    members = [(special("dir", tarfile.DIRTYPE), b""), *((name, os.urandom(700)) for name in names), (info, b"1")]
    path = tar_of(tmp_path / "x.tar", members, form)
    with tarfile.open(path) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive.getmembers() if m.isfile()]
    with open(path, "rb") as file:
        assert [(m.name, m.offset, m.size) for m in walk(file, "x")] == expected


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
    ],
)
def test_links_and_devices_cost_their_sample_and_are_not_followed(tmp_path, kind, words):
    members = [("1.jpg", b"a"), (special("2.jpg", kind, "/etc/passwd"), b""), ("2.json", b"{}"), ("3.jpg", b"c")]
    samples, errors = read(tar_of(tmp_path / "x.tar", members))
    assert [s.key for s in samples] == ["1", "3"]
    assert len(errors) == 1 and words in errors[0] and str(tmp_path / "x.tar") in errors[0]


def test_sparse_files_of_both_kinds_are_refused(tmp_path):
    sparse = tarfile.TarInfo("1.jpg")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    samples, errors = read(tar_of(tmp_path / "x.tar", [(sparse, b"0\n"), ("2.jpg", b"b")], tarfile.PAX_FORMAT))
    assert [s.key for s in samples] == ["2"] and "a sparse file" in errors[0]
    path = tar_of(tmp_path / "y.tar", [("1.jpg", b"a"), (special("2.jpg", tarfile.GNUTYPE_SPARSE), b""), ("3.j", b"c")])
    samples, errors = read(path)
    assert "a sparse file" in errors[0] and all(s.key == "1" for s in samples)


def test_names_stay_names(tmp_path):
    names = ["../../up.jpg", "/etc/cron.d/x.jpg", "a/../../b.jpg", "n\n\x1b[31m.jpg", "-rf.jpg"]
    samples, errors = read(tar_of(tmp_path / "x.tar", [(name, b"1") for name in names]))
    assert len(samples) + len(errors) == 5 and {p.name for p in tmp_path.iterdir()} == {"x.tar"}
    assert not any("\x1b" in error for error in errors)


def test_what_is_too_large_is_not_read_and_the_rest_is(tmp_path):
    path = tar_of(
        tmp_path / "x.tar", [("1.jpg", b"a" * 100), ("2.jpg", b"b" * 60), ("2.png", b"b" * 60), ("3.jpg", b"")]
    )
    samples, errors = read(path, max_sample_bytes=100)
    assert [(s.key, len(s.files["jpg"])) for s in samples] == [("1", 100), ("3", 0)] and len(errors) == 1


def test_a_header_that_promises_a_long_name_without_end_is_refused(tmp_path):
    huge = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    path = tar_of(tmp_path / "x.tar", [("1.jpg", b"a"), (huge, b"n" * (MAX_LONG_NAME + 1)), ("2.jpg", b"b")])
    _, errors = read(path)
    assert len(errors) == 1 and f"at most {MAX_LONG_NAME}" in errors[0]


def test_a_name_twice_in_one_sample_costs_the_sample(tmp_path):
    samples, errors = read(tar_of(tmp_path / "x.tar", [("1.jpg", b"a"), ("1.jpg", b"b"), ("2.jpg", b"c")]))
    assert [s.key for s in samples] == ["2"] and "twice" in errors[0]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a tar with four samples, and the samples."""
    path = tmp_path_factory.mktemp("good") / "x.tar"
    members = [(f"{n}.{end}", os.urandom(300 * n)) for n in range(4) for end in ("jpg", "json")]
    tar_of(path, [*members, ("long/" * 30 + "name.jpg", b"1")])
    return path.read_bytes(), list(read_shards([path]))


def contents(samples: list[ShardSample]):
    return [(s.key, s.files) for s in samples]


@given(cut=st.integers(0, 20_000))
def test_a_tar_cut_anywhere_gives_its_first_samples_and_an_error_with_its_name(good, tmp_path_factory, cut):
    data, whole = good
    path = tmp_path_factory.mktemp("cut") / "cut.tar"
    end = data.rindex(b"\x31" + bytes(511)) + 512  # after the last member; the rest is the mark of the end
    path.write_bytes(data[: min(cut, end)])
    samples, errors = read(path)
    assert contents(samples) == contents(whole[: len(samples)])
    assert len(errors) == 1 and "cut.tar" in errors[0]


@given(st.lists(st.tuples(st.integers(0, 12_000), st.binary(min_size=1, max_size=12)), max_size=6))
def test_whatever_is_overwritten_in_a_tar_ends_in_samples_or_errors(good, tmp_path_factory, changes):
    data = bytearray(good[0])
    for at, new in changes:
        data[at : at + len(new)] = new
    path = tmp_path_factory.mktemp("changed") / "x.tar"
    path.write_bytes(data)
    samples, errors = read(path, max_sample_bytes=1 << 20)
    assert all(sum(map(len, s.files.values())) <= len(data) for s in samples)
    assert all("x.tar" in error for error in errors)


@given(st.binary(max_size=3000))
def test_bytes_that_are_no_tar_are_an_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("noise") / "x.tar"
    path.write_bytes(data)
    samples, errors = read(path)
    assert samples == [] and len(errors) == (0 if data[:512] == bytes(512) else 1)


def test_what_cannot_be_opened_costs_that_tar_only(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "folder.tar").mkdir()
    fine = tar_of(tmp_path / "x.tar", [("1.jpg", b"a")])
    samples, errors = read(tmp_path / "pipe.tar", tmp_path / "none.tar", tmp_path / "folder.tar", fine)
    assert len(samples) == 1 and len(errors) == 3
    with pytest.raises(DataError, match="none.tar"):
        list(read_shards([tmp_path / "none.tar"]))


def test_our_own_shards_are_a_training_set_again(mixed, tmp_path):
    write_shards(mixed, tmp_path / "out", max_samples=2, workers=1)
    meta = shards_to_meta(sorted((tmp_path / "out").glob("*.tar")), tmp_path / "again")
    ours, again = (read_meta(m)[0] for m in (tmp_path / "out" / "meta.json", meta))
    same = ("images", "video", "turns", "label", "clip_s", "id", "group_id")
    assert [[getattr(s, k) for k in same] for s in ours.samples()] == [
        [getattr(s, k) for k in same] for s in again.samples()
    ]
    assert check(meta).rows == []


def test_strangers_shards_with_classes_are_asked_the_standard_question(photo, clip, tmp_path):
    picture, film = photo("p.png").read_bytes(), clip("c.mp4").read_bytes()
    members = [
        *(("a.png", picture), ("a.cls", b"0")),
        *(("b.png", picture), ("b.cls", b"1\n"), ("b.txt", b"a caption")),
        *(("c.mp4", film), ("c.json", b'{"label": "deepfake", "group_id": "g"}')),
        *(("d.png", picture), ("d.cls", b"17")),
        *(("e.json", b"{"), ("e.png", picture)),
        ("f.cls", b"0"),
    ]
    (tmp_path / "sub").mkdir()
    tars = [tar_of(tmp_path / "sub" / "x.tar", members), tar_of(tmp_path / "y.tar", members[:2])]
    errors = []
    meta = shards_to_meta(tars, tmp_path / "set", on_error=errors.append)
    rows = list(read_meta(meta)[0].samples())
    assert [(r.id, r.label, r.kind) for r in rows] == [
        ("a", "real", "image"),
        ("b", "fake", "image"),
        ("c", "fake", "video"),
        ("a", "real", "image"),
    ]
    assert [str(e).split(": ")[1] for e in errors] == ['"d"', '"e"', '"f"'] and rows[2].group_id == "g"
    assert check(meta).n_errors == 0
    with pytest.raises(ConfigError, match=r"holds a meta\.json"):
        shards_to_meta(tars, tmp_path / "set")


def test_shards_of_a_store_are_read_and_keep_their_address(photo, tmp_path):
    import fsspec

    tar_of(tmp_path / "x.tar", [("a.png", photo("p.png").read_bytes()), ("a.cls", b"1")])
    fsspec.filesystem("memory").pipe("/strangers/x.tar", (tmp_path / "x.tar").read_bytes())
    assert len(list(read_shards(["memory://strangers/x.tar"]))) == 1
    meta = shards_to_meta(["memory://strangers/x.tar"], tmp_path / "set")
    assert json.loads(meta.read_text())["shards"]["root"] == "memory://strangers"
    assert check(meta, allow_remote=True).datasets[0].usable == 1 and check(meta).n_errors == 1
    with pytest.raises(ConfigError, match="several stores"):
        shards_to_meta(["memory://a/x.tar", "s3://a/x.tar"], tmp_path / "two")


def test_the_command_writes_shards_and_takes_those_of_others(mixed, tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(cli.app, ["data", "shards", *map(str, arguments)])
        return result.exit_code, result.stdout

    code, out = run(mixed, "--out", tmp_path / "out", "--max-samples", 4, "--workers", 1, "--json")
    said = json.loads(out)
    assert code == 0 and (said["samples"], said["shards"], said["left_out"]) == (6, 2, 0)
    code, out = run(*sorted((tmp_path / "out").glob("*.tar")), "--out", tmp_path / "again")
    assert code == 0 and out.strip().endswith("meta.json: 6 samples; 0 samples or tars left out")
    (tmp_path / "root" / "0.png").write_bytes(b"broken")
    code, out = run(mixed, "--out", tmp_path / "less", "--workers", 1)
    assert code == DataError.exit_code and "rows.jsonl:1" in out and "1 rows left out" in out
    code, _ = run(mixed, mixed, "--out", tmp_path / "two")
    assert code == ConfigError.exit_code
