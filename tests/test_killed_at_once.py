"""Claims about commands that take a folder: killed at whatever it writes first, the same command goes on to the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from test_forge import photograph
from typer.testing import CliRunner

from internvl_detect.cli.entry import app

FIRST = 8  # of what a command does to its folder
DIES = """
import os, signal, sys
out, left = os.path.realpath(sys.argv[1]), int(sys.argv[2])
def watch(event, given):
    global left
    if event not in ("open", "os.mkdir", "os.rename", "os.chmod", "os.remove"):
        return
    if any(isinstance(name, (str, bytes)) and os.fsdecode(name).startswith(out) for name in given):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
from internvl_detect.cli.entry import main
sys.addaudithook(watch)
sys.argv[1:] = sys.argv[3:]
main()
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """Two photographs, and one conversation about each."""
    folder = tmp_path_factory.mktemp("given")
    for label in ("real", "fake"):
        (folder / "tree" / label).mkdir(parents=True)
        Image.fromarray(photograph(150, 160, seed=len(label))).save(folder / "tree" / label / "a.png")
    talk = [{"from": "human", "value": "<image>\nReal?"}, {"from": "gpt", "value": "Yes."}]
    row = {"id": 0, "image": "real/a.png", "conversations": talk}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    entry = {"root": "tree", "annotation": "rows.jsonl", "data_augment": False, "repeat_time": 1, "length": 1}
    (folder / "meta.json").write_text(json.dumps({"mine": entry}))
    return folder


def command(kind: str, given: Path, out: Path) -> list[str]:
    words = {
        "forge": f"data forge {given / 'tree'} --out {out} --methods copy_move --size 160 --workers 1",
        "prepare": f"data prepare {given / 'tree'} --out {out}",
        "shards": f"data shards {given / 'meta.json'} --out {out} --workers 1",
    }
    return words[kind].split()


@pytest.mark.parametrize("kind", ["forge", "prepare", "shards"])
def test_a_command_that_was_killed_at_whatever_it_wrote_first_goes_on(kind, given, tmp_path):
    runs = {str(number): command(kind, given, tmp_path / str(number)) for number in range(FIRST)}
    begun = [subprocess.Popen([sys.executable, "-c", DIES, tmp_path / n, n, *words]) for n, words in runs.items()]
    assert {process.wait() for process in begun} == {-signal.SIGKILL}
    for words in runs.values():
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
