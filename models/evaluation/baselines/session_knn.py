"""Session-based nearest neighbours: items of those sessions that share most with the newest session of the window.

Items of the query weigh less the older they are; a session is as near as the weights of the items it shares, over the
root of the product of both lengths; the nearest sessions vote for their items with that nearness, rare items counting
more (VS-KNN of Ludewig and Jannach, Evaluation of session-based recommendation algorithms, 2018; with the newest
sessions of each item alone, as Kersbergen et al., Serenade, 2022, serve it). A session ends after half an hour without
an event; where users come once a day or a year, their whole history is one.
"""

import math
from typing import Final

import numpy as np
from scipy import sparse

from engine.arrays import NO_ITEM, Float32, Int32, Int64, Windows
from models.data.histories import Histories
from models.evaluation.baselines import matrices
from models.evaluation.baselines.baseline import scored_then_popular
from models.evaluation.baselines.task import Fitted, Hyperparameters, Task, grid_search

_HALF_AN_HOUR_MS: Final = 1_800_000.0
GRID: Final[tuple[Hyperparameters, ...]] = tuple(
    {"gap_ms": gap_ms, "nearest": nearest, "last_items": last_items}
    for gap_ms in (math.inf, _HALF_AN_HOUR_MS)
    for last_items in (20, 5)
    for nearest in (100, 500)
)
_NEWEST_SESSIONS: Final = 1_000
"""Of each item, those that are compared."""
_ROWS: Final = 256
"""Queries compared with all sessions at once."""


def fit(task: Task) -> Fitted:
    """Session-kNN with the configuration that does best on the validation."""
    return grid_search(task, GRID, lambda configuration, events, _until_s: SessionKnn(task, configuration, events))


class SessionKnn:
    """Items by the nearness of the sessions that have them; then the popular ones."""

    def __init__(self, task: Task, configuration: Hyperparameters, events: Histories) -> None:
        """Cut `events` into sessions."""
        self._task, self._gap_ms = task, configuration["gap_ms"]
        self._nearest, self._last_items = int(configuration["nearest"]), int(configuration["last_items"])
        sessions, ends_ms = _sessions(events, self._gap_ms)
        shape = (len(ends_ms), task.item_count)
        content = sparse.csr_matrix((np.ones(len(events), np.float32), (sessions, events.items)), shape=shape)
        content.data[:] = 1.0
        lengths = np.maximum(np.diff(content.indptr), 1)
        self._compared = _newest_of_each(content, ends_ms, lengths)  # [V, S]
        rarity = np.log1p(len(ends_ms) / np.maximum(np.diff(content.tocsc().indptr), 1)).astype(np.float32)
        self._votes = (content @ sparse.diags(rarity)).tocsr()  # [S, V]

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`."""
        queries = self._queries(windows)
        scores = np.concatenate(
            [self._scores(queries[begin : begin + _ROWS]) for begin in range(0, len(windows.items), _ROWS)]
            or [np.empty((0, self._task.item_count), np.float32)]
        )
        scores[scores == 0.0] = -np.inf
        return scored_then_popular(scores, windows, self._task.popularity.ranking(times_ms), count)

    def _queries(self, windows: Windows) -> sparse.csr_matrix:
        """[B, V] weights of the items of each window's newest session, of the length 1."""
        ends_session = np.diff(windows.times_ms, axis=1, append=windows.times_ms[:, -1:]) > self._gap_ms  # [B, L]
        ends_after = ends_session[:, ::-1].cumsum(axis=1)[:, ::-1]  # [B, L] sessions that end with an event or later
        liked = np.where(ends_after == 0, self._task.liked_items(windows), np.int32(NO_ITEM))[:, -self._last_items :]
        weighted = matrices.of_windows_by_age(liked, self._task.item_count, 1.0 - 1.0 / (self._last_items + 1))
        lengths = np.sqrt(np.asarray(weighted.power(2).sum(axis=1)).ravel())
        return (sparse.diags(1.0 / np.maximum(lengths, 1e-9)) @ weighted).tocsr().astype(np.float32)

    def _scores(self, queries: sparse.csr_matrix) -> Float32:
        nearness = (queries @ self._compared).tocsr()  # [B, S]
        for row in range(nearness.shape[0]):
            values = nearness.data[nearness.indptr[row] : nearness.indptr[row + 1]]
            if len(values) > self._nearest:
                values[np.argpartition(-values, self._nearest)[self._nearest :]] = 0.0
        nearness.eliminate_zeros()
        scores: Float32 = (nearness @ self._votes).toarray()
        return scores


def _sessions(events: Histories, gap_ms: float) -> tuple[Int64, Int64]:
    """[n] the session of each event, and [S] when each session ended."""
    begins = np.zeros(len(events), np.bool_)
    begins[1:] = np.diff(events.times_ms) > gap_ms
    begins[events.starts[:-1][events.lengths() > 0]] = True
    sessions = np.cumsum(begins, dtype=np.int64) - 1
    return sessions, events.times_ms[np.append(np.flatnonzero(begins)[1:], len(events))[: begins.sum()] - 1]


def _newest_of_each(content: sparse.csr_matrix, ends_ms: Int64, lengths: Int64) -> sparse.csr_matrix:
    """[V, S] the newest sessions of each item, each of the length 1."""
    rows, items = content.nonzero()
    order = np.lexsort((-ends_ms[rows], items))
    rows, items = rows[order], items[order]
    kept = np.arange(len(items)) - np.searchsorted(items, items) < _NEWEST_SESSIONS
    rows, items = rows[kept], items[kept]
    values = (1.0 / np.sqrt(lengths[rows])).astype(np.float32)
    return sparse.csr_matrix((values, (items, rows)), shape=content.shape[::-1])
