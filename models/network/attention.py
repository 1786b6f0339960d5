"""Attention over the window, as it is trained: many queries a position, keys and values that depend on the item alone.

What a query sees in an event is a score of the two, less learned slopes times the event's rank and age (ALiBi, Press
et al. 2022, "Train Short, Test Long", with all slopes learned), plus the log of the event's weight. Age counts twice:
as the log of hours, in which a visit is one moment, and of seconds, in which it is not. Two scorings:

    dot        (Q h) · (K z) / √width       Vaswani et al. 2017, "Attention Is All You Need"
    additive   v · tanh(Q h + K z)          Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to
                                            Align and Translate"; one tanh for all queries, each with its own v, as in
                                            Lin et al. 2017, "A Structured Self-Attentive Sentence Embedding"

Both read the key K z(x) of an event as it stands in a release's table, so both serve one query per hop and click.

Letters: S sequences, L events (the window), A asked positions (the last ones), Q queries, D dimensions.
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
"""Stands for a weight of 0 under the logarithm: the smallest power of ten float32 holds at full precision."""
HOUR_S = 3600.0
_CHUNK_FEATURES = 1 << 24
"""Numbers under the tanh of additive scoring alive at once: 64 MB of float32."""


@dataclass(frozen=True, slots=True)
class AttentionBias:
    """How each asked position sees each event: the same for all queries of all hops."""

    ranks: Tensor
    """[A, L] log(1 + events between event j and position i)."""
    hours: Tensor
    """[S, A, L] log(1 + hours between them)."""
    seconds: Tensor
    """[S, A, L] log(1 + seconds between them)."""
    visible: Tensor
    """[S, A, L] log of the event's weight; -inf in the future."""

    @classmethod
    def of(cls, ages: Tensor, weights: Tensor) -> Self:
        """From ages [S, A, L], in log(1 + hours), and weights [S, L] of the events; the last A of them ask."""
        asked, length = ages.shape[1:]
        places = torch.arange(length, device=ages.device)
        behind = places[length - asked :, None] - places  # [A, L]
        log_weights = weights.clamp(min=TINY_WEIGHT).log()[:, None].expand_as(ages)
        return cls(
            ranks=torch.log1p(behind.clamp(min=0).float()),
            hours=ages,
            seconds=torch.log1p(HOUR_S * torch.expm1(ages)),
            visible=log_weights.masked_fill(behind < 0, -math.inf),
        )


class DotScoring(nn.Module):
    """Scaled dot-product: a query sees the keys through `width` dimensions, its own slice of them or all of them."""

    def __init__(self, dimensions: int, queries: int, width: int) -> None:
        super().__init__()
        self.queries, self.width = queries, width
        self.query = nn.Linear(dimensions, queries * width)

    def forward(self, state: Tensor, keys: Tensor) -> Tensor:
        """Scores [S, Q, A, L] from state [S, A, D] and keys [S, L, D]."""
        query = self.query(state) / math.sqrt(self.width)  # [S, A, Q * width]
        return _per_group(_split(query, self.width), _split(keys, self.width).transpose(2, 3))


class AdditiveScoring(nn.Module):
    """Scores by one hidden layer of D tanh units over query and key, shared by all queries but for its output weights.

    Training takes S * A * L * D tanh, however many queries there are; they are worked out some sequences at a time and
    anew in the backward pass, so that memory stays bounded. Serving takes L * D of them a user and hop.
    """

    def __init__(self, dimensions: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Linear(dimensions, dimensions)
        self.output = nn.Linear(dimensions, queries, bias=False)

    def forward(self, state: Tensor, keys: Tensor) -> Tensor:
        """Scores [S, Q, A, L] from state [S, A, D] and keys [S, L, D]."""
        query = self.query(state)  # [S, A, D]
        count = -(-query.numel() * keys.shape[1] // _CHUNK_FEATURES)
        parts = zip(query.chunk(count), keys.chunk(count), strict=True)
        return torch.cat([checkpoint(self._scores, *part, use_reentrant=False) for part in parts])

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        hidden = torch.tanh(query[:, :, None] + keys[:, None])  # [s, A, L, D]
        scores: Tensor = self.output(hidden).permute(0, 3, 1, 2)
        return scores


class Hop(nn.Module):
    """Attention over the window with Q queries a position, each with its own slopes.

    Each query gathers the values through `width` dimensions: a head its own slice, an interest all of them.
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

    def forward(self, state: Tensor, keyed: Tensor, sight: AttentionBias) -> tuple[Tensor, Tensor]:
        """What each query finds, and where.

        Args:
            state: [S, A, D] what is known at each asked position so far.
            keyed: [S, L, D] z(x) of each event.
            sight: how the positions see the events.

        Returns:
            found [S, A, Q, width] and attention [S, Q, A, L], whose rows sum to 1.
        """
        scores = self.scoring(self.norm(state), self.key(keyed))
        attention = functional.softmax(scores + self._bias(sight), dim=-1)
        values = _split(self.value(keyed), self.width)  # [S, H or 1, L, width]
        return _per_group(attention, values).transpose(1, 2), attention

    def _bias(self, sight: AttentionBias) -> Tensor:
        """[S, Q, A, L] what rank, age and weight of an event add to each query's score."""
        bias = sight.visible[:, None] - self.rank_slope[:, None, None] * sight.ranks
        bias = bias - self.hour_slope[:, None, None] * sight.hours[:, None]
        return bias - self.second_slope[:, None, None] * sight.seconds[:, None]


def _split(state: Tensor, width: int) -> Tensor:
    """[S, N, G * width] to [S, G, N, width]."""
    sequences, length, _ = state.shape
    return state.view(sequences, length, -1, width).transpose(1, 2)


def _per_group(left: Tensor, right: Tensor) -> Tensor:
    """Product of left [S, Q, M, N] and right [S, G, N, P], G = Q, or G = 1 shared by all Q (nothing is copied)."""
    if right.shape[1] == left.shape[1]:
        return left @ right
    sequences, queries, rows, _ = left.shape
    return (left.flatten(1, 2) @ right[:, 0]).view(sequences, queries, rows, -1)
