"""Attention over the window, for training: many queries per position, keys and values that depend on the item alone.

The attention logit of a query and an event is a score of the two, less learned slopes times the event's rank and age
(ALiBi, Press et al. 2022, "Train Short, Test Long", with all slopes learned), plus the log of the event's weight. Age
enters twice: as the log of hours, which cannot tell the events of one visit apart, and as the log of seconds, which
can. Two scorings:

    dot        (Q h) · (K z) / √width       Vaswani et al. 2017, "Attention Is All You Need"
    additive   v · tanh(Q h + K z)          Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to
                                            Align and Translate"; one tanh for all queries, each with its own v, as in
                                            Lin et al. 2017, "A Structured Self-Attentive Sentence Embedding"

Both read the key K z(x) of an event from a release's table, so both serve one query per hop and click.

Letters: S sequences, L events (the window), A query positions (the last ones), Q queries, D dimensions.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.settings import EncoderSettings

TINY_WEIGHT = 1e-37
"""Replaces a weight of 0 under the logarithm: the smallest power of ten float32 holds at full precision."""
HOUR_S = 3600.0
_CHUNK_FEATURES = 1 << 24
"""Tanh units of additive scoring alive at once: 64 MB of float32."""


@dataclass(frozen=True, slots=True)
class AttentionBias:
    """Rank, age and weight of event j at query position i: inputs of the bias, the same for all queries and hops."""

    ranks: Tensor
    """[A, L] log(1 + events between event j and position i)."""
    hours: Tensor
    """[S, A, L] log(1 + hours between them)."""
    seconds: Tensor
    """[S, A, L] log(1 + seconds between them)."""
    log_weights: Tensor
    """[S, A, L] log of the event's weight; -inf for events after position i (the causal mask)."""

    @classmethod
    def of(cls, ages: Tensor, weights: Tensor) -> Self:
        """From ages [S, A, L], in log(1 + hours), and weights [S, L] of the events; the last A of them are queries."""
        queries, length = ages.shape[1:]
        positions = torch.arange(length, device=ages.device)
        lags = positions[length - queries :, None] - positions  # [A, L]
        log_weights = weights.clamp(min=TINY_WEIGHT).log()[:, None].expand_as(ages)
        return cls(
            ranks=torch.log1p(lags.clamp(min=0).float()),
            hours=ages,
            seconds=torch.log1p(HOUR_S * torch.expm1(ages)),
            log_weights=log_weights.masked_fill(lags < 0, -math.inf),
        )


class DotScoring(nn.Module):
    """Scaled dot-product of `width` dimensions: a head's own slice, or (width D) all of them for every query."""

    def __init__(self, dimensions: int, queries: int, width: int) -> None:
        super().__init__()
        self.queries, self.width = queries, width
        self.query = nn.Linear(dimensions, queries * width)

    def forward(self, state: Tensor, keys: Tensor) -> Tensor:
        """Scores [S, Q, A, L] from state [S, A, D] and keys [S, L, D]."""
        query = self.query(state) / math.sqrt(self.width)  # [S, A, Q * width]
        return _grouped_matmul(_split_groups(query, self.width), _split_groups(keys, self.width).transpose(2, 3))


class AdditiveScoring(nn.Module):
    """One hidden layer of D tanh units over query and key, shared by all queries but for its output weights.

    Training takes S * A * L * D tanh, for any number of queries. They are computed for a few sequences at a time, and
    again in the backward pass, so that memory stays bounded. Serving takes L * D of them per user and hop.
    """

    def __init__(self, dimensions: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Linear(dimensions, dimensions)
        self.output = nn.Linear(dimensions, queries, bias=False)

    def forward(self, state: Tensor, keys: Tensor) -> Tensor:
        """Scores [S, Q, A, L] from state [S, A, D] and keys [S, L, D]."""
        query = self.query(state)  # [S, A, D]
        count = -(-query.numel() * keys.shape[1] // _CHUNK_FEATURES)
        chunks = zip(query.chunk(count), keys.chunk(count), strict=True)
        return torch.cat([checkpoint(self._scores, *chunk, use_reentrant=False) for chunk in chunks])

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        hidden = torch.tanh(query[:, :, None] + keys[:, None])  # [s, A, L, D]
        scores: Tensor = self.output(hidden).permute(0, 3, 1, 2)
        return scores


class Hop(nn.Module):
    """Attention over the window with Q queries per position, each with its own slopes.

    Each query reads `width` dimensions of the values: a head its own slice, an interest all of them.
    """

    def __init__(self, settings: EncoderSettings, queries: int, width: int) -> None:
        super().__init__()
        dimensions = settings.dimensions
        self.queries, self.width = queries, width
        self.norm = nn.LayerNorm(dimensions)
        self.scoring: DotScoring | AdditiveScoring
        if settings.scoring == "dot":
            self.scoring = DotScoring(dimensions, queries, width)
        else:
            self.scoring = AdditiveScoring(dimensions, queries)
        self.key = nn.Linear(dimensions, dimensions, bias=False)
        self.value = nn.Linear(dimensions, dimensions, bias=False)
        # Queries start with different reach, from the whole window (slope 0) to the last few events (slope 2).
        self.rank_slope = nn.Parameter(torch.linspace(0.0, 2.0, queries) if queries > 1 else torch.ones(1))
        self.hour_slope = nn.Parameter(torch.full((queries,), 0.1))
        self.second_slope = nn.Parameter(torch.zeros(queries), requires_grad=settings.seconds)

    def forward(self, state: Tensor, normed: Tensor, bias: AttentionBias) -> tuple[Tensor, Tensor]:
        """Values averaged by attention, and the attention itself.

        Args:
            state: [S, A, D] hidden state of each query position.
            normed: [S, L, D] z(x) of each event.
            bias: rank, age and weight of each event at each query position.

        Returns:
            attended values [S, A, Q, width] and attention [S, Q, A, L], whose rows sum to 1.
        """
        scores = self.scoring(self.norm(state), self.key(normed))
        attention = functional.softmax(scores + self._bias(bias), dim=-1)
        values = _split_groups(self.value(normed), self.width)  # [S, H or 1, L, width]
        return _grouped_matmul(attention, values).transpose(1, 2), attention

    def _bias(self, bias: AttentionBias) -> Tensor:
        """[S, Q, A, L] added to each query's scores, by its own slopes."""
        total = bias.log_weights[:, None] - self.rank_slope[:, None, None] * bias.ranks
        total = total - self.hour_slope[:, None, None] * bias.hours[:, None]
        return total - self.second_slope[:, None, None] * bias.seconds[:, None]


def _split_groups(state: Tensor, width: int) -> Tensor:
    """[S, N, G * width] to [S, G, N, width]."""
    sequences, length, _ = state.shape
    return state.view(sequences, length, -1, width).transpose(1, 2)


def _grouped_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Product of left [S, Q, M, N] and right [S, G, N, P], G = Q, or G = 1 shared by all Q (nothing is copied)."""
    if right.shape[1] == left.shape[1]:
        return left @ right
    sequences, queries, rows, _ = left.shape
    return (left.flatten(1, 2) @ right[:, 0]).view(sequences, queries, rows, -1)
