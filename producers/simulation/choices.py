"""What simulated shoppers choose, as probabilities: tables to draw from, and the exact distribution of a click.

A click comes from one of three sources: an impulse (what is popular with everybody), the interest of the session, or
a successor of the item at which the session stands. A shopper who remembers the item that comes to mind tries again,
a few times.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import Bool, Float32, Float64, Int32, Int64
from producers.simulation.simulated_catalogue import SUCCESSORS, TOPICS, SimulatedCatalogue

IMPULSE: Final = 0.08
FASHION: Final = 1.5
"""Exponent of what everybody looks at: above 1, impulses favour the popular items over their share."""
JUMP: Final = 0.25
"""Probability that a click that is no impulse goes elsewhere within the interest instead of to a successor."""
TRIES: Final = 4

_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, slots=True)
class Draws:
    """Many distributions to draw from at once, each a row of the same width."""

    shares: Float64
    """[R, W] rows sum to 1, or to 0 where nothing can be drawn."""
    steps: Float64
    """[R * W] row number plus cumulative share: rising throughout, so that one search serves all rows."""

    def draw(self, rows: Int32, uniform: Float64) -> Int64:
        """Columns drawn from `rows`, one for each number of `uniform` in [0, 1); the shapes broadcast."""
        below_one = np.minimum(uniform, 1.0 - 1e-9)  # else row + uniform could round up into the next row
        found = np.searchsorted(self.steps, rows + below_one, side="right")
        columns: Int64 = found - rows.astype(np.int64) * self.shares.shape[1]
        return columns


def draws(weights: Float64) -> Draws:
    """Distributions in proportion to the rows of `weights` [R, W]."""
    shares = weights / np.maximum(weights.sum(1, keepdims=True), _TINY)
    steps: Float64 = np.cumsum(shares, axis=1)
    steps /= np.maximum(steps[:, -1:], _TINY)  # ends at exactly 1, whatever was rounded
    return Draws(shares, (steps + np.arange(len(steps))[:, None]).ravel())


@dataclass(frozen=True, slots=True)
class Choices:
    """Where a click may go, and how likely, as the catalogue stands at one time."""

    interest: Draws
    """[T + 1, V] by topic; the last row is what is popular with everybody."""
    follow: Draws
    """[V + 1, SUCCESSORS] by item; the last row, for sessions that stand nowhere yet, is empty."""
    can_follow: Bool
    """[V + 1] one of the successors is on sale."""
    successors: Int32
    """[V + 1, SUCCESSORS]"""

    def pick(self, rng: np.random.Generator, topics: Int32, places: Int32, memory: Int32) -> tuple[Int32, Bool]:
        """Items [B] clicked, and whether each was an impulse [B], by shoppers who remember `memory` [B, R]."""
        size = (len(topics), TRIES)
        source, which, step = rng.random((3, *size))
        impulse = source < IMPULSE
        follows = (source >= IMPULSE + (1 - IMPULSE) * JUMP) & self.can_follow[places][:, None]
        rows = np.where(impulse, np.int32(TOPICS), topics[:, None])
        items = self.interest.draw(rows, which).astype(np.int32)
        shopper, attempt = np.nonzero(follows)
        stand = places[shopper]
        items[shopper, attempt] = self.successors[stand, self.follow.draw(stand, step[shopper, attempt])]
        fresh = ~(memory[:, None, :] == items[:, :, None]).any(2)
        taken = np.where(fresh.any(1), fresh.argmax(1), TRIES - 1)
        shoppers = np.arange(len(topics))
        return items[shoppers, taken], impulse[shoppers, taken]

    def opening(self, topics: int | slice) -> Float64:
        """[..., V] distribution of one try of a shopper whose session about each of `topics` stands nowhere."""
        impulse, interest = self.interest.shares[TOPICS], self.interest.shares[topics]
        shares: Float64 = IMPULSE * impulse + (1 - IMPULSE) * interest
        return shares

    def going_on(self, topic: int, place: int) -> Float64:
        """[V] distribution of one try of a shopper whose session about `topic` stands at the item `place`."""
        if not self.can_follow[place]:
            return self.opening(topic)
        impulse, interest = self.interest.shares[TOPICS], self.interest.shares[topic]
        shares: Float64 = IMPULSE * impulse + (1 - IMPULSE) * JUMP * interest
        shares[self.successors[place]] += (1 - IMPULSE) * (1 - JUMP) * self.follow.shares[place]
        return shares


def after_tries(shares: Float64, remembered: Bool) -> Float64:
    """The distribution of a click when that of one try is `shares` [..., V] and `remembered` [V] items are avoided.

    With s the share of the remembered items, n tries give q(y) (1 - s^n) / (1 - s) to an item that is not
    remembered, and q(y) s^(n - 1), the last try, to one that is.
    """
    again = shares[..., remembered].sum(-1, keepdims=True)
    fresh = sum(again**attempt for attempt in range(TRIES))  # the geometric series, without dividing by 1 - s = 0
    clicked: Float64 = shares * np.where(remembered, again ** (TRIES - 1), fresh)
    return clicked


def choices(catalogue: SimulatedCatalogue, attention: Float32) -> Choices:
    """The choices when each item attracts `attention` [V] times what it usually does; 0 is not on sale."""
    interest = catalogue.appeal.astype(np.float64) * attention
    interest /= interest.sum(1, keepdims=True)
    everybody = (catalogue.topic_popularity @ interest) ** FASHION
    nowhere = np.zeros((1, SUCCESSORS), np.int32)
    odds = np.minimum(attention[catalogue.successors], 1.0) / np.arange(1, SUCCESSORS + 1)  # Zipf's law
    follow = draws(np.vstack([odds, nowhere]))
    return Choices(
        interest=draws(np.vstack([interest, everybody])),
        follow=follow,
        can_follow=follow.shares.sum(1) > 0,
        successors=np.vstack([catalogue.successors, nowhere]),
    )
