"""Items without a vector among the candidates: known of them are their neighbours and their clicks in the stream.

A release has rows 0 to V - 1. Among candidates, and nowhere else, row V + n is the item of number n that has no vector.
Where an item of the release has scores of interests and popularity, a later one has the score that its share s(i) of
recent clicks deserves,

    score(i) = log Z + log(s(i) / (1 - S)) + w_a * log(1 + a(i) / floor_a)

with S the share of all later items together, and log Z the mean over windows of the log of the sum of exp(score) over
the release's items, measured in training. Scores are logits (the encoder is trained by a softmax over items), so
without neighbours exp(score(i)) / Z' is s(i), and the release's items share 1 - S as they would without later ones: a
mixture of the encoder and the stream, whose weight is counted as the stream goes on. Neighbours come on top.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Int64
from engine.retrieval.stream_neighbours import StreamNeighbours

_LEAST_KNOWN_SHARE: Final = 1e-3
"""Of the release's items together, so that a stream of later items alone has finite scores."""
_LEAST_SHARE: Final = np.float32(1e-9)
LEAST_CLICKS: Final = 1.5
"""An item is a candidate from its second click on: where ids come once and never again, lists would be full of them."""


@dataclass(frozen=True, slots=True)
class NearItems:
    """n neighbours of window items, user by user."""

    users: Int64
    """[n]"""
    ranks: Int64
    """[n] ranks of the window items, 0 for the newest."""
    rows: Int32
    """[n] rows of the neighbours."""
    weights: Float32
    """[n]"""


@dataclass(frozen=True, slots=True)
class NewItems:
    """The stream's neighbours as a source of a release's candidates."""

    stream: StreamNeighbours
    rows: Callable[[Int32], Int32]
    """Candidate rows of items by number (`LiveRelease.candidate_rows`)."""
    numbers: Callable[[Int32], Int32]
    """Numbers by candidate row (`LiveRelease.candidate_numbers`)."""
    known: int
    """Items with neighbours of their own in the release, the first of its rows; their pairs with one another are the
    release's matter."""
    first: int
    """V, the first row of a later item."""
    base: float
    """log Z - log(1 - S)."""

    def near(self, recent: Int32) -> NearItems:
        """Neighbours of the items in rows [B, W]; NO_ITEM in empty places."""
        flat = recent.ravel()
        pairs = self.stream.of(self.numbers(flat), LEAST_CLICKS)
        rows, sources = self.rows(pairs.items), flat[pairs.sources]
        kept = (rows != NO_ITEM) & ((rows >= self.known) | (sources >= self.known))
        users, ranks = np.divmod(pairs.sources[kept], max(1, recent.shape[1]))
        return NearItems(users, ranks, rows[kept], pairs.weights[kept])

    def vectors(self, rows: Int32, vectors: Float32) -> Float32:
        """Vectors of the items at `rows`, of any shape, 0 for later items; `vectors` [V, D] are the release's."""
        at_rows = vectors[np.clip(rows, 0, len(vectors) - 1)]
        at_rows[rows >= len(vectors)] = 0.0
        return at_rows

    def add_scores(self, scores: Float32, rows: Int32) -> None:
        """Add to scores what the clicks on later items are worth, at `rows` of the same shape."""
        later = np.nonzero(rows >= self.first)
        if len(later[0]):
            shares = self.stream.shares(self.numbers(rows[later]))
            scores[later] += np.float32(self.base) + np.log(np.maximum(shares, _LEAST_SHARE))


def base(log_partition: float, later_share: float) -> float:
    """Score of a later item with a share of 1 of recent clicks, all later items together having `later_share`."""
    return log_partition - math.log(max(1.0 - later_share, _LEAST_KNOWN_SHARE))
