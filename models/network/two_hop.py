"""The two-hop encoder, as it is trained: many events of every sequence are queries, in one causal pass.

Hop 1 asks the window about its newest item and the moment, hop 2 asks it once per interest. Keys and values of both
hops depend on the item alone, so that a release ships them as tables and serving computes one query per hop
(`publishing.graphs`). The serving graph and this module share parameters and equations; `publishing.export` compares
them before it writes anything.

Letters: S sequences, L events (the window), A asked positions, H heads, K interests, D dimensions, V items.
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
    """Dropout [S, A, ..., D] with one mask for all axes between A and D: drawing numbers is what costs on a CPU."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, state: Tensor) -> Tensor:
        """The state, in training with some dimensions of each position silenced and the others raised for it."""
        if not self.training or self.share == 0.0:
            return state
        between = [1] * (state.dim() - 3)
        mask = torch.rand(*state.shape[:2], *between, state.shape[-1], device=state.device) >= self.share
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
    """Sequences of events in, K interests at every asked position out."""

    def __init__(
        self,
        items: int,
        settings: EncoderSettings,
        content: Content | None = None,
        actions: ActionValues | None = None,
    ) -> None:
        """An encoder that knows nothing yet.

        Args:
            items: V.
            settings: sizes.
            content: what the items' content says, where there is any.
            actions: what the actions are worth to whoever makes the weights for `forward`.
        """
        super().__init__()
        dimensions = settings.dimensions
        self.settings = settings
        self.actions = actions or ActionValues(torch.ones(1), learned=False)
        self.items = ItemVectors(items, dimensions, content, settings.id_dropout)  # tied: the keys are made from them
        self.moment = QueryContext(dimensions).requires_grad_(settings.moment)  # adds nothing where it learns nothing
        self.item_norm = nn.LayerNorm(dimensions)
        self.hop1 = Hop(settings, settings.heads, dimensions // settings.heads)
        self.mix = nn.Linear(dimensions, dimensions)
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
            ages: float [S, A, L] age of event j when the asked event i happened (`engine.retrieval.features.log_ages`).
            weights: float [S, L] weight of the event's action; 0 hides the event from all others.

        Returns:
            interests [S, A, K, D] and the second hop's attention [S, K, A, L]; what stands at an asked position is what
            serving computes from the window that ends with its event, which must have a weight above 0.
        """
        sight = AttentionBias.of(ages, weights)
        vectors = self.dropout(self.items(items))  # [S, L, D]
        keyed = self.item_norm(vectors)
        asked = vectors[:, -ages.shape[1] :] + self.moment(sight, weights)  # [S, A, D]
        context = self.hop1(asked, keyed, sight)[0].flatten(2)  # [S, A, D]
        state = asked + self.dropout(self.mix(context))
        state = state + self.feed1(self.feed1_norm(state))
        found, attention = self.hop2(state, keyed, sight)  # [S, A, K, D]
        interests = found + state[:, :, None]
        return self.interest_norm(interests + self.feed2(interests)), attention

    def encode(self, batch: SequenceBatch) -> Tensor:
        """Interests [S, A, K, D] of a batch's asked positions."""
        device = self.items.ids.weight.device
        items, ages, actions = (torch.from_numpy(one).to(device) for one in (batch.items, batch.ages, batch.actions))
        interests: Tensor = self(items, ages, self.actions(actions))[0]
        return interests
