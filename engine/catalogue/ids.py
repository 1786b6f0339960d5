"""Item ids as small numbers, for as long as the process lives; and searches, by their words, as numbers of their own.

Windows hold numbers, so a release swap touches no window; an item that no release knows has a number like any other
and waits in the windows until one does. Searches are numbered from FIRST_SEARCH on: a number tells which it is. There
is no end of what people type, so searches that no window holds any more are dropped now and then, and the others
numbered anew.
"""

import threading
from collections.abc import Sequence

import numpy as np

from engine.arrays import FIRST_SEARCH, Int32, Int64
from engine.catalogue import searches


class _Numbers(dict[str, int]):
    """Number of each id; asking for a new id gives it the next number of its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.searches: list[str] = []
        self._lock = threading.Lock()  # a release is warmed in another thread than the worker's

    def __missing__(self, item: str) -> int:
        with self._lock:
            number = self.get(item)
            if number is None:
                ids, first = (self.searches, FIRST_SEARCH) if searches.is_search(item) else (self.ids, 0)
                number = first + len(ids)
                ids.append(item)
                self[item] = number
            return number

    def keep(self, numbers: Int64) -> None:
        """Drop all searches but these, which get the first numbers in their order."""
        with self._lock:
            kept = [self.searches[number - FIRST_SEARCH] for number in numbers.tolist()]
            for search in self.searches:
                del self[search]
            self.update((search, FIRST_SEARCH + place) for place, search in enumerate(kept))
            self.searches = kept


class Catalogue:
    """All ids of items and searches met so far, each kind in the order they were met."""

    def __init__(self) -> None:
        self._numbers = _Numbers()
        self.sweeps = 0
        """How often searches were numbered anew."""

    def __len__(self) -> int:
        return len(self._numbers.ids)

    @property
    def searches(self) -> int:
        """How many searches there are; `len` is how many items."""
        return len(self._numbers.searches)

    def numbers(self, items: Sequence[str]) -> Int32:
        """[n] numbers of items and searches; ids not met before get new ones."""
        return np.fromiter(map(self._numbers.__getitem__, items), np.int32, len(items))

    def keep_searches(self, numbers: Int64) -> None:
        """Drop all searches but these [n], given in ascending order: from now on their numbers are FIRST_SEARCH + n."""
        self._numbers.keep(numbers)
        self.sweeps += 1

    def ids(self, numbers: Sequence[int]) -> list[str]:
        """The ids of these numbers."""
        ids, searched = self._numbers.ids, self._numbers.searches
        try:
            return [ids[number] for number in numbers]
        except IndexError:  # there are searches among them, which is rare
            return [ids[number] if number < FIRST_SEARCH else searched[number - FIRST_SEARCH] for number in numbers]
