"""What every baseline does: lists from windows, without what the windows hold."""

from typing import Protocol

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Int64, Windows


class Baseline(Protocol):
    """Something that makes lists from windows, as the engine does."""

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """[B, N] item numbers, best first; NO_ITEM behind the last one.

        Args:
            windows: B windows.
            times_ms: [B] when each list is asked for, one of the times the baseline was made for.
            count: N.
        """
        ...


def first_unseen(ranked: Int32, seen: Int32, count: int) -> Int32:
    """[B, count] the first items of each row of `ranked` [B, C] that are not in `seen` [B, S], each once."""
    both = np.concatenate([seen, ranked], axis=1)  # [B, S + C]
    order = np.argsort(both, axis=1, kind="stable")  # equal items side by side, the seen one first
    ordered = np.take_along_axis(both, order, axis=1)
    first = np.ones(both.shape, np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    fresh = np.empty(both.shape, np.bool_)
    np.put_along_axis(fresh, order, first, axis=1)
    fresh = fresh[:, seen.shape[1] :] & (ranked != NO_ITEM)  # [B, C]
    place = fresh.cumsum(axis=1) - 1
    rows, columns = np.nonzero(fresh & (place < count))
    lists = np.full((len(ranked), count), NO_ITEM, np.int32)
    lists[rows, place[rows, columns]] = ranked[rows, columns]
    return lists


def highest_unseen(scores: Float32, seen: Int32, count: int) -> Int32:
    """[B, count] the items with the highest scores [B, V] that are not in `seen` [B, S], ties by number.

    Items with a score of -inf are not listed; NO_ITEM stands behind the last one.
    """
    rows, columns = np.nonzero((seen >= 0) & (seen < scores.shape[1]))
    kept = scores.copy()
    kept[rows, seen[rows, columns]] = -np.inf
    cut = max(0, scores.shape[1] - count)
    threshold = np.partition(kept, cut, axis=1)[:, cut, None] if count < scores.shape[1] else np.float32(-np.inf)
    rows, items = np.nonzero((kept >= threshold) & (kept > -np.inf))
    order = np.lexsort((items, -kept[rows, items], rows))
    rows, items = rows[order], items[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    fits = place < count
    lists = np.full((len(scores), count), NO_ITEM, np.int32)
    lists[rows[fits], place[fits]] = items[fits]
    return lists


def listed(scores: Float32, windows: Windows, popular: Int32, count: int) -> Int32:
    """[B, count] unseen items by score [B, V], -inf for those without one; then the `popular` ones [B, P]."""
    best = highest_unseen(scores, windows.items, count)
    return first_unseen(np.concatenate([best, popular], axis=1), windows.items, count)
