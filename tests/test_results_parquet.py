"""Claims about results in Parquet: the rows that went in, wherever a kill cut them off, under one schema."""

from __future__ import annotations

import dataclasses
import json
import os

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.detect import results_parquet
from internvl_detect.detect.results_file import load_rows, open_results
from internvl_detect.detect.results_parquet import ParquetResults, schema
from internvl_detect.errors import ConfigError
from internvl_detect.verdict import Evidence, Failure, Frame, Region, Stretch, Verdict

ROW = Verdict(
    "a.png", "video", 0.25, 0.5, "unsure", "real", "nano", {"open_s": 0.1, "total_s": 0.3}, True, "No.",
    (Frame(3, 0.5, 0.2),), Stretch(0.0, 1.0, 0.9), (Region((1, 2, 3, 4), 0.7),),
    (Evidence("c2pa", "signed", None, {"strength": "strong", "n": [1, {"x": None}]}),), ("a note",), 640, 480,
    "ab" * 32,
)  # fmt: skip
NAMES = st.text(max_size=8) | st.binary(max_size=6).map(os.fsdecode)


def rows_in(path):
    return {row.path: row for row in load_rows(path)}


@given(st.lists(NAMES, unique=True, max_size=6), st.integers(1, 4))
def test_any_row_comes_back_as_it_was(tmp_path_factory, names, part_rows):
    path = tmp_path_factory.mktemp("p") / "r.parquet"
    rows = [
        dataclasses.replace(ROW, path=name) if i % 2 else Failure(name, "broken", 3) for i, name in enumerate(names)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_parquet, "PART_ROWS", part_rows)
        with open_results(path) as results:
            for row in rows:
                results.write(row.to_dict())
    assert not names or list(load_rows(path)) == rows
    with ParquetResults(path, resume=True) as results:
        assert results.done == {row.path for row in rows if isinstance(row, Verdict)}


def test_every_part_has_the_one_schema_and_every_field_a_column(tmp_path, monkeypatch):
    monkeypatch.setattr(results_parquet, "PART_ROWS", 1)
    with ParquetResults(tmp_path / "r.parquet") as results:
        results.write(Failure("a", "broken", 3).to_dict())
        results.write(ROW.to_dict() | {"question": "Real?"})
    parts = sorted((tmp_path / "r.parquet").iterdir())
    assert [p.name for p in parts] == ["part-00000.parquet", "part-00001.parquet"]
    assert all(pyarrow.parquet.read_schema(p).equals(schema()) for p in parts)
    assert {f.name for kind in (Verdict, Failure) for f in dataclasses.fields(kind)} - {"mask"} <= set(schema().names)
    assert pyarrow.parquet.read_table(tmp_path / "r.parquet").num_rows == 2


@given(cut=st.integers(0, 4000), step=st.sampled_from(["pending", "part written", "after"]))
def test_wherever_a_kill_struck_a_resume_has_every_row_once(tmp_path_factory, cut, step):
    path = tmp_path_factory.mktemp("k") / "r.parquet"
    rows = [dataclasses.replace(ROW, path=f"{i}") for i in range(5)]
    with ParquetResults(path) as results:
        results.write(rows[0].to_dict())
        results.write(Failure("1", "broken", 3).to_dict())
    lines = b"".join(json.dumps(row.to_dict()).encode() + b"\n" for row in rows[1:4])
    if step == "pending":
        (path / "_pending.jsonl").write_bytes(lines[:cut])
    elif step == "part written":  # and the pending file not yet gone
        with ParquetResults(path, resume=True) as results:
            for row in rows[1:4]:
                results.write(row.to_dict())
        (path / "_pending.jsonl").write_bytes(lines)
    (path / "_part-00009.parquet.partial").write_bytes(b"half")
    with ParquetResults(path, resume=True) as results:
        for row in rows:
            if row.path not in results.done:
                results.write(row.to_dict())
    assert sorted(row.path for row in load_rows(path)) == [row.path for row in rows]
    assert rows_in(path) == {row.path: row for row in rows}


def test_what_is_no_folder_of_parts_is_left_alone(tmp_path):
    (tmp_path / "file.parquet").write_text("mine")
    (tmp_path / "full.parquet").mkdir()
    (tmp_path / "full.parquet" / "part-00000.parquet").write_text("mine")
    for name, resume in (("file", True), ("full", False), ("full", True)):
        with pytest.raises(ConfigError):
            ParquetResults(tmp_path / f"{name}.parquet", resume=resume)
    for name in ("file", "full", "absent"):
        with pytest.raises(ConfigError):
            list(load_rows(tmp_path / f"{name}.parquet"))
    assert (tmp_path / "file.parquet").read_text() == "mine"


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'internvl2-8bdetect\[ray\]'"):
        open_results(tmp_path / "r.parquet")
