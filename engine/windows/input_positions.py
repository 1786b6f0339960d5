"""How much of its partition's clicks each window knows, by which an older window never replaces a newer one."""

from collections.abc import Sequence

import numpy as np

from engine.arrays import Int32, Int64
from engine.windows.slots import LruSlots


class InputPositions:
    """Input positions by slot, and those of users who were forgotten; 0 where nothing is known."""

    def __init__(self, user_slots: LruSlots[str]) -> None:
        self._by_slot = np.zeros(user_slots.capacity, np.int64)
        self._forgotten: dict[str, tuple[int, int]] = {}
        """Partition and position of tombstones."""
        user_slots.subscribe(released=self._clear)

    def of(self, slots: Int32) -> Int64:
        """[B] positions of these slots."""
        return self._by_slot[slots]

    def put(self, slots: Int32, positions: Int64) -> None:
        """The windows of these slots [B] know the clicks before these positions [B]."""
        self._by_slot[slots] = positions

    def of_forgotten(self, user: str, partition: int) -> int:
        """Position of the tombstone of a user; 0 where there is none in this partition."""
        number, position = self._forgotten.get(user, (partition, 0))
        return position if number == partition else 0

    def forget(self, user: str, partition: int, position: int) -> None:
        """A tombstone of this position is the newest that is known of the user."""
        self._forgotten[user] = partition, max(position, self.of_forgotten(user, partition))

    def remember(self, users: Sequence[str]) -> None:
        """These users have windows again."""
        if self._forgotten:
            for user in users:
                self._forgotten.pop(user, None)

    def drop(self, partition: int) -> None:
        """Drop the tombstones of a partition that went to another worker."""
        self._forgotten = {user: place for user, place in self._forgotten.items() if place[0] != partition}

    def clear(self) -> None:
        """Drop all tombstones."""
        self._forgotten.clear()

    def _clear(self, slots: Int32) -> None:
        self._by_slot[slots] = 0
