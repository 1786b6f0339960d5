"""A table of the catalogue's ids in UTF-8, looked up by number and by text, many at once.

The windows of a million users name ids a hundred million times. Each id of an item or search has a row of its own, in
the order in which the catalogue gave out their numbers, as the numbers of the two kinds are far apart. The lookup by
text is a hash table with linear probing (Knuth, The Art of Computer Programming 3, 6.4), half full at most, with each
step done for all texts together.
"""

import os
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.arrays import FIRST_SEARCH, NO_ITEM, Int32, Int64
from engine.catalogue.ids import Catalogue

UInt64 = npt.NDArray[np.uint64]

_WORD: Final = 8
_MASKS: Final = np.array([(1 << 8 * size) - 1 for size in range(_WORD + 1)], np.uint64)
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio (Knuth's multiplicative hashing)
_SHIFT: Final = np.uint64(29)
_SEED: Final = np.uint64(int.from_bytes(os.urandom(8)))  # so that nobody can make up ids that collide


class IdTable:
    """Ids by number and numbers by id, brought up to date with the catalogue before each lookup."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._clear()

    def _clear(self) -> None:
        """Empty the table."""
        self._sweeps = self._catalogue.sweeps
        self._known = 0  # rows in use
        self._ends = np.zeros(1, np.int64)  # [capacity + 1] where each id ends; grows by doubling, as all below do
        self._texts = np.empty(0, np.uint8)
        self._hashes = np.zeros(1, np.uint64)  # [capacity]
        self._numbers = np.zeros(1, np.int32)  # [capacity] of the item or search in each row
        self._item_rows = np.zeros(1, np.int32)  # [capacity] row of each item
        self._search_rows = np.zeros(1, np.int32)  # [capacity] row of each search
        self._places = np.full(2, NO_ITEM, np.int32)  # the hash table: rows

    def take(self, items: Int32) -> tuple[Int64, bytes]:
        """Lengths [n] of the ids of these numbers, and the ids, concatenated."""
        self._catch_up()
        return self._take(self._rows(items))

    def numbers(self, lengths: Int64, texts: bytes) -> Int32:
        """[n] numbers of concatenated ids with these lengths [n]; the catalogue gives new ids new numbers.

        Raises:
            UnicodeDecodeError: a new id is not UTF-8.
        """
        self._catch_up()
        ends = np.append(0, np.cumsum(lengths))
        ids = _column(ends, texts, len(lengths))
        rows = self._find(_hashes(np.frombuffer(texts, np.uint8), ends[:-1], lengths))
        absent = np.flatnonzero(rows == NO_ITEM)
        if len(absent):
            new = self._catalogue_numbers(ids.take(pa.array(absent)))
            self._catch_up()
            rows[absent] = self._rows(new)
        row_lengths, row_texts = self._take(rows)
        if row_texts != texts or not np.array_equal(row_lengths, lengths):  # two ids have one hash
            return self._catalogue_numbers(ids)
        return self._numbers[rows]

    def _rows(self, items: Int32) -> Int32:
        """[n] rows of these numbers of items and searches."""
        is_search = items >= FIRST_SEARCH
        if not is_search.any():
            return self._item_rows[items]
        rows = self._item_rows[np.where(is_search, 0, items)]
        rows[is_search] = self._search_rows[items[is_search] - FIRST_SEARCH]
        return rows

    def _take(self, rows: Int32) -> tuple[Int64, bytes]:
        """Lengths [n] of the ids in these rows, and the ids, concatenated."""
        ids = _column(self._ends, self._texts, self._known).take(pa.array(rows))
        ends = np.frombuffer(ids.buffers()[1], np.int64, len(rows) + 1)
        return np.diff(ends), memoryview(ids.buffers()[2])[ends[0] : ends[-1]].tobytes()

    def _catalogue_numbers(self, ids: Any) -> Int32:
        """[n] numbers of the ids in a column, each looked up once in the catalogue itself."""
        ids = ids.dictionary_encode()
        numbers = self._catalogue.numbers([item.decode() for item in ids.dictionary.to_pylist()])
        items: Int32 = numbers[ids.indices.to_numpy()]
        return items

    def _find(self, hashes: UInt64) -> Int32:
        """[n] rows with these hashes; NO_ITEM for a hash without one."""
        places = self._first_places(hashes)
        rows = self._places[places]
        probing = self._mismatches(rows, hashes)
        while len(probing):
            places[probing] = self._next_places(places[probing])
            rows[probing] = self._places[places[probing]]
            probing = probing[self._mismatches(rows[probing], hashes[probing])]
        return rows

    def _mismatches(self, rows: Int32, hashes: UInt64) -> Int64:
        """Indices of the rows whose hash is another."""
        return np.flatnonzero((rows != NO_ITEM) & (self._hashes[rows] != hashes))

    def _insert(self, rows: Int32) -> None:
        """Put rows into the hash table."""
        places = self._first_places(self._hashes[rows])
        while len(rows):
            free = self._places[places] == NO_ITEM
            self._places[places[free]] = rows[free]  # of several rows for one place the last one gets it
            waiting = self._places[places] != rows
            rows, places = rows[waiting], self._next_places(places[waiting])

    def _first_places(self, hashes: UInt64) -> Int64:
        return (hashes & np.uint64(len(self._places) - 1)).astype(np.int64)

    def _next_places(self, places: Int64) -> Int64:
        return (places + 1) & (len(self._places) - 1)

    def _catch_up(self) -> None:
        """Add rows for the numbers given out since the last time; begin again where searches got new numbers."""
        if self._sweeps != self._catalogue.sweeps:
            self._clear()
        known, new = self._known, self._catalogue.given_out(self._known)
        if not len(new):
            return
        size = known + len(new)
        self._numbers = _grown(self._numbers, size)
        self._numbers[known:size] = new
        rows, is_search = np.arange(known, size, dtype=np.int32), new >= FIRST_SEARCH
        self._item_rows = _scattered(self._item_rows, new[~is_search], rows[~is_search])
        self._search_rows = _scattered(self._search_rows, new[is_search] - np.int32(FIRST_SEARCH), rows[is_search])
        ids = [item.encode() for item in self._catalogue.ids(new.tolist())]
        lengths = np.array([len(item) for item in ids])
        ends = self._ends[known] + np.cumsum(lengths)
        self._ends = _grown(self._ends, size + 1)
        self._texts = _grown(self._texts, int(ends[-1]))
        self._hashes = _grown(self._hashes, size)
        self._texts[self._ends[known] : ends[-1]] = np.frombuffer(b"".join(ids), np.uint8)
        self._ends[known + 1 : size + 1] = ends
        self._hashes[known:size] = _hashes(self._texts[: ends[-1]], self._ends[known:size], lengths)
        self._known = size
        if 2 * size > len(self._places):
            self._places = np.full(1 << (4 * size - 1).bit_length(), NO_ITEM, np.int32)
            known = 0
        self._insert(np.arange(known, size, dtype=np.int32))


def _column(ends: Int64, texts: npt.NDArray[np.uint8] | bytes, count: int) -> Any:
    """Texts as an Arrow column, without a copy: `ends` begins with 0."""
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), count, [None, pa.py_buffer(ends), pa.py_buffer(texts)])


def _hashes(texts: npt.NDArray[np.uint8], starts: Int64, lengths: Int64) -> UInt64:
    """[n] hashes of the pieces of `texts` that begin at `starts` [n], eight bytes at a time."""
    padded = np.append(texts, np.zeros(_WORD, np.uint8))
    words: UInt64 = np.ndarray(len(texts) + 1, np.uint64, padded, strides=(1,))  # [start] eight bytes
    hashes = lengths.astype(np.uint64) ^ _SEED
    for done in range(0, int(lengths.max(initial=0)), _WORD):
        rows = np.flatnonzero(lengths > done)
        word = words[starts[rows] + done] & _MASKS[np.minimum(lengths[rows] - done, _WORD)]
        mixed = (hashes[rows] ^ word) * _FACTOR
        hashes[rows] = mixed ^ mixed >> _SHIFT
    return hashes


def _grown(column: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """A column with room for at least `size` entries."""
    if size <= len(column):
        return column
    return np.concatenate([column, np.zeros(max(size, 2 * len(column)) - len(column), column.dtype)])


def _scattered(column: Int32, indices: Int32, values: Int32) -> Int32:
    """A column with these values at these indices, grown where it is too short."""
    column = _grown(column, int(indices.max(initial=-1)) + 1)
    column[indices] = values
    return column
