"""Claims about prepared data: same input, same bytes; no source in two splits; nothing gives the label away."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import readme_tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from internvl_detect import cli
from internvl_detect.data.conversations.meta import make_row, read_meta
from internvl_detect.data.conversations.rows import Source, read_row
from internvl_detect.data.forge.words import PLACES
from internvl_detect.data.manifest import ManifestRow, read_manifest, write_manifest
from internvl_detect.data.prepare.asking import Shares, guessed_place, guessed_tag, parse_questions, questions_for
from internvl_detect.data.prepare.command import Wanted, prepare_source
from internvl_detect.data.prepare.regions import part_boxes, region_answer
from internvl_detect.data.prepare.splits import Places
from internvl_detect.data.prepare.training_set import PrepareOptions, prepare_rows
from internvl_detect.errors import ConfigError, DataError, MediaError
from internvl_detect.questions import SEGMENT_QUESTION, TAG_SENTENCES


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return readme_tree.build(tmp_path_factory.mktemp("tree") / "dataset")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def prepare(tree, out, wanted=None, **options):
    return prepare_source(tree, out, wanted or Wanted(), PrepareOptions(workers=1, **options))


ALL_KINDS = {"": ("verdict", "explain", "mask")}


def test_the_same_input_and_seed_give_the_same_bytes_and_another_seed_another_split(tree, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare(tree, tmp_path / name, questions=ALL_KINDS, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["manifest.csv"] != contents(tmp_path / "c")["manifest.csv"]


def test_doing_it_again_in_the_same_folder_changes_no_byte_and_drops_what_is_no_longer_chosen(tree, tmp_path):
    prepare(tree, tmp_path / "out", Wanted("ps|CASIA2"))
    first = contents(tmp_path / "out")
    prepare(tree, tmp_path / "out", Wanted("ps|CASIA2,FR"))
    assert any(name.startswith("FR") for name in contents(tmp_path / "out"))
    prepare(tree, tmp_path / "out", Wanted("ps|CASIA2"))
    assert contents(tmp_path / "out") == first


def test_a_folder_with_other_files_is_left_alone(tree, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        prepare(tree, tmp_path)


def test_what_was_prepared_among_the_datasets_is_not_taken_for_one(tmp_path):
    readme_tree.draw(tmp_path / "real" / "a.png", 1, None)
    readme_tree.draw(tmp_path / "fake" / "b.png", 2, tmp_path / "mask" / "b.png")
    prepare(tmp_path, tmp_path / "out")
    first = contents(tmp_path / "out")
    assert prepare(tmp_path, tmp_path / "out").left_out == {} and contents(tmp_path / "out") == first


ROWS = st.builds(
    ManifestRow,
    path=st.integers(0, 30).map("p{}.jpg".format),
    label=st.sampled_from(["real", "tampered"]),
    group_id=st.sampled_from(["", "a", "b", "c", "d"]),
    split=st.sampled_from(["", "", "train", "val", "Training"]),
)


@given(st.lists(ROWS, max_size=30, unique_by=lambda row: row.path), st.integers(0, 5))
def test_no_source_lies_in_two_splits_whatever_splits_the_sets_have(rows, seed):
    places = Places({"train": 0.5, "val": 0.3, "test": 0.2}, seed)
    for row in rows:
        places.learn(row)
    places.settle()
    put = [placed for row in rows if (placed := places.put(row)) is not None]
    splits: dict[str, set[str]] = {}
    for row in put:
        splits.setdefault(row.group, set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values())
    kept = {row.path for row in put}
    assert all(row.path in kept for row in rows if not row.split)


def test_a_set_s_own_split_is_kept_and_a_choice_decides_the_rest(tree, tmp_path):
    done = prepare(tree, tmp_path / "a", Wanted("ps|CASIA2,FR; df|FFHQ", "ps|CASIA1+; df|FFHQ"))
    splits = {(a["set"], a["split"]) for a in done.datasets.values()}
    wanted = {("CASIA2", "train"), ("FR", "train"), ("CASIA1+", "val"), ("FFHQ", "train"), ("FFHQ", "val")}
    assert splits == wanted
    for row in read_manifest(tmp_path / "a" / "manifest.csv"):
        if row.dataset == "FFHQ":
            assert ("Train" in row.path) == (row.split == "train")


def test_what_is_chosen_on_both_sides_validates_only(tree, tmp_path):
    done = prepare(tree, tmp_path / "a", Wanted("ps|CASIA2,FR", "FR"))
    assert {(a["set"], a["split"]) for a in done.datasets.values()} == {("CASIA2", "train"), ("FR", "val")}
    assert done.left_out["validated-on"] == 6


def test_weights_become_repeat_time_and_caps_fewer_files(tree, tmp_path):
    chosen = tmp_path / "selection.yaml"
    chosen.write_text("datasets: {'ps|CASIA2': {weight: 2, cap: 4}, FR: {}}\n")
    done = prepare(tree, tmp_path / "out", Wanted(selection=chosen), split={"train": 1})
    meta = json.loads(done.meta.read_text())
    assert meta["CASIA2_train"]["repeat_time"] == 2 and meta["CASIA2_train"]["length"] == 4
    assert meta["FR_train"]["repeat_time"] == 1 and meta["FR_train"]["length"] == 6


def test_every_row_can_be_trained_on_and_names_what_it_should(tree, tmp_path):
    done = prepare(tree, tmp_path / "out", questions=ALL_KINDS)
    kinds: Counter[str] = Counter()
    for entry in read_meta(done.meta):
        about = done.datasets[entry.name]
        for sample in entry.samples():
            kinds[about["kind"]] += 1
            assert sample.group_id and Path(sample.images[0]).is_file()
            if about["kind"] == "mask" and sample.label == "fake":
                assert Path(sample.mask).is_file()
                assert sample.turns[1][1] == "Yes." and "[[200, 300, 700, 600]]" in sample.turns[3][1]
            if about["kind"] == "explain" and sample.label == "fake":
                assert sample.turns[1][1] == "Yes."
                assert sample.turns[3][1].startswith("Yes. The picture has been tampered with")
            if about["kind"] == "mask":
                assert [text for _, text in sample.turns[4:]] == [SEGMENT_QUESTION, "<SEG>"]
            if about["kind"] == "verdict":
                assert sample.turns[1][1] == ("Yes." if sample.label == "fake" else "No.")
    assert kinds["verdict"] == 21 * 3 and kinds["explain"] == 15 and kinds["mask"] > 13 * 3


def test_questions_can_be_chosen_set_by_set():
    asked = parse_questions(["verdict", "CASIA2=mask,verdict"])
    assert asked == {"": ("verdict",), "casia2": ("mask", "verdict")}
    for wrong in ("verdicts", "=mask", "CASIA2="):
        with pytest.raises(ConfigError):
            parse_questions([wrong])


def asked_of(rows, asked=None, seed=0):
    shares = Shares()
    for row in rows:
        shares.count(row, asked or ALL_KINDS)
    return [(row, kind) for row in rows for kind in questions_for(row, asked or ALL_KINDS, shares, seed)]


def test_neither_the_question_nor_its_tag_tells_real_from_fake():
    rows = [ManifestRow(f"f{i}", "tampered", mask="m", domain="ps", domain_tag="photoshop", words="w" * (i % 2))
            for i in range(1000)]  # fmt: skip
    rows += [ManifestRow(f"r{i}", "real", domain="ps", domain_tag="authentic") for i in range(3000)]
    asked = Counter((row.label, kind) for row, kind in asked_of(rows))
    assert asked["real", "mask"] == 3000 and asked["tampered", "mask"] == 1000
    assert asked["tampered", "explain"] == 500 and 1400 < asked["real", "explain"] < 1600
    tags = Counter((row.label, guessed_tag(row, 0)) for row in rows)
    for tag in TAG_SENTENCES:
        assert abs(tags["real", tag] / 3000 - tags["tampered", tag] / 1000) < 0.05
    fakes = [dataclasses.replace(row, words=f"In the {PLACES[i % 9]} part a sign was pasted in.")
             for i, row in enumerate(rows[:1000])]  # fmt: skip
    places = Counter((row.label, guessed_place(row, 0)) for row in [*fakes, *rows[1000:]])
    for place in ("", *PLACES):
        assert abs(places["real", place] / 3000 - places["tampered", place] / 1000) < 0.05
    assert sum(guessed_place(row, 0) in row.words for row in fakes if guessed_place(row, 0)) > 500


def test_a_mask_of_another_shape_or_an_empty_one_costs_only_the_question_about_where(tmp_path):
    readme_tree.draw(tmp_path / "a.jpg", 1, tmp_path / "good.png")
    for name, size, value in (("wide.png", (80, 20), 255), ("empty.png", (40, 30), 0), ("large.png", (80, 60), 255)):
        Image.new("L", size, value).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    names = ["good", "wide", "empty", "large", "broken", "none"]
    rows = []
    for name in names:
        (tmp_path / f"{name}.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
        rows.append(ManifestRow(f"{name}.jpg", "tampered", mask=f"{name}.png"))
    told: list = []
    options = PrepareOptions(questions=ALL_KINDS, split={"train": 1}, workers=1)
    done = prepare_rows(rows, tmp_path, tmp_path / "out", options, note=told.append)
    assert done.datasets["data_train"]["rows"] == 6 and done.datasets["data_mask_train"]["rows"] == 2
    codes = {finding.file: finding.code for finding in told}
    assert codes == {"wide.jpg": "mask-size", "empty.jpg": "bad-mask", "broken.jpg": "bad-mask",
                     "none.jpg": "missing-mask"}  # fmt: skip


def test_files_that_cannot_be_used_are_told_and_the_rest_goes_on(tmp_path, photo):
    photo("good\n\"'.png")
    rows = [
        ManifestRow("good\n\"'.png", "real"),
        ManifestRow("none.png", "real"),
        ManifestRow("../up.png", "real"),
        ManifestRow("no\udcfftext.png", "real"),
    ]
    told: list = []
    options = PrepareOptions(split={"train": 1}, workers=1)
    done = prepare_rows(rows, tmp_path, tmp_path / "out", options, note=told.append)
    assert [finding.code for finding in told] == ["missing-file", "outside-root", "not-text"]
    assert done.files == {("data", "train", "real"): 1}
    with pytest.raises(DataError, match="no file can be used; the first: none.png: there is no such file"):
        prepare_rows(rows[1:], tmp_path, tmp_path / "none", options)
    assert "meta.json" not in contents(tmp_path / "none")


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_an_explanation_file_cut_anywhere_leaves_whole_files_only(tree, tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("cut")
    for part in ("photoshop/CASIAv2_Tp", "photoshop/CASIAv2_Au"):
        shutil.copytree(tree / part, folder / part)
    text = (tree / "MMTD_Set" / "MMTD-Set-34k.json").read_bytes()
    (folder / "MMTD_Set").mkdir()
    (folder / "MMTD_Set" / "MMTD-Set-34k.json").write_bytes(text[: int(share * len(text))])
    done = prepare(folder, folder / "out")
    assert done.datasets["CASIA2_train"]["rows"] >= 3
    for entry in read_meta(done.meta):
        assert len(list(entry.samples())) == entry.length
    assert not list((folder / "out").rglob(".unfinished*"))


CLIPS = [ManifestRow("long.mp4", "real", kind="video", group_id="a"), ManifestRow("bad.mp4", "deepfake")]
CLIPS += [ManifestRow("short.mp4", "ai_generated", words="It flickers.")]


def clips_in(folder, clip):
    clip("long.mp4", n_frames=25)  # 2.5 s
    clip("short.mp4", n_frames=3)
    (folder / "bad.mp4").write_bytes((folder / "long.mp4").read_bytes()[:2000])


def test_long_clips_become_equal_stretches_and_a_bad_clip_is_told(tmp_path, clip):
    clips_in(tmp_path, clip)
    told: list = []
    options = PrepareOptions(split={"train": 1}, clip_s=1, workers=1)
    done = prepare_rows(CLIPS, tmp_path, tmp_path / "out", options, note=told.append)
    assert [(finding.code, finding.file) for finding in told] == [("unreadable-media", "bad.mp4")]
    samples = [s for entry in read_meta(done.meta) for s in entry.samples() if "explain" not in entry.name]
    assert [s.clip_s for s in samples] == [(0, 0.833), (0.833, 1.667), (1.667, 2.5), None]
    assert [s.group_id for s in samples] == ["a", "a", "a", "short.mp4"]
    assert done.datasets["data_explain_train"]["rows"] == 1 and done.files["data", "train", "fake"] == 1
    uncut = dataclasses.replace(options, clip_s=0)
    assert prepare_rows(CLIPS, tmp_path, tmp_path / "uncut", uncut).datasets["data_train"]["rows"] == 2


def test_frames_of_a_clip_share_its_group_and_split_and_are_not_made_twice(tmp_path, clip, monkeypatch):
    from internvl_detect.data.prepare import clip_rows

    clips_in(tmp_path, clip)
    options = PrepareOptions(video="frames", frames=4, workers=1)
    told: list = []
    done = prepare_rows(CLIPS, tmp_path, tmp_path / "out", options, note=told.append)
    assert [finding.code for finding in told] == ["unreadable-media"]
    samples = [sample for entry in read_meta(done.meta) for sample in entry.samples()]
    assert sorted(Counter(s.group_id for s in samples).values()) == [3, 4]
    assert len({(s.group_id, s.dataset) for s in samples}) == 2 and all(Path(s.images[0]).is_file() for s in samples)
    first = contents(tmp_path / "out")
    (tmp_path / "out" / "frames" / ".unfinished-x").mkdir()
    monkeypatch.setattr(clip_rows, "_write", lambda path, *rest: clip_rows.open_video(path))
    monkeypatch.setattr(clip_rows, "open_video", opened := Opened())
    prepare_rows(CLIPS, tmp_path, tmp_path / "out", options)
    assert contents(tmp_path / "out") == first and opened.names == ["bad.mp4"]


class Opened:
    """Stands in for opening a clip: notes its name and fails as for a broken one."""

    def __init__(self):
        self.names = []

    def __call__(self, path, **options):
        self.names.append(Path(path).name)
        raise MediaError(f"{path} is broken")


def test_processes_give_the_bytes_of_one(tmp_path, clip):
    clips_in(tmp_path, clip)
    for name, workers in (("one", 1), ("two", 2)):
        options = PrepareOptions(video="frames", frames=2, frame_format="jpg", workers=workers)
        prepare_rows(CLIPS, tmp_path, tmp_path / name, options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_mask_that_leads_out_of_the_root_makes_its_row_unusable():
    row = make_row("Where?", "No.", image="a.jpg", mask="../../etc/passwd")
    sample, found = read_row(json.dumps(row).encode(), 1, Source("d", "f", "/data"))
    assert sample is None and [finding.code for finding in found] == ["outside-root"]
    sample, _ = read_row(json.dumps(row | {"mask": "m/a.png"}).encode(), 1, Source("d", "f", "/data"))
    assert sample.mask == "/data/m/a.png"


def brute_force_parts(mask):
    seen, parts = np.zeros_like(mask), []
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        stack, cells = [start], []
        seen[start] = True
        while stack:
            y, x = stack.pop()
            cells.append((y, x))
            for a in range(max(0, y - 1), min(mask.shape[0], y + 2)):
                for b in range(max(0, x - 1), min(mask.shape[1], x + 2)):
                    if mask[a, b] and not seen[a, b]:
                        seen[a, b] = True
                        stack.append((a, b))
        ys, xs = zip(*cells, strict=True)
        parts.append(((min(xs), min(ys), max(xs) + 1, max(ys) + 1), len(cells)))
    return sorted(parts, key=lambda part: (-part[1], part[0]))


@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 14), st.floats(0, 1))
def test_the_boxes_are_those_of_the_parts_that_a_flood_fill_finds(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert part_boxes(mask) == brute_force_parts(mask)


def test_the_answer_to_where_gives_thousandths_and_leaves_specks_out():
    mask = np.zeros((3000, 2000), bool)
    mask[300:900, 1500:1800] = True
    mask[2100:2400, 0:300] = True
    mask[0, 0] = True
    said = "2 areas, about 4% of the picture, in the upper right and the lower left: "
    assert region_answer(mask) == said + "[[750, 100, 900, 300], [0, 700, 150, 800]]."
    assert region_answer(np.ones((4, 4), bool)) == "The whole picture: [[0, 0, 1000, 1000]]."


def test_the_command_prints_a_table_or_json_and_lists_what_it_left_out(tree, tmp_path):
    runner = CliRunner()
    manifest = tree / "mine.csv"
    rows = [ManifestRow("photoshop/FR_Au/image/none.jpg", "real"),
            *(dataclasses.replace(row, dataset="mine") for row in read_rows(tree, tmp_path))]  # fmt: skip
    write_manifest(manifest, rows)
    arguments = ["data", "prepare", str(manifest), "--out", str(tmp_path / "out"), "--split", "train=0.5,val=0.5"]
    shown = runner.invoke(cli.app, arguments)
    assert shown.exit_code == 0 and "left out or mended: 1 x missing-file" in shown.stdout
    told = json.loads(runner.invoke(cli.app, [*arguments, "--json"]).stdout)
    assert told["left_out"] == {"missing-file": 1} and set(told["datasets"]) == {"mine_train", "mine_val"}
    finding = json.loads((tmp_path / "out" / "findings.jsonl").read_text())
    assert finding["code"] == "missing-file" and finding["file"].endswith("none.jpg")
    manifest.unlink()


def read_rows(tree, tmp_path):
    prepare(tree, tmp_path / "first", Wanted("ps|FR"))
    return read_manifest(tmp_path / "first" / "manifest.csv")
