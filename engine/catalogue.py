"""Item ids as small numbers, for as long as the process lives.

Windows hold numbers, so a release swap touches no window; an item that no release knows has a number like any other
and waits in the windows until one does.
"""

import threading
from collections.abc import Sequence

import numpy as np

from engine.columns import Int32


class _Numbers(dict[str, int]):
    """Number of each id; asking for a new id gives it the next number."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self._lock = threading.Lock()  # a release is warmed in another thread than the worker's

    def __missing__(self, item: str) -> int:
        with self._lock:
            number = self.get(item)
            if number is None:
                number = len(self.ids)
                self.ids.append(item)
                self[item] = number
            return number


class Catalogue:
    """All item ids met so far, in the order they were met."""

    def __init__(self) -> None:
        self._numbers = _Numbers()

    def __len__(self) -> int:
        return len(self._numbers.ids)

    def numbers(self, items: Sequence[str]) -> Int32:
        """[n] item numbers; ids not met before get new ones."""
        return np.fromiter(map(self._numbers.__getitem__, items), np.int32, len(items))

    def ids(self, numbers: Sequence[int]) -> list[str]:
        """The ids of these numbers."""
        ids = self._numbers.ids
        return [ids[number] for number in numbers]
