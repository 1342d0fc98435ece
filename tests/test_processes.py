"""Claims about training in several processes: the numbers are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny import losses

from internvl_detect.train import finetune

pytest_plugins = ["training_fixtures"]
ROOT = Path(__file__).resolve().parents[1]
SETS = ["lora.dropout=0", "train_data_choice=all", "max_steps=3", "val_data_choice=held", "eval.steps=3"]
RUN = """
import sys, torch
torch.set_num_threads(1)
from internvl_detect.train import finetune
from internvl_detect.config import load_train_config
finetune.run(load_train_config(sys.argv[1], [], {}))
"""


def run_two(script, config, tmp_path):
    (tmp_path / "two.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [*command, str(script), str(tmp_path / "two.yaml")], capture_output=True, env=env, timeout=300, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    return ended.stdout.decode()


def assert_same_result(alone, two):
    assert losses(two) == pytest.approx(losses(alone.folder), abs=1e-5)
    said = json.loads((two / "metrics.json").read_text())
    assert said["after"]["log_loss"] == pytest.approx(alone.after["log_loss"], abs=1e-5)
    assert said["after"]["n_real"] == 6
    assert json.loads((two / "run.json").read_text())["processes"] == 2
    one, other = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (alone.folder, two))
    assert one.keys() == other.keys()
    assert all((one[name] - other[name]).abs().max() < 1e-5 for name in one)


def test_two_processes_give_the_losses_and_the_adapter_of_one(settings_of, tmp_path):
    alone = finetune.run(settings_of(*SETS, out="alone"))
    config = settings_of(*SETS, "gpus=2", out="two")
    (tmp_path / "both.py").write_text(RUN)
    run_two(tmp_path / "both.py", config, tmp_path)
    assert_same_result(alone, Path(config.output_dir))


def test_a_base_shared_out_by_the_fsdp_recipe_gives_the_losses_and_the_adapter_of_one(settings_of, tmp_path):
    alone = finetune.run(settings_of(*SETS, out="alone"))
    recipe = f"fsdp={ROOT / 'recipes' / 'fsdp.yaml'}"
    config = settings_of(*SETS, recipe, "gradient_checkpointing=true", "gpus=2", out="two")
    said = run_two(ROOT / "tests" / "fsdp_on_cpu.py", config, tmp_path)
    assert said.count("sharded: True") == 2
    assert_same_result(alone, Path(config.output_dir))
