"""Claims about manifests: labels by any name, rows with line numbers, groups that never cross splits, stable bytes."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_detect.data.conversations.check import check
from internvl_detect.data.conversations.from_manifest import manifest_to_conversations
from internvl_detect.data.conversations.meta import read_meta
from internvl_detect.data.labels import LABELS
from internvl_detect.data.manifest import (
    ManifestRow,
    manifest_hash,
    read_manifest,
    split_by_group,
    write_manifest,
)
from internvl_detect.errors import ConfigError, DataError, IvdetectError

ROWS = [
    ManifestRow("a.png", "real", "photo", source="x", licence="CC0", group_id="g1"),
    ManifestRow("b, c.png", "ai_generated", generator='the "new" one', group_id="g1"),
    ManifestRow("d.mp4", "deepfake", "video, short", group_id="g2"),
    ManifestRow("é.webp", "tampered", mask="m/é.png"),
    ManifestRow("f.png", "tampered", dataset="CASIA2", domain="ps", domain_tag="photoshop", words="A sign, pasted in."),
]


def manifest(folder: Path, content: bytes | str, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_csv_and_jsonl_hold_the_same(tmp_path: Path) -> None:
    for name in ("m.csv", "m.jsonl"):
        assert list(read_manifest(write_manifest(tmp_path / name, ROWS))) == ROWS
    assert (tmp_path / "m.csv").read_text().splitlines()[0].startswith("path,label,kind")


def test_labels_go_by_many_names_and_columns_by_a_few(tmp_path: Path) -> None:
    text = "\ufefffile;LABEL;license\r\na;Fake;MIT\r\nb;0;\r\n\r\nc;AI;x\r\nd;tp;x\r\ne;Au;x\r\n"
    rows = list(read_manifest(manifest(tmp_path, text)))
    assert [r.label for r in rows] == ["fake", "real", "ai_generated", "tampered", "real"]
    assert rows[0].path == "a" and rows[0].licence == "MIT"
    numbers = '{"path": "a", "label": 1, "group_id": 7}\n{"path": "b", "label": "0", "mask": null}\n'
    assert [(r.label, r.group_id) for r in read_manifest(manifest(tmp_path, numbers))] == [("fake", "7"), ("real", "")]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("path,label\na,real\nb,perhaps\n", 3, "unknown label"),
        ("path,label\na\n", 2, "1 fields"),
        ("path,label\na,real,x\n", 2, "3 fields"),
        ("path,label\n,real\n", 2, 'no "path"'),
        ("path,label\n\n\na,\n", 4, 'no "label"'),
        (b"path,label,kind\na,real,ok\n\xff,real,x\n", 3, "UTF-8"),
        ('path,label\n"a,real\n' + "x" * 140_000, 2, "bad CSV"),
        ('{"path": "a", "label": "real"}\n{"path": "b"\n', 2, "bad JSON"),
        ('{"path": "a", "label": "real"}\n[1]\n', 2, "not a JSON object"),
        ('{"path": 3, "label": "real"}\n', 1, '"path" is 3'),
        ('{"path": "a", "label": true}\n', 1, "unknown label"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, content: str | bytes, line: int, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read_manifest(manifest(tmp_path, content)))
    assert f"m.csv:{line}: " in str(caught.value) and problem in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n", "lable,path\nreal,a\n", "path,path,label\n", "nonsense", b"\xff\xfep\0"])
def test_a_manifest_without_the_two_needed_columns_is_refused(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(DataError, match=r"m\.csv: "):
        list(read_manifest(manifest(tmp_path, content)))


def test_a_missing_manifest_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="could not be read"):
        list(read_manifest(tmp_path / "none.csv"))


def test_bad_rows_can_be_passed_over_and_unread_columns_are_told(tmp_path: Path) -> None:
    errors: list[DataError] = []
    said: list[str] = []
    path = manifest(tmp_path, "path,label,genrator\na,real,x\nb,?,x\nc,fake,x\n")
    rows = list(read_manifest(path, on_error=errors.append, warn=said.append))
    assert [r.path for r in rows] == ["a", "c"] and len(errors) == 1
    assert len(said) == 1 and 'did you mean "generator"' in said[0]


text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
rows_of_text = st.lists(
    st.builds(
        ManifestRow,
        path=text.filter(bool),
        label=st.sampled_from(LABELS),
        kind=text,
        generator=text,
        mask=text,
        source=text,
        licence=text,
        group_id=text,
        split=text,
        dataset=text,
        words=text,
    ),
    max_size=8,
)


@given(rows=rows_of_text, name=st.sampled_from(["any.csv", "any.jsonl"]))
@settings(max_examples=120, deadline=None)
def test_any_text_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[ManifestRow], name: str
) -> None:
    path = write_manifest(tmp_path_factory.getbasetemp() / name, rows)
    if rows or name == "any.csv":
        assert list(read_manifest(path)) == rows


@given(raw=st.binary(max_size=300), header=st.sampled_from([b"", b"path,label\n", b'{"path": "a", "label": 1}\n']))
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_anything_but_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, header: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bytes"
    path.write_bytes(header + raw)
    try:
        assert all(row.label in LABELS for row in read_manifest(path))
    except IvdetectError as error:
        assert "any.bytes" in str(error)


def test_the_hash_knows_content_and_neither_order_nor_format(tmp_path: Path) -> None:
    csv_rows = read_manifest(write_manifest(tmp_path / "m.csv", ROWS))
    assert manifest_hash(csv_rows) == manifest_hash(reversed(ROWS)) == manifest_hash(ROWS)
    for field in dataclasses.fields(ManifestRow):
        assert manifest_hash([dataclasses.replace(ROWS[0], **{field.name: "other"}), *ROWS[1:]]) != manifest_hash(ROWS)
    assert manifest_hash([*ROWS, ROWS[0]]) != manifest_hash(ROWS)


shares = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(
    lambda parts: {f"s{i}": part / sum(parts) for i, part in enumerate(parts)}
)


@given(groups=st.lists(st.sampled_from(["", *"abcdefgh"]), max_size=60), fractions=shares, seed=st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_a_group_never_crosses_splits_and_never_moves(
    groups: list[str], fractions: dict[str, float], seed: int
) -> None:
    rows = [ManifestRow(f"{i}.png", "real", group_id=group) for i, group in enumerate(groups)]
    placed = list(split_by_group(rows, fractions, seed))
    seen: dict[str, set[str]] = defaultdict(set)
    for row in placed:
        seen[row.group].add(row.split)
    assert all(len(splits) == 1 and splits <= set(fractions) for splits in seen.values())
    assert list(split_by_group(rows[::2], fractions, seed)) == placed[::2]


def test_shares_come_out_near_the_fractions() -> None:
    rows = [ManifestRow(f"{i}.png", "real") for i in range(4000)]
    counts: dict[str, int] = defaultdict(int)
    for row in split_by_group(rows, {"train": 0.8, "val": 0.1, "test": 0.1, "none": 0}):
        counts[row.split] += 1
    assert abs(counts["train"] - 3200) < 130 and abs(counts["val"] - 400) < 100 and counts["none"] == 0


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}])
def test_fractions_that_do_not_sum_to_one_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        list(split_by_group(ROWS, fractions))


def test_conversations_made_from_a_manifest_pass_the_check_and_keep_the_labels(tmp_path: Path) -> None:
    for row in ROWS:
        (tmp_path / "pics").mkdir(exist_ok=True)
        (tmp_path / "pics" / row.path).write_bytes(b"x")
    rows = [dataclasses.replace(row, split=("train", "val")[i % 2]) for i, row in enumerate(ROWS)]
    more = {"train": {"data_augment": True, "max_dynamic_patch": 6}}
    path = manifest_to_conversations(
        rows, tmp_path / "sets", root=tmp_path / "pics", settings=more, explain=lambda row: f"It is {row.label}"
    )
    assert check(path, open_media=False).rows == []
    train, val = read_meta(path)
    assert (train.name, train.max_tiles, train.data_augment, val.name, val.data_augment) == (
        *("data_train", 6, True, "data_val", False),
    )
    samples = [*train.samples(), *val.samples()]
    assert [(s.id, s.label, s.kind) for s in samples] == [
        ("a.png", "real", "image"),
        ("d.mp4", "fake", "video"),
        ("f.png", "fake", "image"),
        ("b, c.png", "fake", "image"),
        ("é.webp", "fake", "image"),
    ]
    assert [s.turns[1][1] for s in samples][:2] == ["No.", "Yes. It is deepfake"]
    assert samples[1].turns[0][1].startswith("<video>\nTell me") and samples[0].group_id == "g1"


def test_the_same_rows_give_the_same_bytes_anywhere(tmp_path: Path) -> None:
    for place in ("one", "two"):
        manifest_to_conversations(ROWS, tmp_path / place / "sets", root=tmp_path / place / "pics")
    for name in ("meta.json", "data.jsonl"):
        assert (tmp_path / "one" / "sets" / name).read_bytes() == (tmp_path / "two" / "sets" / name).read_bytes()
    assert read_meta(tmp_path / "one" / "sets" / "meta.json")[0].root == str(tmp_path / "one" / "pics")


def test_a_bad_manifest_leaves_no_half_written_sets(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label\na,real\nb,?\n")
    with pytest.raises(DataError):
        manifest_to_conversations(read_manifest(path), tmp_path / "sets")
    with pytest.raises(DataError, match="without rows"):
        manifest_to_conversations([], tmp_path / "sets")
    with pytest.raises(ConfigError):
        manifest_to_conversations([dataclasses.replace(ROWS[0], split="../x")], tmp_path / "sets")
    assert list((tmp_path / "sets").iterdir()) == []
