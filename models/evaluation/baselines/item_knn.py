"""Item-based nearest neighbours: items with the same users as the items of the window.

The similarity of two items is the cosine of their users; a candidate scores the sum of its similarities to those of
its nearest items that the window holds (Sarwar et al., Item-based collaborative filtering recommendation algorithms,
2001; Deshpande and Karypis, Item-based top-N recommendation algorithms, 2004). A shrinkage in the denominator reduces
the similarity of pairs with few common users, as in Ferrari Dacrema et al., Are we really making much progress?, 2019,
who found this baseline hard to beat once neighbourhood and shrinkage were tuned.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import sparse

from engine.arrays import Float32, Int32, Int64, Windows
from models.data.histories import Histories
from models.evaluation.baselines import matrices
from models.evaluation.baselines.baseline import scored_then_popular
from models.evaluation.baselines.task import Fitted, Hyperparameters, Task, grid_search

GRID: Final[tuple[Hyperparameters, ...]] = tuple(
    {"last_items": last_items, "decay": decay, "neighbours": neighbours, "shrinkage": shrinkage}
    for neighbours in (100, 20, 500)
    for shrinkage in (0, 10, 100)
    # 1000 is the longest window there is: all of it, as in the papers.
    for last_items, decay in ((1000, 1.0), (30, 0.9), (20, 1.0), (5, 1.0), (2, 1.0))
)
"""The first is RecBole's default. Unlike in the papers, the newest items of the window may count alone or more: a
neighbourhood of everything a user ever clicked has no chance against models of sequences. That decides most, so it
varies fastest: time may end a search early."""
QUICK_GRID: Final[tuple[Hyperparameters, ...]] = tuple(
    {"last_items": last_items, "decay": decay, "neighbours": 100, "shrinkage": shrinkage}
    for last_items, decay in ((1000, 1.0), (30, 0.9), (5, 1.0), (20, 1.0), (2, 1.0))
    for shrinkage in (10, 100)
)
"""For every evaluation: what won on recorded sets, by the data."""
_BLOCK_ITEMS: Final = 1_000
"""Rows of the similarity matrix computed at once: all of them would not fit in memory with a large catalogue."""


def fit(task: Task, grid: Sequence[Hyperparameters] = GRID) -> Fitted:
    """Item-kNN with the configuration of `grid` that does best on the validation."""
    return grid_search(task, grid, lambda configuration, events, _until_s: ItemKnn(task, configuration, events))


class ItemKnn:
    """Items by the sum of their similarities to the items of the window; then the popular ones."""

    def __init__(self, task: Task, configuration: Hyperparameters, events: Histories) -> None:
        """Fit on `events`."""
        self._task, self._last_items = task, int(configuration["last_items"])
        self._decay = configuration["decay"]
        self._similarities = _similarities(
            events, task.item_count, int(configuration["neighbours"]), configuration["shrinkage"]
        )

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`."""
        liked = self._task.liked_items(windows)[:, -self._last_items :]
        window_matrix = matrices.of_windows_by_age(liked, self._task.item_count, self._decay)
        scores: Float32 = (window_matrix @ self._similarities).toarray()  # [B, V]
        scores[scores == 0.0] = -np.inf
        return scored_then_popular(scores, windows, self._task.popularity.ranking(times_ms), count)


def _similarities(events: Histories, item_count: int, neighbours: int, shrinkage: float) -> sparse.csr_matrix:
    """[V, V] similarity of each item (row) to the candidates (columns) whose nearest items it is one of."""
    clicked = matrices.of_users(events, item_count)
    clicked.data[:] = 1.0
    by_item = clicked.T.tocsr()  # [V, U]
    lengths = np.sqrt(np.diff(by_item.indptr)).astype(np.float32)  # [V]
    candidates, nearest, values = [], [], []
    for begin in range(0, item_count, _BLOCK_ITEMS):
        shared = (by_item[begin : begin + _BLOCK_ITEMS] @ clicked).tocoo()  # [block, V] users in common
        rows, columns = begin + shared.row, shared.col
        cosine = shared.data / (lengths[rows] * lengths[columns] + np.float32(shrinkage))
        order = np.lexsort((columns, -cosine, rows))
        order = order[rows[order] != columns[order]]
        order = order[np.arange(len(order)) - np.searchsorted(rows[order], rows[order]) < neighbours]
        candidates.append(rows[order])
        nearest.append(columns[order])
        values.append(cosine[order])
    cells = (np.concatenate(nearest), np.concatenate(candidates))
    return sparse.csr_matrix((np.concatenate(values), cells), shape=(item_count, item_count))
