"""Claims about training in several processes: the numbers are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from marked import write_marked
from safetensors.torch import load_file
from tiny import losses

from internvl_detect.data.conversations.meta import make_row, write_jsonl, write_meta
from internvl_detect.model.domain_tag import DomainTagger, save
from internvl_detect.model.tagger_net import Shape, TaggerNet
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


def test_two_processes_give_the_losses_the_head_and_the_metrics_of_one(settings_of, place, tmp_path):
    torch.manual_seed(0)
    net = TaggerNet(Shape((4, 4, 4, 4, 4), (0, 1, 1, 1), 4)).eval()
    tagger = save(net, DomainTagger(net).settings(), tmp_path / "tagger", half=False)
    sets = write_marked(tmp_path / "given")
    meta = json.loads((tmp_path / "given" / "meta.json").read_text())
    rows = [make_row(f"What is {i}?", "No.", id=f"w{i}") for i in range(8)]  # a process may meet no mask at all
    write_jsonl(tmp_path / "given" / "words.jsonl", rows)
    words = {"root": "", "annotation": str(tmp_path / "given" / "words.jsonl")}
    write_meta(tmp_path / "given" / "meta.json", meta | {"words": words})
    sets = [*sets, f"mask.tagger={tagger}", "train_data_choice=all", "max_steps=4", "eval.steps=4", "packing=false"]
    sets += ["val_data_choice=marked", "train_data_choice=marked,words", "eval.metric=pixel_f1"]
    alone = finetune.run(settings_of(*sets, out="alone"))
    config = settings_of(*sets, "gpus=2", out="two")
    (tmp_path / "both.py").write_text(RUN)
    run_two(tmp_path / "both.py", config, tmp_path)
    two = Path(config.output_dir)
    assert losses(two) == pytest.approx(losses(alone.folder), abs=1e-5)
    after = json.loads((two / "metrics.json").read_text())["after"]
    for name in ("pixel_f1", "pixel_iou", "pixel_auc", "pixel_threshold"):
        assert after[name] == pytest.approx(alone.after[name], abs=2e-3)
    for file in ("adapter_model.safetensors", "mask.safetensors"):
        one, other = (load_file(f / "adapter" / file) for f in (alone.folder, two))
        assert one.keys() == other.keys() and all((one[k] - other[k]).abs().max() < 1e-5 for k in one)
