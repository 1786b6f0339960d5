"""The two-hop encoder, as it is trained: every event of every sequence is a query, in one causal pass.

Hop 1 asks the window about its newest item, hop 2 asks it once per interest. Keys and values of both hops depend on
the item alone, so that a release ships them as tables and serving computes one query per hop (`models.graphs`). The
serving graph and this module share parameters and equations; `models.export` compares them before it writes anything.

Letters: S sequences, L events (the window), H heads, K interests, Q queries of a hop (H or K), D dimensions, V items.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.items import Content, ItemVectors
from models.settings import EncoderSettings

TINY_WEIGHT = 1e-37
"""Stands for a weight of 0 under the logarithm: the smallest power of ten float32 holds at full precision."""


class Hop(nn.Module):
    """Attention over the window with learned slopes against rank and age (ALiBi, Press et al. 2022, with both learned).

    Each query sees the keys through `width` dimensions: a head sees its own slice, an interest sees them all.
    """

    def __init__(self, dimensions: int, queries: int, width: int) -> None:
        super().__init__()
        self.queries, self.width = queries, width
        self.norm = nn.LayerNorm(dimensions)
        self.query = nn.Linear(dimensions, queries * width)
        self.key = nn.Linear(dimensions, dimensions, bias=False)
        self.value = nn.Linear(dimensions, dimensions, bias=False)
        # Queries start with different reach, from the whole window (slope 0) to the last few events (slope 2).
        self.rank_slope = nn.Parameter(torch.linspace(0.0, 2.0, queries) if queries > 1 else torch.ones(1))
        self.age_slope = nn.Parameter(torch.full((queries,), 0.1))

    def attention(self, state: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        """Share of event j in query q at position i.

        Args:
            state: [S, L, D] what is known at each position so far.
            keys: [S, L, D] `key` of each event.
            bias: [S, Q, L, L] from `bias`.

        Returns:
            [S, Q, L, L], rows sum to 1.
        """
        sequences, length, _ = state.shape
        query = self.query(self.norm(state)) / math.sqrt(self.width)  # [S, L, Q * width]
        query = query.view(sequences, length, self.queries, self.width).transpose(1, 2)  # [S, Q, L, width]
        keys = keys.view(sequences, length, -1, self.width).permute(0, 2, 3, 1)  # [S, H or 1, width, L]
        return functional.softmax(_per_group(query, keys) + bias, dim=-1)

    def gather(self, attention: Tensor, values: Tensor) -> Tensor:
        """Attention-weighted values: [S, Q, L, L] and [S, L, D] to [S, L, Q, width]."""
        sequences, length, _ = values.shape
        values = values.view(sequences, length, -1, self.width).transpose(1, 2)  # [S, H or 1, L, width]
        return _per_group(attention, values).transpose(1, 2)

    def bias(self, ranks: Tensor, ages: Tensor, visible: Tensor) -> Tensor:
        """[S, Q, L, L] from ranks [L, L], ages [S, L, L] and log-weights of what each position may see [S, L, L]."""
        slopes = self.age_slope[:, None, None] * ages[:, None] + self.rank_slope[:, None, None] * ranks
        return visible[:, None] - slopes


class Dropout(nn.Module):
    """Dropout [S, L, ..., D] with one mask for all axes between L and D: drawing numbers is what costs on a CPU."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, state: Tensor) -> Tensor:
        """The state, in training with some dimensions of each position silenced and the others raised for it."""
        if not self.training or self.share == 0.0:
            return state
        between = [1] * (state.dim() - 3)
        mask = torch.rand(*state.shape[:2], *between, state.shape[-1]) >= self.share
        return state * (mask / (1.0 - self.share))


class FeedForward(nn.Module):
    """Two linear layers with a rectifier between them."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.inner = nn.Linear(settings.dimensions, settings.hidden)
        self.outer = nn.Linear(settings.hidden, settings.dimensions)
        self.dropout = Dropout(settings.dropout)

    def forward(self, state: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        inner = self.dropout(functional.relu(self.inner(state)))
        outer: Tensor = self.dropout(self.outer(inner))
        return outer


class TwoHopEncoder(nn.Module):
    """Sequences of events in, K interests at every position out."""

    def __init__(self, items: int, settings: EncoderSettings, content: Content | None = None) -> None:
        super().__init__()
        dimensions = settings.dimensions
        self.settings = settings
        self.items = ItemVectors(items, dimensions, content, settings.id_dropout)  # tied: the keys are made from them
        self.item_norm = nn.LayerNorm(dimensions)
        self.hop1 = Hop(dimensions, settings.heads, dimensions // settings.heads)
        self.mix = nn.Linear(dimensions, dimensions)
        self.feed1_norm = nn.LayerNorm(dimensions)
        self.feed1 = FeedForward(settings)
        self.hop2 = Hop(dimensions, settings.interests, dimensions)
        self.feed2 = FeedForward(settings)
        self.interest_norm = nn.LayerNorm(dimensions)
        self.dropout = Dropout(settings.dropout)

    def forward(self, items: Tensor, ages: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Encode every prefix of every sequence.

        Args:
            items: int [S, L] rows of the item table; any row where the weight is 0.
            ages: float [S, L, L] age of event j when event i happened (`engine.features.log_ages`).
            weights: float [S, L] weight of the event's action; 0 hides the event from all others.

        Returns:
            interests [S, L, K, D] and the second hop's attention [S, K, L, L]; what stands at position i is what
            serving computes from the window that ends with event i, which must have a weight above 0.
        """
        ranks, visible = _relations(weights)
        vectors = self.dropout(self.items(items))  # [S, L, D]
        keyed = self.item_norm(vectors)
        attention = self.hop1.attention(vectors, self.hop1.key(keyed), self.hop1.bias(ranks, ages, visible))
        context = self.hop1.gather(attention, self.hop1.value(keyed)).flatten(2)  # [S, L, D]
        state = vectors + self.dropout(self.mix(context))
        state = state + self.feed1(self.feed1_norm(state))
        attention = self.hop2.attention(state, self.hop2.key(keyed), self.hop2.bias(ranks, ages, visible))
        interests = self.hop2.gather(attention, self.hop2.value(keyed)) + state[:, :, None]  # [S, L, K, D]
        return self.interest_norm(interests + self.feed2(interests)), attention


def _relations(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks [L, L] and log-weights [S, L, L] of event j as position i sees it; the future is hidden."""
    sequences, length = weights.shape
    places = torch.arange(length)
    behind = places[:, None] - places  # [L, L]
    visible = weights.clamp(min=TINY_WEIGHT).log()[:, None].expand(sequences, length, length)
    return torch.log1p(behind.clamp(min=0).float()), visible.masked_fill(behind < 0, -math.inf)


def _per_group(left: Tensor, right: Tensor) -> Tensor:
    """Product of left [S, Q, M, N] and right [S, G, N, P] G = Q, or G = 1 shared by all Q (nothing is copied)."""
    if right.shape[1] == left.shape[1]:
        return left @ right
    sequences, queries, rows, _ = left.shape
    return (left.reshape(sequences, queries * rows, -1) @ right[:, 0]).view(sequences, queries, rows, -1)
