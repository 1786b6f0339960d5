"""What a release has to beat: popularity of the last seven days, and the neighbours of the last items.

Both rank the whole catalogue, leave out what stands in the user's window, and know only what was known at the time:
popularity counts the events before the full hour in which it is asked, neighbours come from the release's own
training events.
"""

from typing import Protocol

import numpy as np

from engine.columns import NO_ITEM, Float32, Int32, Int64, Windows

HOUR_MS = 3_600_000
POPULARITY_MS = 7 * 24 * HOUR_MS
_NEXT_STEPS = 3
"""An item's neighbours are the next so many items; the nearer ones count more."""
_NEIGHBOURS = 40
_LAST_ITEMS = 5
"""Where the newest item has too few neighbours, those of the items before it fill up, newest first."""


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


class Popularity:
    """Most events in the seven days before the hour it is asked in; ties, and the rest, by events before that."""

    def __init__(self, items: Int32, times_ms: Int64, asked_ms: Int64, depth: int) -> None:
        """Rank the items for every hour in which it will be asked.

        Args:
            items: [n] item numbers of the events.
            times_ms: [n] their times, ascending.
            asked_ms: [a] times at which lists will be asked for.
            depth: items to rank.
        """
        self._hours = np.unique(asked_ms // HOUR_MS)  # [R]
        self._rankings = np.full((len(self._hours), depth), NO_ITEM, np.int32)
        recent, ever = np.zeros((2, int(items.max(initial=0)) + 1))
        past = expired = 0
        for row, hour in enumerate(self._hours.tolist()):
            until, since = np.searchsorted(times_ms, [hour * HOUR_MS, hour * HOUR_MS - POPULARITY_MS]).tolist()
            np.add.at(recent, items[past:until], 1.0)
            np.add.at(ever, items[past:until], 1.0)
            np.add.at(recent, items[expired:since], -1.0)
            past, expired = until, since
            found = _highest(recent + ever / (past + 1.0), depth)
            self._rankings[row, : len(found)] = found

    def ranking(self, times_ms: Int64) -> Int32:
        """[B, depth] items in order of popularity at these times [B]."""
        ranking: Int32 = self._rankings[np.searchsorted(self._hours, times_ms // HOUR_MS)]
        return ranking

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`."""
        return first_unseen(self.ranking(times_ms), windows.items, count)


class Neighbours:
    """Items that most often came soon after the user's last items, by cosine; then what is popular.

    Cosine of two items: how often the second came within a few steps after the first, nearer steps counting more, over
    the root of the product of their events (Sarwar et al. 2001, of sequences instead of ratings).
    """

    def __init__(self, users: Int32, items: Int32, popularity: Popularity) -> None:
        """Learn from n events of `users` [n] with `items` [n], user by user, each user's in order of time."""
        self._popularity = popularity
        self._table = _neighbours(users, items)  # [V, T]

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`."""
        last = windows.items[:, : -_LAST_ITEMS - 1 : -1]  # [B, 5] newest first
        known = (last >= 0) & (last < len(self._table))
        near = np.where(known[:, :, None], self._table[np.where(known, last, 0)], np.int32(NO_ITEM))  # [B, 5, T]
        ranked = np.concatenate([near.reshape(len(last), -1), self._popularity.ranking(times_ms)], axis=1)
        return first_unseen(ranked, windows.items, count)


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


def _highest(scores: np.ndarray[tuple[int, ...], np.dtype[np.float64]], count: int) -> Int64:
    """Up to `count` places with the highest scores above 0, highest first, ties by place."""
    cut = max(0, len(scores) - count)
    best = np.sort(np.argpartition(scores, min(cut, len(scores) - 1))[cut:])
    best = best[scores[best] > 0]
    return best[np.argsort(-scores[best], kind="stable")]


def _neighbours(users: Int32, items: Int32) -> Int32:
    """[V, T] nearest items of each item, nearest first; NO_ITEM behind the last one."""
    size = int(items.max(initial=0)) + 1
    keys, weights = _pairs(users, items, size)
    pairs, inverse = np.unique(keys, return_inverse=True)
    events = np.bincount(items, minlength=size).astype(np.float64)
    first, second = pairs // size, pairs % size
    cosine = np.bincount(inverse, weights) / np.sqrt(events[first] * events[second])
    order = np.lexsort((-cosine, first))
    first, second = first[order], second[order]
    place = np.arange(len(first)) - np.searchsorted(first, first)
    kept = place < _NEIGHBOURS
    table = np.full((size, _NEIGHBOURS), NO_ITEM, np.int32)
    table[first[kept], place[kept]] = second[kept]
    return table


def _pairs(users: Int32, items: Int32, size: int) -> tuple[Int64, Float32]:
    """Pairs of different items of one user up to a few steps apart, as first * size + second, and their weights."""
    keys, weights = [], []
    for step in range(1, _NEXT_STEPS + 1):
        pair = (users[step:] == users[:-step]) & (items[step:] != items[:-step])
        keys.append(items[:-step][pair].astype(np.int64) * size + items[step:][pair])
        weights.append(np.full(len(keys[-1]), 1.0 / step, np.float32))
    return np.concatenate(keys), np.concatenate(weights)
