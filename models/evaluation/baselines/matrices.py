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


def _counts(rows: Int32 | Int64, columns: Int32, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
