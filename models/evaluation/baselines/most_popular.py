"""Popularity of the last seven days."""

from typing import Self

import numpy as np

from engine.arrays import NO_ITEM, Int32, Int64, Windows
from engine.ranking.popularity import most_popular
from models.data.popularity_at import HOUR_MS
from models.evaluation.baselines.baseline import first_unseen
from models.evaluation.queries import LIST_LENGTH, EvalData, EvalQueries

POPULARITY_MS = 7 * 24 * HOUR_MS


class PopularityBaseline:
    """Items with most events in the seven days before the hour of the query; ties, and the rest, by earlier events."""

    def __init__(self, items: Int32, times_ms: Int64, query_times_ms: Int64, depth: int) -> None:
        """Rank the items for every hour that has a query.

        Args:
            items: [n] item numbers of the events.
            times_ms: [n] their times, ascending.
            query_times_ms: [Q] times of the lists to come.
            depth: items to rank.
        """
        self._hours = np.unique(query_times_ms // HOUR_MS)  # [R]
        self._rankings = np.full((len(self._hours), depth), NO_ITEM, np.int32)
        recent, ever = np.zeros((2, int(items.max(initial=0)) + 1))  # events by item number
        past = expired = 0
        for row, hour in enumerate(self._hours.tolist()):
            until, since = np.searchsorted(times_ms, [hour * HOUR_MS, hour * HOUR_MS - POPULARITY_MS]).tolist()
            np.add.at(recent, items[past:until], 1.0)
            np.add.at(ever, items[past:until], 1.0)
            np.add.at(recent, items[expired:since], -1.0)
            past, expired = until, since
            ranking = most_popular(recent + ever / (past + 1.0), depth)
            self._rankings[row, : len(ranking)] = ranking

    @classmethod
    def of(cls, eval_data: EvalData, queries: EvalQueries, *more_times_ms: Int64) -> Self:
        """A baseline deep enough for any window, that supports the times of `queries` and `more_times_ms`."""
        times_ms, counted = eval_data.interactions.times_ms, queries.popularity_mask
        query_times_ms = np.concatenate([times_ms[queries.targets], *more_times_ms])
        depth = LIST_LENGTH + eval_data.settings.windows.length
        return cls(eval_data.items[counted], times_ms[counted], query_times_ms, depth)

    def ranking(self, times_ms: Int64) -> Int32:
        """[B, depth] items in order of popularity at these times [B]."""
        ranking: Int32 = self._rankings[np.searchsorted(self._hours, times_ms // HOUR_MS)]
        return ranking

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`."""
        return first_unseen(self.ranking(times_ms), windows.items, count)
