"""EASE: items scored by a linear model of the window whose weights have a closed form.

The weights B [V, V] with a zero diagonal that best restore the users' items from one another, under an L2 penalty, are
B = I - P diag(1 / diag P) with P the inverse of the regularised Gram matrix of items (Steck, Embarrassingly shallow
autoencoders for sparse data, 2019). The inverse takes V^2 memory and V^3 time, so that of a large catalogue only the
items with most users take part.
"""

from typing import Final

import numpy as np
from scipy import linalg

from engine.arrays import Float32, Int32, Int64, Windows
from models.data.histories import Histories
from models.evaluation.baselines import matrices
from models.evaluation.baselines.baseline import scored_then_popular
from models.evaluation.baselines.task import Fitted, Hyperparameters, Task, grid_search

GRID: Final[tuple[Hyperparameters, ...]] = tuple({"penalty": penalty} for penalty in (250.0, 50.0, 1000.0, 10.0))
"""The first lies between the values that the paper found for its sets."""
MOST_ITEMS: Final = 13_000
"""Items whose weights are computed; their matrix has 676 MB."""


def fit(task: Task) -> Fitted:
    """EASE with the penalty that does best on the validation."""
    fitted = grid_search(task, GRID, lambda configuration, events, _until_s: Ease(task, configuration, events))
    fitted.notes["items"] = min(task.item_count, MOST_ITEMS)
    return fitted


class Ease:
    """Items by their weights from the items of the window; then the popular ones."""

    def __init__(self, task: Task, configuration: Hyperparameters, events: Histories, most: int = MOST_ITEMS) -> None:
        """Fit on `events`; only the `most` items with most users take part."""
        self._task = task
        clicked = matrices.of_users(events, task.item_count)
        clicked.data[:] = 1.0
        user_counts = np.asarray(clicked.sum(axis=0)).ravel()
        self._items: Int64 = np.sort(np.lexsort((np.arange(task.item_count), -user_counts))[:most])
        clicked = clicked[:, self._items]
        self._weights = _weights(np.asfortranarray((clicked.T @ clicked).toarray()), configuration["penalty"])

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`."""
        seen = matrices.of_windows(self._task.liked_items(windows), self._task.item_count)[:, self._items]
        seen.data[:] = 1.0
        scores = np.full((len(windows.items), self._task.item_count), -np.inf, np.float32)
        weighted: Float32 = seen @ self._weights  # [B, V']
        weighted[weighted == 0.0] = -np.inf
        scores[:, self._items] = weighted
        return scored_then_popular(scores, windows, self._task.popularity.ranking(times_ms), count)


def _weights(gram: Float32, penalty: float) -> Float32:
    """[V', V'] weights from the Gram matrix of items, whose memory they take."""
    np.fill_diagonal(gram, gram.diagonal() + np.float32(penalty))
    factor, _ = linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse, _ = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    for begin in range(0, len(inverse), 1_000):  # only the lower triangle is filled in
        end = min(begin + 1_000, len(inverse))
        inverse[begin:end, end:] = inverse[end:, begin:end].T
        block = inverse[begin:end, begin:end]
        block[:] = np.tril(block) + np.tril(block, -1).T
    inverse /= -inverse.diagonal().copy()
    np.fill_diagonal(inverse, 0.0)
    weights: Float32 = inverse
    return weights
