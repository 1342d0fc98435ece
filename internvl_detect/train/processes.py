"""Processes that train one network together, each on batches and a GPU of its own, as torchrun starts them.

    with joined("auto") as (us, device):
        loss.backward()
        us.mean_gradients(net.parameters())

Alone, where torchrun started none, all of it does nothing. Not here: fine-tuning, which leaves this to its trainer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from internvl_detect.model.device import device_of


@dataclass(frozen=True)
class Processes:
    """This one's ``rank`` of ``count``; the first writes and reports."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until every process has come here."""
        if self.count > 1:
            dist.barrier()

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gives every process the mean of all processes' gradients: that of one batch as large as all of theirs."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([each.reshape(-1) for each in gradients])
        dist.all_reduce(flat)
        parts: Iterable[Tensor] = (flat / self.count).split([each.numel() for each in gradients])
        for each, part in zip(gradients, parts, strict=True):
            each.copy_(part.view_as(each))


ALONE = Processes()


@contextmanager
def joined(device: str) -> Iterator[tuple[Processes, str]]:
    """The processes of this run, and the device of this one. Raises ConfigError for a device that cannot be used."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE, str(device_of(device))
        return
    own = device_of(device)
    if own.type == "cuda":
        own = device_of("auto")
        torch.cuda.set_device(own)  # for what is sent between the processes
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), count), str(own)
    finally:
        dist.destroy_process_group()
