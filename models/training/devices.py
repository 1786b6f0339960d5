"""Where the tensors of a training live, and what that machine may do to them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.errors import SettingsError
from models.settings import DeviceName, MatmulPrecision


def choose(name: DeviceName) -> torch.device:
    """The device called `name`; under torchrun each process takes its own GPU.

    Raises:
        SettingsError: a GPU was asked for and there is none, or fewer than there are processes on this machine.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    found, number = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if number >= found:
        raise SettingsError(
            f"device {name}: found {found} GPUs that torch can use, expected at least {number + 1}; start as many"
            " processes as there are GPUs, or say --device cpu"
        )
    return torch.device("cuda", number)


def random_state(device: torch.device) -> list[torch.Tensor]:
    """The state of the generators that a training on this device draws from."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def set_random_state(device: torch.device, state: list[torch.Tensor]) -> None:
    """Go on drawing where `random_state` was taken."""
    torch.set_rng_state(state[0].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1].cpu(), device)


@contextmanager
def matmul_precision(precision: MatmulPrecision) -> Iterator[None]:
    """Let torch round the factors of matrix products inside; machines without such arithmetic do nothing else."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "bfloat16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
