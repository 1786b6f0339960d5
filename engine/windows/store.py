"""Every user's behaviour window: the last L events, columnar, ten bytes an event.

A user is a row number (slot) of a few arrays. An event is an item number (4 bytes) and one 48-bit word (4 + 2 bytes)
that holds its time in milliseconds (42 bits, until the year 2109) and its action (6 bits). Rows are right-aligned and
ordered by time, ties in order of arrival; an empty place is all zeros, and the arrays are reserved whole but only
touched pages take memory, so a store costs what its users need.

The rules, which one event at a time would follow just as well:

- an event goes to its place by time; one that ties with others goes behind them;
- a repeat (same event id, or same item, action and time) changes nothing;
- a late event no newer than the oldest of a full window is dropped, and so is one beyond the time-to-live, counted
  from the user's newest event: event time alone decides, so a replay gives the same windows on any day.

Hence replaying a stream twice gives what replaying it once gives, unless a user has more than L events in the very
same millisecond.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.arrays import FIRST_SEARCH, NO_ITEM, Bool, Int32, Int64, UInt8, UInt32, Windows
from engine.errors import SettingsError
from engine.settings.sections import WindowSettings
from engine.windows import event_word
from engine.windows.packed import PackedWindows, newest_events
from engine.windows.slots import NO_SLOT, LruSlots, SlotsFullError

_DAY_MS = 86_400_000
_USERS_AT_ONCE = 1 << 14
_EVICT_SHARE = 100
_FREE = -1
"""Partition of a slot without a user."""


@dataclass(frozen=True, slots=True)
class Events:
    """Events to add, in order of arrival, as columns of the same length."""

    slots: Int32
    items: Int32
    times_ms: Int64
    actions: UInt8
    """1 to `engine.arrays.MAX_ACTIONS`."""
    event_hashes: UInt32
    """0 where the event has no id."""

    def take(self, index: Int64 | Bool) -> "Events":
        """The events at these places."""
        return Events(
            self.slots[index], self.items[index], self.times_ms[index], self.actions[index], self.event_hashes[index]
        )

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of the events."""

    changed: Int32
    """Slots whose window changed, each once, in ascending order."""
    repeated: int
    late: int
    expired: int


class WindowStore:
    """The windows of all users this worker holds.

    Raises:
        SettingsError: `windows.max_users` windows of `windows.length` cannot be reserved on this machine.
    """

    def __init__(self, settings: WindowSettings) -> None:
        self.length = settings.length
        self.max_users = settings.max_users
        self._ttl_ms = None if settings.ttl_days is None else round(settings.ttl_days * _DAY_MS)
        try:
            shape = (settings.max_users, settings.length)
            self._items = np.zeros(shape, np.uint32)  # item number + 1
            self._low = np.zeros(shape, np.uint32)  # low half of the event word
            self._high = np.zeros(shape, np.uint16)  # and the high half
            self._hashes: UInt32 | None = None  # reserved at the first event that has an id
            self._partitions = np.full(settings.max_users, _FREE, np.int32)
            self.user_slots = LruSlots[str](settings.max_users, _EVICT_SHARE)
        except MemoryError as error:
            raise SettingsError(
                f"windows.max_users = {settings.max_users} with windows.length = {settings.length} cannot be reserved:"
                f" {error}; lower one of them"
            ) from error
        self.user_slots.subscribe(released=self._clear_rows)

    def __len__(self) -> int:
        return len(self.user_slots)

    @property
    def nbytes(self) -> int:
        """Bytes of window columns that the users held take (the key index not counted)."""
        per_event = 10 if self._hashes is None else 14
        return len(self.user_slots) * (self.length * per_event + 12)

    def slots(self, users: Sequence[str], partitions: Int32) -> Int32:
        """[n] the slots of users; those not held yet start with an empty window that belongs to their partition [n].

        Raises:
            SettingsError: there are more users than `windows.max_users`.
        """
        self.user_slots.next_turn()
        return self._assign(users, partitions)

    def absent(self, users: Sequence[str]) -> list[str]:
        """Those of `users` who are not held, each once; the others are not evicted before the next call of `slots`."""
        self.user_slots.next_turn()
        slots = self.user_slots.lookup(users)
        return list(dict.fromkeys(users[index] for index in np.flatnonzero(slots == NO_SLOT).tolist()))

    def find(self, user: str) -> int | None:
        """The slot of a user, or None when not held."""
        return self.user_slots.find(user)

    def users(self, slots: Int32) -> list[str]:
        """The users of these slots."""
        return self.user_slots.keys(slots)

    def _assign(self, users: Sequence[str], partitions: Int32) -> Int32:
        try:
            slots, new = self.user_slots.assign(users)
        except SlotsFullError as error:
            raise SettingsError(
                f"windows.max_users = {self.max_users} is smaller than the users of one batch"
                " (worker.max_batch_clicks); raise it"
            ) from error
        self._partitions[slots[new]] = partitions[new]
        return slots

    def append(self, events: Events) -> Appended:
        """Add events to their users' windows by the rules above."""
        if not len(events):
            return Appended(np.empty(0, np.int32), 0, 0, 0)
        events = events.take(np.argsort(events.slots, kind="stable"))
        if events.event_hashes.any() and self._hashes is None:
            self._hashes = np.zeros((self.max_users, self.length), np.uint32)
        slots, starts, counts = np.unique(events.slots, return_index=True, return_counts=True)
        simple = self._in_order(events, slots, starts)
        for count in np.unique(counts[simple]).tolist():
            self._shift_in(events, starts[simple & (counts == count)], count)
        changed = simple.copy()
        repeated = late = expired = 0
        for user in np.flatnonzero(~simple).tolist():
            for index in range(starts[user], starts[user] + counts[user]):
                outcome = self._insert(events, index)
                if outcome == "placed" and self._ttl_ms is not None:
                    expired += self._expire(slots[user : user + 1], self._ttl_ms)
                changed[user] |= outcome == "placed"
                repeated += outcome == "repeated"
                late += outcome == "late"
                expired += outcome == "expired"
        if self._ttl_ms is not None:
            expired += self._expire(slots[simple], self._ttl_ms)
        return Appended(slots[changed].astype(np.int32), repeated, late, expired)

    def read(self, slots: Int32) -> Windows:
        """The windows [B, L] of these slots."""
        words = self._words(slots)
        return Windows(
            items=self.items(slots),
            times_ms=event_word.times_ms(words),
            actions=event_word.actions(words),
        )

    def items(self, slots: Int32) -> Int32:
        """[B, L] item numbers of the windows of these slots; NO_ITEM where there is no event."""
        return self._items[slots].astype(np.int32) + NO_ITEM

    def newest_ms(self, slots: Int32) -> Int64:
        """[B] times of the newest events of these slots; 0 where there is none."""
        return event_word.times_ms(event_word.join(self._low[slots, -1], self._high[slots, -1]))

    def pack(self, slots: Int32) -> PackedWindows:
        """The windows of these slots, each with at least one event."""
        rows = self._items[slots]
        there = rows > 0
        words = self._words(slots)[there]
        hashes = np.zeros(len(words), np.uint32) if self._hashes is None else self._hashes[slots][there]
        return PackedWindows(
            users=self.users(slots),
            counts=there.sum(axis=1),
            items=rows[there].astype(np.int32) + NO_ITEM,
            times_ms=event_word.times_ms(words),
            actions=event_word.actions(words),
            event_hashes=hashes,
        )

    def load(self, packed: PackedWindows, partition: int) -> None:
        """Put whole windows in the place of what these users had; of longer ones the newest `windows.length` events."""
        if packed.event_hashes.any() and self._hashes is None:
            self._hashes = np.zeros((self.max_users, self.length), np.uint32)
        slots = self._assign(packed.users, np.full(len(packed), partition, np.int32))
        self._partitions[slots] = partition  # of users held already, too: a tombstone there concerns what is loaded
        words = event_word.pack(packed.times_ms, packed.actions)
        low, high = event_word.halves(words)
        columns: list[tuple[npt.NDArray[Any] | None, npt.NDArray[Any]]] = [
            (self._items, packed.items - NO_ITEM),
            (self._low, low),
            (self._high, high),
            (self._hashes, packed.event_hashes),
        ]
        kept = np.minimum(packed.counts, self.length)
        there = np.arange(self.length) >= self.length - kept[:, None]  # [B, L]
        newest = newest_events(packed.counts, self.length) if len(words) > kept.sum() else slice(None)
        for column, values in columns:
            if column is not None:
                rows = np.zeros(there.shape, column.dtype)
                rows[there] = values[newest]
                column[slots] = rows

    def partitions(self, slots: Int32) -> Int32:
        """[B] the partitions these slots belong to."""
        return self._partitions[slots]

    def held(self, partition: int) -> Int32:
        """The slots of a partition."""
        return np.flatnonzero(self._partitions == partition).astype(np.int32)

    def all_held(self) -> Int32:
        """The slots of all partitions."""
        return np.flatnonzero(self._partitions != _FREE).astype(np.int32)

    def known(self, slots: Int32) -> Bool:
        """[B] whether a slot has any event."""
        known: Bool = self._items[slots, -1] > 0
        return known

    def holds_items(self, count: int) -> Bool:
        """[count] whether any window has the item with that number."""
        held = np.zeros(count + 1, np.bool_)
        for rows in self._in_parts():
            held[rows[rows <= FIRST_SEARCH]] = True  # an item's number + 1; 0 where there is no event
        return held[1:]

    def searches(self, count: int) -> Int64:
        """Those of `count` searches that stand in any window, ascending."""
        held = np.zeros(count, np.bool_)
        for rows in self._in_parts():
            held[rows[rows > FIRST_SEARCH] - np.uint32(FIRST_SEARCH - NO_ITEM)] = True
        return FIRST_SEARCH + np.flatnonzero(held)

    def renumber_searches(self, numbers: Int64) -> None:
        """Let FIRST_SEARCH + n stand where the search `numbers[n]` did; `numbers` are those of `searches`."""
        places = np.zeros(int(numbers.max(initial=FIRST_SEARCH)) - FIRST_SEARCH + 1, np.uint32)
        places[numbers - FIRST_SEARCH] = FIRST_SEARCH - NO_ITEM + np.arange(len(numbers))
        for rows in self._in_parts():
            searched = rows > FIRST_SEARCH
            rows[searched] = places[rows[searched] - np.uint32(FIRST_SEARCH - NO_ITEM)]

    def _in_parts(self) -> Iterator[UInt32]:
        """The items column [users, L], some users at a time."""
        for start in range(0, self.user_slots.end, _USERS_AT_ONCE):
            yield self._items[start : min(start + _USERS_AT_ONCE, self.user_slots.end)]

    def forget(self, user: str) -> bool:
        """Drop a user's window; False when the user was not held."""
        slot = self.user_slots.find(user)
        if slot is None:
            return False
        self.user_slots.release(np.array([slot], np.int32))
        return True

    def drop_partition(self, partition: int) -> int:
        """Drop the windows of a partition that went to another worker; returns their number."""
        slots = self.held(partition)
        self.user_slots.release(slots)
        return len(slots)

    def clear(self) -> None:
        """Drop every window."""
        self.user_slots.release(self.all_held())

    def _clear_rows(self, slots: Int32) -> None:
        self._partitions[slots] = _FREE
        columns: list[npt.NDArray[Any] | None] = [self._items, self._low, self._high, self._hashes]
        for column in columns:
            if column is not None:
                column[slots] = 0

    def _words(self, slots: Int32 | int) -> Int64:
        """Time and action of each event as one number; orders events by time."""
        return event_word.join(self._low[slots], self._high[slots])

    def _in_order(self, events: Events, slots: Int32, starts: Int64) -> Bool:
        """[users] whose events are all newer than the one before, so that they can only go to the end."""
        times_ms = events.times_ms
        newest_ms = event_word.times_ms(self._words(slots)[:, -1])
        before_ms = np.empty_like(times_ms)
        before_ms[1:] = times_ms[:-1]
        before_ms[starts] = newest_ms
        ordered = times_ms > before_ms
        # An empty window's newest time reads 0; any first event may follow it.
        ordered[starts] |= self._items[slots, -1] == 0
        if self._hashes is not None and events.event_hashes.any():
            ordered &= ~_may_repeat(events, self._hashes)
        in_order: Bool = np.logical_and.reduceat(ordered, starts)
        return in_order

    def _shift_in(self, events: Events, starts: Int64, count: int) -> None:
        """Append `count` events to each of some users: their rows move left, the events stand at the end."""
        slots = events.slots[starts]
        kept = min(count, self.length)
        index = starts[:, None] + np.arange(count - kept, count)  # [users, kept]
        low, high = event_word.halves(event_word.pack(events.times_ms[index], events.actions[index]))
        columns: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = [
            (self._items, (events.items[index] + 1).astype(np.uint32)),
            (self._low, low),
            (self._high, high),
        ]
        if self._hashes is not None:
            columns.append((self._hashes, events.event_hashes[index]))
        for column, new in columns:
            rows = column[slots]
            rows[:, : self.length - kept] = rows[:, kept:]
            rows[:, self.length - kept :] = new
            column[slots] = rows

    def _insert(self, events: Events, index: int) -> str:
        """Put one event in its place, the rare way: it is late, ties with another or may be a repeat."""
        slot = int(events.slots[index])
        word = event_word.pack(events.times_ms[index], events.actions[index])
        item, event_hash = int(events.items[index]) + 1, int(events.event_hashes[index])
        words, items = self._words(slot), self._items[slot]
        if ((words == word) & (items == item)).any():
            return "repeated"
        if self._hashes is not None and event_hash and (self._hashes[slot] == event_hash).any():
            return "repeated"
        times_ms = np.where(items > 0, event_word.times_ms(words), -1)
        time_ms, newest_ms = int(events.times_ms[index]), int(times_ms[-1])
        if self._ttl_ms is not None and time_ms < newest_ms - self._ttl_ms:
            return "expired"
        if items[0] > 0 and time_ms <= times_ms[0] and time_ms < newest_ms:
            return "late"
        place = int(np.searchsorted(times_ms, time_ms, side="right")) - 1  # the oldest event, or a gap, makes room
        low, high = event_word.halves(word)
        columns: list[tuple[npt.NDArray[Any], Any]] = [
            (self._items, item),
            (self._low, low),
            (self._high, high),
        ]
        if self._hashes is not None:
            columns.append((self._hashes, event_hash))
        for column, value in columns:
            column[slot, :place] = column[slot, 1 : place + 1]
            column[slot, place] = value
        return "placed"

    def _expire(self, slots: Int32, ttl_ms: int) -> int:
        """Empty the places of events beyond the time-to-live; returns how many there were."""
        times_ms = event_word.times_ms(self._words(slots))
        old = (self._items[slots] > 0) & (times_ms < times_ms[:, -1:] - ttl_ms)
        rows, places = np.nonzero(old)
        columns: list[npt.NDArray[Any] | None] = [self._items, self._low, self._high, self._hashes]
        for column in columns:
            if column is None:
                continue
            column[slots[rows], places] = 0
        return len(rows)


def _may_repeat(events: Events, hashes: UInt32) -> Bool:
    """[n] events whose id is in the window already or twice in this batch."""
    with_id = events.event_hashes != 0
    inside = (hashes[events.slots] == events.event_hashes[:, None]).any(axis=1)
    keys = events.slots.astype(np.int64) << 32 | events.event_hashes
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    repeats: Bool = with_id & (inside | (counts[inverse] > 1))
    return repeats
