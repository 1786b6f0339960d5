"""The last list published for each of the most recent users: was the next click in it, and is the next list another?"""

import numpy as np

from engine.arrays import Bool, Int32

NOBODY = -1


class PublishedLists:
    """Last lists by window slot, in a table of fixed size: users that share a place push each other out.

    Users that were pushed out are not counted, and are sent a list again, rather than remembered at any cost.
    """

    def __init__(self, places: int, count: int) -> None:
        self._owners = np.full(places, NOBODY, np.int32)
        self._lists = np.empty((places, count), np.int32)

    def put(self, slots: Int32, items: Int32) -> None:
        """Remember the lists [B, N] of these users [B]."""
        places = slots % len(self._owners)
        self._owners[places] = slots
        self._lists[places] = items

    def hits(self, slots: Int32, items: Int32) -> tuple[Bool, Bool]:
        """For each click [n]: was a list of its user remembered, and was its item in it?"""
        places = slots % len(self._owners)
        known = self._owners[places] == slots
        return known, known & (self._lists[places] == items[:, None]).any(axis=1)

    def same(self, slots: Int32, items: Int32) -> Bool:
        """[B] for each user: is this list [B, N] the one that is remembered?"""
        places = slots % len(self._owners)
        same: Bool = (self._owners[places] == slots) & (self._lists[places] == items).all(axis=1)
        return same

    def clear(self) -> None:
        """Forget everything: slots are about to belong to other users."""
        self._owners[:] = NOBODY
