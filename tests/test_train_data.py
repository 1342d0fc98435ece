"""Claims about what training reads: lengths known beforehand, the same pictures every time, broken rows listed."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny

from internvl_detect.config import load_train_config
from internvl_detect.data.conversations.meta import Sample, make_row, write_jsonl, write_meta
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.train import finetune
from internvl_detect.train.corpus import Encoding, open_corpus, overlap, picture_size
from internvl_detect.train.dataset import Rows, encode_sample
from internvl_detect.train.packing import plan_run

pytest_plugins = ["training_fixtures"]


@pytest.fixture
def broken_data(place, tmp_path):
    """Three good rows, a text file named .png, a missing file, a bad line, and a row whose text is too long."""
    root = tmp_path / "broken"
    root.mkdir()
    rows = [make_row(tiny.QUESTION, "No.", image=f"pictures{i}.png") for i in range(3)]
    for i in range(3):
        shutil.copy(place / "data" / "pictures" / f"pictures{i}.png", root)
    (root / "text.png").write_text("this is no picture")
    rows.append(make_row(tiny.QUESTION, "Yes.", image="text.png"))
    rows.append(make_row(tiny.QUESTION, "Yes.", image="nowhere.png"))
    rows.append(make_row(" ".join(["word"] * 400), "Yes.", image="pictures0.png"))
    write_jsonl(root / "rows.jsonl", rows)
    with open(root / "rows.jsonl", "a") as file:
        file.write("{broken\n")
    return write_meta(root / "meta.json", {"pictures": {"root": ".", "annotation": "rows.jsonl"}}) or root / "meta.json"


def test_broken_samples_are_left_out_counted_and_listed_with_their_line(settings_of, broken_data):
    result = finetune.run(settings_of(f"data_path={broken_data}", "batch_size=3", "max_steps=2"))
    listed = [json.loads(line) for line in (result.folder / "skipped.jsonl").read_text().splitlines()]
    assert result.skipped == 4 and sorted(row["line"] for row in listed) == [4, 5, 6, 7]
    assert "max_tokens" in next(row["problem"] for row in listed if row["line"] == 6)


def test_a_broken_sample_ends_the_run_where_that_is_asked_for(settings_of, broken_data):
    with pytest.raises(DataError, match=r"rows\.jsonl:4"):
        finetune.run(settings_of(f"data_path={broken_data}", "on_broken=error"))


def test_a_picture_that_breaks_during_training_is_left_out_or_ends_the_run(settings_of, broken_data, monkeypatch):
    victim = broken_data.parent / "pictures1.png"
    whole = victim.read_bytes()
    scan = finetune._scan

    def scan_then_break(*args):
        scan(*args)
        victim.write_bytes(whole[: len(whole) // 2])

    monkeypatch.setattr(finetune, "_scan", scan_then_break)
    result = finetune.run(settings_of(f"data_path={broken_data}", "batch_size=3", "max_steps=2"))
    assert result.skipped == 5
    victim.write_bytes(whole)
    rows = [line for i, line in enumerate((broken_data.parent / "rows.jsonl").read_text().splitlines()) if i < 3]
    (broken_data.parent / "rows.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        finetune.run(settings_of(f"data_path={broken_data}", "on_broken=error", "batch_size=3", out="ends"))


def test_nothing_usable_is_an_error_that_names_the_first_problem(settings_of, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [make_row(tiny.QUESTION, "No.", image="none.png")])
    write_meta(tmp_path / "meta.json", {"pictures": {"root": ".", "annotation": "rows.jsonl"}})
    with pytest.raises(DataError, match=r"none of 1 samples.*none\.png"):
        finetune.run(settings_of(f"data_path={tmp_path / 'meta.json'}"))


@pytest.fixture(scope="module")
def encoding(place):
    from internvl_detect.model.tokenizer import build_tokenizer

    config = load_train_config(None, tiny.tiny_settings(place / "base", place / "data" / "meta.json", place), {})
    return Encoding.of(config, build_tokenizer(place / "base"), 1, 28)


def question_of(images, **more):
    text = "<image>\n" * len(images) + tiny.QUESTION
    fields = {"system": None, "label": "fake", "data_augment": False, "max_tiles": None, "group_id": None}
    return Sample("d", 1, tuple(images), None, (("user", text), ("assistant", "Yes.")), **{**fields, **more})


def test_a_long_sample_gets_fewer_tiles_and_never_a_cut_text(encoding):
    sizes = [(280, 28)]
    free = encoding.fit(question_of(["a"]), sizes)
    assert free.tiles_per_image == (5,)
    tight = dataclasses.replace(encoding, max_tokens=free.length - 1)
    fewer = tight.fit(question_of(["a"]), sizes)
    assert fewer.tiles_per_image[0] < 5 and fewer.length <= tight.max_tokens
    assert len(encoding.encode(question_of(["a"]), fewer.tiles_per_image).input_ids) == fewer.length
    with pytest.raises(DataError, match="Shorten the text"):
        dataclasses.replace(encoding, max_tokens=30).fit(question_of(["a"]), sizes)


def test_several_pictures_share_the_tiles_and_a_dataset_may_set_its_own_limit(encoding):
    assert encoding.fit(question_of(["a", "b"]), [(280, 28)] * 2).tiles_per_image == (3, 3)
    assert encoding.fit(question_of(["a"], max_tiles=1), [(280, 28)]).tiles_per_image == (1,)


def test_the_length_known_beforehand_is_the_length_that_training_sees(settings_of, encoding, place):
    corpus = open_corpus(settings_of(), "all")
    corpus.scan(encoding)
    for number in range(len(corpus)):
        assert len(encode_sample(corpus[number], encoding).input_ids) == corpus.lengths[number]


def test_a_row_depends_on_seed_epoch_and_sample_alone(settings_of, encoding):
    config = settings_of()
    corpus = open_corpus(config, "pictures")
    corpus.scan(encoding)
    plan = plan_run(corpus.lengths, batch_size=4, max_tokens=256, epochs=2, seed=1)

    def pixels(seed, row):
        return [item.pixels for item in Rows(corpus, encoding, plan, seed=seed)[row]]

    for row in (0, len(plan.rows) - 1):
        assert all(map(np.array_equal, pixels(5, row), pixels(5, row)))
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(pixels(5, 0), pixels(6, 0), strict=True))


def test_the_size_from_the_header_is_that_of_the_upright_picture(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (40, 20)).save(tmp_path / "plain.png")
    assert picture_size(str(tmp_path / "turned.jpg")) == (20, 40)
    assert picture_size(str(tmp_path / "plain.png")) == (40, 20)


@pytest.fixture
def clip(tmp_path):
    """A clip of 12 frames that get brighter, and a short one of 2."""
    import av

    for name, frames in (("long", 12), ("short", 2)):
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as out:
            stream = out.add_stream("mpeg4", rate=5)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(frames):
                picture = np.full((48, 64, 3), 20 * i, np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            out.mux(stream.encode(None))
    return tmp_path


def test_a_clip_becomes_one_tile_a_frame_and_fewer_frames_where_it_is_too_long(clip, encoding):
    def sample(name):
        turns = (("user", f"<video>\n{tiny.QUESTION}"), ("assistant", "No."))
        return Sample("d", 1, (), str(clip / f"{name}.mp4"), turns, None, "real", False, None, None)

    roomy = dataclasses.replace(encoding, max_tokens=600)
    whole = encode_sample(sample("long"), roomy)
    assert whole.pixels.shape == (8, 28, 28, 3) and whole.truth == 0
    assert (np.diff(whole.pixels.mean((1, 2, 3))) > 5).all()
    assert len(whole.input_ids) == roomy.fit(sample("long"), []).length
    tight = dataclasses.replace(encoding, max_tokens=len(whole.input_ids) - 1)
    fewer = encode_sample(sample("long"), tight)
    assert 1 <= len(fewer.pixels) < 8 and len(fewer.input_ids) <= tight.max_tokens
    assert len(encode_sample(sample("short"), roomy).pixels) == 8


def test_clips_pictures_and_words_train_together(clip, settings_of, place):
    rows = [make_row(f"<video>\n{tiny.QUESTION}", "No.", video=f"{name}.mp4") for name in ("long", "short")]
    write_jsonl(clip / "clips.jsonl", rows)
    meta = json.loads((place / "data" / "meta.json").read_text())
    for entry in meta.values():
        entry |= {k: str(place / "data" / entry[k]) for k in ("root", "annotation")}
    write_meta(clip / "meta.json", {**meta, "clips": {"root": ".", "annotation": "clips.jsonl"}})
    config = settings_of(f"data_path={clip / 'meta.json'}", "train_data_choice=all", "max_tokens=512", "max_steps=3")
    result = finetune.run(config)
    assert result.skipped == 0 and result.steps == 3
    assert json.loads((result.folder / "run.json").read_text())["samples"] == 29


def test_all_means_all_but_what_is_validated_on_and_an_overlap_is_told(settings_of, capsys):
    result = finetune.run(settings_of("train_data_choice=all", "val_data_choice=held", "max_steps=1"))
    facts = json.loads((result.folder / "run.json").read_text())
    assert facts["samples"] == 15 and facts["shared_with_validation"] == ""
    both = finetune.run(settings_of("train_data_choice=held", "val_data_choice=held", "max_steps=1", out="both"))
    assert json.loads((both.folder / "run.json").read_text())["shared_with_validation"] == "1 datasets"
    assert "share 1 datasets" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="every dataset"):
        open_corpus(settings_of(), "all", without="all")


def test_a_source_that_is_in_training_and_validation_is_told(settings_of, place, tmp_path, encoding):
    for name in ("one", "other"):
        rows = [make_row(tiny.QUESTION, "No.", image="pictures0.png", group_id=g) for g in ("camera", name)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    root = str(place / "data" / "pictures")
    meta = {name: {"root": root, "annotation": f"{name}.jsonl"} for name in ("one", "other")}
    write_meta(tmp_path / "meta.json", meta)
    parts = [open_corpus(settings_of(f"data_path={tmp_path / 'meta.json'}"), name) for name in meta]
    for part in parts:
        part.scan(encoding)
    assert overlap(*parts) == "1 sources (group_id)"


def test_prepared_validation_and_test_rows_are_not_trained_on_unless_named(settings_of, place, tmp_path):
    (tmp_path / "a.jsonl").write_text((place / "data" / "pictures.jsonl").read_text("utf-8"))
    root = str(place / "data" / "pictures")
    meta = {
        f"mine_{split}": {"root": root, "annotation": "a.jsonl", "split": split} for split in ("train", "val", "test")
    }
    write_meta(tmp_path / "meta.json", {n: {**given, "dataset": "mine"} for n, given in meta.items()})
    config = settings_of(f"data_path={tmp_path / 'meta.json'}")

    def names(choice: str, **options: str) -> list[str]:
        return [entry.name for entry in open_corpus(config, choice, **options).entries]

    assert names("all") == names("") == names("mine") == names("all", without="mine") == ["mine_train"]
    assert names("mine", split="val") == ["mine_val"] and names("mine_test") == ["mine_test"]
