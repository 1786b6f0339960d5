"""Target attention: every candidate attends over the window's newest events, which adds a correction to its score.

    z(x) = LN(e(x))                                  e(x) the item vectors of the release, which stay as they are
    a_cj = softmax_j( Q z(c) · K z(x_j) / √w - s_head r_j - t_head a_j + log weight_j )
    score(c) = max_k interest_k · e(c) + Σ_heads Σ_j a_cj  (G z(c) + g) · V z(x_j)

The query is the item being scored, not the user's last event: Zhou et al., "Deep Interest Network for Click-Through
Rate Prediction", 2018, with the heads of Vaswani et al., "Attention Is All You Need", 2017, and the biases of the
encoder in place of a sum of raw weights. Queries, keys, values and gates depend on the item alone, so they are tables
like the encoder's own, and a user costs two products of [C, w] with [w, W] a head.

G is initialised to 0: an untrained network leaves the order of the candidates as it was.

Letters: B users, C candidates, W newest events of a window, H heads of width w = D / H, D dimensions.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.network.attention import TINY_WEIGHT
from models.settings import RescoreSettings

TABLES: Final = ("queries", "keys", "values", "gates")
"""Tables of the items, each [V, D]."""


class Rescorer(nn.Module):
    """Network from windows and candidates to new scores of the candidates."""

    def __init__(self, dimensions: int, settings: RescoreSettings) -> None:
        """Initialise a network that leaves scores as they are."""
        super().__init__()
        self.heads, self.events = settings.heads, settings.events
        self.norm = nn.LayerNorm(dimensions)
        self.queries = nn.Linear(dimensions, dimensions, bias=False)
        self.keys = nn.Linear(dimensions, dimensions, bias=False)
        self.values = nn.Linear(dimensions, dimensions, bias=False)
        self.gates = nn.Linear(dimensions, dimensions)
        nn.init.zeros_(self.gates.weight)
        nn.init.zeros_(self.gates.bias)
        # Heads start with different reach, as in the encoder.
        self.rank_slope = nn.Parameter(torch.linspace(0.0, 1.0, self.heads))
        self.age_slope = nn.Parameter(torch.full((self.heads,), 0.1))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, vectors: Tensor, window: tuple[Tensor, Tensor, Tensor], scored: tuple[Tensor, Tensor]) -> Tensor:
        """New scores [B, C].

        Args:
            vectors: [V, D] the item vectors of the release.
            window: rows int [B, L], ages [B, L] and weights [B, L], as the encoder takes them.
            scored: rows int [B, C] and scores [B, C] of the candidates; any row where the score is -inf.
        """
        rows, ages, weights = (column[:, -self.events :] for column in window)
        candidate_rows, scores = scored
        events = self.dropout(self.norm(vectors[rows]))  # [B, W, D]
        candidates = self.dropout(self.norm(vectors[candidate_rows]))  # [B, C, D]
        queries = self._split(self.queries(candidates)) / math.sqrt(candidates.shape[2] / self.heads)  # [B, H, C, w]
        logits = queries @ self._split(self.keys(events)).transpose(2, 3)  # [B, H, C, W]
        attention = functional.softmax(logits + self._bias(ages, weights), dim=-1)
        attended = attention @ self._split(self.values(events))  # [B, H, C, w]
        corrections: Tensor = (self._split(self.gates(candidates)) * attended).sum((1, 3))  # [B, C]
        return scores + corrections

    def _bias(self, ages: Tensor, weights: Tensor) -> Tensor:
        """[B, H, 1, W] attention bias of each head by rank, age and weight of an event."""
        ranks = torch.arange(ages.shape[1], 0, -1, device=ages.device).log()  # [W]
        slopes = self.rank_slope[:, None] * ranks + self.age_slope[:, None] * ages[:, None]  # [B, H, W]
        return (weights.clamp(min=TINY_WEIGHT).log()[:, None] - slopes)[:, :, None]

    def _split(self, state: Tensor) -> Tensor:
        """[B, N, D] to [B, H, N, w]."""
        users, count, _ = state.shape
        return state.view(users, count, self.heads, -1).transpose(1, 2)


def rescorer_tensors(inputs: Mapping[str, Any]) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The `window` and `scored` of `Rescorer.forward`, from the arrays of the exported graph's inputs by name."""
    rows, ages, weights = (torch.from_numpy(inputs[name]) for name in ("items", "ages", "weights"))
    candidates, scores = (torch.from_numpy(inputs[name]) for name in ("candidates", "scores"))
    return (rows, ages, weights), (candidates, scores)
