"""Claims about object storage: read where it is allowed, with the samples of loose files, and never out of its root."""

from __future__ import annotations

import fsspec
import pytest
from shard_samples import encoded, same_items

from internvl_detect.data.conversations.check import check
from internvl_detect.data.conversations.meta import make_row, read_meta, write_jsonl, write_meta
from internvl_detect.data.shards.writing import write_shards
from internvl_detect.data.storage import members
from internvl_detect.errors import DataError
from internvl_detect.train import finetune

pytest_plugins = ["training_fixtures", "shard_fixtures"]


@pytest.fixture
def in_memory(mixed, tmp_path):
    """The mixed set as shards and as loose files in fsspec's memory, and metas whose roots are there."""
    store = fsspec.filesystem("memory")
    write_shards(mixed, tmp_path / "out", max_samples=2, workers=1)
    for file in [*(tmp_path / "out").glob("Mixed*"), *(tmp_path / "root").iterdir()]:
        store.pipe(f"/bucket/{file.parent.name}/{file.name}", file.read_bytes())
    for name, rows in (("out", tmp_path / "out" / "Mixed_set.jsonl"), ("root", tmp_path / "rows.jsonl")):
        given = {"root": f"memory://bucket/{name}/", "annotation": str(rows), "data_augment": True}
        write_meta(tmp_path / f"{name}.json", {"far": {**given, "max_dynamic_patch": 4}})
    yield store
    store.rm("/bucket", recursive=True)


def test_object_storage_is_read_only_where_it_is_allowed(in_memory, tmp_path, settings_of):
    with pytest.raises(DataError, match="is an address.*allow_remote=true"):
        read_meta(tmp_path / "out.json")
    with pytest.raises(DataError, match="is an address"):
        finetune.run(settings_of(f"data_path={tmp_path / 'out.json'}"))
    for root in ("file:///etc", "s3::file:///etc", "memory://", "ftp://host/x", "memory://a\nb"):
        write_meta(tmp_path / "bad.json", {"far": {"root": root, "annotation": str(tmp_path / "rows.jsonl")}})
        with pytest.raises(DataError):
            read_meta(tmp_path / "bad.json", allow_remote=True)


@pytest.mark.parametrize("name", ["out", "root"])
@pytest.mark.parametrize("indexed", [True, False])
def test_samples_from_object_storage_are_encoded_as_those_from_loose_files(
    in_memory, mixed, tmp_path, encoding, name, indexed
):
    if not indexed:
        for path in in_memory.glob("/bucket/out/*.idx.jsonl"):
            in_memory.rm(path)
    members._load.cache_clear()
    loose, far = encoded(mixed, encoding), encoded(tmp_path / f"{name}.json", encoding, allow_remote=True)
    assert [same_items(a, b) for a, b in zip(loose, far, strict=True)] == [True] * 6
    assert check(tmp_path / f"{name}.json", allow_remote=True).rows == []


@pytest.mark.parametrize("path", ["../secret.png", "/secret.png", "a/../../secret.png", "memory://secret.png"])
def test_a_row_does_not_lead_out_of_a_remote_root(in_memory, tmp_path, path):
    in_memory.pipe("/bucket/secret.png", b"x")
    write_jsonl(tmp_path / "rows.jsonl", [make_row("Is it fake?", "No.", image=path)])
    report = check(tmp_path / "root.json", allow_remote=True)
    assert [f.code for f in report.rows] in (["outside-root"], ["media-path"])


def test_what_a_store_cannot_give_is_that_row_s_problem(in_memory, tmp_path):
    in_memory.rm("/bucket/out/Mixed_set-000001.tar")
    in_memory.pipe("/bucket/out/Mixed_set-000000.tar", b"x" * 1000)
    report = check(tmp_path / "out.json", allow_remote=True)
    codes = {(f.line, f.code) for f in report.rows}
    assert codes == {(1, "unreadable-media"), (2, "unreadable-media"), (4, "missing-file")}
