"""How much of its partition's clicks each window knows, by which an older window never replaces a newer one."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from engine.arrays import Int32, Int64
from engine.windows.slots import LruSlots


class InputPositions:
    """Input positions by slot, and those of users who were forgotten; 0 where nothing is known."""

    def __init__(self, user_slots: LruSlots[str]) -> None:
        self._by_slot = np.zeros(user_slots.capacity, np.int64)
        self._forgotten: defaultdict[int, dict[str, int]] = defaultdict(dict)
        """Positions of tombstones, by partition and user."""
        user_slots.subscribe(released=self._clear)

    def of(self, slots: Int32) -> Int64:
        """[B] positions of these slots."""
        return self._by_slot[slots]

    def put(self, slots: Int32, positions: Int64) -> None:
        """The windows of these slots [B] know the clicks before these positions [B]."""
        self._by_slot[slots] = positions

    def of_forgotten(self, user: str, partition: int) -> int:
        """Position of the tombstone of a user; 0 where there is none in this partition."""
        return self._forgotten[partition].get(user, 0)

    def forget(self, user: str, partition: int, position: int) -> None:
        """A tombstone of this position is the newest that is known of the user."""
        self._forgotten[partition][user] = max(position, self.of_forgotten(user, partition))

    def remember(self, users: Iterable[tuple[str, int]]) -> None:
        """These users have windows again, each in its partition."""
        if any(self._forgotten.values()):
            for user, partition in users:
                self._forgotten[partition].pop(user, None)

    def drop(self, partition: int) -> None:
        """Drop the tombstones of a partition that went to another worker."""
        self._forgotten.pop(partition, None)

    def clear(self) -> None:
        """Drop all tombstones."""
        self._forgotten.clear()

    def _clear(self, slots: Int32) -> None:
        self._by_slot[slots] = 0
