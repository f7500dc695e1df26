"""Several processes training one model (`torchrun`): who this process is, and what it shares with the others.

Each process takes its share of every batch; gradients are averaged by DistributedDataParallel. Only the first writes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from medinfer.errors import UsageError


@dataclass(frozen=True)
class Process:
    """One of `count` processes, numbered from 0."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0

    def share(self, size: int) -> slice:
        """Return which of a batch's `size` images are this process's: consecutive, at most one more than another's."""
        return slice(self.rank * size // self.count, (self.rank + 1) * size // self.count)

    def same_for_all(self, value: float) -> float:
        """Return the largest of all processes' values, and wait for them; without others, the value."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            shared = shared.cuda()
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return float(shared)

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers: BatchNorm's averages differ, each having seen its own share."""
        if self.count > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)


def join_processes(device: str) -> Process:
    """Join the group that `torchrun` started this process in; alone where it was not."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Process()
    if ":" in device:
        raise UsageError(f"device: {device} is one device for {count} processes", hint="Pass --device cuda.")
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Process(dist.get_rank(), count)


def leave_processes() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
