"""Popularity at the times of recorded queries, as a worker would have counted it by then."""

from typing import Final

import numpy as np

from engine.arrays import Float32, Int32, Int64
from engine.ranking.popularity import DAY_MS, DAYS, most_popular

HOUR_MS: Final = 3_600_000


class PopularityAt:
    """Counts of recorded events over the seven days (UTC) up to a time, which may move both ways.

    As in `engine.ranking.popularity`, the day of the time is the seventh. The hour of the time counts for nothing, so
    that no query sees its target.
    """

    def __init__(self, items: Int32, times_ms: Int64, item_count: int) -> None:
        """Start before the first event.

        Args:
            items: [n] numbers of the items clicked.
            times_ms: [n] their times, in any order.
            item_count: numbers in all.
        """
        order = np.argsort(times_ms, kind="stable")
        self._items, self._times_ms = items[order], times_ms[order]
        self._counts = np.zeros(item_count, np.int64)  # [items] of the events from `_begin` to `_end`
        self._begin = self._end = 0
        self.generation = 0

    def move_to(self, time_ms: int) -> None:
        """Count the seven days up to the hour of this time."""
        hour_ms = time_ms // HOUR_MS * HOUR_MS
        first_day_ms = (hour_ms // DAY_MS - DAYS + 1) * DAY_MS
        begin, end = np.searchsorted(self._times_ms, [first_day_ms, hour_ms]).tolist()
        if (begin, end) != (self._begin, self._end):
            self._add(self._end, end)
            self._add(begin, self._begin)
            self._begin, self._end = begin, end
            self.generation += 1

    def top(self, count: int) -> Int32:
        """See `engine.ranking.popularity.PopularityCounts.top`."""
        return most_popular(self._counts.astype(np.float64), count)

    def shares(self, items: Int32) -> Float32:
        """See `engine.ranking.popularity.PopularityCounts.shares`."""
        shares: Float32 = (self._counts[items] / max(1, self._end - self._begin)).astype(np.float32)
        return shares

    def _add(self, begin: int, end: int) -> None:
        """Add the events from `begin` to `end`, or take away those from `end` to `begin`."""
        sign = 1 if begin <= end else -1
        np.add.at(self._counts, self._items[min(begin, end) : max(begin, end)], sign)
