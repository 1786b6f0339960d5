"""The context of a query: how many events the window holds, and the gap between the newest event and the one before.

Attention cannot see either: it weighs the events of a window against one another, whatever their number, and an event
has the same age whether a visit has just begun or continues. Each of the two numbers, on a logarithmic scale, selects a
vector that is learned at the powers of two (the knots) and interpolated between them, so that nothing jumps where
rounding differs.

Letters: S sequences, A query positions, L events, N knots, D dimensions.
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
    """Vectors of event count and gap, added to the newest item's vector to make the first query; they start at 0."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.count = nn.Parameter(torch.zeros(COUNT_KNOTS, dimensions))
        self.gap = nn.Parameter(torch.zeros(GAP_KNOTS, dimensions))

    def forward(self, bias: AttentionBias, weights: Tensor) -> Tensor:
        """Context vectors [S, A, D] of the query positions, from `bias` and the events' weights [S, L]."""
        queries, length = bias.ranks.shape
        present = weights > 0.0
        counts = present.cumsum(1)[:, length - queries :].clamp(min=1)  # [S, A]
        gaps = bias.seconds.diagonal(length - queries - 1, 1, 2)  # [S, A], or one less where event 0 is a query too
        gaps = functional.pad(gaps, (queries - gaps.shape[1], 0)) / math.log(2.0)
        has_previous = functional.pad(present, (1, 0))[:, length - queries : length]  # [S, A]
        return (
            _hats(counts.log2(), COUNT_KNOTS) @ self.count
            + (_hats(gaps, GAP_KNOTS) * has_previous[..., None]) @ self.gap
        )


def _hats(values: Tensor, knots: int) -> Tensor:
    """Hat functions (linear B-splines): weights [..., N] of the knots 0, 1, 2, ...; the last one beyond it."""
    positions = torch.arange(knots, device=values.device)
    distances = (values.clamp(max=knots - 1)[..., None] - positions).abs()
    return functional.relu(1.0 - distances)
