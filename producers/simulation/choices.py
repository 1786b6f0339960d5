"""Choice model of simulated shoppers: the exact distribution of a click over the items, and draws from it.

A click has one of three sources: an impulse (a popular item, whatever the shopper's interests), the topic of the
session, or a successor of the session's current item. When the item drawn is one that the shopper remembers, the
shopper draws again, up to TRIES times in all.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import Bool, Float32, Float64, Int32, Int64
from producers.simulation.simulated_catalogue import SUCCESSORS, TOPICS, SimulatedCatalogue

IMPULSE: Final = 0.08
"""Probability that a click is an impulse."""
IMPULSE_EXPONENT: Final = 1.5
"""Exponent of popularity in impulses: above 1, they favour popular items more than their share."""
JUMP: Final = 0.25
"""Probability that a click which is no impulse is any item of the topic instead of a successor."""
TRIES: Final = 4

_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, slots=True)
class Distributions:
    """R categorical distributions over W columns each, to draw from many of them at once."""

    shares: Float64
    """[R, W] probabilities; rows sum to 1, or to 0 where nothing can be drawn."""
    steps: Float64
    """[R * W] row number plus cumulative probability: ascending throughout, so that one search serves all rows."""

    @classmethod
    def in_proportion_to(cls, weights: Float64) -> "Distributions":
        """Distributions proportional to the rows of `weights` [R, W]."""
        shares = weights / np.maximum(weights.sum(1, keepdims=True), _TINY)
        steps: Float64 = np.cumsum(shares, axis=1)
        steps /= np.maximum(steps[:, -1:], _TINY)  # the last step is exactly 1, whatever was rounded
        return cls(shares, (steps + np.arange(len(steps))[:, None]).ravel())

    def draw(self, rows: Int32, uniform: Float64) -> Int64:
        """Columns drawn from the distributions `rows`, one for each number `uniform` in [0, 1); shapes broadcast."""
        below_one = np.minimum(uniform, 1.0 - 1e-9)  # else row + uniform could round up into the next row
        positions = np.searchsorted(self.steps, rows + below_one, side="right")
        columns: Int64 = positions - rows.astype(np.int64) * self.shares.shape[1]
        return columns


@dataclass(frozen=True, slots=True)
class ChoiceModel:
    """Distributions of the next click, for the items on sale at one time."""

    by_topic: Distributions
    """[T + 1, V] items by topic; the last row is that of impulses."""
    by_item: Distributions
    """[V + 1, SUCCESSORS] successors by current item; the last row, for a session without a current item, is empty."""
    has_successor: Bool
    """[V + 1] a successor of the item is on sale."""
    successors: Int32
    """[V + 1, SUCCESSORS] items."""

    def draw(self, rng: np.random.Generator, topics: Int32, current: Int32, memory: Int32) -> tuple[Int32, Bool]:
        """Items [B] clicked, and a mask [B] of the impulses among them.

        Args:
            rng: source of randomness.
            topics: [B] topic of each session.
            current: [B] current item of each session, V where there is none.
            memory: [B, R] items that each shopper remembers.
        """
        shape = (len(topics), TRIES)
        source, item_uniform, successor_uniform = rng.random((3, *shape))
        impulse = source < IMPULSE
        is_successor = (source >= IMPULSE + (1 - IMPULSE) * JUMP) & self.has_successor[current][:, None]
        rows = np.where(impulse, np.int32(TOPICS), topics[:, None])
        items = self.by_topic.draw(rows, item_uniform).astype(np.int32)  # [B, TRIES]
        shopper, attempt = np.nonzero(is_successor)
        columns = self.by_item.draw(current[shopper], successor_uniform[shopper, attempt])
        items[shopper, attempt] = self.successors[current[shopper], columns]
        fresh = ~(memory[:, None, :] == items[:, :, None]).any(2)
        last_try = np.where(fresh.any(1), fresh.argmax(1), TRIES - 1)
        shoppers = np.arange(len(topics))
        return items[shoppers, last_try], impulse[shoppers, last_try]

    def without_current_item(self, topics: int | slice) -> Float64:
        """[..., V] distribution of one try in sessions about `topics` that have no current item."""
        shares: Float64 = IMPULSE * self.by_topic.shares[TOPICS] + (1 - IMPULSE) * self.by_topic.shares[topics]
        return shares

    def with_current_item(self, topic: int, item: int) -> Float64:
        """[V] distribution of one try in a session about `topic` whose current item is `item`."""
        if not self.has_successor[item]:
            return self.without_current_item(topic)
        impulse, jump = self.by_topic.shares[TOPICS], self.by_topic.shares[topic]
        shares: Float64 = IMPULSE * impulse + (1 - IMPULSE) * JUMP * jump
        shares[self.successors[item]] += (1 - IMPULSE) * (1 - JUMP) * self.by_item.shares[item]
        return shares


def with_retries(shares: Float64, remembered: Bool) -> Float64:
    """[..., V] distribution of a click, from that of one try `shares` [..., V] and the items remembered [V].

    With q the distribution of one try and s its share of the remembered items, n tries give q(y) (1 - s^n) / (1 - s) to
    an item that is not remembered, and q(y) s^(n - 1), the last try, to one that is.
    """
    repeat_share = shares[..., remembered].sum(-1, keepdims=True)
    series = sum(repeat_share**attempt for attempt in range(TRIES))  # geometric, without dividing by 1 - s = 0
    clicked: Float64 = shares * np.where(remembered, repeat_share ** (TRIES - 1), series)
    return clicked


def choice_model(catalogue: SimulatedCatalogue, attention: Float32) -> ChoiceModel:
    """The choice model when each item attracts `attention` [V] times what it usually does; 0 is not on sale."""
    topic_shares = catalogue.appeal.astype(np.float64) * attention
    topic_shares /= topic_shares.sum(1, keepdims=True)
    impulse = (catalogue.topic_popularity @ topic_shares) ** IMPULSE_EXPONENT
    no_successors = np.zeros((1, SUCCESSORS), np.int32)
    odds = np.minimum(attention[catalogue.successors], 1.0) / np.arange(1, SUCCESSORS + 1)  # Zipf's law
    by_item = Distributions.in_proportion_to(np.vstack([odds, no_successors]))
    return ChoiceModel(
        by_topic=Distributions.in_proportion_to(np.vstack([topic_shares, impulse])),
        by_item=by_item,
        has_successor=by_item.shares.sum(1) > 0,
        successors=np.vstack([catalogue.successors, no_successors]),
    )
