"""Items without a vector among the candidates: what a release knows of them is their neighbours in the stream.

A release has rows 0 to V - 1. Among candidates, and nowhere else, row V + n is the item of number n that has no vector.
Its interest score is that of the mean vector, as of an item drawn at random.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Int64
from engine.retrieval.stream_neighbours import StreamNeighbours

_LEAST_CLICKS: Final = 1.5
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
    mean: Float32
    """[D] mean of the release's vectors."""

    def near(self, recent: Int32) -> NearItems:
        """Neighbours of the items in rows [B, W]; NO_ITEM in empty places."""
        flat = recent.ravel()
        pairs = self.stream.of(self.numbers(flat), _LEAST_CLICKS)
        rows, sources = self.rows(pairs.items), flat[pairs.sources]
        kept = (rows != NO_ITEM) & ((rows >= self.known) | (sources >= self.known))
        users, ranks = np.divmod(pairs.sources[kept], max(1, recent.shape[1]))
        return NearItems(users, ranks, rows[kept], pairs.weights[kept])

    def vectors(self, rows: Int32, vectors: Float32) -> Float32:
        """Vectors of the items at `rows`, of any shape; `vectors` [V, D] are the release's."""
        at_rows = vectors[np.clip(rows, 0, len(vectors) - 1)]
        beyond = rows >= len(vectors)
        if beyond.any():
            at_rows[beyond] = self.mean
        return at_rows
