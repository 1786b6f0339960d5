"""The device of a training, its random generators, and the precision of its matrix products."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.errors import SettingsError
from models.settings import DeviceName, MatmulPrecision


def choose(name: DeviceName) -> torch.device:
    """The device called `name`; under torchrun each process takes its own GPU.

    Raises:
        SettingsError: `name` is cuda and there is no GPU, or this machine has fewer GPUs than processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    gpus, local_rank = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= gpus:
        raise SettingsError(
            f"device {name}: found {gpus} GPUs that torch can use, expected at least {local_rank + 1}; start as many"
            " processes as there are GPUs, or say --device cpu"
        )
    return torch.device("cuda", local_rank)


def random_state(device: torch.device) -> list[torch.Tensor]:
    """The state of the generators that a training on this device draws from."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def set_random_state(device: torch.device, state: list[torch.Tensor]) -> None:
    """Set the generators back to a `random_state`."""
    torch.set_rng_state(state[0].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1].cpu(), device)


@contextmanager
def matmul_precision(precision: MatmulPrecision) -> Iterator[None]:
    """Let torch round the factors of matrix products in this block; no effect on machines without such arithmetic."""
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "bfloat16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)
