"""The last list sent to each of the most recent users: what next clicks are judged by, and unchanged lists found by."""

from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from engine.arrays import NO_ITEM, Bool, Int8, Int32

_NOBODY: Final = -1
_Integer = TypeVar("_Integer", np.int8, np.int32)


class SentLists:
    """Last lists by window slot, in a table of fixed size in which users of the same row push each other out.

    Users that were pushed out are not judged, and are sent an unchanged list again: the table's size is bounded.
    """

    def __init__(self, rows: int, count: int) -> None:
        """Make an empty table for `rows` lists of up to `count` items."""
        self._owners = np.full(rows, _NOBODY, np.int32)
        self._items = np.full((rows, count), NO_ITEM, np.int32)
        self._releases = np.zeros(rows, np.int32)
        self._groups = np.full(rows, _NOBODY, np.int32)
        self._teams: Int8 | None = None
        self._release_names: list[str] = []

    def put(
        self, slots: Int32, items: Int32, release: str, groups: Int32 | None = None, teams: Int8 | None = None
    ) -> None:
        """Remember the lists [B, N] that a release made for these users [B].

        Lists of an experiment's arms may be shorter or longer than the others; the table grows to the longest.

        Args:
            slots: of the users.
            items: of the lists.
            release: its name.
            groups: [B] groups of the users in an experiment.
            teams: [B, N] releases of the places, where two made the lists together.
        """
        if release not in self._release_names:
            self._release_names.append(release)
        self._widen(items.shape[1])
        rows = slots % len(self._owners)
        self._owners[rows] = slots
        self._items[rows] = _padded(items, self._items.shape[1], NO_ITEM)
        self._releases[rows] = self._release_names.index(release)
        self._groups[rows] = _NOBODY if groups is None else groups
        if teams is not None:
            if self._teams is None:
                self._teams = np.full(self._items.shape, _NOBODY, np.int8)
            self._teams[rows] = _padded(teams, self._items.shape[1], _NOBODY)

    def lists(self, slots: Int32) -> tuple[Bool, Int32]:
        """[n] whether a list of each user is remembered, and the lists [n, N]; NO_ITEM after the last item."""
        rows = slots % len(self._owners)
        return self._owners[rows] == slots, self._items[rows]

    def releases(self, slots: Int32) -> list[str]:
        """[n] the releases that made the lists of these users, all of which are remembered."""
        return [self._release_names[code] for code in self._releases[slots % len(self._owners)].tolist()]

    def groups(self, slots: Int32) -> Int32:
        """[n] group of each user when the list was made, -1 for none; of users whose lists are remembered."""
        return self._groups[slots % len(self._owners)]

    def teams(self, slots: Int32) -> Int8:
        """[n, N] team of each place, -1 for none; of users whose lists are remembered."""
        if self._teams is None:
            return np.full((len(slots), self._items.shape[1]), _NOBODY, np.int8)
        return self._teams[slots % len(self._owners)]

    def forget_groups(self) -> None:
        """Let no list count in an experiment: one begins or is over."""
        self._groups[:] = _NOBODY
        self._teams = None

    def same(self, slots: Int32, items: Int32) -> Bool:
        """[B] whether each list [B, N] has the items of the one that is remembered."""
        self._widen(items.shape[1])
        known, remembered = self.lists(slots)
        items = _padded(items, self._items.shape[1], NO_ITEM)
        same: Bool = known & (remembered == items).all(axis=1)
        return same

    def forget(self, slots: Int32) -> None:
        """Forget the lists of these users: their slots are released, or other workers send their lists from now on."""
        rows = slots % len(self._owners)
        rows = rows[self._owners[rows] == slots]
        self._owners[rows] = _NOBODY

    def forget_items(self, numbers: Int32) -> None:
        """Take items out of all lists whose numbers are about to be those of other items."""
        self._items[np.isin(self._items, numbers)] = NO_ITEM

    def _widen(self, count: int) -> None:
        """Give every list room for `count` items."""
        if count > self._items.shape[1]:
            self._items = _padded(self._items, count, NO_ITEM)
            self._teams = None if self._teams is None else _padded(self._teams, count, _NOBODY)


def _padded(places: npt.NDArray[_Integer], count: int, empty: int) -> npt.NDArray[_Integer]:
    """[n, count] places [n, N] of lists, N up to `count`, and empty ones after them."""
    missing = count - places.shape[1]
    return np.pad(places, ((0, 0), (0, missing)), constant_values=empty) if missing else places
