"""What stands behind a release's figures: for whom it is right, about which items, and how its lists came about."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from engine.arrays import FIRST_SEARCH, Float32, Int32, Int64
from engine.retrieval.index import Index
from models.data import splits
from models.data.dataset import Interactions
from models.evaluation import ranking_metrics

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_Bucket = tuple[int, str]
"""The lowest value in it, and its name."""
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
"""About so many lists, spread evenly, have their searches compared: an exact search of a large catalogue is slow."""


def by_history(data: Interactions, targets: Int64, places: Int64) -> list[dict[str, Any]]:
    """Accuracy by the number of the user's events before the target; `targets` [n] are events of `data`."""
    return _accuracy_by(_HISTORY, splits.earlier(data.users)[targets], data.users[targets], places)


def by_item_age(data: Interactions, targets: Int64, places: Int64) -> list[dict[str, Any]]:
    """Accuracy by the time since the item's first event in the data; new is an item that nobody had before."""
    items, first = np.unique(data.items, return_index=True)
    items, first = items[items < FIRST_SEARCH], first[items < FIRST_SEARCH]
    first_ms = np.zeros(len(data.item_ids), np.int64)
    first_ms[items] = data.times_ms[first]
    ages_ms = data.times_ms[targets] - first_ms[data.items[targets]]
    return _accuracy_by(_ITEM_AGE, ages_ms, data.users[targets], places)


def _accuracy_by(buckets: Sequence[_Bucket], values: Int64, users: Int32, places: Int64) -> list[dict[str, Any]]:
    """A row for each bucket that any of the n values falls into."""
    bucket = np.searchsorted([lowest for lowest, _ in buckets], values, side="right") - 1
    rows = []
    for number in np.unique(bucket).tolist():
        mine = bucket == number
        rows.append(
            {
                "label": buckets[number][1],
                "targets": int(mine.sum()),
                "users": len(np.unique(users[mine])),
                **ranking_metrics.named(ranking_metrics.accuracy(places[mine], users[mine])),
            }
        )
    return rows


class InterestsInUse:
    """How many of a release's interests stand behind the first ten places of its lists.

    The effective number of a list is the perplexity of its interests' shares of the places (the Hill number of order 1:
    Hill, "Diversity and Evenness: A Unifying Notation and Its Consequences", 1973): 1 where one interest found them
    all, K where each found as many.
    """

    def __init__(self, interests: int) -> None:
        """`interests`: K."""
        self._lists = np.zeros(interests + 1, np.int64)  # by number of interests in use
        self._places = np.zeros(interests, np.int64)
        self._effective = 0.0

    def add(self, interests: Int32) -> None:
        """The interests [B, N] that found the items of B lists; -1 where none did."""
        top = interests[:, :10]
        counts = (top[:, :, None] == np.arange(len(self._places))).sum(axis=1)  # [B, K]
        self._lists += np.bincount((counts > 0).sum(axis=1), minlength=len(self._lists))
        self._places += counts.sum(axis=0)
        counts = counts[counts.any(axis=1)]
        shares = counts / counts.sum(axis=1, keepdims=True)
        entropy = -(shares * np.log(np.where(shares > 0.0, shares, 1.0))).sum(axis=1)
        self._effective += float(np.exp(entropy).sum())

    def report(self) -> dict[str, Any]:
        """Mean effective number, over lists that any interest is in; lists by interests in use; places by interest."""
        warm = int(self._lists[1:].sum())
        return {
            "effective": self._effective / warm if warm else None,
            "lists": self._lists.tolist(),
            "places": self._places.tolist(),
        }


class MeasuredIndex:
    """An index that compares some of its answers with those of its exact twin."""

    def __init__(self, index: Index, exact: Index, interests: int, lists: int, depth: int) -> None:
        """Measure searches for `depth` items near each of `interests` (K) interests of about `lists` lists."""
        self._index, self._exact, self._interests = index, exact, interests
        self._stride = max(1, lists // _RECALL_LISTS)
        self._lists = self._asked = 0
        self._found = np.zeros(depth, np.int64)

    @property
    def fallbacks(self) -> int:
        """See `Index.fallbacks`."""
        return self._index.fallbacks

    def __len__(self) -> int:
        return len(self._index)

    def search(self, queries: Float32, count: int) -> tuple[Int32, Float32]:
        """See `Index.search`; every so many lists are compared, and a search deeper than the usual one is not."""
        rows, scores = self._index.search(queries, count)
        if count == len(self._found):
            lists = self._lists + np.arange(len(queries)) // self._interests
            self._lists = int(lists[-1]) + 1
            self._compare(queries, rows, np.flatnonzero(lists % self._stride == 0))
        return rows, scores

    def report(self) -> dict[str, Any]:
        """Share of the nearest items that was found, over all and by how near they are; None without any search."""
        shares = (self._found / max(self._asked, 1)).tolist()
        return {
            "kind": "hnsw",
            "searches": self._asked,
            "recall": sum(shares) / len(shares) if self._asked else None,
            "recall_by_rank": shares if self._asked else [],
        }

    def _compare(self, queries: Float32, rows: Int32, chosen: Int64) -> None:
        nearest = self._exact.search(queries[chosen], len(self._found))[0].astype(np.int64)  # [Q', C]
        apart = np.arange(len(chosen))[:, None] * len(self)  # what one query found is no answer to another
        self._found += np.isin(nearest + apart, rows[chosen] + apart).sum(axis=0)
        self._asked += len(chosen)
