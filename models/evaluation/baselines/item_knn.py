"""The classic item-based neighbourhood: what is liked by the users who liked what the window holds.

The similarity of two items is the cosine of their users; a candidate scores the sum of its similarities to those of
its nearest items that the window holds (Sarwar et al., Item-based collaborative filtering recommendation algorithms,
2001; Deshpande and Karypis, Item-based top-N recommendation algorithms, 2004). A shrinkage in the denominator holds
back pairs that few users share, as in Ferrari Dacrema et al., Are we really making much progress?, 2019, who found this
baseline hard to beat once neighbourhood and shrinkage were tuned.
"""

from typing import Final

import numpy as np
from scipy import sparse

from engine.arrays import Float32, Int32, Int64, Windows
from models.data.histories import Histories
from models.evaluation.baselines import matrices
from models.evaluation.baselines.baseline import listed
from models.evaluation.baselines.task import Fitted, Option, Task, tuned

OPTIONS: Final[tuple[Option, ...]] = tuple(
    {"last_items": last_items, "neighbours": neighbours, "shrinkage": shrinkage}
    for last_items in (1000, 20, 5, 2)  # 1000 is the longest window there is: all of it, as in the papers
    for neighbours in (100, 20, 500)
    for shrinkage in (0, 10, 100)
)
"""The first is RecBole's default. Beyond the papers, only the newest items of the window may count: a neighbourhood
that had to look at all that was ever clicked would be at a loss beside models of sequences."""
_BLOCK_ITEMS: Final = 1_000
"""Rows of the similarity matrix made at once: all of them would not fit where the catalogue is large."""


def fit(task: Task) -> Fitted:
    """Item-kNN with the option that does best on the validation."""
    return tuned(task, OPTIONS, lambda option, events, _until_s: ItemKnn(task, option, events))


class ItemKnn:
    """Sum of the similarities to the items of the window; then what is popular."""

    def __init__(self, task: Task, option: Option, events: Histories) -> None:
        """Learn from `events`."""
        self._task, self._last_items = task, int(option["last_items"])
        self._similarities = _similarities(events, task.item_count, int(option["neighbours"]), option["shrinkage"])

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`."""
        held = matrices.of_windows(self._task.liked(windows)[:, -self._last_items :], self._task.item_count)
        held.data[:] = 1.0
        scores: Float32 = (held @ self._similarities).toarray()  # [B, V]
        scores[scores == 0.0] = -np.inf
        return listed(scores, windows, self._task.popularity.ranking(times_ms), count)


def _similarities(events: Histories, item_count: int, neighbours: int, shrinkage: float) -> sparse.csr_matrix:
    """[V, V] similarity of each item (row) to the candidates (columns) whose nearest items it is one of."""
    liked = matrices.of_users(events, item_count)
    liked.data[:] = 1.0
    by_item = liked.T.tocsr()  # [V, U]
    lengths = np.sqrt(np.diff(by_item.indptr)).astype(np.float32)  # [V]
    candidates, nearest, values = [], [], []
    for begin in range(0, item_count, _BLOCK_ITEMS):
        shared = (by_item[begin : begin + _BLOCK_ITEMS] @ liked).tocoo()  # [block, V] users in common
        rows, columns = begin + shared.row, shared.col
        cosine = shared.data / (lengths[rows] * lengths[columns] + np.float32(shrinkage))
        order = np.lexsort((columns, -cosine, rows))
        order = order[rows[order] != columns[order]]
        order = order[np.arange(len(order)) - np.searchsorted(rows[order], rows[order]) < neighbours]
        candidates.append(rows[order])
        nearest.append(columns[order])
        values.append(cosine[order])
    places = (np.concatenate(nearest), np.concatenate(candidates))
    return sparse.csr_matrix((np.concatenate(values), places), shape=(item_count, item_count))
