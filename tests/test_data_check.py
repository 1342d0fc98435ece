"""Claims about the check: every broken row in one pass, with file, line and an exit code a script can use."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl_detect.data.conversations import check as check_module
from internvl_detect.data.conversations.check import Report, check
from internvl_detect.data.conversations.command import run_check
from internvl_detect.data.conversations.meta import make_row, write_jsonl, write_meta
from internvl_detect.data.conversations.rows import Sample
from internvl_detect.data.jsonl import dump
from internvl_detect.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def pics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good picture and clip, and broken ones of several kinds."""
    folder = tmp_path_factory.mktemp("pics")
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "good.png")
    Image.fromarray(noise).save(folder / "good.jpg")
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:900])
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 200)
    with av.open(str(folder / "good.mp4"), "w") as clip:
        stream = clip.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(12):
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        clip.mux(stream.encode())
    return folder


def meta(folder: Path, root: Path, rows: list[dict] | bytes, **more: object) -> Path:
    raw = rows if isinstance(rows, bytes) else b"".join(dump(row).encode() + b"\n" for row in rows)
    (folder / "a.jsonl").write_bytes(raw)
    return write_meta(folder / "meta.json", {"A": {"root": str(root), "annotation": "a.jsonl", **more}})


def found(report: Report) -> list[tuple[str, int]]:
    return [(finding.code, finding.line) for finding in report.rows]


def test_good_data_passes_with_its_counts(tmp_path: Path, pics: Path) -> None:
    rows = [
        make_row("Real?", "Yes.", image="good.png"),
        make_row("Real?", "No.", image=["good.jpg"]),
        make_row("Real?", "No.", video="good.mp4"),
        make_row("Hi", "Hello"),
    ]
    report = check(meta(tmp_path, pics, rows, length=4))
    assert report.rows == [] and report.exit_code == 0
    one = report.datasets[0]
    assert (one.rows, one.usable, one.image, one.video, one.text) == (4, 4, 2, 1, 1)
    assert (one.real, one.fake, one.unlabelled) == (2, 1, 1)


def test_every_broken_row_is_found_in_one_pass(tmp_path: Path, pics: Path) -> None:
    rows = [
        make_row("Real?", "No.", image="good.png"),
        make_row("Real?", "No.", image="missing.png"),
        make_row("Real?", "No.", image="cut.jpg"),
        make_row("Real?", "No.", image="text.jpg"),
        make_row("Real?", "No.", image="empty.png"),
        make_row("Real?", "No.", image="folder.png"),
        make_row("<image><image>", "No.", image="good.png"),
        make_row("Real?", "No.", video="broken.mp4"),
        make_row("Real?", "No.", image="good.mp4"),
        make_row("Real?", "No.", image=["good.png", "gone.png"]),
        make_row("Real?", "No.", image="../x.png"),
        make_row("<image> <image>", "No.", image=["missing.png", "cut.jpg"]),
        make_row("Real?", "No.", image="good.jpg"),
    ]
    raw = b"".join(dump(row).encode() + b"\n" for row in rows) + b'{"id": \n'
    report = check(meta(tmp_path, pics, raw))
    assert found(report) == [
        ("missing-file", 2),
        ("unreadable-media", 3),
        ("unreadable-media", 4),
        ("unreadable-media", 5),
        ("missing-file", 6),
        ("image-count", 7),
        ("unreadable-media", 8),
        ("unreadable-media", 9),
        ("image-count", 10),
        ("outside-root", 11),
        ("missing-file", 12),
        ("unreadable-media", 12),
        ("bad-json", 14),
    ]
    assert report.exit_code == DataError.exit_code == 5
    assert (report.datasets[0].rows, report.datasets[0].usable) == (14, 2)
    assert f"{tmp_path}/a.jsonl:2: image not found" in report.format_text()


def test_without_opening_only_absence_is_found(tmp_path: Path, pics: Path) -> None:
    rows = [make_row("x", "No.", image="cut.jpg"), make_row("x", "No.", image="none.jpg")]
    assert found(check(meta(tmp_path, pics, rows), open_media=False)) == [("missing-file", 2)]


def test_length_is_checked_and_not_believed(tmp_path: Path, pics: Path) -> None:
    report = check(meta(tmp_path, pics, [make_row("a", "b")] * 3, length=1000))
    assert [(f.level, f.code) for f in report.rows] == [("warning", "length")] and report.exit_code == 0
    assert "1000" in report.rows[0].problem and "3 rows" in report.rows[0].problem


def test_too_many_tokens_are_an_error_and_a_failing_counter_is_that_rows_problem(tmp_path: Path, pics: Path) -> None:
    def count(sample: Sample) -> int:
        if sample.line == 2:
            raise ValueError("odd row")
        if sample.line == 3:
            raise DataError(f"{sample.file}:3: no such marker")
        return 10 * sample.line

    report = check(meta(tmp_path, pics, [make_row("a", "b")] * 6), token_counter=count, max_tokens=50)
    assert found(report) == [("token-count", 2), ("token-count", 3), ("too-long", 6)]
    assert report.rows[1].problem == "no such marker"
    assert "60 tokens, and 50 are allowed" in report.rows[-1].problem
    assert (report.datasets[0].tokens_max, report.datasets[0].usable) == (60, 3)


def test_tokens_are_counted_in_the_calling_thread_and_only_of_good_rows(tmp_path: Path, pics: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def count(sample: Sample) -> int:
        seen.append((sample.line, threading.current_thread() is threading.main_thread()))
        return 1

    rows = [make_row("a", "b"), make_row("a", "b", image="missing.png"), make_row("a", "b")]
    check(meta(tmp_path, pics, rows), token_counter=count, workers=4)
    assert seen == [(1, True), (3, True)]


def test_duplicate_ids_name_the_first_line(tmp_path: Path, pics: Path) -> None:
    rows = [make_row("a", "b", id=i) for i in ("x", "y", "x", 1, "1", "x")] + [make_row("a", "b")] * 2
    report = check(meta(tmp_path, pics, rows))
    assert found(report) == [("duplicate-id", 3), ("duplicate-id", 5), ("duplicate-id", 6)]
    assert [f.problem for f in report.rows] == [f"the id of line {n} again" for n in (1, 4, 1)]


def test_labels_that_contradict_or_lean_are_told(tmp_path: Path, pics: Path) -> None:
    rows = [make_row("a", "Yes.", label="tp")] * 30
    rows += [make_row("a", "Yes.", label="real"), make_row("a", "Looks odd", label="fake")]
    report = check(meta(tmp_path, pics, rows))
    assert found(report) == [("label-balance", 0), ("label-contradiction", 31), ("answer-form", 32)]
    assert "0 real, 31 fake" in report.rows[0].problem


def test_encoding_trouble_is_told_by_line_and_clean_crlf_and_bom_pass(tmp_path: Path, pics: Path) -> None:
    good = dump(make_row("é", "b")).encode()
    assert found(check(meta(tmp_path, pics, b"\xef\xbb\xbf" + good + b"\r\n\r\n" + good))) == []
    bad = good.replace("é".encode(), "é".encode("latin-1"))
    assert found(check(meta(tmp_path, pics, good + b"\n\n" + bad + b"\n"))) == [("bad-json", 3)]
    assert found(check(meta(tmp_path, pics, b"\n \n"))) == [("no-rows", 0)]


def test_a_meta_file_with_one_broken_dataset_has_the_other_checked(tmp_path: Path, pics: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [make_row("a", "b", image="missing.png")])
    good, bad = {"root": str(pics), "annotation": "a.jsonl"}, {"root": str(pics), "annotation": "none.jsonl"}
    path = write_meta(tmp_path / "meta.json", {"bad": bad, "good": good})
    assert found(check(path)) == [("meta", 0), ("missing-file", 1)]
    assert found(check(path, choice="GOOD")) == [("missing-file", 1)]
    with pytest.raises(ConfigError, match='Did you mean "good"'):
        check(path, choice="goood")
    assert check(tmp_path / "no.json").exit_code == 5


def test_one_file_used_by_many_rows_is_opened_once(tmp_path: Path, pics: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from internvl_detect.media import image

    opened: list[str] = []
    original = image.open_image
    monkeypatch.setattr(image, "open_image", lambda path: opened.append(path) or original(path))
    check(meta(tmp_path, pics, [make_row("a", "b", image="good.png")] * 100))
    assert len(opened) == 1


def test_whatever_a_decoder_throws_is_one_rows_problem(
    tmp_path: Path, pics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from internvl_detect.media import image

    def fail(path: str) -> None:
        raise MemoryError("huge")

    monkeypatch.setattr(image, "open_image", fail)
    report = check(meta(tmp_path, pics, [make_row("a", "b", image="good.png"), make_row("a", "b")]))
    assert found(report) == [("unreadable-media", 1)] and report.datasets[0].usable == 1


def test_findings_beyond_the_limit_are_counted(tmp_path: Path, pics: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "MAX_KEPT", 5)
    report = check(meta(tmp_path, pics, b"{\n" * 50))
    assert (len(report.rows), report.n_errors, report.by_code["bad-json"]) == (5, 50, 50)
    assert "and 45 more" in report.format_text()


def test_the_command_prints_and_returns_the_code(tmp_path: Path, pics: Path) -> None:
    said: list[str] = []
    steps: list[tuple[int, int]] = []
    path = meta(tmp_path, pics, [make_row("a", "b", image="none.png")] * 40)
    assert run_check(path, said.append, lambda done, total: steps.append((done, total)), as_json=True) == 5
    given = json.loads(said[0])
    assert given["n_errors"] == 40 and given["rows"][0]["line"] == 1 and given["exit_code"] == 5
    size = (tmp_path / "a.jsonl").stat().st_size
    assert steps == sorted(steps) and steps[-1] == (size, size)
    assert run_check(path, said.append) == 5 and said[1].endswith("40 errors, 0 warnings")


@given(
    raw=st.lists(st.binary(max_size=60) | st.sampled_from([b'{"a":1}', b"\xef\xbb\xbf"]), max_size=12).map(b"\n".join)
)
@settings(max_examples=60, deadline=None)
def test_no_bytes_stop_the_check(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    good = dump(make_row("a", "b")).encode()
    report = check(meta(folder, folder, raw + b"\n" + good), workers=1)
    assert report.datasets[0].usable >= 1
    assert all(finding.format().isprintable() for finding in report.rows)


def test_the_page_on_the_format_shows_rows_that_pass_and_names_every_code(tmp_path: Path) -> None:
    home = Path(__file__).parents[1]
    page = (home / "docs" / "data-format.md").read_text(encoding="utf-8")
    meta_text, *rows = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    datasets = json.loads(meta_text)
    for name, given_meta in datasets.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
        datasets[name] = {**given_meta, "root": "", "annotation": f"{name}.jsonl", "length": len(rows)}
    report = check(write_meta(tmp_path / "meta.json", datasets), open_media=False)
    assert {f.code for f in report.rows} == {"missing-file"}
    assert [d.text + d.image + d.video for d in report.datasets] == [4, 4]
    code = re.compile(r'(?:note|reject)\(\s*(?:"error",|"warning",)?\s*"([a-z-]+)"|return "([a-z-]+)", f"')
    sources = [
        home / "internvl_detect/data/conversations" / f"{name}.py" for name in ("rows", "meta", "check", "opening")
    ]
    used = {a or b for source in sources for a, b in code.findall(source.read_text(encoding="utf-8"))}
    assert len(used) > 25 and {c for c in used if f"`{c}`" not in page} == {"error"}  # the level, where the code varies
