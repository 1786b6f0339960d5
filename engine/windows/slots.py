"""Slots of a table with room for a fixed number of keys: the keys used last hold them, the longest idle are evicted.

A slot is a row of arrays that somebody else keeps: the window store's columns, a release's rows for searches. Whoever
keeps something by slot subscribes, and forgets the rows of slots that are released.

Time is counted in turns. A key used in the current turn is never evicted, so that a batch cannot evict its own users.
"""

from collections.abc import Callable, Hashable, Sequence
from itertools import repeat
from typing import Final, Generic, TypeVar

import numpy as np

from engine.arrays import Int32, Int64

Key = TypeVar("Key", bound=Hashable)

NO_SLOT: Final = -1
_NEVER_IDLE: Final = np.iinfo(np.int64).max
"""Last turn of a free slot."""


class SlotsFullError(Exception):
    """More keys in one turn than there are slots."""


class LruSlots(Generic[Key]):
    """Slots 0 to capacity - 1 by key, least recently used keys evicted first."""

    def __init__(self, capacity: int, evict_share: int) -> None:
        """Make empty slots.

        Args:
            capacity: keys that can be held at once.
            evict_share: when all slots are taken, one part in so many is evicted at once, so that it is rarely done.
        """
        self.capacity = capacity
        self._evict_count = max(1, capacity // evict_share)
        self._slot_by_key: dict[Key, int] = {}
        self._key_by_slot: list[Key | None] = []
        self._free: list[int] = []
        self._last_turns = np.zeros(capacity, np.int64)
        self._turn = 0
        self._on_evict: list[Callable[[Int32], None]] = []
        self._on_release: list[Callable[[Int32], None]] = []
        self.evicted = 0
        """Keys evicted since the start."""

    def __len__(self) -> int:
        return len(self._slot_by_key)

    @property
    def end(self) -> int:
        """One more than the highest slot that was ever taken."""
        return len(self._key_by_slot)

    def subscribe(
        self,
        *,
        evicting: Callable[[Int32], None] | None = None,
        released: Callable[[Int32], None] | None = None,
    ) -> None:
        """Call `evicting` with slots about to be evicted, and `released` with slots whose keys are gone."""
        self._on_evict += [evicting] if evicting else []
        self._on_release += [released] if released else []

    def next_turn(self) -> None:
        """Begin a turn: keys used before it may be evicted."""
        self._turn += 1

    def find(self, key: Key) -> int | None:
        """The slot of a key, or None; does not count as use."""
        return self._slot_by_key.get(key)

    def keys(self, slots: Int32) -> list[Key]:
        """The keys of slots that are taken."""
        keys = self._key_by_slot
        return [key for slot in slots.tolist() if (key := keys[slot]) is not None]

    def lookup(self, keys: Sequence[Key]) -> Int32:
        """[n] slots of these keys, NO_SLOT for those not held; the others count as used in this turn."""
        slots = np.fromiter(map(self._slot_by_key.get, keys, repeat(NO_SLOT)), np.int32, len(keys))
        self._last_turns[slots[slots != NO_SLOT]] = self._turn
        return slots

    def assign(self, keys: Sequence[Key]) -> tuple[Int32, Int64]:
        """[n] slots of these keys, which may repeat, and the first index [m] of each key that was not held before.

        Raises:
            SlotsFullError: the keys of this turn are more than there are slots.
        """
        slots = self.lookup(keys)
        missing = np.flatnonzero(slots == NO_SLOT).tolist()
        first: dict[Key, int] = {}
        for index in missing:
            first.setdefault(keys[index], index)
        self._make_room(len(first))
        for key in first:
            self._take(key)
        slots[missing] = [self._slot_by_key[keys[index]] for index in missing]
        return slots, np.fromiter(first.values(), np.int64, len(first))

    def release(self, slots: Int32) -> None:
        """Give up slots that are taken."""
        if not len(slots):
            return
        for slot, key in zip(slots.tolist(), self.keys(slots), strict=True):
            del self._slot_by_key[key]
            self._key_by_slot[slot] = None
        self._free += slots[::-1].tolist()  # taken again from the lowest on, so that slots follow the order of arrival
        self._last_turns[slots] = _NEVER_IDLE
        for released in self._on_release:
            released(slots)

    def _take(self, key: Key) -> None:
        if self._free:
            slot = self._free.pop()
            self._key_by_slot[slot] = key
        else:
            slot = len(self._key_by_slot)
            self._key_by_slot.append(key)
        self._slot_by_key[key] = slot
        self._last_turns[slot] = self._turn

    def _make_room(self, count: int) -> None:
        """Evict until `count` slots are free."""
        lacking = count - (self.capacity - len(self))
        if lacking <= 0:
            return
        idle = np.flatnonzero(self._last_turns[: self.end] < self._turn)
        if len(idle) < lacking:
            raise SlotsFullError(f"{count} new keys in one turn, {self.capacity} slots")
        evict_count = min(max(lacking, self._evict_count), len(idle))
        oldest = _lowest(self._last_turns, idle, evict_count)
        for evicting in self._on_evict:
            evicting(oldest)
        self.release(oldest)
        self.evicted += evict_count


def _lowest(turns: Int64, slots: Int64, count: int) -> Int32:
    """The `count` slots with the lowest turns, ties by slot: in time linear in the slots."""
    bound = np.partition(turns[slots], count - 1)[count - 1]
    below, tied = slots[turns[slots] < bound], slots[turns[slots] == bound]
    return np.concatenate([below, tied[: count - len(below)]]).astype(np.int32)
