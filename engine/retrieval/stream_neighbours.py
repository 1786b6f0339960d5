"""Neighbours of items that came after training, counted from clicks as they come, in a table of fixed size.

    c(i, j) = sum over pairs of a user's clicks, j after i by s <= S clicks, of  decay^(s - 1) * 2^(-age / half-life)
    weight(i, j) = (c(i, j) + c(j, i)) / (n(i)^a * n(j)^(1 - a) + shrinkage)

with n the clicks on an item, fading in the same way: the weights of a release's own table (`models.data.co_visits`), of
recent clicks alone. Ages count from the newest click. A click at time t is stored as 2^((t - landmark) / half-life), so
that nothing is multiplied as time passes (Cormode, Shkapenyuk, Srivastava and Xu, "Forward decay", 2009), and a window
that is counted later adds what it would have added at the time.

A row holds the M neighbours of an item with the highest counts. A new one takes the place of the lowest and inherits
its count, as its error (Metwally, Agrawal and El Abbadi, "Efficient computation of frequent and top-k elements in data
streams", 2005); weights are made of counts less errors, which never exceed the true counts.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import FIRST_SEARCH, NO_ITEM, Bool, Float32, Float64, Int32, Int64

NEIGHBOURS: Final = 32
"""M."""
STEPS: Final = 10
"""S: a third of those that training counts, as each costs a click's time here."""
_STEP_WEIGHTS: Final = np.float32(0.9) ** np.arange(STEPS, dtype=np.float32)
_SOURCE_EXPONENT: Final = np.float32(0.85)
_SHRINKAGE: Final = np.float32(10.0)
HALF_LIFE_MS: Final = 3 * 86_400_000
"""Played on a news portal, one day was better and seven were worse (`docs/log.md`)."""
_MOST_HALF_LIVES: Final = 16.0
"""Of the newest click after the landmark; beyond it the landmark moves."""
_OLDEST_HALF_LIVES: Final = 8.0
"""Older clicks count nothing."""
_EVICT_SHARE: Final = 64
"""One part in so many of the rows is evicted at once, so that it is rarely done."""
_NO_ROW: Final = -1


@dataclass(frozen=True, slots=True)
class CountedWindows:
    """Windows of B users some of whose clicks are to be counted, newest last."""

    items: Int32
    """[B, L] item numbers."""
    times_ms: Int64
    """[B, L]"""
    is_click: Bool
    """[B, L] clicks on items, by an action of positive weight."""
    is_new: Bool
    """[B, L] clicks to be counted, each with the clicks before it."""


@dataclass(frozen=True, slots=True)
class NeighboursOf:
    """Neighbours of items in a flat list of n pairs."""

    sources: Int64
    """[n] index of the item that was looked up."""
    items: Int32
    """[n] number of its neighbour."""
    weights: Float32
    """[n]"""


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Pairs of items with counts."""

    sources: Int32
    neighbours: Int32
    counts: Float32


class StreamNeighbours:
    """Co-visits of the last weeks, by item number, for at most a fixed number of items."""

    def __init__(self, most_items: int) -> None:
        """Make an empty table with rows for `most_items` items; a row takes 12 M bytes once it is used."""
        shape = (most_items, NEIGHBOURS)
        self._neighbours = np.zeros(shape, np.int32)  # number + 1; 0 for none
        self._counts = np.zeros(shape, np.float32)
        self._errors = np.zeros(shape, np.float32)
        self._owners = np.full(most_items, NO_ITEM, np.int32)
        self._turns = np.zeros(most_items, np.int64)
        self._turn = 0
        self._free = np.arange(most_items - 1, -1, -1, dtype=np.int32)
        self._rows = np.empty(0, np.int32)  # by item number
        self._clicks = np.empty(0, np.float32)  # by item number
        self._total = 0.0  # of all clicks
        self._landmark_ms: int | None = None
        self._newest_ms = 0

    def __len__(self) -> int:
        """Items with neighbours."""
        return len(self._owners) - len(self._free)

    @property
    def end(self) -> int:
        """One more than the highest item number that was counted."""
        return len(self._clicks)

    @property
    def nbytes(self) -> int:
        """Bytes of the table when it is full, and of the columns by item."""
        columns = (self._neighbours, self._counts, self._errors, self._owners, self._turns, self._rows, self._clicks)
        return sum(column.nbytes for column in columns)

    def add(self, windows: CountedWindows, is_known: Bool) -> None:
        """Count clicks, each with the S clicks before it in its window.

        Args:
            windows: whose new clicks count.
            is_known: by item number, items with neighbours of their own in the release: their pairs with one another
                are left out. Items beyond its end are not known.
        """
        users, columns = np.nonzero(windows.is_new & windows.is_click)
        if not len(users):
            return
        self._move_to(int(windows.times_ms[users, columns].max()))
        is_recent = windows.times_ms[users, columns] > self._newest_ms - _OLDEST_HALF_LIVES * HALF_LIFE_MS
        users, columns = users[is_recent], columns[is_recent]
        if not len(users):
            return
        items, shares = windows.items[users, columns], self._shares(windows.times_ms[users, columns])
        self._reserve(int(items.max()) + 1)
        np.add.at(self._clicks, items, shares)
        self._total += float(shares.sum(dtype=np.float64))
        is_concerned = _has_other(windows, is_known, int(columns.min()))[users]
        pairs = _pairs(windows, users[is_concerned], columns[is_concerned], shares[is_concerned])
        pairs = _summed(pairs, ~(_at(is_known, pairs.sources) & _at(is_known, pairs.neighbours)))
        self._reserve(int(pairs.sources.max(initial=-1)) + 1)
        self._count(pairs)

    def subtract(self, windows: CountedWindows) -> None:
        """Take the clicks of a user who is forgotten out of the counts."""
        users, columns = np.nonzero(windows.is_new & windows.is_click)
        if not len(users) or self._landmark_ms is None:
            return
        items, shares = windows.items[users, columns], self._shares(windows.times_ms[users, columns])
        pairs = _pairs(windows, users, columns, shares)
        self._reserve(int(max(items.max(), pairs.sources.max(initial=-1))) + 1)
        np.subtract.at(self._clicks, items, shares)
        np.maximum(self._clicks, np.float32(0.0), out=self._clicks)
        self._sum_up()
        pairs = _summed(pairs, np.ones(len(pairs.sources), np.bool_))
        rows = self._rows[pairs.sources]
        has_row = rows != _NO_ROW
        rows, neighbours, counts = rows[has_row], pairs.neighbours[has_row], pairs.counts[has_row]
        held, places = self._places(rows, neighbours)
        cells = (rows[held], places[held])
        left = self._counts[cells] - counts[held]
        is_gone = left <= self._errors[cells] + 1e-3 * counts[held]
        self._counts[cells] = np.where(is_gone, np.float32(0.0), left)
        gone = (cells[0][is_gone], cells[1][is_gone])
        self._neighbours[gone], self._errors[gone] = 0, 0.0

    def of(self, items: Int32, least_clicks: float = 0.0) -> NeighboursOf:
        """The neighbours of items [n] by number; NO_ITEM and items without any have none.

        Args:
            items: by number.
            least_clicks: neighbours with fewer clicks, faded as they are, are left out.
        """
        is_counted = (items >= 0) & (items < len(self._rows))
        rows = np.where(is_counted, self._rows[np.where(is_counted, items, 0)], _NO_ROW) if len(self._rows) else None
        if rows is None:
            return NeighboursOf(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
        sources = np.flatnonzero(rows != _NO_ROW)
        rows = rows[sources]
        index, places = np.nonzero(self._neighbours[rows])
        cells = (rows[index], places)
        neighbours, sources = self._neighbours[cells] - np.int32(1), sources[index]
        now = self._shares(np.array([self._newest_ms]))
        is_clicked = self._clicks[neighbours] >= least_clicks * now
        cells = (cells[0][is_clicked], cells[1][is_clicked])
        neighbours, sources = neighbours[is_clicked], sources[is_clicked]
        counts = (self._counts[cells] - self._errors[cells]) / now
        scale = (self._clicks[items[sources]] / now) ** _SOURCE_EXPONENT
        scale *= (self._clicks[neighbours] / now) ** (1 - _SOURCE_EXPONENT)
        return NeighboursOf(sources, neighbours, (counts / (scale + _SHRINKAGE)).astype(np.float32))

    def shares(self, items: Int32, least_clicks: float = 0.0) -> Float32:
        """Share of all clicks that items have by number, of any shape; 0 for those without any.

        Args:
            items: by number.
            least_clicks: items with fewer clicks, faded as they are, have no share.
        """
        is_counted = (items >= 0) & (items < len(self._clicks))
        least = np.float32(least_clicks) * self._shares(np.array([self._newest_ms]))[0]
        is_counted[is_counted] = self._clicks[items[is_counted]] >= least
        shares = np.zeros(items.shape, np.float32)
        shares[is_counted] = self._clicks[items[is_counted]] / np.float32(self._total or 1.0)
        return shares

    def forget(self, items: Int32) -> None:
        """Drop the counts of items whose numbers are about to be those of other items."""
        items = items[items < len(self._rows)]
        self._clicks[items] = 0.0
        self._sum_up()
        rows = self._rows[items]
        self._release(rows[rows != _NO_ROW])
        gone = np.isin(self._neighbours, items + 1)
        self._neighbours[gone], self._counts[gone], self._errors[gone] = 0, 0.0, 0.0

    def _sum_up(self) -> None:
        self._total = float(self._clicks.sum(dtype=np.float64))

    def _move_to(self, time_ms: int) -> None:
        """Bring the newest time, and the landmark with it, up to `time_ms`."""
        self._newest_ms = max(self._newest_ms, time_ms)
        if self._landmark_ms is None:
            self._landmark_ms = time_ms
        passed = (self._newest_ms - self._landmark_ms) / HALF_LIFE_MS
        if passed > _MOST_HALF_LIVES:
            fading = np.float32(2.0**-passed)
            self._counts *= fading
            self._errors *= fading
            self._clicks *= fading
            self._total *= float(fading)
            self._landmark_ms = self._newest_ms

    def _shares(self, times_ms: Int64) -> Float32:
        """[n] what a click at each time counts, in units of one at the landmark."""
        ages: Float64 = (times_ms - (self._landmark_ms or 0)) / HALF_LIFE_MS
        return np.exp2(ages).astype(np.float32)

    def _reserve(self, items: int) -> None:
        extra = max(items, min(2 * len(self._rows), items + (1 << 16))) - len(self._rows)
        if items > len(self._rows):
            self._rows = np.concatenate([self._rows, np.full(extra, _NO_ROW, np.int32)])
            self._clicks = np.concatenate([self._clicks, np.zeros(extra, np.float32)])

    def _count(self, pairs: _Pairs) -> None:
        """Add counts of distinct pairs."""
        if not len(pairs.sources):
            return
        self._turn += 1
        rows = self._assign(pairs.sources)
        kept = rows != _NO_ROW
        rows, neighbours, counts = rows[kept], pairs.neighbours[kept], pairs.counts[kept]
        held, places = self._places(rows, neighbours)
        self._counts[rows[held], places[held]] += counts[held]
        rows, neighbours, counts = rows[~held], neighbours[~held], counts[~held]
        while len(rows):
            ranks = _ranks(rows)
            first = ranks < NEIGHBOURS
            self._replace_lowest(rows[first], ranks[first], neighbours[first], counts[first])
            rows, neighbours, counts = rows[~first], neighbours[~first], counts[~first]

    def _places(self, rows: Int32, neighbours: Int32) -> tuple[Bool, Int64]:
        """[n] whether each row holds the neighbour, and in which place."""
        matches = self._neighbours[rows] == (neighbours + 1)[:, None]
        return matches.any(axis=1), matches.argmax(axis=1)

    def _replace_lowest(self, rows: Int32, ranks: Int64, neighbours: Int32, counts: Float32) -> None:
        """Put neighbours [n] into the places of their rows with the lowest counts, the k-th of a row into the k-th."""
        distinct, index = np.unique(rows, return_inverse=True)
        places = np.argsort(self._counts[distinct], axis=1, kind="stable")[index, ranks]
        inherited = self._counts[rows, places]
        self._neighbours[rows, places] = neighbours + 1
        self._errors[rows, places] = inherited
        self._counts[rows, places] = inherited + counts

    def _assign(self, items: Int32) -> Int32:
        """[n] rows of items in ascending order, in groups of equals; rows used longest ago are given to new items.

        More items than there are rows get _NO_ROW.
        """
        rows = self._rows[items]
        self._turns[rows[rows != _NO_ROW]] = self._turn
        new = np.unique(items[rows == _NO_ROW])
        if len(new):
            self._make_room(len(new))
            new = new[: len(self._free)]
            taken = self._free[len(self._free) - len(new) :][::-1]
            self._free = self._free[: len(self._free) - len(new)]
            self._rows[new], self._owners[taken], self._turns[taken] = taken, new, self._turn
            rows = self._rows[items]
        return rows

    def _make_room(self, count: int) -> None:
        if count <= len(self._free):
            return
        idle = np.flatnonzero((self._owners != NO_ITEM) & (self._turns < self._turn))
        evicted = min(len(idle), max(count - len(self._free), len(self._owners) // _EVICT_SHARE))
        self._release(idle[np.argsort(self._turns[idle], kind="stable")[:evicted]].astype(np.int32))

    def _release(self, rows: Int32) -> None:
        self._rows[self._owners[rows]] = _NO_ROW
        self._owners[rows] = NO_ITEM
        self._neighbours[rows], self._counts[rows], self._errors[rows] = 0, 0.0, 0.0
        self._free = np.concatenate([self._free, rows[::-1]])


def clicks_of(items: Int32, weights: Float32) -> Bool:
    """Mask of the events that are clicks on items by actions of positive weight, of any shape."""
    mask: Bool = (items != NO_ITEM) & (items < FIRST_SEARCH) & (weights > 0.0)
    return mask


def item_mask(items: Int32) -> Bool:
    """The mask, by item number, that is True for these items and ends at the highest of them."""
    mask = np.zeros(int(items.max(initial=-1)) + 1, np.bool_)
    mask[items] = True
    return mask


def _has_other(windows: CountedWindows, is_known: Bool, first_new: int) -> Bool:
    """[B] whether a window has a click on an item that is not known, from S before the column `first_new` on."""
    columns = slice(max(0, first_new - STEPS), None)
    items, is_click = windows.items[:, columns], windows.is_click[:, columns]
    is_other = is_click & ~_at(is_known, np.where(is_click, items, np.int32(0)))
    has_other: Bool = np.logical_or.reduce(is_other, axis=1)
    return has_other


def _pairs(windows: CountedWindows, users: Int64, columns: Int64, shares: Float32) -> _Pairs:
    """Pairs, in both directions, of the clicks [n] at these places with the S clicks before each."""
    before = columns[:, None] - np.arange(1, STEPS + 1)  # [n, S]
    places = (users[:, None], np.maximum(before, 0))
    items, others = windows.items[users, columns][:, None], windows.items[places]
    is_pair = (before >= 0) & windows.is_click[places] & (others != items)
    index, steps = np.nonzero(is_pair)
    newer, older = windows.items[users, columns][index], others[index, steps]
    counts = shares[index] * _STEP_WEIGHTS[steps]
    return _Pairs(np.concatenate([older, newer]), np.concatenate([newer, older]), np.concatenate([counts, counts]))


def _summed(pairs: _Pairs, mask: Bool) -> _Pairs:
    """The pairs under the mask [n], each once with the sum of its counts, in order of source and neighbour."""
    keys = pairs.sources[mask].astype(np.int64) << 32 | pairs.neighbours[mask]
    distinct, index = np.unique(keys, return_inverse=True)
    counts = np.bincount(index, pairs.counts[mask], len(distinct)).astype(np.float32)
    return _Pairs((distinct >> 32).astype(np.int32), (distinct & 0xFFFFFFFF).astype(np.int32), counts)


def _ranks(groups: Int32) -> Int64:
    """[n] place of each entry among those equal to it, from 0; equal ones are together."""
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    ranks: Int64 = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    return ranks


def _at(mask: Bool, items: Int32) -> Bool:
    """The mask's values for these item numbers, of any shape; False beyond its end."""
    if not len(mask):
        return np.zeros(items.shape, np.bool_)
    values: Bool = mask[np.minimum(items, len(mask) - 1)]
    return values & (items < len(mask))
