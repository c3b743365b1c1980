"""The processes that train one phase together: who holds which rows, and what they tell each other.

Decision: data parallel by torch's DDP, whose exchange of gradients runs beside the backward pass of the last micro-batch.
DDP averages over the processes, the loss is divided by the masked tokens of the whole batch, so each process multiplies its
own by their number. Every process steps its own optimizer from the same gradients: parameters stay equal to the bit, which
is proven at the end of the phase. One process exchanges nothing and wraps nothing.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmenc import job as runtime
from mmenc.errors import Refused
from mmenc.sections import Compute

PATIENCE = timedelta(minutes=30)
"""The others wait so long for process 0, which alone takes held-out losses and writes the state, also to a slow store."""


def device_of(compute: Compute) -> torch.device:
    """Where training runs; Refused when it is CUDA and there is none."""
    cuda = compute.device == "cuda" or (compute.device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise Refused("compute.device: 'cuda' asked for, torch finds no CUDA device; set it to 'cpu' or 'auto'")
    return torch.device("cuda" if cuda else "cpu")


def processes(compute: Compute) -> int:
    """How many processes train a phase on this machine: one per accelerator, on CPUs what the recipe says."""
    if device_of(compute).type == "cpu":
        return compute.processes
    there = torch.cuda.device_count()
    if compute.accelerators > there:
        raise Refused(
            f"compute.accelerators: is {compute.accelerators}, this machine has {there} CUDA devices; set it to {there}"
        )
    if compute.processes not in (1, compute.accelerators):
        raise Refused(
            f"compute.processes: is {compute.processes}, but on CUDA each of {compute.accelerators} compute.accelerators has its "
            f"own process; leave it out"
        )
    return compute.accelerators


class Group:
    """One process's view of the processes of a phase; `Group(compute)` is a process that trains alone."""

    def __init__(self, compute: Compute, rank: int = 0, size: int = 1, local: int = 0) -> None:
        self.rank, self.size = rank, size
        self.device = device_of(compute)
        if self.device.type == "cuda" and size > 1:
            self.device = torch.device("cuda", local)
        self.agreed = False
        torch.set_num_threads(max(1, compute.threads // size))

    @classmethod
    def join(cls, compute: Compute) -> Group:
        """The group that torch's launcher started this process for."""
        rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        group = cls(compute, rank, size, local)
        if group.device.type == "cuda":
            torch.cuda.set_device(group.device)
        dist.init_process_group("nccl" if group.device.type == "cuda" else "gloo", timeout=PATIENCE)
        return group

    def share(self, rows: int) -> slice:
        """Rows of a global batch that this process has; with fewer rows than processes some have none."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass leaves the whole batch's gradients in every process."""
        if self.size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, devices, gradient_as_bucket_view=True)

    def hold(self, model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: gradients are exchanged with the last one only."""
        return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) and not last else nullcontext()

    def sum(self, loss: Tensor) -> float:
        """The sum of all processes' losses; with it they agree in the same step whether one of them was asked to stop."""
        if self.size == 1:
            return float(loss)
        both = torch.tensor([0.0, float(runtime.stop_requested)], dtype=torch.float64, device=self.device)
        both[0] = loss
        dist.all_reduce(both)
        total, stops = both.tolist()
        self.agreed = stops > 0
        return float(total)

    @property
    def stopping(self) -> bool:
        """Whether training ends after this step."""
        return runtime.stop_requested if self.size == 1 else self.agreed

    def prove_equal(self, model: nn.Module) -> list[str]:
        """The sha256 of every process's parameters; Refused if they are not equal (a broken device or link)."""
        total = hashlib.sha256()
        for parameter in model.parameters():
            total.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        found = [""] * self.size
        dist.all_gather_object(found, total.hexdigest())
        if other := next((i for i, digest in enumerate(found) if digest != found[0]), 0):
            raise Refused(f"train: process {other} ended with other weights than process 0; check its device, and run again")
        return found
