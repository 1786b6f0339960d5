"""The interface of baselines: lists from windows, without the items that the windows hold."""

from typing import Protocol

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Int64, Windows


class Baseline(Protocol):
    """A system that makes lists from windows, as the engine does."""

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """[B, N] item numbers, best first; NO_ITEM after the last one.

        Args:
            windows: of B users.
            times_ms: [B] time of each list; a baseline may support only the times that it was fitted for.
            count: N.
        """
        ...


def first_unseen(ranked: Int32, seen: Int32, count: int) -> Int32:
    """[B, count] the first items of each row of `ranked` [B, C] that are not in `seen` [B, S], each once."""
    both = np.concatenate([seen, ranked], axis=1)  # [B, S + C]
    order = np.argsort(both, axis=1, kind="stable")  # equal items are neighbours, a seen one first
    ordered = np.take_along_axis(both, order, axis=1)
    first = np.ones(both.shape, np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    unseen = np.empty(both.shape, np.bool_)
    np.put_along_axis(unseen, order, first, axis=1)
    unseen = unseen[:, seen.shape[1] :] & (ranked != NO_ITEM)  # [B, C]
    positions = unseen.cumsum(axis=1) - 1
    rows, columns = np.nonzero(unseen & (positions < count))
    lists = np.full((len(ranked), count), NO_ITEM, np.int32)
    lists[rows, positions[rows, columns]] = ranked[rows, columns]
    return lists


def highest_unseen(scores: Float32, seen: Int32, count: int) -> Int32:
    """[B, count] the items with the highest scores [B, V] that are not in `seen` [B, S], ties by number.

    Items with a score of -inf are not listed; NO_ITEM comes after the last one.
    """
    rows, columns = np.nonzero((seen >= 0) & (seen < scores.shape[1]))
    unseen = scores.copy()
    unseen[rows, seen[rows, columns]] = -np.inf
    cut = max(0, scores.shape[1] - count)
    threshold = np.partition(unseen, cut, axis=1)[:, cut, None] if count < scores.shape[1] else np.float32(-np.inf)
    rows, items = np.nonzero((unseen >= threshold) & (unseen > -np.inf))
    order = np.lexsort((items, -unseen[rows, items], rows))
    rows, items = rows[order], items[order]
    positions = np.arange(len(rows)) - np.searchsorted(rows, rows)
    fits = positions < count
    lists = np.full((len(scores), count), NO_ITEM, np.int32)
    lists[rows[fits], positions[fits]] = items[fits]
    return lists


def scored_then_popular(scores: Float32, windows: Windows, popular: Int32, count: int) -> Int32:
    """[B, count] unseen items by score [B, V], -inf for those without one; then the `popular` ones [B, P]."""
    ranked = highest_unseen(scores, windows.items, count)
    return first_unseen(np.concatenate([ranked, popular], axis=1), windows.items, count)
