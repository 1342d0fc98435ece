"""Claims about training in several processes: the numbers are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import losses

from internvl_detect.train import finetune

pytest_plugins = ["training_fixtures"]


def test_two_processes_give_the_losses_of_one(settings_of, tmp_path):
    more = ["lora.dropout=0", "train_data_choice=all", "max_steps=3", "val_data_choice=held", "eval.steps=3"]
    alone = finetune.run(settings_of(*more, out="alone"))
    config = settings_of(*more, "gpus=2", out="two")
    (tmp_path / "two.yaml").write_text(config.to_yaml())
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from internvl_detect.train import finetune\n"
        "from internvl_detect.config import load_train_config\n"
        "finetune.run(load_train_config(sys.argv[1], [], {}))\n"
    )
    (tmp_path / "both.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [*command, str(tmp_path / "both.py"), str(tmp_path / "two.yaml")], capture_output=True, env=env, timeout=300
    )
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    two = Path(config.output_dir)
    assert losses(two) == pytest.approx(losses(alone.folder), abs=1e-5)
    said = json.loads((two / "metrics.json").read_text())
    assert said["after"]["log_loss"] == pytest.approx(alone.after["log_loss"], abs=1e-5)
    assert said["after"]["n_real"] == 6
    assert json.loads((two / "run.json").read_text())["processes"] == 2
