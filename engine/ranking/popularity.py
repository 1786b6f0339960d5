"""Popularity: events per item over a sliding window of event time.

Fills the lists of users about whom nothing is known yet, is a part of the score where a release says so, and is the
baseline of every next-click figure.
"""

from typing import Final, Protocol

import numpy as np

from engine.arrays import Bool, Float32, Float64, Int32, Int64

DAY_MS: Final = 86_400_000
DAYS: Final = 7
_SEED: Final = DAYS
"""Row of the counts that came with a release, after the rows of the days."""
_REFRESH_SHARE: Final = 50
"""Items are ranked again when the events counted have grown by one part in this many."""


class PopularityCounts(Protocol):
    """Popularity of items at a moment."""

    @property
    def generation(self) -> int:
        """Changes when the counts have changed by enough to be read again."""
        ...

    def top(self, count: int) -> Int32:
        """Up to `count` item numbers with at least one event, most popular first, ties by number."""
        ...

    def shares(self, items: Int32) -> Float32:
        """Share of all counted events that each of these item numbers has; 0 for those without any."""
        ...


class Popularity:
    """Events per item number in the last seven days up to the newest event seen, by whole days (UTC)."""

    def __init__(self) -> None:
        self._counts = np.zeros((DAYS + 1, 0), np.float32)  # [day modulo DAYS, items]
        self._total = np.zeros(0, np.float32)  # [items]
        self._today: int | None = None
        self._seed_expires: int | None = None
        self._events = self._generation_events = 0
        self._generation = 0
        self._ranking = np.empty(0, np.int32)
        self._rank_by_item = np.empty(0, np.int32)  # [items] from 0; the highest integer where an item is not ranked
        self._ranked_count = 0  # the longest list that the ranking can give
        self._ranked_generation = -1  # of the counts that it was computed from

    @property
    def generation(self) -> int:
        """See `PopularityCounts.generation`."""
        return self._generation

    def seed(self, items: Int32, counts: Float32) -> None:
        """Add a release's counts, which are dropped when seven days of the stream have passed."""
        self._reserve(int(items.max(initial=-1)) + 1)
        self._counts[_SEED, items] += counts
        self._total[items] += counts
        self._begin_generation()

    def add(self, items: Int32, times_ms: Int64) -> None:
        """Count events, in any order, but for those older than the window."""
        if not len(items):
            return
        self._reserve(int(items.max()) + 1)
        days = times_ms // DAY_MS
        recent = days > self._advance(int(days.max())) - DAYS
        np.add.at(self._counts, (days[recent] % DAYS, items[recent]), np.float32(1.0))
        np.add.at(self._total, items[recent], np.float32(1.0))
        self._events += len(items)
        if self._events > self._generation_events * (1 + 1 / _REFRESH_SHARE):
            self._begin_generation()

    def top(self, count: int) -> Int32:
        """Up to `count` item numbers with at least one event, most popular first, ties by number."""
        self._refresh(count)
        return self._ranking[:count]

    def ranks(self, items: Int32, depth: int) -> Int32:
        """Rank of each item among the `depth` most popular, from 0; `depth` for all others. Any shape."""
        self._refresh(depth)
        has_rank = (items >= 0) & (items < len(self._rank_by_item))
        ranks = self._rank_by_item[np.where(has_rank, items, 0)] if len(self._rank_by_item) else np.zeros_like(items)
        return np.where(has_rank, np.minimum(ranks, depth), np.int32(depth)).astype(np.int32)

    def shares(self, items: Int32) -> Float32:
        """See `PopularityCounts.shares`."""
        counted = (items >= 0) & (items < len(self._total))
        counts = self._total[np.where(counted, items, 0)] if len(self._total) else np.zeros(items.shape, np.float32)
        shares: Float32 = np.where(counted, counts, np.float32(0.0)) / max(np.float32(1.0), self._total.sum())
        return shares

    def counts(self) -> Float32:
        """[V] events of each item number."""
        return self._total

    def forget(self, items: Int32) -> None:
        """Drop the counts of items whose numbers are about to be those of other items."""
        items = items[items < len(self._total)]
        self._counts[:, items] = 0.0
        self._total[items] = 0.0
        self._begin_generation()

    def _begin_generation(self) -> None:
        self._generation += 1
        self._generation_events = self._events

    def _refresh(self, count: int) -> None:
        if count > self._ranked_count or self._ranked_generation != self._generation:
            self._rank(count)

    def _rank(self, count: int) -> None:
        self._ranking = most_popular(self._total, count)
        self._rank_by_item = np.full(len(self._total), np.iinfo(np.int32).max, np.int32)
        self._rank_by_item[self._ranking] = np.arange(len(self._ranking))
        self._ranked_count, self._ranked_generation = count, self._generation

    def _advance(self, day: int) -> int:
        """Move the window on to `day`, dropping the days that leave it; returns the newest day."""
        if self._today is None:
            self._today, self._seed_expires = day, day + DAYS
        for new_day in range(self._today + 1, min(day, self._today + DAYS) + 1):
            self._drop(new_day % DAYS)  # the row is that of the day which leaves the window
        self._today = max(self._today, day)
        if self._seed_expires is not None and self._today >= self._seed_expires:
            self._drop(_SEED)
            self._seed_expires = None
        return self._today

    def _drop(self, row: int) -> None:
        self._total -= self._counts[row]
        self._counts[row] = 0.0
        self._begin_generation()

    def _reserve(self, items: int) -> None:
        capacity = len(self._total)
        if items > capacity:
            extra = max(items, 2 * capacity) - capacity
            self._counts = np.concatenate([self._counts, np.zeros((DAYS + 1, extra), np.float32)], axis=1)
            self._total = np.concatenate([self._total, np.zeros(extra, np.float32)])


def most_popular(counts: Float32 | Float64, count: int) -> Int32:
    """Up to `count` items with the highest counts [V] above 0, highest first, ties by number."""
    items = np.flatnonzero(counts > 0)
    if count < len(items):
        lowest = np.partition(counts[items], -count)[-count] if count else np.inf
        items = items[counts[items] >= lowest]  # with all that tie at the end, of which the sort leaves the first
    return items[np.argsort(-counts[items], kind="stable")][:count].astype(np.int32)


def untaken(popular: Int32, taken: Int32) -> Bool:
    """[B, T] True where a popular item [T] is not among a user's taken ones [B, S]; in memory of B x (S + T).

    Args:
        popular: [T] distinct item numbers.
        taken: [B, S] item numbers; those that are not popular are ignored.
    """
    untaken = np.ones((len(taken), len(popular)), np.bool_)
    if not len(popular):
        return untaken
    by_number = np.argsort(popular)
    ascending = popular[by_number]
    index = np.minimum(np.searchsorted(ascending, taken), len(popular) - 1)  # [B, S]
    user, column = np.nonzero(ascending[index] == taken)
    untaken[user, by_number[index[user, column]]] = False
    return untaken
