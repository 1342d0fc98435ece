"""Claims about annotation files as a whole: random access, repetition, bounded lines, writing without half files."""

from __future__ import annotations

import copy
import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_detect.data.conversations.index import AnnotationIndex, pick_rows
from internvl_detect.data.conversations.meta import DatasetEntry, make_row, read_meta, write_jsonl, write_meta
from internvl_detect.data.jsonl import dump, read_lines
from internvl_detect.errors import ConfigError, DataError, IvdetectError, OutputError

GOOD = make_row("Is it real?", "Yes.", image="a.png")


def dataset(folder: Path, rows: list[dict] | bytes, name: str = "D", **meta: object) -> DatasetEntry:
    if isinstance(rows, bytes):
        (folder / f"{name}.jsonl").write_bytes(rows)
    else:
        write_jsonl(folder / f"{name}.jsonl", rows)
    write_meta(folder / "meta.json", {name: {"root": "", "annotation": f"{name}.jsonl", **meta}})
    return read_meta(folder / "meta.json")[0]


def test_the_index_gives_the_rows_that_streaming_gives(tmp_path: Path) -> None:
    rows = [make_row(f"q{i}", "Yes", image=f"{i}.png") for i in range(50)]
    raw = b"\xef\xbb\xbf" + b"\n\r\n".join(dump(row).encode() for row in rows) + b"\n \n"
    entry = dataset(tmp_path, raw)
    index = entry.index()
    assert list(index) == list(entry.samples())
    assert [s.line for s in index][:3] == [1, 3, 5] and len(index) == 50
    assert index[-1] == index[49] and index[1:3] == [index[1], index[2]]
    with pytest.raises(IndexError):
        index[50]


def test_the_index_survives_pickling_copying_forks_and_threads(tmp_path: Path) -> None:
    entry = dataset(tmp_path, [make_row(f"q{i}", "Yes" * (i + 1)) for i in range(200)], repeat_time=1.5)
    index = entry.index()
    expected = [s.turns for s in index]
    assert [s.turns for s in pickle.loads(pickle.dumps(index))] == expected
    assert [s.turns for s in copy.copy(index)] == expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: index[i].turns, range(len(index)))) == expected
    pid = os.fork()
    if pid == 0:
        os._exit(0 if [s.turns for s in index] == expected else 1)
    assert os.waitpid(pid, 0)[1] == 0
    index.close()
    assert index[7].turns == expected[7]


def test_a_broken_row_in_the_middle_names_its_line_and_spares_the_rest(tmp_path: Path) -> None:
    lines = [dump(GOOD).encode()] * 5
    lines[2] = b'{"broken'
    index = dataset(tmp_path, b"\n".join(lines)).index()
    with pytest.raises(DataError, match=r"D\.jsonl:3: bad JSON"):
        index[2]
    assert [index[i].line for i in (0, 1, 3, 4)] == [1, 2, 4, 5]
    entry = read_meta(tmp_path / "meta.json")[0]
    assert [s.line for s in entry.samples(strict=False)] == [1, 2, 4, 5]
    with pytest.raises(DataError, match=r"D\.jsonl:3"):
        list(entry.samples())


def test_a_file_that_changes_under_the_index_is_noticed(tmp_path: Path) -> None:
    index = dataset(tmp_path, [GOOD, GOOD]).index()
    with open(tmp_path / "D.jsonl", "ab") as file:
        file.write(b"{}\n")
    with pytest.raises(DataError, match="changed"):
        index[0]


def test_a_line_over_the_limit_is_skipped_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a\n" + b"b" * 25 + b"\nc" + b"\r" * 3 + b"\n" + b"d" * 10 + b"\r\n" + b"e" * 11)
    with open(path, "rb") as file:
        got = list(read_lines(file, 10))
    assert got == [(1, 0, b"a"), (2, 2, None), (3, 28, b"c"), (4, 33, b"d" * 10), (5, 45, None)]


@given(n=st.integers(0, 300), seed=st.integers(0, 5), parts=st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2))
@settings(max_examples=60, deadline=None)
def test_a_fraction_is_stable_sorted_and_nested(n: int, seed: int, parts: list[float]) -> None:
    small, large = (pick_rows(n, part, seed) for part in sorted(parts))
    assert set(small) <= set(large) and list(large) == sorted(set(large))
    assert len(large) == min(n, max(1, round(n * max(parts)))) if n else len(large) == 0
    assert np.array_equal(large, pick_rows(n, max(parts), seed))


def test_the_picked_rows_are_the_same_on_every_machine() -> None:
    assert pick_rows(20, 0.25, 0).tolist() == [2, 4, 6, 8, 18] and pick_rows(20, 0.25, 1).tolist() == [4, 5, 6, 11, 18]
    assert abs(np.mean(pick_rows(100_000, 0.1)) / 50_000 - 1) < 0.02


@pytest.mark.parametrize(("repeat", "length"), [(1, 8), (3, 24), (3.0, 24), (0.25, 2), (1.5, 12), (0.01, 1)])
def test_repeat_time_multiplies_the_rows(tmp_path: Path, repeat: float, length: int) -> None:
    index = dataset(tmp_path, [make_row(str(i), "x") for i in range(8)], repeat_time=repeat, length=999).index()
    seen = [index.row(i) for i in range(len(index))]
    assert (len(index), index.n_rows) == (length, 8)
    assert all(seen.count(row) in (int(repeat), int(repeat) + 1) for row in range(8))
    assert [s.line - 1 for s in index] == seen


@given(before=st.binary(max_size=200), after=st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_no_bytes_break_the_reader_or_cost_the_good_rows_beside_them(
    tmp_path_factory: pytest.TempPathFactory, before: bytes, after: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    good = dump(GOOD).encode()
    file.write_bytes(before + b"\n" + good + b"\n" + after + b"\n" + good)
    entry = DatasetEntry("D", str(file.parent), str(file))
    lines = {before.count(b"\n") + 2, before.count(b"\n") + after.count(b"\n") + 4}
    assert lines <= {s.line for s in entry.samples(strict=False)}
    index = AnnotationIndex(entry.source)
    read = set()
    for i in range(len(index)):
        try:
            read.add(index[i].line)
        except IvdetectError as error:
            assert f"any.jsonl:{index.line(i)}: " in str(error)
    assert lines <= read


def test_writing_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [GOOD])
    with pytest.raises(DataError):
        write_jsonl(tmp_path / "a.jsonl", [GOOD, {"x": float("nan")}])
    with pytest.raises(OutputError):
        write_jsonl(tmp_path / "a.jsonl" / "b.jsonl", [GOOD])
    with pytest.raises(ConfigError, match="root"):
        write_meta(tmp_path / "meta.json", {"A": {"rot": ""}})
    assert os.listdir(tmp_path) == ["a.jsonl"] and (tmp_path / "a.jsonl").read_text() == dump(GOOD) + "\n"


def test_a_full_disk_is_an_output_error_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_jsonl(tmp_path / "a.jsonl", [GOOD])
    assert os.listdir(tmp_path) == []
