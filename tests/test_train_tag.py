"""Claims about ``ivdetect train-tag``: what a run leaves, what a second call does, and how it ends where it cannot.

Not here: the loop (``test_tagger_training``), the fit (``test_tagger_run``), crops (``test_tag_data``).
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from internvl_detect.cli import app, entry
from internvl_detect.data.forge import forge_folder
from internvl_detect.data.manifest import read_manifest, write_manifest
from internvl_detect.errors import CheckpointError, ConfigError, DataError, IvdetectError, OutputError
from internvl_detect.model.domain_tag import TAGS, DomainTagger
from internvl_detect.train import tag_data, tagger
from internvl_detect.train.tagger import CHECKPOINT

SHAPE = "shape={widths: [4, 8, 8, 16, 16], blocks: [0, 1, 1, 1], map_width: 8}"
SMALL = {"steps": 6, "batch": 4, "sizes_px": "[64]", "workers": 0, "save_every": 4}


def train_tag(*words, sets=(), **settings):
    """The command with small settings; its error, if it ends in one, is the result's exception."""
    given = [SHAPE, *(f"{key}={value}" for key, value in (SMALL | settings).items()), *sets]
    return CliRunner().invoke(app, ["train-tag", *map(str, words), *(w for text in given for w in ("--set", text))])


def refused(result, kind: type[IvdetectError], *said: str) -> None:
    """The command line prints this error and leaves with its code; nothing but such an error may come out of it."""
    assert isinstance(result.exception, kind), result.exception
    for text in said:
        assert text in str(result.exception)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``forged``: forgeries of made photographs in all splits; ``flat``: pictures of one colour; ``grain``: noise."""
    root, rng = tmp_path_factory.mktemp("material"), np.random.default_rng(0)
    for name in ("photographs", "flat", "grain"):
        (root / name).mkdir()
    for i in range(16):
        small = Image.fromarray(rng.integers(0, 255, (5, 6, 3), np.uint8))
        grain = rng.integers(-12, 12, (120, 160, 3))
        smooth = np.asarray(small.resize((160, 120), Image.Resampling.BICUBIC)).astype(int)
        photograph = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        photograph.save(root / "photographs" / f"{i}.png")
        photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "grain" / f"{i}.png")
        small.resize((1, 1)).resize((96, 80)).save(root / "flat" / f"{i}.png")
    forge_folder([root / "photographs"], root / "forged", per_photo=1, methods=["removal"], size=128, workers=1)
    assert {row.split for row in read_manifest(root / "forged/manifest.csv")} == {"train", "val", "test"}
    return root


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run with a generator and photographs left out: (folder of the run, what the command printed as JSON)."""
    out = tmp_path_factory.mktemp("runs") / "tagger"
    words = (folder / "forged/manifest.csv", "--out", out, "--generated", f"flat={folder / 'flat'}")
    result = train_tag(*words, "--left-out", "flat", "--most", 40, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.exception
    return out, words, json.loads(result.stdout)


def test_a_run_leaves_a_tagger_that_detection_takes_and_tells_what_it_measured(folder, finished, tmp_path):
    out, _, said = finished
    assert said == json.loads((out / "run.json").read_text())
    assert sorted(p.name for p in out.iterdir()) == [CHECKPOINT, "run.json", "tagger"]
    seen = DomainTagger.load(out / "tagger", "cpu").look(Image.open(folder / "flat/0.png"))
    assert sum(seen.probabilities.values()) == pytest.approx(1) and tuple(seen.probabilities) == TAGS
    rows = tmp_path / "rows.jsonl"
    words = [str(folder / "grain/0.png"), "--tagger", str(out / "tagger"), "--out", str(rows)]
    assert CliRunner().invoke(app, ["detect", *words]).exit_code == 0
    assert json.loads(rows.read_text())["domain_tag"] in TAGS


def test_a_left_out_generator_is_measured_alone_and_its_pictures_are_trained_on_by_no_one(finished):
    _, _, said = finished
    assert said["left_out"] == ["flat"]
    assert set(said["metrics"]["left_out"]["by_source"]) == {"flat"}
    assert set(said["metrics"]["test"]["by_source"]) == set(said["metrics"]["val"]["by_source"]) == {"forged"}
    assert "auc_ai_generated" not in said["metrics"]["test"]["all"]
    flat = sum(n for key, n in said["rows"].items() if key.endswith("/ai_generated/flat"))
    authentic = said["rows"]["test/authentic/forged"]
    assert flat == 16 and said["metrics"]["left_out"]["all"]["pictures"] == min(40, flat + authentic)


def test_left_out_photographs_are_held_against_the_fakes_of_the_test_split(folder, tmp_path):
    words = (folder / "forged/manifest.csv", "--out", tmp_path, "--real", f"grain={folder / 'grain'}")
    result = train_tag(*words, "--left-out", "grain", "--json", steps=1)
    said = json.loads(result.stdout)
    fakes = said["rows"]["test/photoshop/forged"]
    assert said["metrics"]["left_out"]["all"]["pictures"] == 16 + fakes
    assert 0 <= said["metrics"]["left_out"]["all"]["image_auc"] <= 1


def test_the_same_command_again_trains_no_step_and_measures_the_same(finished):
    out, words, said = finished
    before = (out / CHECKPOINT).read_bytes()
    again = train_tag(*words, "--left-out", "flat", "--most", 40, "--json", "--device", "cpu")
    told = json.loads(again.stdout)
    assert (out / CHECKPOINT).read_bytes() == before
    assert {**told, "seconds": 0} == {**said, "seconds": 0}


def test_a_killed_run_goes_on_from_its_checkpoint(folder, tmp_path, monkeypatch):
    words = (folder / "forged/manifest.csv", "--out", tmp_path)
    drawn = []
    monkeypatch.setattr(tagger, "cut", lambda *given, **how: drawn.append(1) or tag_data.cut(*given, **how))

    def killed(text, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("internvl_detect.cli.train_tag.typer.echo", killed)  # told of step 50
        assert train_tag(*words, steps=52, save_every=40).exit_code == 130
    assert len(drawn) == 50 * 4 and not (tmp_path / "tagger").exists() and not (tmp_path / "run.json").exists()
    result = train_tag(*words, steps=52, save_every=40)
    assert result.exit_code == 0 and len(drawn) == 50 * 4 + 12 * 4
    assert DomainTagger.load(tmp_path / "tagger", "cpu").channels == 8


@pytest.mark.parametrize(
    ("changed", "named"), [({"lr": 0.01}, "lr"), ({"steps": 9}, "steps"), ({"seed": 3}, "seed"), ({}, "pictures")]
)
def test_a_folder_of_another_run_is_refused_and_stays_as_it_was(folder, finished, changed, named):
    out, words, _ = finished
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    more = () if changed else ("--real", f"grain={folder / 'grain'}")
    refused(train_tag(*words, "--left-out", "flat", *more, **changed), ConfigError, f"with other {named}.")
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_it_goes_on_from_another_tagger_with_that_one_s_shape(folder, finished, tmp_path):
    out, _, said = finished
    words = (folder / "forged/manifest.csv", "--out", tmp_path, "--start", out / "tagger", "--json")
    result = train_tag(*words, steps=1, sets=["shape={map_width: 16}"])
    assert json.loads(result.stdout)["recipe"]["shape"] == said["recipe"]["shape"]
    refused(train_tag(*words[:3], "--start", folder / "forged", steps=1), CheckpointError, "tagger.json is missing")


def test_a_recipe_file_is_read_and_options_are_laid_over_it(folder, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lr: 4e-3\nsteps: 900\nshape: {widths: [4, 8, 8, 16, 16], blocks: [0, 1, 1, 1]}\n")
    small = {"steps": 1, "batch": 2, "sizes_px": "[64]", "workers": 0, "lr": "2e-3", "shape.map_width": 8}
    words = ["train-tag", folder / "forged/manifest.csv", "--out", tmp_path / "run", "--config", recipe, "--json"]
    words += [w for key, value in small.items() for w in ("--set", f"{key}={value}")]
    said = json.loads(CliRunner().invoke(app, list(map(str, words))).stdout)["recipe"]
    assert (said["lr"], said["steps"], said["shape"]["map_width"]) == (2e-3, 1, 8)
    assert said["shape"]["widths"] == [4, 8, 8, 16, 16]


@pytest.mark.parametrize(
    "setting",
    [
        "stepz=3",
        "steps",
        "steps=",
        "lr=fast",
        "lr=.nan",
        "seed=-1",
        "workers=-1",
        "map_weight=x",
        "strength=2",
        "shares=[0, 0, 0, 0, 0]",
        "sizes_px=[]",
        "shape=3",
        "shape.wide=3",
        "shape={widths: [4, 8]}",
        "shape.tags=3",
        "shape.map_width=0",
        "steps=[1",
        "seed=2020-99-99",
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_before_anything_is_made(folder, tmp_path, setting):
    result = train_tag(folder / "forged/manifest.csv", "--out", tmp_path / "run", sets=[setting])
    refused(result, ConfigError)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--set", "stepz=3"], 2),
        (["--left-out", "nobody"], 2),
        (["--start", "nowhere"], 4),
        (["--real", "cameras=nowhere"], 5),
    ],
)
def test_it_ends_in_one_sentence_and_the_documented_exit_code(folder, tmp_path, monkeypatch, capsys, words, code):
    given = ["ivdetect", "train-tag", str(folder / "forged/manifest.csv"), "--out", str(tmp_path / "run"), *words]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit) as left:
        entry.main()
    said = capsys.readouterr().err
    assert left.value.code == code and said.startswith("ivdetect: ") and len(said.splitlines()) == 1


def test_what_is_not_there_is_named(folder, tmp_path):
    manifest, out = folder / "forged/manifest.csv", ("--out", tmp_path / "run")
    assert train_tag(*out).exit_code == 2  # no manifest at all
    refused(train_tag(tmp_path / "none.csv", *out), DataError, "none.csv could not be read")
    refused(train_tag(manifest, *out, "--config", tmp_path / "none.yaml"), ConfigError, "none.yaml cannot be read")
    refused(train_tag(manifest, *out, "--start", tmp_path / "none"), CheckpointError, "none does not exist")
    refused(train_tag(manifest, *out, "--left-out", "forgd"), ConfigError, 'Did you mean "forged"?')
    refused(train_tag(manifest, *out, "--device", "toaster"), ConfigError, "'toaster' cannot be used")
    refused(train_tag(manifest, "--out", manifest), OutputError, "manifest.csv cannot be used")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--real", "--generated"])
def test_a_named_folder_must_be_one_with_pictures_and_a_name_of_its_own(folder, tmp_path, option):
    manifest, out = folder / "forged/manifest.csv", ("--out", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    refused(train_tag(manifest, *out, option, "x=nowhere"), DataError, "nowhere is no folder", "NAME=FOLDER")
    refused(train_tag(manifest, *out, option, f"={folder / 'flat'}"), DataError, "NAME=FOLDER")
    refused(train_tag(manifest, *out, option, f"x={tmp_path / 'empty'}"), DataError, "no pictures in")
    twice = (option, f"x={folder / 'flat'}", option, f"x={folder / 'grain'}")
    refused(train_tag(manifest, *out, *twice), DataError, "given twice")


def test_one_class_and_a_missing_split_are_told_by_the_split_s_name(folder, tmp_path):
    rows = list(read_manifest(folder / "forged/manifest.csv"))
    forged = shutil.copytree(folder / "forged", tmp_path / "forged")

    def of(kept) -> str:
        return write_manifest(forged / "manifest.csv", [row for row in rows if kept(row)])

    words = ("--out", tmp_path / "run")
    refused(train_tag(of(lambda r: r.label == "real"), *words), DataError, "'train' has only authentic")
    refused(train_tag(of(lambda r: r.label != "real"), *words), DataError, "'train' has only photoshop")
    no_fakes = of(lambda r: r.label == "real" or r.split != "val")
    refused(train_tag(no_fakes, *words), DataError, "'val' has only authentic")
    refused(train_tag(of(lambda r: r.split != "val"), *words), DataError, "no pictures of the split 'val'")


def test_files_that_cannot_be_read_are_passed_over_and_told_and_only_a_class_of_them_ends_it(folder, tmp_path):
    forged = shutil.copytree(folder / "forged", tmp_path / "forged")
    fakes = [row for row in read_manifest(forged / "manifest.csv") if row.label != "real"]
    (forged / next(row.path for row in fakes if row.split == "test")).write_bytes(b"no picture")
    words = (forged / "manifest.csv", "--out", tmp_path / "run")
    result = train_tag(*words)
    assert result.exit_code == 0 and "could not be looked at: 1, the first" in result.stdout
    val = [row.path for row in fakes if row.split == "val"]
    for path in val:
        (forged / path).write_bytes(b"no picture")
    refused(train_tag(*words), DataError, "'val'", val[0])


def test_a_stranger_s_tag_is_shown_without_its_control_characters(folder, tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text('path,label,domain_tag,split\na.png,tampered,"\x1b[2Jx",train\n')
    refused(train_tag(manifest, "--out", tmp_path / "run"), DataError, "\\x1b[2Jx", "photoshop")
    manifest.write_text("path,label,split\na.png,fake,train\n")
    refused(train_tag(manifest, "--out", tmp_path / "run"), DataError, 'label "fake" and no domain tag')


def test_a_broken_checkpoint_is_named_with_what_to_do(finished):
    out, words, _ = finished
    (out / CHECKPOINT).write_bytes(b"junk")
    refused(train_tag(*words, "--left-out", "flat"), CheckpointError, CHECKPOINT, "Remove it")
