"""Processor time per user of several implementations that do the same work in turns."""

from typing import Final

import numpy as np

from engine.arrays import Float64

BATCHES: Final = (16, 256)
"""Users in a batch, B, that costs are measured for."""


def cost_per_user(seconds: Float64, users: int) -> tuple[list[float], list[float]]:
    """Medians over batches: µs per user of each implementation, and its ratio to the first one batch by batch.

    Args:
        seconds: [n, S] processor time of n batches by S implementations, each batch by all of them in turn.
        users: B.
    """
    return (
        (1e6 / users * np.median(seconds, axis=0)).tolist(),
        np.median(seconds / seconds[:, :1], axis=0).tolist(),
    )
