"""Embedding tables with spare rows for later items, and rows for the searches used last.

    0 ... used                  items; a release and those grown from it share these rows
    used ... capacity           spare rows for items that come later
    capacity ... capacity + S   one row per slot, for the S searches used last

Spare rows take address space, not memory, until they are written.
"""

from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Bool, Float32, Int32, Int64
from engine.retrieval.encoder import Tables
from engine.windows.slots import LruSlots

SEARCHES: Final = 1 << 16
"""S, more searches than a batch of the default size, 512 windows of 100 events, can hold."""
_GROWTH: Final = 1.25
"""Capacity for items, as a multiple of those present when the tables are allocated."""
_EVICT_SHARE: Final = 64
"""One part in so many of the slots is evicted at once, so that it is rarely done."""


class EmbeddingTables:
    """Tables of items and searches, shared by a release and those grown from it; only the newest may add items."""

    def __init__(self, tables: Tables, items: int) -> None:
        """Allocate for `items` items and a quarter more, and copy `tables`, the rows of the first of them."""
        self._used, self._capacity = 0, int(_GROWTH * items)
        shapes = {name: (self._capacity + SEARCHES, table.shape[1]) for name, table in tables.items()}
        self.tables: Tables = {name: np.empty(shapes[name], table.dtype) for name, table in tables.items()}
        """[capacity + S, D] by name, unused rows included."""
        self.append(tables)
        self._search_slots = LruSlots[int](SEARCHES, _EVICT_SHARE)
        self._has_vector = np.zeros(SEARCHES, np.bool_)  # [S] by slot

    def can_grow(self, before: int, after: int) -> bool:
        """True if a release with `before` items can grow to `after` here: it is the newest, and there are rows."""
        return before == self._used and after <= self._capacity

    def items(self, count: int) -> Tables:
        """The rows of the first `count` items, as views."""
        return {name: table[:count] for name, table in self.tables.items()}

    def vectors(self) -> Float32:
        """[V, D] the item vectors, as a view."""
        return np.asarray(self.tables["vectors"][: self._used], np.float32)

    def append(self, tables: Tables) -> None:
        """Write the rows of further items after those in use."""
        end = self._used + len(tables["vectors"])
        for name, rows in tables.items():
            self.tables[name][self._used : end] = rows
        self._used = end

    def assign_slots(self, searches: Int32) -> tuple[Int32, Int64]:
        """Slots [n] of these distinct searches, and indices [m] of those that had none: `write_searches` those next.

        Beyond S searches the first ones get the slot NO_ITEM.
        """
        slots = np.full(len(searches), NO_ITEM, np.int32)
        self._search_slots.next_turn()
        slots[-SEARCHES:], new = self._search_slots.assign(searches[-SEARCHES:].tolist())
        return slots, new + max(0, len(searches) - SEARCHES)

    def write_searches(self, slots: Int32, tables: Tables, has_vector: Bool) -> None:
        """Write the rows [m] of the searches in these slots [m]; one without a vector has no row."""
        self._has_vector[slots] = has_vector
        for name, rows in tables.items():
            self.tables[name][self._capacity + slots[has_vector]] = rows[has_vector]

    def forget_searches(self) -> None:
        """Release all slots; called when the numbers of searches have changed."""
        self._search_slots = LruSlots[int](SEARCHES, _EVICT_SHARE)

    def search_rows(self, slots: Int32) -> Int32:
        """[n] rows of the searches in these slots; NO_ITEM for a search without a slot or without a vector."""
        has_row = (slots != NO_ITEM) & self._has_vector[slots]
        return np.where(has_row, slots + np.int32(self._capacity), np.int32(NO_ITEM))
