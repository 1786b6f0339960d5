"""Several processes that train one encoder together, started by torchrun.

    torchrun --nproc-per-node 2 $(command -v headrace) train --data FOLDER --out releases

Every process takes its share of each batch, so `batch_sequences` is what all of them have together, and the steps are
the same with any number of processes. After each backward pass gradients are averaged, weighted by how many targets
each process had; all start from the same weights and make the same steps, so their weights stay the same. The first
process validates, writes and reports, and decides for all when training ends: its wish travels with the gradients, so
no process is left waiting for another. Processes on several machines need the run folder on a file system they share.
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

_Found = TypeVar("_Found")
_PATIENCE: Final = timedelta(hours=24)
"""The others wait this long while the first reads the data; torchrun ends them at once when it dies."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one process, or all of them together, did in a step."""

    targets: int
    loss: float
    """Mean over the targets."""
    ending: bool
    """Whether training is to end after this step."""


@dataclass(frozen=True, slots=True)
class Group:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Self:
        """The group that was joined, or this process alone."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def first(self) -> bool:
        """Whether this process decides, writes and reports."""
        return self.rank == 0

    def share(self, chosen: Int64) -> Int64:
        """This process's part of a batch."""
        return chosen[self.rank :: self.size]

    def combine(self, dense: Sequence[Tensor], sparse: Sequence[Tensor], step: Step) -> Step:
        """Give all processes the mean gradient of all targets, and the first one's wish to end.

        Args:
            dense: parameters with a gradient of their own shape, or none in a step without targets.
            sparse: parameters with a gradient of some rows, or none.
            step: what this process did.
        """
        if self.size == 1:
            return step
        facts = (step.targets, step.targets * step.loss, float(step.ending and self.first))
        flat = torch.cat([*(_gradient(one).flatten() * step.targets for one in dense), dense[0].new_tensor(facts)])
        dist.all_reduce(flat)
        *parts, facts_of_all = torch.split(flat, [*(one.numel() for one in dense), len(facts)])
        targets, loss, ending = facts_of_all.tolist()
        for parameter, part in zip(dense, parts, strict=True):
            parameter.grad = (part / max(targets, 1.0)).view_as(parameter)
        for parameter in sparse:
            parameter.grad = self._rows_of_all(parameter, step.targets / max(targets, 1.0))
        return Step(int(targets), loss / max(targets, 1.0), ending > 0.0)

    def broadcast(self, mine: _Found) -> _Found:
        """What the first process has."""
        found = [mine]
        if self.size > 1:
            dist.broadcast_object_list(found)
        return found[0]

    def rank_zero_first(self, call: Callable[[], _Found]) -> _Found:
        """What `call` returns, in the first process before the others start with it."""
        if not self.first:
            dist.barrier()
        found = call()
        if self.first and self.size > 1:
            dist.barrier()
        return found

    def all_gather(self, mine: Any) -> list[Any]:
        """What every process has, by rank."""
        found = [mine] * self.size
        if self.size > 1:
            dist.all_gather_object(found, mine)
        return found

    def _rows_of_all(self, parameter: Tensor, weight: float) -> Tensor:
        """The sum of all processes' gradients of some rows each, each times its weight."""
        rows, values = parameter.new_zeros(0, dtype=torch.long), parameter.new_zeros(0, parameter.shape[1])
        if parameter.grad is not None:
            gradient = parameter.grad.coalesce()
            rows, values = gradient.indices()[0], gradient.values() * weight  # [R], [R, D]
        sizes = [rows.new_zeros(1) for _ in range(self.size)]
        dist.all_gather(sizes, rows.new_tensor([len(rows)]))
        counts = [int(size) for size in sizes]
        all_rows, all_values = _gathered(rows, counts), _gathered(values, counts)
        return torch.sparse_coo_tensor(all_rows[None], all_values, parameter.shape).coalesce()


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Join the processes that torchrun started; a process started otherwise is alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Group()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Group.current()
    finally:
        dist.destroy_process_group()


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _gathered(mine: Tensor, counts: list[int]) -> Tensor:
    """Every process's rows, one after the other; all send as many as the longest has."""
    padded = mine.new_zeros(max(counts), *mine.shape[1:])
    padded[: len(mine)] = mine
    found = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(found, padded)
    return torch.cat([one[:count] for one, count in zip(found, counts, strict=True)])
