"""The moment of a query: how much the window holds, and how long before the newest event the one before it came.

Attention is blind to both: it weighs the events of a window against one another, whatever their number, and an event
is as old as it is whether a visit has just begun or goes on. Each is a number on a logarithmic scale, and stands for a
vector that is learned at the powers of two and interpolated between them, so that nothing jumps where rounding differs.

Letters: S sequences, A asked positions, L events, N knots, D dimensions.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.network.attention import AttentionBias

COUNT_KNOTS: Final = 11
"""1 event to 1024."""
GAP_KNOTS: Final = 26
"""1 + seconds: 1 to 2^25, a little more than a year."""


class QueryContext(nn.Module):
    """What is added to the newest item's vector before it asks; nothing, until something is learned."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.count = nn.Parameter(torch.zeros(COUNT_KNOTS, dimensions))
        self.gap = nn.Parameter(torch.zeros(GAP_KNOTS, dimensions))

    def forward(self, sight: AttentionBias, weights: Tensor) -> Tensor:
        """[S, A, D] from how the asked positions see the events, and the events' weights [S, L]."""
        asked, length = sight.ranks.shape
        there = weights > 0.0
        counts = there.cumsum(1)[:, length - asked :].clamp(min=1)  # [S, A]
        gaps = sight.seconds.diagonal(length - asked - 1, 1, 2)  # [S, A], or one less where the first event asks too
        gaps = functional.pad(gaps, (asked - gaps.shape[1], 0)) / math.log(2.0)
        followed = functional.pad(there, (1, 0))[:, length - asked : length]  # [S, A] an event stands before it
        return (
            _hats(counts.log2(), COUNT_KNOTS) @ self.count + (_hats(gaps, GAP_KNOTS) * followed[..., None]) @ self.gap
        )


def _hats(values: Tensor, knots: int) -> Tensor:
    """[..., N] weights of the knots 0, 1, 2, ...: linear between two, the last one beyond it."""
    places = torch.arange(knots, device=values.device)
    distances = (values.clamp(max=knots - 1)[..., None] - places).abs()
    return functional.relu(1.0 - distances)
