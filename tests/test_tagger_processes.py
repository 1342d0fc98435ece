"""Claims about training the tagger in several processes: they learn from all their batches and stay one network."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from internvl_detect.model.device import device_of
from internvl_detect.train.processes import ALONE

TRAIN = """
import sys
from safetensors.torch import save_file
from internvl_detect.model.tagger_net import Shape
from internvl_detect.train.processes import joined
from internvl_detect.train.tag_data import TagRow
from internvl_detect.train.tagger import TagTraining, train_tagger

folder = sys.argv[1]
how = TagTraining(steps=3, batch=4, sizes_px=(64,), workers=0, save_every=2,
                  shape=Shape(widths=(4, 8, 8, 16, 16), blocks=(0, 1, 1, 1), map_width=8))
rows = [TagRow(f"{folder}/{i}.png", tag) for i, tag in enumerate(("authentic", "ai_generated"))]
with joined("cpu") as (us, device):
    net = train_tagger(rows, f"{folder}/run", how, device=device, us=us)
    said = {name: each.detach().contiguous() for name, each in net.named_parameters()}
    save_file(said, f"{folder}/rank{us.rank}.safetensors")
"""

MEAN = """
import sys, torch
from safetensors.torch import save_file
from internvl_detect.train.processes import joined

with joined("cpu") as (us, device):
    one, untouched = torch.nn.Parameter(torch.zeros(2, 3).t()), torch.nn.Parameter(torch.zeros(1))
    one.grad = torch.arange(6.0).view(2, 3).t() * (1 + 2 * us.rank)
    us.mean_gradients([untouched, one])
    save_file({"grad": one.grad.contiguous()}, f"{sys.argv[1]}/mean{us.rank}.safetensors")
"""


def together(code: str, folder) -> None:
    """Runs ``code`` in two processes, as torchrun starts them."""
    script = folder / "script.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(script), str(folder)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_end_with_the_same_weights_and_one_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 255, (96, 96, 3), np.uint8)).save(tmp_path / f"{i}.png")
    together(TRAIN, tmp_path)
    one, two = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    stored = load_file(tmp_path / "run/checkpoint.safetensors")
    assert torch.equal(stored["net.map_head.weight"], one["map_head.weight"])


def test_gradients_become_the_mean_of_all_processes(tmp_path):
    together(MEAN, tmp_path)
    want = torch.arange(6.0).view(2, 3).t() * 2
    assert all(torch.equal(load_file(tmp_path / f"mean{rank}.safetensors")["grad"], want) for rank in (0, 1))


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_draws_crops_of_its_own_and_the_first_those_of_a_lone_one(tmp_path, rank):
    from internvl_detect.train.tag_data import TagRow
    from internvl_detect.train.tagger import Batches, TagTraining

    rows = []
    for i, tag in enumerate(("authentic", "ai_generated")):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (128, 128, 3), np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(TagRow(str(tmp_path / f"{i}.png"), tag))
    how = TagTraining(steps=2, batch=4, sizes_px=(64, 96))
    alone, own = Batches(rows, how)[1][0], Batches(rows, how, 0, rank)[1][0]
    assert own.shape == alone.shape
    assert torch.equal(own, alone) == (rank == 0)


def test_alone_nothing_is_exchanged(tmp_path):
    one = torch.nn.Parameter(torch.zeros(2))
    one.grad = torch.ones(2)
    ALONE.mean_gradients([one])
    assert torch.equal(one.grad, torch.ones(2)) and ALONE.first


@pytest.mark.parametrize(("local_rank", "gpu"), [("2", "cuda:2"), (None, "cuda")])
def test_each_process_has_the_gpu_of_its_number(monkeypatch, local_rank, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert device_of("auto") == torch.device(gpu)
