"""Breakdowns of accuracy by user history and item age, interests in use, and recall of the index."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from engine.arrays import FIRST_SEARCH, Float32, Int32, Int64
from engine.quality.drift import effective_interests
from engine.retrieval.index import Index
from models.data import splits
from models.data.dataset import Interactions
from models.evaluation import ranking_metrics

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_Bucket = tuple[int, str]
"""Lowest value, and label."""
_HISTORY: Final[Sequence[_Bucket]] = (
    (0, "0"),
    (1, "1"),
    (2, "2"),
    (3, "3-5"),
    (6, "6-10"),
    (11, "11-20"),
    (21, "21-50"),
    (51, "51-100"),
    (101, "101+"),
)
_ITEM_AGE: Final[Sequence[_Bucket]] = (
    (0, "new"),
    (1, "<1 hour"),
    (_HOUR_MS, "<1 day"),
    (_DAY_MS, "<1 week"),
    (7 * _DAY_MS, "<30 days"),
    (30 * _DAY_MS, "<1 year"),
    (365 * _DAY_MS, "1+ years"),
)
_RECALL_LISTS: Final = 500
"""Lists, roughly, whose searches are compared, evenly spread: an exact search of a large catalogue is slow."""


def by_history(data: Interactions, targets: Int64, ranks: Int64) -> list[dict[str, Any]]:
    """Accuracy by the number of the user's events before the target.

    Args:
        data: recorded interactions.
        targets: [Q] indices of the target events.
        ranks: [Q] ranks of the targets in their lists.
    """
    return _accuracy_by(_HISTORY, splits.earlier(data.users)[targets], data.users[targets], ranks)


def by_item_age(data: Interactions, targets: Int64, ranks: Int64) -> list[dict[str, Any]]:
    """Accuracy by the time since the item's first event in the data, *new* being that event; as `by_history`."""
    items, first = np.unique(data.items, return_index=True)
    items, first = items[items < FIRST_SEARCH], first[items < FIRST_SEARCH]
    first_ms = np.zeros(len(data.item_ids), np.int64)
    first_ms[items] = data.times_ms[first]
    ages_ms = data.times_ms[targets] - first_ms[data.items[targets]]
    return _accuracy_by(_ITEM_AGE, ages_ms, data.users[targets], ranks)


def _accuracy_by(buckets: Sequence[_Bucket], values: Int64, users: Int32, ranks: Int64) -> list[dict[str, Any]]:
    """A row for each bucket that any of the values [Q] falls into."""
    bucket = np.searchsorted([lowest for lowest, _ in buckets], values, side="right") - 1
    rows = []
    for number in np.unique(bucket).tolist():
        in_bucket = bucket == number
        rows.append(
            {
                "label": buckets[number][1],
                "targets": int(in_bucket.sum()),
                "users": len(np.unique(users[in_bucket])),
                **ranking_metrics.as_figures(ranking_metrics.accuracy(ranks[in_bucket], users[in_bucket])),
            }
        )
    return rows


class InterestsInUse:
    """Number of interests that the first ten positions of a release's lists come from.

    The effective number of a list: `engine.quality.drift.effective_interests`.
    """

    def __init__(self, interests: int) -> None:
        """`interests`: K."""
        self._lists = np.zeros(interests + 1, np.int64)  # by number of interests in use
        self._positions = np.zeros(interests, np.int64)  # by interest
        self._effective = 0.0

    def add(self, interests: Int32) -> None:
        """The interests [B, N] that found the items of B lists; -1 for an item that none found."""
        top = interests[:, :10]
        counts = (top[:, :, None] == np.arange(len(self._positions))).sum(axis=1)  # [B, K]
        self._lists += np.bincount((counts > 0).sum(axis=1), minlength=len(self._lists))
        self._positions += counts.sum(axis=0)
        self._effective += float(effective_interests(top).sum())

    def report(self) -> dict[str, Any]:
        """Mean effective number over lists with any interest, `lists` by interests in use, `positions` by interest."""
        with_interests = int(self._lists[1:].sum())
        return {
            "effective": self._effective / with_interests if with_interests else None,
            "lists": self._lists.tolist(),
            "positions": self._positions.tolist(),
        }


class MeasuredIndex:
    """An index whose recall is measured on a sample of its searches, against an exact index of the same vectors."""

    def __init__(self, index: Index, exact: Index, interests: int, lists: int, depth: int) -> None:
        """Measure searches of `index`.

        Args:
            index: serves.
            exact: the reference.
            interests: K, searches per list.
            lists: how many lists the searches are for, roughly.
            depth: items per search; searches for another number of items are not measured.
        """
        self._index, self._exact, self._interests = index, exact, interests
        self._stride = max(1, lists // _RECALL_LISTS)
        self._lists = self._searches = 0
        self._hits = np.zeros(depth, np.int64)  # by rank in the exact search

    @property
    def fallbacks(self) -> int:
        """See `Index.fallbacks`."""
        return self._index.fallbacks

    def __len__(self) -> int:
        return len(self._index)

    def search(self, queries: Float32, count: int) -> tuple[Int32, Float32]:
        """See `Index.search`."""
        rows, scores = self._index.search(queries, count)
        if count == len(self._hits):
            lists = self._lists + np.arange(len(queries)) // self._interests
            self._lists = int(lists[-1]) + 1
            self._compare(queries, rows, np.flatnonzero(lists % self._stride == 0))
        return rows, scores

    def report(self) -> dict[str, Any]:
        """Share of the nearest items that the index finds, over all ranks and by rank; None without any search."""
        shares = (self._hits / max(self._searches, 1)).tolist()
        return {
            "kind": "hnsw",
            "searches": self._searches,
            "recall": sum(shares) / len(shares) if self._searches else None,
            "recall_by_rank": shares if self._searches else [],
        }

    def _compare(self, queries: Float32, rows: Int32, sample: Int64) -> None:
        nearest = self._exact.search(queries[sample], len(self._hits))[0].astype(np.int64)  # [S, C]
        offsets = np.arange(len(sample))[:, None] * len(self)  # keeps the rows of one query apart from another's
        self._hits += np.isin(nearest + offsets, rows[sample] + offsets).sum(axis=0)
        self._searches += len(sample)
