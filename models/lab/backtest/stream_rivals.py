"""Classics of the field that learn from each click of a stream as it comes, and rank the next one before they see it.

    popularity_7d   events in the seven days before the click, ties by earlier events
    item_knn        cosine of the users of two items, shrunk, summed over the newest 30 items of the window with
                    weights that fall (Sarwar et al., Item-based collaborative filtering recommendation algorithms,
                    2001; counted on the stream as in TencentRec, Huang et al., 2015)
    session_knn     items of the sessions that are like the user's newest one: VMIS-kNN (Kersbergen et al., Serenade,
                    2022)

Each is judged twice: by the list that it would have pushed when a worker pushed its own, after the batch of the user's
click before, and by one made at the click, which knows everything up to the batch of the click (ten minutes at most).
Items without a score of the second and third are ranked by popularity. None ranks an item that is in the window.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from heapq import nlargest
from itertools import product
from operator import itemgetter
from typing import Final, Protocol

import numpy as np

from engine.arrays import NO_ITEM, Float32, Float64, Int32
from engine.ranking.popularity import most_popular
from models.evaluation.baselines.most_popular import POPULARITY_MS
from models.evaluation.ranking_metrics import NOT_LISTED

_NEWEST_ITEMS: Final = 30
_DECAYS: Final = (0.9, 1.0, 0.5)
_SHRINKAGES: Final = (100.0, 10.0)
CONFIGURATIONS: Final = tuple(product(_DECAYS, _SHRINKAGES))
"""Decay and shrinkage of each item-kNN that is counted; the first is taken until there is anything to choose by."""
_DENSE_ITEMS: Final = 8_192
"""Largest catalogue whose pairs are counted in one square array, of 256 MiB."""
_SESSION_GAP_MS: Final = 1_800_000
_RECENT_SESSIONS: Final = 500
_NEAREST_SESSIONS: Final = 100
_SESSION_ITEMS: Final = 20
_MATCH_STEP: Final = 0.1
_PUSHED: Final = 20
"""Places of a pushed list."""
_FALLBACK: Final = 1e-9
"""Weight of popularity in scores of neighbours: it orders what has no other score."""


class StreamPopularity:
    """Events of each item in the last seven days, up to the event."""

    def __init__(self, item_count: int) -> None:
        self._recent, self._ever = np.zeros((2, item_count))
        self._events: deque[tuple[int, int]] = deque()
        self._past = 0

    def scores(self, time_ms: int) -> Float64:
        """[V] at a time, which never goes back."""
        while self._events and self._events[0][0] < time_ms - POPULARITY_MS:
            self._recent[self._events.popleft()[1]] -= 1.0
        scores: Float64 = self._recent + self._ever / (self._past + 1.0)
        return scores

    def add(self, item: int, time_ms: int) -> None:
        """Count an event."""
        self._events.append((time_ms, item))
        self._recent[item] += 1.0
        self._ever[item] += 1.0
        self._past += 1


class _PairCounts(Protocol):
    """Counts of ordered pairs of items."""

    def add(self, item: int, others: Int32) -> None:
        """Count the pairs of an item with others, both ways."""
        ...

    def scores(self, items: Int32, users: Float32) -> Iterator[Float64]:
        """[V] scores by each of `CONFIGURATIONS`; see `StreamItemKnn.scores`.

        Args:
            items: [m]
            users: [V] users of each item.
        """
        ...


class _DensePairs:
    """One square array."""

    def __init__(self, item_count: int) -> None:
        self._counts = np.zeros((item_count, item_count), np.float32)

    def add(self, item: int, others: Int32) -> None:
        """See `_PairCounts.add`."""
        self._counts[item, others] += 1.0
        self._counts[others, item] += 1.0

    def scores(self, items: Int32, users: Float32) -> Iterator[Float64]:
        """See `_PairCounts.scores`."""
        counts, lengths = self._counts[items], np.sqrt(np.outer(users[items], users))  # [m, V]
        similarities = {shrinkage: counts / (lengths + np.float32(shrinkage)) for shrinkage in _SHRINKAGES}
        for decay, shrinkage in CONFIGURATIONS:
            weights = (decay ** np.arange(len(items))).astype(np.float32)
            yield (weights @ similarities[shrinkage]).astype(np.float64)


class _SparsePairs:
    """A row of pairs for each item."""

    def __init__(self) -> None:
        self._rows: defaultdict[int, dict[int, float]] = defaultdict(dict)

    def add(self, item: int, others: Int32) -> None:
        """See `_PairCounts.add`."""
        row = self._rows[item]
        for other in others.tolist():
            row[other] = self._rows[other][item] = row.get(other, 0.0) + 1.0

    def scores(self, items: Int32, users: Float32) -> Iterator[Float64]:
        """See `_PairCounts.scores`."""
        rows = [self._rows.get(item, {}) for item in items.tolist()]
        places = np.repeat(np.arange(len(rows)), [len(row) for row in rows])  # [E]
        columns = np.fromiter((item for row in rows for item in row), np.int32, len(places))
        counts = np.fromiter((count for row in rows for count in row.values()), np.float32, len(places))
        lengths = np.sqrt(users[items][places] * users[columns])
        for decay, shrinkage in CONFIGURATIONS:
            values = decay**places * counts / (lengths + shrinkage)
            yield np.bincount(columns, values, len(users)).astype(np.float64)


class StreamItemKnn:
    """Item-kNN by counts of users in common, in several configurations at once."""

    def __init__(self, item_count: int) -> None:
        self._pairs: _PairCounts = _DensePairs(item_count) if item_count <= _DENSE_ITEMS else _SparsePairs()
        self._users = np.zeros(item_count, np.float32)

    def scores(self, liked: Int32) -> Iterator[Float64]:
        """[V] scores by each of `CONFIGURATIONS`.

        Args:
            liked: [m] distinct items of the window, newest first.
        """
        return self._pairs.scores(liked[:_NEWEST_ITEMS], self._users)

    def add(self, item: int, liked: Int32) -> None:
        """Count a click of a user whose window has these distinct items [m]; a click again changes nothing."""
        if item not in liked:
            self._users[item] += 1.0
            self._pairs.add(item, liked)


class StreamSessionKnn:
    """VMIS-kNN over the newest sessions of each item."""

    def __init__(self, item_count: int) -> None:
        self._sessions: list[list[int]] = []
        self._by_item: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=_RECENT_SESSIONS))
        self._session_counts = np.zeros(item_count)
        self._newest: dict[int, tuple[int, int]] = {}
        """By user, number and newest time of the session."""

    def scores(self, user: int) -> Float64:
        """[V] scores by the user's newest session."""
        scores = np.zeros(len(self._session_counts))
        if user not in self._newest:
            return scores
        own = self._newest[user][0]
        evolving = list(dict.fromkeys(reversed(self._sessions[own])))[:_SESSION_ITEMS]
        similarities, matches = dict[int, float](), dict[int, int]()
        for place, item in enumerate(evolving):
            weight = 1.0 - place / len(evolving)
            for session in self._by_item[item]:
                similarities[session] = similarities.get(session, 0.0) + weight
                matches.setdefault(session, place)
        similarities.pop(own, None)
        for session, similarity in nlargest(_NEAREST_SESSIONS, similarities.items(), key=itemgetter(1, 0)):
            scores[list(set(self._sessions[session]))] += similarity * max(0.0, 1.0 - _MATCH_STEP * matches[session])
        weighted: Float64 = scores * np.log1p(len(self._sessions) / np.maximum(self._session_counts, 1.0))
        return weighted

    def add(self, user: int, item: int, time_ms: int) -> None:
        """Count a click, of the user's newest session or of a new one."""
        number, newest_ms = self._newest.get(user, (-1, 0))
        if number < 0 or time_ms - newest_ms > _SESSION_GAP_MS:
            number = len(self._sessions)
            self._sessions.append([])
        self._newest[user] = number, time_ms
        if item not in self._sessions[number]:
            self._by_item[item].append(number)
            self._session_counts[item] += 1.0
        self._sessions[number].append(item)


RIVALS: Final = 2 + len(CONFIGURATIONS)
"""R: popularity, session-kNN, and item-kNN in each of `CONFIGURATIONS`."""


class StreamRivals:
    """All of them, on one stream."""

    def __init__(self, item_count: int) -> None:
        """For items numbered from 0."""
        self._popularity, self._item_knn = StreamPopularity(item_count), StreamItemKnn(item_count)
        self._session_knn = StreamSessionKnn(item_count)
        self._pushed: dict[int, list[Int32]] = {}
        """By user, the last list of each rival."""

    def ranks(self, user: int, item: int, time_ms: int, window: Int32, liked: Int32) -> list[int]:
        """[R] rank of a click that no rival has seen, in lists made at the click.

        Args:
            user: number of the user.
            item: the item clicked.
            time_ms: of the click, Unix milliseconds; never before that of an earlier call.
            window: [L] items of the user's window, NO_ITEM in empty places.
            liked: [m] distinct items of it with an action of positive weight, newest first.
        """
        seen = np.unique(window[window != NO_ITEM])
        return [rank_unseen(item, scores, seen) for scores in self._scores(user, time_ms, liked)]

    def pushed_ranks(self, user: int, item: int) -> list[int]:
        """[R] rank of a click in the lists that were pushed last; `NOT_LISTED` before there were any."""
        pushed = self._pushed.get(user)
        if pushed is None:
            return [NOT_LISTED] * RIVALS
        return [int(np.argmax(items == item)) + 1 if item in items else NOT_LISTED for items in pushed]

    def push(self, user: int, time_ms: int, window: Int32, liked: Int32) -> None:
        """Give the user a list of each rival; see `ranks`."""
        seen = np.unique(window[window != NO_ITEM])
        self._pushed[user] = [top_unseen(scores, seen, _PUSHED) for scores in self._scores(user, time_ms, liked)]

    def _scores(self, user: int, time_ms: int, liked: Int32) -> Iterator[Float64]:
        """[V] scores by each of R rivals."""
        popular = self._popularity.scores(time_ms)
        fallback = popular * (_FALLBACK / (popular.max(initial=0.0) + 1.0))
        yield popular
        yield self._session_knn.scores(user) + fallback
        for scores in self._item_knn.scores(liked):
            yield scores + fallback

    def add(self, user: int, item: int, time_ms: int, liked: Int32) -> None:
        """Learn from a click of positive weight; see `ranks`."""
        self._popularity.add(item, time_ms)
        self._item_knn.add(item, liked)
        self._session_knn.add(user, item, time_ms)


def top_unseen(scores: Float64, seen: Int32, count: int) -> Int32:
    """The `count` items with the highest scores [V] above 0 among those not in `seen` [s], ties by number."""
    unseen = scores.copy()
    unseen[seen] = 0.0
    return most_popular(unseen, count)


def rank_unseen(item: int, scores: Float64, seen: Int32) -> int:
    """Rank of an item by scores [V] among those not in `seen` [s] (distinct), from 1, ties by number.

    `NOT_LISTED` for an item that is in `seen`, or has no score above 0.
    """
    score = scores[item]
    if score <= 0.0 or item in seen:
        return NOT_LISTED
    above = np.count_nonzero(scores > score) + np.count_nonzero(scores[:item] == score)
    seen_scores = scores[seen]
    seen_above = np.count_nonzero((seen_scores > score) | ((seen_scores == score) & (seen < item)))
    return min(int(above - seen_above) + 1, NOT_LISTED)
