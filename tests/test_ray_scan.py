"""Claims about bulk scanning on Ray: the local rows, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from internvl_detect.detect import Detector, engine_ray
from internvl_detect.detect.command import DetectCommand
from internvl_detect.detect.engine_ray import Judge, OnRay
from internvl_detect.detect.engines import Where
from internvl_detect.detect.results_file import load_rows
from internvl_detect.errors import CheckpointError
from internvl_detect.verdict import Failure, Verdict

OPTIONS = {"explain": False, "frames": 2, "regions": False, "workers": 1}


@pytest.fixture(scope="module", autouse=True)
def end_ray():
    """Ray starts with the first test that needs it, and serves them all."""
    yield
    sys.modules["ray"].shutdown()


@pytest.fixture
def on_ray(tiny_folder):
    return OnRay(2, str(tiny_folder), None, {"device": "cpu"})


@pytest.fixture
def paths(photo, clip, tmp_path):
    (tmp_path / "broken.jpg").write_text("no picture")
    made = [photo(f"{i}.png", (60 + 8 * i, 90), i) for i in range(8)]
    return [str(p) for p in [*made[:3], tmp_path / "broken.jpg", clip(), *made[3:], tmp_path / "absent.png"]]


class Light(Judge):
    """An actor without a model, which one picture ends as a crash in a decoder would."""

    def __init__(self, *_):
        pass

    def __call__(self, row):
        from ray.cloudpickle import dumps, loads

        paths = loads(row["blob"])
        if any("deadly" in path for path in paths):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        rows = [Verdict(path, "image", 0.5, 0.5, "unsure", "real", "light", {}) for path in paths]
        return {"chunk": row["chunk"], "blob": dumps(({}, rows))}


def same(local, rows):
    assert len(rows) == len(local)
    for ours, theirs in zip(local, rows, strict=True):
        assert type(ours) is type(theirs) and ours.path == theirs.path
        if isinstance(ours, Verdict):
            assert theirs.score == pytest.approx(ours.score, abs=1e-6) and theirs.label == ours.label
            assert (theirs.sha256, len(theirs.frames)) == (ours.sha256, len(ours.frames))


def test_rows_are_the_local_ones_and_relative_paths_stay_as_they_were(
    on_ray, tiny_folder, paths, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    named = [os.path.relpath(p, tmp_path) for p in paths]
    found = dict(on_ray.rows([*named, Failure("rows:3", "no path", 5)], batch_size=2, **OPTIONS))
    local = list(Detector.from_pretrained(tiny_folder).detect_many(named, frames=2))
    same([*local, Failure("rows:3", "no path", 5)], [found[i] for i in range(len(named) + 1)])
    assert on_ray.facts["model"] == "tiny"


def test_a_file_that_ends_its_actor_is_lost_alone(on_ray, monkeypatch):
    monkeypatch.setattr(engine_ray, "Judge", Light)
    files = ["a", "b", "c", "deadly", "e", "f", "g"]
    found = dict(on_ray.rows(files, batch_size=2, **OPTIONS))
    assert len(found) == 7 and isinstance(found[3], Failure) and "died" in found[3].error
    assert all(isinstance(found[i], Verdict) and found[i].path == files[i] for i in found if i != 3)


def test_an_actor_that_is_killed_in_the_middle_costs_no_row(on_ray, monkeypatch):
    monkeypatch.setattr(engine_ray, "Judge", Light)
    found = {}
    for at, row in on_ray.rows([str(i) for i in range(60)], batch_size=1, **OPTIONS):
        if not found:
            os.kill(actors()[0], signal.SIGKILL)
        assert at not in found
        found[at] = row
    assert len(found) == 60 and all(isinstance(row, Verdict) for row in found.values())


def test_a_model_that_does_not_load_is_one_error_in_words(tmp_path, paths):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="missing"):
        list(OnRay(1, str(tmp_path / "empty"), None, {}).rows(paths[:2], batch_size=1, **OPTIONS))


def test_a_driver_that_is_killed_is_gone_on_with(tiny_folder, photo, tmp_path):
    paths = [str(photo(f"in/{i}.png", (300, 300), i)) for i in range(40)]
    out = tmp_path / "rows.jsonl"
    arguments = [str(tmp_path / "in"), "--model", str(tiny_folder), "--engine", "ray", "--ray-workers", "2"]
    arguments += ["--batch-size", "1", "--device", "cpu", "--out", str(out)]
    command = [sys.executable, "-m", "internvl_detect.cli", "detect", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        until = time.monotonic() + 120
        while not (out.exists() and out.read_bytes().count(b"\n") >= 3):
            assert time.monotonic() < until and driver.poll() is None
            time.sleep(0.01)
        driver.kill()
    before = [row.path for row in load_rows(out)]
    assert 3 <= len(before) < 40
    run = DetectCommand(out=out, resume=True, batch_size=8, where=Where(engine="ray", ray_workers=2))
    assert run.run([str(tmp_path / "in")], str(tiny_folder), None, device="cpu") == 0
    rows = [row.path for row in load_rows(out)]
    assert sorted(rows) == sorted(paths) and rows[: len(before)] == before


def actors() -> list[int]:
    """Ray's actors that descend from this process."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"ray::MapWorker" in (entry / "cmdline").read_bytes() and ours(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
