"""Diversity of lists, by what the items' users have in common: a measure that no compared system has learned.

    diversity of a list = 1 - mean over its pairs of items of  |users of both| / sqrt(|users of one| * |users of other|)

in the training events: 1 where no two items share a user. It is the intra-list dissimilarity of Smyth and McClave
("Similarity vs. diversity", 2001) with the cosine of item-based collaborative filtering as similarity.
"""

import numpy as np
from scipy import sparse

from engine.arrays import NO_ITEM, Float64, Int32
from models.data.histories import Histories
from models.evaluation.baselines import matrices

_PLACES = 10


class ListDiversity:
    """Mean diversity of the first ten items of lists that arrive batch by batch."""

    def __init__(self, events: Histories, item_count: int) -> None:
        """Take the users of V items from training events."""
        clicked = matrices.of_users(events, item_count)
        clicked.data[:] = 1.0
        users = np.asarray(clicked.sum(axis=0)).ravel()  # [V]
        self._directions = (sparse.diags(1.0 / np.sqrt(np.maximum(users, 1.0))) @ clicked.T).tocsr()  # [V, U]
        self._has_users = users > 0.0
        self._sum, self._lists = 0.0, 0

    def add(self, lists: Int32) -> None:
        """Add lists [B, N] of item numbers, best first; those with fewer than two items that have users count not."""
        top = lists[:, :_PLACES]
        filled = np.where((top != NO_ITEM) & self._has_users[top], top, np.int32(NO_ITEM))
        counts = (filled != NO_ITEM).sum(axis=1)
        sums = matrices.of_windows(filled, len(self._has_users)) @ self._directions  # [B, U]
        squares: Float64 = np.asarray(sums.multiply(sums).sum(axis=1)).ravel().astype(np.float64)
        pairs = counts * (counts - 1)
        has_pairs = pairs > 0
        similarity = (squares[has_pairs] - counts[has_pairs]) / pairs[has_pairs]
        self._sum += float((1.0 - similarity).sum())
        self._lists += int(has_pairs.sum())

    @property
    def mean(self) -> float | None:
        """Over all lists; None without any."""
        return self._sum / self._lists if self._lists else None
