"""Claims about the one command that rebuilds the shipped weights: it makes them all, once, and goes on after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import yaml
from PIL import Image

from internvl_detect.data.forge.plan import SHARES
from internvl_detect.data.manifest import ManifestRow, split_by_group
from internvl_detect.detect import Detector
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.model import embedded as shipped
from internvl_detect.model.domain_tag import DomainTagger
from internvl_detect.model.fusion import Fusion
from internvl_detect.model.settings import AdapterSettings
from internvl_detect.train import embedded, embedded_stages, fuse
from internvl_detect.train.embedded import parsed, rebuild
from internvl_detect.train.material import SEED
from internvl_detect.train.nano_weights import corpus_patches

FUSION = Fusion(model=0.5, tag=0.5)


def lively(path: Path, rng: np.random.Generator) -> None:
    small = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8))
    rgb = np.asarray(small.resize((120, 96), Image.Resampling.BICUBIC), np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(rgb + rng.integers(-9, 10, rgb.shape), 0, 255).astype(np.uint8)).save(path)


def names(source: str) -> list[str]:
    """File names of five pictures for training, two for validation and two for the test."""
    rows = [ManifestRow(f"{source}/{i}.png", "real", group_id=f"{source}/{i}.png") for i in range(80)]
    split = {row.path: row.split for row in split_by_group(rows, dict(SHARES), SEED)}
    of = {part: [name for name in split if split[name] == part] for part in ("train", "val", "test")}
    return of["train"][:5] + of["val"][:2] + of["test"][:2]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Photographs of two sources, pictures of one generator, recipes of a few steps, a tiny embedded base."""
    folder, rng = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    for kind, source in (("photographs", "city"), ("photographs", "forest"), ("generated", "gan")):
        for name in names(source):
            lively(folder / kind / name, rng)
    (folder / "recipes").mkdir()
    for name in embedded.USED:
        values = yaml.safe_load((embedded.RECIPES / f"{name}.yaml").read_text())
        if name == "tagger":
            values |= {"steps": 3, "batch": 4, "sizes_px": [64], "workers": 0, "save_every": 2}
            values["shape"] = {"widths": [4, 8, 8, 16, 16], "blocks": [0, 1, 1, 1], "map_width": 8}
        elif name == "semantic":
            values |= {"steps": 1, "batch": 2, "workers": 0}
        else:
            values |= {"max_steps": 2, "batch_size": 4, "workers": 0, "save_steps": 1}
            values["eval"] |= {"steps": 1, "max_samples": 6}
        (folder / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(values))
    tiny.write_base(folder / "embedded" / "nano")
    return folder


def words(given: Path, out: Path, *more: str) -> list[str]:
    folders = [f"--{name}={given / name}" for name in ("photographs", "generated", "recipes")]
    how = "--kinds nearest4 wide8g --seconds 0.3 --share 0.6 --rows-share 1 --size 128 --workers 1 --device cpu"
    return [*folders, f"--out={out}", *how.split(), *more]


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(given, tmp_path_factory):
    """A build that was killed while it forged and called again: its words, its folder, and the decoders' times at the
    kill. The tiny base is in the embedded one's place; so short a training tells nothing, so the weights are given."""
    out = tmp_path_factory.mktemp("built") / "out"
    argv = words(given, out, "--left-out", "forest")
    process = subprocess.Popen([sys.executable, "-m", "internvl_detect.train.embedded", *argv])
    stages = out / "stages.json"
    while process.poll() is None and not (stages.is_file() and '"edits"' in stages.read_text()):
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = times(out / "material" / "decoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipped, "FOLDER", given / "embedded")
        patch.setattr(fuse, "fit_fusion", lambda odds: FUSION)
        assert embedded.main(argv) == 0
        yield SimpleNamespace(argv=argv, out=out, decoders=before)


def stages_of(out: Path) -> dict[str, dict[str, float]]:
    return json.loads((out / "stages.json").read_text())["stages"]


def test_after_a_kill_the_same_command_goes_on_and_what_was_done_is_not_done_again(built):
    assert len(built.decoders) == 2 and times(built.out / "material" / "decoders") == built.decoders
    found = stages_of(built.out)
    assert list(found) == [*(step.__name__ for step in embedded_stages.STEPS), "left_out/forest"]
    assert {name: one["attempts"] for name, one in found.items() if one["attempts"] > 1} == {"edits": 2}
    whole = json.loads((built.out / "stages.json").read_text())["seconds"]
    assert whole == pytest.approx(sum(one["seconds"] for one in found.values()), abs=0.1)


def test_what_comes_out_is_laid_out_as_the_package_s_and_detects_and_draws(built, given):
    made = built.out / "embedded"
    assert sorted(path.name for path in made.iterdir()) == ["nano", "nano_lora", "tagger"]
    detector = Detector.from_pretrained(made / "nano", made / "nano_lora", tagger=made / "tagger")
    verdict = detector.detect(next((given / "photographs" / "city").iterdir()), mask=True)
    assert verdict.mask is not None and verdict.domain_tag is not None
    assert {path.stat().st_mode & 0o777 for path in made.glob("*/*")} == {0o644}
    stored = AdapterSettings.read(made / "nano_lora")
    assert stored.fusion == FUSION.to_dict() and "forest" in stored.calibration["fitted_on"]
    fitted = json.loads((built.out / "fusion" / "fit.json").read_text())
    assert "real/forest" in fitted["kept"]["by_source"] and {"real/city", "fake/gan"} <= set(
        fitted["weighed"]["by_source"]
    )


def test_a_source_that_is_left_out_takes_all_that_was_forged_from_it_along(built):
    away = json.loads((built.out / "left_out" / "forest" / "run.json").read_text())
    assert set(away["metrics"]["left_out"]["by_source"]) == {"forest"}
    assert {key.split("/")[1] for key in away["rows"] if key.endswith("/forest")} >= {"authentic", "photoshop"}


def test_a_further_call_does_nothing_and_other_settings_are_refused(built, capsys):
    before = times(built.out)
    assert embedded.main(built.argv) == 0
    assert times(built.out) == before
    assert embedded.main([*built.argv, "--share", "0.5"]) == ConfigError.exit_code
    assert "share" in capsys.readouterr().err


def test_a_stage_whose_end_was_not_written_down_is_done_again_to_the_same_bytes(built):
    files = [built.out / "embedded" / name for name in ("tagger/tagger.safetensors", "nano/model.safetensors")]
    whole, said = [file.read_bytes() for file in files], json.loads((built.out / "stages.json").read_text())
    for name in ("export", "result"):
        del said["stages"][name]["seconds"]
    (built.out / "stages.json").write_text(json.dumps(said))
    for file in files:
        file.write_bytes(b"half a fi")
    rebuild(parsed(built.argv))
    assert [file.read_bytes() for file in files] == whole


def test_rows_of_a_killed_run_are_the_same_and_no_picture_is_looked_at_twice(built, monkeypatch):
    written = built.out / "rows" / "guesses.jsonl"
    files = sorted(path for path in (built.out / "rows").glob("*.json*") if path != written)
    whole, lines = [path.read_bytes() for path in files], written.read_bytes().splitlines()
    written.write_bytes(b"\n".join(lines[:-3]) + b"\n" + lines[-3][:20])
    looked, look = [], DomainTagger.look
    monkeypatch.setattr(DomainTagger, "look", lambda self, picture: looked.append(1) or look(self, picture))
    embedded_stages.rows(parsed(built.argv))
    assert len(looked) == 3 and [path.read_bytes() for path in files] == whole


def test_a_fresh_base_takes_its_filters_from_the_rows(built):
    patches = corpus_patches(built.out / "rows", pictures=3, each=4)
    assert patches.shape == (12, 14, 14, 3) and patches.std() > 0
    with pytest.raises(DataError, match="no training pictures"):
        corpus_patches(built.out)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--kinds", "nearest7"], "nearest7"),
        (["--share", "0"], "above 0"),
        (["--size", "96"], "128 px"),
        (["--start", "other"], "nano or fresh"),
        (["--left-out", "nobody"], "nobody"),
        (["--faces", "photographs"], "both have a source"),
        (["--photographs", "photographs/city"], "one source"),
        (["--photographs", "nowhere"], "no folder"),
        (["--calibrate-real", "photographs"], "to train and to calibrate on"),
        (["--recipes", "photographs"], "no such file"),
    ],
)
def test_what_cannot_work_is_told_before_any_work(more, said, given, tmp_path, capsys):
    more = [str(given / word) if (given / word).exists() or word == "nowhere" else word for word in more]
    assert embedded.main([*words(given, tmp_path / "out"), *more]) in (ConfigError.exit_code, DataError.exit_code)
    assert said in capsys.readouterr().err and not (tmp_path / "out" / "material").exists()
