"""Numbers of items and searches: small integers in place of ids, valid in this process.

Windows hold numbers, so a release swap changes no window; an item that no release knows has a number like any other and
waits in the windows until one does. Searches are numbered from FIRST_SEARCH on, so that a number tells which it is.

There is no end of what people type, nor of what a stream may bring in the place of an item, so both are swept now and
then: numbers of searches are closed up, numbers of items that nothing holds are given to other items later.
"""

import threading
from array import array
from collections.abc import Sequence
from typing import Final
from weakref import WeakSet

import numpy as np

from engine.arrays import FIRST_SEARCH, NO_ITEM, Bool, Int32, Int64
from engine.catalogue import searches

_FREED: Final = ""
"""In the place of the id of a number that was freed; no id is empty."""


class Pin:
    """Numbers of items that stay theirs as long as this object lives."""

    def __init__(self, numbers: Int32) -> None:
        self.numbers = numbers
        """[n]"""


class _Numbers(dict[str, int]):
    """Number of each id; looking up a new id gives it a number of its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.item_ids: list[str] = []
        self.search_ids: list[str] = []
        self.free: list[int] = []
        self.order = array("i")
        """Numbers in the order in which they were given out; begins again with each sweep."""
        self.lock = threading.RLock()  # a release is warmed in another thread than the worker's

    def __missing__(self, item: str) -> int:
        with self.lock:
            number = self.get(item)
            if number is None:
                number = self._add_search(item) if searches.is_search(item) else self._add_item(item)
                self[item] = number
                self.order.append(number)
            return number

    def _add_search(self, search: str) -> int:
        self.search_ids.append(search)
        return FIRST_SEARCH + len(self.search_ids) - 1

    def _add_item(self, item: str) -> int:
        if self.free:
            number = self.free.pop()
            self.item_ids[number] = item
            return number
        self.item_ids.append(item)
        return len(self.item_ids) - 1


class Catalogue:
    """All ids of items and searches that this process holds, by number."""

    def __init__(self) -> None:
        self._numbers = _Numbers()
        self._pins = WeakSet[Pin]()
        self.sweeps = 0
        """Times that numbers were freed or changed."""

    def __len__(self) -> int:
        """Items held."""
        return len(self._numbers.item_ids) - len(self._numbers.free)

    @property
    def end(self) -> int:
        """One more than the highest number of an item."""
        return len(self._numbers.item_ids)

    @property
    def searches(self) -> int:
        """Searches held."""
        return len(self._numbers.search_ids)

    def numbers(self, items: Sequence[str]) -> Int32:
        """[n] numbers of items and searches; new ids get new ones."""
        return np.fromiter(map(self._numbers.__getitem__, items), np.int32, len(items))

    def known(self, items: Sequence[str]) -> Int32:
        """[n] numbers of items and searches; NO_ITEM for ids that have none, which get none."""
        return np.array([self._numbers.get(item, NO_ITEM) for item in items], np.int32)

    def pin(self, items: Sequence[str]) -> Pin:
        """Numbers of items that no sweep frees while the pin lives, whichever thread sweeps."""
        with self._numbers.lock:
            pin = Pin(self.numbers(items))
            self._pins.add(pin)
            return pin

    def ids(self, numbers: Sequence[int]) -> list[str]:
        """The ids of these numbers."""
        items, typed = self._numbers.item_ids, self._numbers.search_ids
        try:
            return [items[number] for number in numbers]
        except IndexError:  # there are searches among them, which is rare
            return [items[number] if number < FIRST_SEARCH else typed[number - FIRST_SEARCH] for number in numbers]

    def given_out(self, since: int) -> Int32:
        """[n] numbers in the order in which they were given out since the last sweep, from the `since`-th on."""
        with self._numbers.lock:
            return np.array(self._numbers.order[since:], np.int32)

    def keep_searches(self, numbers: Int64) -> None:
        """Drop all searches but these [n], given in ascending order: from now on their numbers are FIRST_SEARCH + n."""
        with self._numbers.lock:
            typed = self._numbers.search_ids
            kept = [typed[number - FIRST_SEARCH] for number in numbers.tolist()]
            for search in typed:
                del self._numbers[search]
            self._numbers.update((search, FIRST_SEARCH + place) for place, search in enumerate(kept))
            self._numbers.search_ids = kept
            self._swept()

    def free_items(self, held: Bool) -> Int32:
        """Free the numbers of items that are neither `held` [end] nor pinned; returns them [n].

        Whoever kept one must forget it: it may soon be the number of another item.
        """
        with self._numbers.lock:
            free = np.ones(len(self._numbers.item_ids), np.bool_)
            free[: len(held)] = ~held
            free[len(held) :] = False  # given out meanwhile
            free[self._numbers.free] = False
            for pin in self._pins:
                free[pin.numbers] = False
            freed = np.flatnonzero(free).astype(np.int32)
            for number in freed.tolist():
                del self._numbers[self._numbers.item_ids[number]]
                self._numbers.item_ids[number] = _FREED
            self._numbers.free += freed.tolist()
            self._swept()
            return freed

    def _swept(self) -> None:
        """Begin the order of numbers again: readers of it (`IdTable`) start over."""
        self.sweeps += 1
        items, free = self._numbers.item_ids, set(self._numbers.free)
        self._numbers.order = array("i", (number for number in range(len(items)) if number not in free))
        self._numbers.order.extend(range(FIRST_SEARCH, FIRST_SEARCH + len(self._numbers.search_ids)))
