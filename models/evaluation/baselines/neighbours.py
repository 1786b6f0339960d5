"""Neighbours in time: items that came soon after the window's last items."""

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Int64, Windows
from models.evaluation.baselines.baseline import first_unseen
from models.evaluation.baselines.most_popular import PopularityBaseline

_NEXT_STEPS = 3
"""Events after an item that count as its neighbours; the nearer ones weigh more."""
_NEIGHBOURS = 40
_LAST_ITEMS = 5
"""Neighbours of the newest item come first, then those of the items before it."""


class Neighbours:
    """Items that most often came soon after the user's last items, by cosine; then the popular ones.

    Cosine of two items: how often the second came within a few steps after the first, nearer steps weighing more, over
    the root of the product of their events (Sarwar et al. 2001, with sequences in place of ratings).
    """

    def __init__(self, users: Int32, items: Int32, popularity: PopularityBaseline) -> None:
        """Fit on n events of `users` [n] with `items` [n], user by user, each user's in order of time."""
        self._popularity = popularity
        self._table = _neighbours(users, items)  # [V, T]

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`."""
        last = windows.items[:, : -_LAST_ITEMS - 1 : -1]  # [B, 5] newest first
        in_table = (last >= 0) & (last < len(self._table))
        near = np.where(in_table[:, :, None], self._table[np.where(in_table, last, 0)], np.int32(NO_ITEM))  # [B, 5, T]
        ranked = np.concatenate([near.reshape(len(last), -1), self._popularity.ranking(times_ms)], axis=1)
        return first_unseen(ranked, windows.items, count)


def _neighbours(users: Int32, items: Int32) -> Int32:
    """[V, T] nearest items of each item, nearest first; NO_ITEM after the last one."""
    size = int(items.max(initial=0)) + 1
    keys, weights = _pairs(users, items, size)
    pairs, inverse = np.unique(keys, return_inverse=True)
    events = np.bincount(items, minlength=size).astype(np.float64)
    first, second = pairs // size, pairs % size
    cosine = np.bincount(inverse, weights) / np.sqrt(events[first] * events[second])
    order = np.lexsort((-cosine, first))
    first, second = first[order], second[order]
    columns = np.arange(len(first)) - np.searchsorted(first, first)
    kept = columns < _NEIGHBOURS
    table = np.full((size, _NEIGHBOURS), NO_ITEM, np.int32)
    table[first[kept], columns[kept]] = second[kept]
    return table


def _pairs(users: Int32, items: Int32, size: int) -> tuple[Int64, Float32]:
    """Pairs of different items of one user up to `_NEXT_STEPS` apart, as first * size + second, and their weights."""
    keys, weights = [], []
    for step in range(1, _NEXT_STEPS + 1):
        paired = (users[step:] == users[:-step]) & (items[step:] != items[:-step])
        keys.append(items[:-step][paired].astype(np.int64) * size + items[step:][paired])
        weights.append(np.full(len(keys[-1]), 1.0 / step, np.float32))
    return np.concatenate(keys), np.concatenate(weights)
