"""Click counts as sparse matrices."""

import numpy as np
from scipy import sparse

from engine.arrays import Int32, Int64
from models.data.histories import Histories


def of_users(events: Histories, item_count: int) -> sparse.csr_matrix:
    """[U, V] clicks of each user on each item."""
    return _counts(events.users, events.items, (int(events.users.max(initial=0)) + 1, item_count))


def of_windows(items: Int32, item_count: int) -> sparse.csr_matrix:
    """[B, V] occurrences of each item in each window [B, L]; NO_ITEM does not count."""
    rows, columns = np.nonzero(items >= 0)
    return _counts(rows, items[rows, columns], (len(items), item_count))


def of_windows_by_age(items: Int32, item_count: int, decay: float) -> sparse.csr_matrix:
    """[B, V] weight of each item in each window [B, L], newest last: `decay` to the number of items after it.

    An item that is there more than once has the weight of its newest place; NO_ITEM does not count.
    """
    present = items >= 0
    ages = present[:, ::-1].cumsum(axis=1)[:, ::-1] - 1  # [B, L] of the items there are, the newest is 0
    rows, columns = np.nonzero(present)
    cells = rows * np.int64(item_count) + items[rows, columns]
    order = np.lexsort((ages[rows, columns], cells))
    newest = order[np.append(True, np.diff(cells[order]) > 0)[: len(order)]]
    rows, columns = rows[newest], columns[newest]
    weights = (np.float32(decay) ** ages[rows, columns]).astype(np.float32)
    return sparse.csr_matrix((weights, (rows, items[rows, columns])), shape=(len(items), item_count))


def _counts(rows: Int32 | Int64, columns: Int32, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
