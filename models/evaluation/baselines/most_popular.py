"""What was popular in the last seven days."""

import numpy as np

from engine.arrays import NO_ITEM, Int32, Int64, Windows
from models.evaluation.baselines.baseline import first_unseen

HOUR_MS = 3_600_000
POPULARITY_MS = 7 * 24 * HOUR_MS


class PopularityBaseline:
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


def _highest(scores: np.ndarray[tuple[int, ...], np.dtype[np.float64]], count: int) -> Int64:
    """Up to `count` places with the highest scores above 0, highest first, ties by place."""
    cut = max(0, len(scores) - count)
    best = np.sort(np.argpartition(scores, min(cut, len(scores) - 1))[cut:])
    best = best[scores[best] > 0]
    return best[np.argsort(-scores[best], kind="stable")]
