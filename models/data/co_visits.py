"""Neighbours of items, counted: items that the same users clicked at most a few events apart.

    c(i, j) = sum over pairs of events, j after i by s <= S events, of  step_decay^(s - 1)
    weight(i, j) = (c(i, j) + backward * c(j, i)) / (n(i)^a * n(j)^(1 - a) + shrinkage)

with n the events of an item. With a = 1/2 that is the cosine of item-based collaborative filtering (Sarwar et al.,
2001; Deshpande and Karypis, 2004), with a = 1 the conditional probability, and shrinkage makes little of pairs that
were seen once or twice (Ferrari Dacrema et al., "Are we really making much progress?", 2019). Pairs by distance and
direction are those of session-based neighbours (Ludewig and Jannach, 2018). The constants were measured on four sets
(`docs/log.md`); `backward` and `step_decay` differ from set to set and are learned (`models.training.score_parts`):
what is bought in one visit goes with what was bought a minute before, tastes last for months.
"""

from itertools import pairwise
from typing import Any, Final

import numpy as np
from scipy import sparse

from engine.arrays import FIRST_SEARCH, NO_ITEM, Bool, Float32, Int32, Int64
from engine.releases.bundles import NeighbourArrays
from models.data.histories import Histories

NEIGHBOURS: Final = 64
"""M: 32 lost 1 to 3 % of NDCG@10, 100 gained 1 % on one set of four."""
_STEPS: Final = 30
STEP_DECAY: Final = 0.9
_SOURCE_EXPONENT: Final = 0.85
_SHRINKAGE: Final = 10.0
_PART_EVENTS: Final = 1 << 21
_MOST_CELLS: Final = 1 << 25
"""Pairs in memory (12 bytes each) before rare ones are dropped."""
_KEPT_PER_ITEM: Final = 8 * NEIGHBOURS


class CoVisits:
    """Counts of pairs, forwards in time, and the tables of neighbours that follow from them."""

    def __init__(self, histories: Histories, item_count: int, step_decay: float = STEP_DECAY) -> None:
        """Count the pairs of clicks in `histories`; searches have no neighbours."""
        self._step_decay = step_decay
        is_click = histories.items < FIRST_SEARCH
        self._events = np.bincount(histories.items[is_click], minlength=item_count)  # [V]
        self._forward = sparse.csr_matrix((item_count, item_count), dtype=np.float32)
        for part in _parts(histories):
            users = np.repeat(np.arange(len(part) - 1), np.diff(part))
            events = slice(int(part[0]), int(part[-1]))
            self._add(users[is_click[events]], histories.items[events][is_click[events]])

    def table(self, backward: float) -> NeighbourArrays:
        """The M neighbours of each item with the highest weights; pairs against the order of time count `backward`."""
        pairs = (self._forward + backward * self._forward.T).tocoo()
        source, neighbour = pairs.row, pairs.col
        counts = self._events.astype(np.float64)
        scale = counts[source] ** _SOURCE_EXPONENT * counts[neighbour] ** (1.0 - _SOURCE_EXPONENT) + _SHRINKAGE
        weights = (pairs.data / scale).astype(np.float32)
        order, columns = _highest(source, neighbour, weights, NEIGHBOURS)
        shape = (len(counts), NEIGHBOURS)
        table = NeighbourArrays(np.full(shape, NO_ITEM, np.int32), np.zeros(shape, np.float32))
        table.rows[source[order], columns] = neighbour[order]
        table.weights[source[order], columns] = weights[order]
        return table

    def pairs(self) -> Any:
        """[V, V] counts of pairs in either order, a symmetric sparse matrix."""
        return self._forward + self._forward.T

    def _add(self, users: Int64, items: Int32) -> None:
        for step in range(1, _STEPS + 1):
            paired = (users[step:] == users[:-step]) & (items[step:] != items[:-step])
            if not paired.any():
                continue
            cells = (items[:-step][paired], items[step:][paired])
            weights = np.full(len(cells[0]), self._step_decay ** (step - 1), np.float32)
            self._forward = self._forward + sparse.csr_matrix((weights, cells), shape=self._forward.shape)
            if self._forward.nnz > _MOST_CELLS:
                self._forward = _pruned(self._forward)


def _parts(histories: Histories) -> list[Int64]:
    """Starts of the events of some users, and the end of the last, for parts of bounded size."""
    starts = histories.starts
    cuts = np.searchsorted(starts, np.arange(_PART_EVENTS, int(starts[-1]), _PART_EVENTS))
    bounds = np.unique(np.concatenate([[0], cuts, [len(starts) - 1]]))
    return [starts[first : last + 1] for first, last in pairwise(bounds)]


def _pruned(counts: Any) -> Any:
    """The cells of a sparse matrix with the highest counts of each row."""
    cells = counts.tocoo()
    order, _ = _highest(cells.row, cells.col, cells.data, _KEPT_PER_ITEM)
    return sparse.csr_matrix((cells.data[order], (cells.row[order], cells.col[order])), shape=counts.shape)


def _highest(rows: Int32, columns: Int32, values: Float32, most: int) -> tuple[Int64, Int64]:
    """Indices of the `most` highest values of each row, ties by column, and the place of each in its row, from 0."""
    order = np.lexsort((columns, -values, rows))
    places = np.arange(len(order)) - np.searchsorted(rows[order], rows[order])
    kept: Bool = places < most
    return order[kept], places[kept]
