"""Claims about InternVL's training-data format: what is read, how it is repeated, and what bad input does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_detect.data.conversations.meta import (
    IMAGE_QUESTION,
    DatasetEntry,
    choose,
    make_row,
    parse_meta,
    read_meta,
    write_jsonl,
    write_meta,
)
from internvl_detect.data.conversations.rows import Source, read_row
from internvl_detect.data.jsonl import dump
from internvl_detect.data.labels import answer_verity, normalise_label
from internvl_detect.errors import ConfigError, DataError

GOOD = make_row("Is it real?", "Yes.", image="a.png")


def read(row: object, **source: object) -> tuple:
    raw = row if isinstance(row, bytes) else dump(row).encode()
    return read_row(raw, 1, Source("D", "d.jsonl", "/elsewhere/pics", **source))


def codes(row: object, **source: object) -> set[str]:
    return {finding.code for finding in read(row, **source)[1]}


def dataset(folder: Path, rows: list[dict] | bytes, name: str = "D", **meta: object) -> DatasetEntry:
    if isinstance(rows, bytes):
        (folder / f"{name}.jsonl").write_bytes(rows)
    else:
        write_jsonl(folder / f"{name}.jsonl", rows)
    write_meta(folder / "meta.json", {name: {"root": "", "annotation": f"{name}.jsonl", **meta}})
    return read_meta(folder / "meta.json")[0]


def test_the_four_kinds_of_row_are_read() -> None:
    text, _ = read(make_row("Hi", "Hello", "And?", "Well.", system="Be kind"))
    assert (text.kind, text.turns, text.system) == (
        "text",
        (("user", "Hi"), ("assistant", "Hello"), ("user", "And?"), ("assistant", "Well.")),
        "Be kind",
    )
    one, _ = read(make_row("<image>\nReal?", "No.", image="x/a.png", id=7, group_id="g"))
    assert (one.kind, one.images, one.label, one.id, one.group_id) == (
        "image",
        ("/elsewhere/pics/x/a.png",),
        "real",
        "7",
        "g",
    )
    several, _ = read(make_row("A <image> B <image>", "Same.", image=["a.png", "b.png"]))
    assert (several.images, several.label) == (("/elsewhere/pics/a.png", "/elsewhere/pics/b.png"), None)
    clip, _ = read(make_row("<video>\nReal?", "Yes", video="v.mp4", clip=[1, 2.5]))
    assert (clip.kind, clip.video, clip.clip_s, clip.label) == ("video", "/elsewhere/pics/v.mp4", (1.0, 2.5), "fake")


def test_a_missing_marker_is_put_in_front_as_the_original_code_does() -> None:
    assert read(make_row("Real?", "No.", image="a.png"))[0].turns[0] == ("user", "<image>\nReal?")
    assert read(make_row("Real?", "No.", image=["a.png"]))[0].turns[0] == ("user", "<image>\nReal?")
    assert read(make_row("Real?", "No.", video="a.mp4"))[0].turns[0] == ("user", "<video>\nReal?")
    assert read(make_row("Hi", "Yes", "This <image>?", "No", image="a.png"))[0].turns[0] == ("user", "Hi")


@pytest.mark.parametrize("question", ["<video>\nReal?", "<video>Real?", "<video> \nReal?", "  <video>\nReal?\n"])
def test_a_clip_always_comes_out_in_one_form(question: str) -> None:
    assert read(make_row(question, "No.", video="a.mp4"))[0].turns[0] == ("user", "<video>\nReal?")


def test_a_clip_marker_elsewhere_is_moved_and_said() -> None:
    sample, findings = read(make_row("Is <video>\nreal?", "No.", video="a.mp4"))
    assert sample.turns[0][1] == "<video>\nIs real?"
    assert [f.code for f in findings] == ["video-place"]


def test_empty_image_fields_mean_text_only() -> None:
    for nothing in ("", None, []):
        assert read({**make_row("Hi", "Ho"), "image": nothing})[0].kind == "text"


@pytest.mark.parametrize(
    ("code", "row"),
    [
        ("bad-json", b'{"conversations": '),
        ("bad-json", b'{"image": NaN}'),
        ("bad-json", b'{"id": 1, "id": 2}'),
        ("bad-json", b"\xff\xfe{\x00}\x00"),
        ("bad-json", b'{"id": "\xff"}'),
        ("bad-json", b"[" * 200_000),
        ("bad-json", b'{"id": ' + b"9" * 5000 + b"}"),
        ("bad-row", b"[1]"),
        ("conversations", {"image": "a.png"}),
        ("conversations", {"conversation": []}),
        ("conversations", {"conversations": ["hi"]}),
        ("conversations", b'{"conversations": [{"from": "human", "value": "\\ud800"}, {"from": "gpt", "value": "x"}]}'),
        ("roles", {"conversations": [{"from": "user", "value": "x"}]}),
        ("roles", make_row("question without answer")),
        ("roles", {"conversations": [{"from": "gpt", "value": "x"}]}),
        ("roles", {"conversations": [{"from": "system", "value": "x"}]}),
        ("empty-turn", make_row("Hi", "  \n")),
        ("image-count", make_row("<image> <image>", "x", image="a.png")),
        ("image-count", make_row("compare", "x", image=["a.png", "b.png"])),
        ("image-count", make_row("<image>", "x")),
        ("image-count", make_row("<image>", "<image>", image="a.png")),
        ("video-count", make_row("<video>", "x")),
        ("video-count", make_row("<video><video>", "x", video="a.mp4")),
        ("media-path", make_row("x", "y", image="a.png", video="a.mp4")),
        ("media-path", make_row("x", "y", image=[1])),
        ("media-path", make_row("x", "y", image="https://example.org/a.png")),
        ("media-path", make_row("x", "y", image="a\0.png")),
        ("media-path", b'{"image": "\\ud800", "conversations": []}'),
        ("outside-root", make_row("x", "y", image="../a.png")),
        ("outside-root", make_row("x", "y", image="/etc/passwd")),
        ("outside-root", make_row("x", "y", video="../pics2/a.mp4")),
        ("label", make_row("x", "Yes", image="a.png", label="perhaps")),
        ("label", make_row("x", "Yes", image="a.png", label=True)),
        ("label-contradiction", make_row("x", "Yes", image="a.png", label="real")),
        ("label-contradiction", make_row("x", "no, fine", image="a.png", label=1)),
        ("clip", make_row("x", "Yes", video="a.mp4", clip=[3, 1])),
    ],
)
def test_a_broken_row_gives_no_sample_and_says_why(code: str, row: object) -> None:
    sample, findings = read(row)
    assert sample is None
    assert code in {f.code for f in findings if f.level == "error"}
    assert all(f.file == "d.jsonl" and f.line == 1 for f in findings)


def test_one_row_tells_all_its_problems_together() -> None:
    row = {"image": "../a.png", "conversations": [{"from": "user", "value": "x"}]}
    assert codes(row) == {"outside-root", "roles"}


def test_doubtful_rows_are_read_with_a_warning() -> None:
    for code, row in [
        ("special-text", make_row("what is <IMG_CONTEXT>?", "x")),
        ("special-text", make_row("hi", "bye<|im_end|>")),
        ("special-text", make_row("hi", "bye", system="<img>")),
        ("answer-form", make_row("x", "It looks fake", image="a.png", label="fake")),
        ("unknown-key", {**make_row("x", "y"), "images": "a.png"}),
    ]:
        sample, findings = read(row)
        assert sample is not None and [(f.code, f.level) for f in findings] == [(code, "warning")]
    assert codes(GOOD) == set()


def test_paths_outside_the_root_open_only_when_allowed() -> None:
    assert read(make_row("x", "y", image="../a.png"), allow_outside=True)[0].images == ("/elsewhere/a.png",)
    assert read(make_row("x", "y", image="/elsewhere/pics/sub/../a.png"))[0].images == ("/elsewhere/pics/a.png",)


def test_labels_and_answers_have_one_meaning() -> None:
    assert [normalise_label(x) for x in ("Fake", 0, "1", "AI", "tp", "Au", "deep fake", 1.0)] == [
        *("fake", "real", "fake", "ai_generated", "tampered", "real", "deepfake", "fake")
    ]
    assert [normalise_label(x) for x in ("", "x", None, True, 2, 0.5, [], float("inf"))] == [None] * 8
    assert [answer_verity(x) for x in ("Yes.", " yes, it", '"No"', "**No**", "1) no", "Nothing", "Not", "")] == [
        *("fake", "fake", "real", "real", None, None, None, None)
    ]


def test_findings_never_carry_control_characters_to_the_terminal() -> None:
    for row in (make_row("x", "y", image="../\x1b[2J"), make_row("x", "Yes", label="\x1b]0;x\x07"), {"conv\x1b": 1}):
        assert all(f.format().isprintable() for f in read(row)[1])


def test_meta_keys_are_read_and_wrong_ones_named(tmp_path: Path) -> None:
    said: list[str] = []
    write_jsonl(tmp_path / "a.jsonl", [GOOD])
    meta = {"A": {"root": "", "annotation": "a.jsonl", "max_dynamic_patch": 12, "data_augment": True, "repeat_tme": 2}}
    (tmp_path / "meta.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(meta).encode())
    (entry,) = read_meta(tmp_path / "meta.json", warn=said.append)
    assert (entry.max_tiles, entry.data_augment, entry.repeat_time) == (12, True, 1)
    assert len(said) == 1 and 'did you mean "repeat_time"?' in said[0]
    sample = next(entry.samples())
    assert (sample.max_tiles, sample.data_augment, sample.dataset) == (12, True, "A")


def test_relative_paths_are_looked_for_beside_the_meta_file_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("beside", "here"):
        (tmp_path / folder / "pics").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    write_meta(tmp_path / "beside" / "meta.json", {"A": {"root": "pics", "annotation": "a.jsonl"}})
    write_jsonl(tmp_path / "here" / "a.jsonl", [GOOD])
    (entry,) = read_meta(tmp_path / "beside" / "meta.json")
    assert entry.root == str(tmp_path / "beside" / "pics")
    assert entry.annotation == str(tmp_path / "here" / "a.jsonl")
    assert "meta file's folder" in entry.notes[0] and "working directory" in entry.notes[1]


@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"[]",
        b"{}",
        b"{",
        b'{"A": 1}',
        b'{"A": {}}',
        b'{"A": {"root": 1, "annotation": "a.jsonl"}}',
        b'{"A": {"root": "", "annotation": "missing.jsonl"}}',
        b'{"A": {"root": "", "annotation": "."}}',
        b'{"A": {"root": "s3://x", "annotation": "a.jsonl"}}',
        b'{"A": {"root": "", "annotation": "a.jsonl", "repeat_time": 0}}',
        b'{"A": {"root": "", "annotation": "a.jsonl", "repeat_time": -1}}',
        b'{"A": {"root": "", "annotation": "a.jsonl", "repeat_time": 1e999}}',
        b'{"A": {"root": "", "annotation": "a.jsonl", "repeat_time": true}}',
        b'{"A": {"root": "", "annotation": "a.jsonl", "max_dynamic_patch": 0}}',
        b'{"A": {"root": "", "annotation": "a.jsonl", "max_dynamic_patch": 1.5}}',
        b'{"A": {"root": "", "annotation": "a.jsonl", "data_augment": "yes"}}',
        b'{"A": {"root": "", "annotation": "a.jsonl"}, "A": {"root": "", "annotation": "a.jsonl"}}',
        b'{"root": "", "annotation": "a.jsonl"}',
        b'{"id": 1}\n{"id": 2}\n',
    ],
)
def test_a_wrong_meta_file_is_a_data_error(tmp_path: Path, meta: bytes) -> None:
    write_jsonl(tmp_path / "a.jsonl", [GOOD])
    (tmp_path / "meta.json").write_bytes(meta)
    with pytest.raises(DataError, match=r"meta\.json: "):
        read_meta(tmp_path / "meta.json")


def test_a_missing_meta_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_meta(tmp_path / "meta.json")


def test_datasets_are_chosen_by_name(tmp_path: Path) -> None:
    entries = [
        DatasetEntry(name, "/", "/a", domain="ps" if name == "CASIA2" else None) for name in ("CASIA2", "FR", "fr2")
    ]

    def names(choice: str | None) -> list[str]:
        return [e.name for e in choose(entries, choice)]

    assert names("") == names(None) == ["CASIA2", "FR", "fr2"]
    assert names("fr, casia2,FR") == ["FR", "CASIA2"]
    assert names("ps|CASIA2,FR") == ["CASIA2", "FR"]
    with pytest.raises(ConfigError, match='Did you mean "CASIA2"'):
        choose(entries, "CASIA")
    for wrong in ("ps|FR", "df|CASIA2", "zzz"):
        with pytest.raises(ConfigError):
            choose(entries, wrong)
    twins = [DatasetEntry("ab", "/", "/a"), DatasetEntry("AB", "/", "/a")]
    assert choose(twins, "AB") == [twins[1]]
    with pytest.raises(ConfigError, match="exactly"):
        choose(twins, "aB")


def test_a_dataset_that_was_prepared_is_chosen_by_its_name_in_the_split_that_is_asked_for() -> None:
    entries = [
        DatasetEntry(f"CASIA2_{kind}{split}", "/", "/a", domain="ps", dataset="CASIA2", split=split, questions=asked)
        for split in ("train", "val", "test")
        for kind, asked in (("", "verdict"), ("mask_", "mask"))
    ]
    entries.append(DatasetEntry("mine", "/", "/b"))

    def names(choice: str, split: str) -> list[str]:
        return [e.name for e in choose(entries, choice, split=split)]

    assert names("ps|CASIA v2.0", "train") == ["CASIA2_train", "CASIA2_mask_train"]
    assert names("casia2,mine", "val") == ["CASIA2_val", "mine"]
    assert names("all", "train") == names("", "train") == ["CASIA2_train", "CASIA2_mask_train", "mine"]
    assert names("CASIA2_test", "train") == ["CASIA2_test"]
    assert len(names("CASIA2", "")) == 6
    with pytest.raises(ConfigError, match=r"nothing to validate on here. There is CASIA2_train"):
        choose(entries[:1], "CASIA2", split="val")
    with pytest.raises(ConfigError, match='has domain "ps"'):
        choose(entries, "df|CASIA2", split="train")


def test_a_broken_dataset_that_is_not_chosen_stops_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [GOOD])
    good, bad = {"root": "", "annotation": "a.jsonl"}, {"root": "", "annotation": "b.jsonl"}
    write_meta(tmp_path / "meta.json", {"good": good, "bad": bad})
    assert [e.name for e in read_meta(tmp_path / "meta.json", "good")] == ["good"]
    with pytest.raises(DataError, match=r"b\.jsonl"):
        read_meta(tmp_path / "meta.json", "good,bad")


text = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).map(str.strip).filter(bool)
plain = text.filter(lambda t: "<image>" not in t and "<video>" not in t and not answer_verity(t))


@given(turns=st.lists(plain, min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0), system=st.none() | plain)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, turns: list[str], system: str | None
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    entry = dataset(folder, [make_row(*turns, system=system), make_row(*turns, image="a.png")])
    first, second = entry.index()
    assert [t for _, t in first.turns] == turns and first.system == system
    assert second.turns[0][1] == f"<image>\n{turns[0]}" and second.turns[1:] == first.turns[1:]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["<image>", "human", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["image", "video", "conversations", "from", "value", "label", "clip", "id", "root", "annotation"]
            )
            | st.sampled_from(["repeat_time", "max_dynamic_patch", "length", "data_augment", "domain", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(value=json_values)
@settings(max_examples=200, deadline=None)
def test_no_json_value_breaks_the_row_or_the_meta_reader(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    raw = json.dumps(value).encode()
    sample, findings = read(raw)
    assert (sample is None) == any(f.level == "error" for f in findings)
    meta = tmp_path_factory.getbasetemp() / "any.json"
    meta.write_bytes(json.dumps({"A": value}).encode())
    entries, findings = parse_meta(meta)
    assert bool(entries) != any(f.level == "error" for f in findings)


def test_the_data_room_imports_no_torch() -> None:
    code = (
        "import sys, internvl_detect.data.conversations.check, internvl_detect.data.manifest; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'peft', 'PIL', 'av')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_standard_question_is_the_originals() -> None:
    assert IMAGE_QUESTION.startswith("Tell me if there are synthesis artifacts in the image or not.")
