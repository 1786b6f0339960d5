"""A release's tables with room in them: rows of items, to which some may be added, and rows of searches, which change.

    rows    0 ... used          items; releases that grew out of one another share them
            used ... room       where items that come later will stand
            room ... room + S   the S searches that windows asked for last, each in some place

Room that nothing was put into takes address space, not memory.
"""

from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Bool, Float32, Int32, Int64
from engine.retrieval.encoder import Tables
from engine.windows.slots import LruSlots

SEARCHES: Final = 1 << 16
"""S. More than 512 windows of 100 events, a batch of the default size, can hold."""
_ROOM: Final = 1.25
"""There is room for so many times the items."""
_EVICT_SHARE: Final = 64
"""When all places are taken, so large a part of them makes room at once, so that making room is rarely done."""


class EmbeddingTables:
    """Tables of items and searches. Of the releases on it, only the one that grew last may add items."""

    def __init__(self, tables: Tables, items: int) -> None:
        """With `tables` of items on it, and room for `items` in all and some more."""
        self._used, self._room = 0, int(_ROOM * items)
        shapes = {name: (self._room + SEARCHES, table.shape[1]) for name, table in tables.items()}
        self.tables: Tables = {name: np.empty(shapes[name], table.dtype) for name, table in tables.items()}
        """All rows, those with nothing in them included."""
        self.put(tables)
        self._search_slots = LruSlots[int](SEARCHES, _EVICT_SHARE)
        self._told = np.zeros(SEARCHES, np.bool_)  # [S] whether the search in a place has a vector

    def has_room(self, before: int, after: int) -> bool:
        """Whether a release of `before` items that stands here can grow to `after`."""
        return before == self._used and after <= self._room

    def items(self, count: int) -> Tables:
        """The rows of the first `count` items, not copied."""
        return {name: table[:count] for name, table in self.tables.items()}

    def vectors(self) -> Float32:
        """[V, D] the item vectors, not copied."""
        return np.asarray(self.tables["vectors"][: self._used], np.float32)

    def put(self, later: Tables) -> None:
        """Put the rows of `later` behind those of the items that stand here."""
        after = self._used + len(later["vectors"])
        for name, rows in later.items():
            self.tables[name][self._used : after] = rows
        self._used = after

    def assign_slots(self, searches: Int32) -> tuple[Int32, Int64]:
        """Places [n] of these searches, each named once, and which of them [m] are new there: `fill` those next.

        Where there are more than S, the first of them get none.
        """
        places = np.full(len(searches), NO_ITEM, np.int32)
        self._search_slots.next_turn()
        places[-SEARCHES:], new = self._search_slots.assign(searches[-SEARCHES:].tolist())
        return places, new + max(0, len(searches) - SEARCHES)

    def fill(self, places: Int32, tables: Tables, told: Bool) -> None:
        """What the searches in these places [m] say; where not `told` [m], they say nothing."""
        self._told[places] = told
        for name, rows in tables.items():
            self.tables[name][self._room + places[told]] = rows[told]

    def forget_searches(self) -> None:
        """Give their places away: searches were numbered anew."""
        self._search_slots = LruSlots[int](SEARCHES, _EVICT_SHARE)

    def search_rows(self, places: Int32) -> Int32:
        """[n] rows of the searches in these places; NO_ITEM for one that has none, or says nothing."""
        told = (places != NO_ITEM) & self._told[places]
        return np.where(told, places + np.int32(self._room), np.int32(NO_ITEM))
