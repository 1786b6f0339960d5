"""The two-hop encoder, for training: many events of every sequence are queries, in one causal pass.

Hop 1 attends to the window with the newest item and the query's context, hop 2 once per interest. Keys and values of
both hops depend on the item alone, so that a release ships them as tables and serving computes one query per hop
(`publishing.graphs`). The serving graph and this module share parameters and equations; `publishing.export` compares
them before it writes anything.

Letters: S sequences, L events (the window), A query positions, H heads, K interests, D dimensions, V items.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data.sequences import SequenceBatch
from models.network.action_values import ActionValues
from models.network.attention import AttentionBias, Hop
from models.network.context import QueryContext
from models.network.item_vectors import Content, ItemVectors
from models.settings import EncoderSettings


class Dropout(nn.Module):
    """Dropout [S, A, ..., D] with one mask for all axes between A and D: on a CPU, most of its cost is drawing it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, state: Tensor) -> Tensor:
        """The state; in training, some dimensions of each position are 0 and the others are scaled up to make up."""
        if not self.training or self.share == 0.0:
            return state
        between = [1] * (state.dim() - 3)
        mask = torch.rand(*state.shape[:2], *between, state.shape[-1], device=state.device) >= self.share
        return state * (mask / (1.0 - self.share))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them."""

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
    """Sequences of events in, K interests at every query position out."""

    def __init__(
        self,
        num_items: int,
        settings: EncoderSettings,
        content: Content | None = None,
        actions: ActionValues | None = None,
    ) -> None:
        """An untrained encoder.

        Args:
            num_items: V.
            settings: sizes.
            content: features of the items, if they have any.
            actions: values of the actions, from which `encode` computes the weights for `forward`.
        """
        super().__init__()
        dimensions = settings.dimensions
        self.settings = settings
        self.actions = actions or ActionValues(torch.ones(1), learned=False)
        self.items = ItemVectors(num_items, dimensions, content, settings.id_dropout)  # tied: keys are made from them
        self.query_context = QueryContext(dimensions).requires_grad_(settings.query_context)  # untrained it adds 0
        self.item_norm = nn.LayerNorm(dimensions)
        self.hop1 = Hop(settings, settings.heads, dimensions // settings.heads)
        self.output = nn.Linear(dimensions, dimensions)  # O, the output projection of the heads
        self.feed1_norm = nn.LayerNorm(dimensions)
        self.feed1 = FeedForward(settings)
        self.hop2 = Hop(settings, settings.interests, dimensions)
        self.feed2 = FeedForward(settings)
        self.interest_norm = nn.LayerNorm(dimensions)
        self.dropout = Dropout(settings.dropout)

    def forward(self, items: Tensor, ages: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the prefixes of every sequence that end with one of its last A events.

        Args:
            items: int [S, L] rows of the item table; any row where the weight is 0.
            ages: float [S, A, L] age of event j at query event i (`engine.retrieval.features.log_ages`).
            weights: float [S, L] weight of the event's action; 0 hides the event from all others.

        Returns:
            interests [S, A, K, D] and the second hop's attention [S, K, A, L]. At a query position they equal those
            that serving computes from the window that ends with its event, if that event has a weight above 0.
        """
        bias = AttentionBias.of(ages, weights)
        vectors = self.dropout(self.items(items))  # [S, L, D]
        normed = self.item_norm(vectors)
        query = vectors[:, -ages.shape[1] :] + self.query_context(bias, weights)  # [S, A, D]
        heads = self.hop1(query, normed, bias)[0].flatten(2)  # [S, A, D]
        state = query + self.dropout(self.output(heads))
        state = state + self.feed1(self.feed1_norm(state))
        attended, attention = self.hop2(state, normed, bias)  # [S, A, K, D]
        interests = attended + state[:, :, None]
        return self.interest_norm(interests + self.feed2(interests)), attention

    def encode(self, batch: SequenceBatch) -> Tensor:
        """Interests [S, A, K, D] of a batch's query positions."""
        device = self.items.ids.weight.device
        items, ages, actions = (
            torch.from_numpy(column).to(device) for column in (batch.items, batch.ages, batch.actions)
        )
        interests: Tensor = self(items, ages, self.actions(actions))[0]
        return interests
