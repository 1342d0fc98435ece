"""Runs a recipe under FSDP on CPU processes. accelerate shares models out over GPUs only, so it is told they are some.

python -m torch.distributed.run --nproc_per_node 2 tests/fsdp_on_cpu.py recipe.yaml
"""

import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

torch.set_num_threads(1)
_plain_init = PartialState.__init__


def _as_gpu(self, cpu=False, **options):
    _plain_init(self, False, **options)


PartialState.__init__ = _as_gpu
PartialState._prepare_backend = lambda self, *args, **options: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))

from internvl_detect.config import load_train_config  # noqa: E402
from internvl_detect.train import finetune  # noqa: E402

finetune.check_environment = lambda config: None  # it refuses FSDP without a GPU
built = finetune._trainer


def sharded(*args):
    trainer = built(*args)
    sys.stdout.write(f"sharded: {trainer.is_fsdp_enabled}\n")
    return trainer


finetune._trainer = sharded
finetune.run(load_train_config(sys.argv[1], [], {}))
