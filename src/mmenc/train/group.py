"""The processes that train one phase together: who holds which rows, and what they tell each other.

Decision: data parallel by torch's DDP, whose exchange of gradients runs beside the backward pass of the last micro-batch.
DDP averages over the processes, the loss is divided by the masked tokens of the whole batch, so each process multiplies its
own by their number. Every process steps its own optimizer from the same gradients: parameters stay equal to the bit, which
is proven at the end of the phase. With `compute.sharding: full` FSDP2 divides weights, gradients and moments among the
processes instead: for models that one accelerator cannot hold; a layer's weights are gathered when they are needed. One
process exchanges nothing and wraps nothing.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmenc import stop
from mmenc.errors import Refused
from mmenc.sections import Compute

if TYPE_CHECKING:
    from mmenc.model.head import MaskedLM

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


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is divided among the processes, put together (all of them must ask); any other as it is."""
    found: Tensor = cast("Any", tensor).full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


class Group:
    """One process's view of the processes of a phase; `Group(compute)` is a process that trains alone."""

    def __init__(self, compute: Compute, rank: int = 0, size: int = 1, local: int = 0) -> None:
        self.rank, self.size = rank, size
        self.device = device_of(compute)
        if self.device.type == "cuda" and size > 1:
            self.device = torch.device("cuda", local)
        self.agreed = self.saving = False
        self.divided = size > 1 and compute.sharding == "full"
        """Whether no process holds the whole model: then all take part wherever weights are read."""
        torch.set_num_threads(max(1, compute.threads // max(1, size // compute.nodes)))

    @classmethod
    def join(cls, compute: Compute) -> Group:
        """The group that torch's launcher started this process for."""
        rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        group = cls(compute, rank, size, local)
        if group.device.type == "cuda":
            torch.cuda.set_device(group.device)
        dist.init_process_group("nccl" if group.device.type == "cuda" else "gloo", timeout=PATIENCE)
        return group

    def start_equal(self, state: str) -> None:
        """Every process reads its state from its own disk: nodes that found different ones must not train together."""
        found = [""] * self.size
        dist.all_gather_object(found, state)
        if other := next((s for s in found if s != found[0]), None):
            raise RuntimeError(f"one process starts from state {found[0] or 'none'}, another from {other}")

    def shares(self, rows: int) -> list[slice]:
        """Rows of a global batch that each process has; with fewer rows than processes some have none."""
        return [slice(rows * r // self.size, rows * (r + 1) // self.size) for r in range(self.size)]

    def wrap(self, model: MaskedLM) -> nn.Module:
        """The model whose backward pass leaves the whole batch's gradients in every process, or each its part of them."""
        if self.size == 1:
            return model
        if self.divided:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

            mesh = init_device_mesh(self.device.type, (self.size,))
            for layer in model.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            register_fsdp_forward_method(model, "logits")
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, devices, gradient_as_bucket_view=True)

    def hold(self, model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: gradients are exchanged with the last one only."""
        if self.divided:
            model.set_requires_gradient_sync(last)  # type: ignore[operator]
        return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) and not last else nullcontext()

    def rest(self, model: nn.Module) -> None:
        """After a forward pass without a backward one: FSDP leaves the root's weights gathered, where no optimizer knows them."""
        if self.divided:
            cast("Any", model).reshard()

    def norm(self, model: nn.Module) -> float:
        """The 2-norm of the whole batch's gradient."""
        total = nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None)
        return float(whole(total))

    def sum(self, loss: Tensor, *, due: bool) -> float:
        """The sum of all processes' losses; with it they agree whether one was asked to stop, or finds a saved state due."""
        if self.size == 1:
            self.saving = due
            return float(loss)
        told = torch.tensor([0.0, float(stop.requested), float(due)], dtype=torch.float64, device=self.device)
        told[0] = loss
        dist.all_reduce(told)
        total, stops, dues = told.tolist()
        self.agreed, self.saving = stops > 0, dues > 0
        return float(total)

    @property
    def stopping(self) -> bool:
        """Whether training ends after this step."""
        return stop.requested if self.size == 1 else self.agreed

    def prove_equal(self, model: nn.Module) -> list[str]:
        """The sha256 of every process's parameters; Refused if they are not equal (a broken device or link)."""
        total = hashlib.sha256()
        for parameter in model.parameters():
            total.update(whole(parameter).detach().cpu().contiguous().view(torch.uint8).numpy().data)
        found = [""] * self.size
        dist.all_gather_object(found, total.hexdigest())
        if other := next((i for i, digest in enumerate(found) if digest != found[0]), 0):
            raise Refused(f"train: process {other} ended with other weights than process 0; check its device, and run again")
        return found
