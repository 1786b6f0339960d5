"""Data-parallel training of one encoder in several processes, started by torchrun.

    torchrun --nproc-per-node 2 $(command -v headrace) train --data FOLDER --out releases

Each process computes its shard of every batch, so `batch_sequences` is the size of the global batch, and the steps are
the same with any number of processes. After each backward pass gradients are averaged, weighted by each process's
number of targets; all processes start from the same weights and take the same steps, so their weights stay equal. Rank
0 validates, writes and reports, and decides for all when training stops: its request travels with the gradients, so no
process is left waiting for another. Processes on several machines need the run folder on a file system they share.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from engine.arrays import Int64

_Value = TypeVar("_Value")
_TIMEOUT: Final = timedelta(hours=24)
"""Of every collective: the other ranks wait while rank 0 reads the data; if it dies, torchrun ends them at once."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Targets and loss of one step, of one process or of all of them together."""

    targets: int
    loss: float
    """Mean over the targets."""
    stop: bool
    """Whether training stops after this step."""


@dataclass(frozen=True, slots=True)
class Group:
    """This process's rank among those that train together, from 0."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Self:
        """The group that this process has joined; alone, a group of one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process decides, writes and reports."""
        return self.rank == 0

    def shard(self, batch: Int64) -> Int64:
        """This process's part of a batch."""
        return batch[self.rank :: self.size]

    def all_reduce(self, dense: Sequence[Tensor], sparse: Sequence[Tensor], result: StepResult) -> StepResult:
        """Set the gradients to the mean over the targets of all processes; returns their joint result.

        Args:
            dense: parameters whose gradient has their own shape, or is None after a step without targets.
            sparse: parameters with a sparse gradient of some rows, or None.
            result: of this process; only rank 0's `stop` counts.
        """
        if self.size == 1:
            return result
        totals = (result.targets, result.targets * result.loss, float(result.stop and self.is_rank_zero))
        gradients = (_gradient(parameter).flatten() * result.targets for parameter in dense)
        flat = torch.cat([*gradients, dense[0].new_tensor(totals)])
        dist.all_reduce(flat)
        *parts, totals_of_all = torch.split(flat, [*(parameter.numel() for parameter in dense), len(totals)])
        targets, loss, stop = totals_of_all.tolist()
        for parameter, part in zip(dense, parts, strict=True):
            parameter.grad = (part / max(targets, 1.0)).view_as(parameter)
        for parameter in sparse:
            parameter.grad = self._sum_of_rows(parameter, result.targets / max(targets, 1.0))
        return StepResult(int(targets), loss / max(targets, 1.0), stop > 0.0)

    def broadcast(self, value: _Value) -> _Value:
        """Rank 0's value, in every process."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def rank_zero_first(self, call: Callable[[], _Value]) -> _Value:
        """The result of `call`, which the other ranks run only after rank 0 has finished it."""
        if not self.is_rank_zero:
            dist.barrier()
        result = call()
        if self.is_rank_zero and self.size > 1:
            dist.barrier()
        return result

    def all_gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def _sum_of_rows(self, parameter: Tensor, weight: float) -> Tensor:
        """The sum over all processes of their sparse gradients, each times its process's weight."""
        rows, values = parameter.new_zeros(0, dtype=torch.long), parameter.new_zeros(0, parameter.shape[1])
        if parameter.grad is not None:
            gradient = parameter.grad.coalesce()
            rows, values = gradient.indices()[0], gradient.values() * weight  # [R], [R, D]
        sizes = [rows.new_zeros(1) for _ in range(self.size)]
        dist.all_gather(sizes, rows.new_tensor([len(rows)]))
        counts = [int(size) for size in sizes]
        all_rows, all_values = _all_gather_rows(rows, counts), _all_gather_rows(values, counts)
        return torch.sparse_coo_tensor(all_rows[None], all_values, parameter.shape).coalesce()


@contextmanager
def process_group(device: torch.device) -> Iterator[Group]:
    """Join the processes that torchrun started; a process started otherwise is a group of one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Group()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield Group.current()
    finally:
        dist.destroy_process_group()


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _all_gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """The rows of every process, in order of rank; each sends as many as the longest has, padded with zeros."""
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])
