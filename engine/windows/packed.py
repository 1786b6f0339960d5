"""Whole windows of many users without their empty places: the form in which they are written and read back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.arrays import Int32, Int64, UInt8, UInt32


@dataclass(frozen=True, slots=True)
class PackedWindows:
    """Whole windows of B users without their empty places: what is written down and read back."""

    users: list[str]
    """[B] each once"""
    counts: Int64
    """[B] events of each user, at least one"""
    items: Int32
    """[E] item numbers, user after user, oldest first; the columns below likewise"""
    times_ms: Int64
    actions: UInt8
    event_hashes: UInt32

    def __len__(self) -> int:
        return len(self.users)

    def parts(self, size: int) -> "Iterator[PackedWindows]":
        """The same windows, at most `size` users at a time."""
        ends = np.append(0, np.cumsum(self.counts))
        for start in range(0, len(self), size):
            users = slice(start, min(start + size, len(self)))
            events = slice(ends[users.start], ends[users.stop])
            yield PackedWindows(
                users=self.users[users],
                counts=self.counts[users],
                items=self.items[events],
                times_ms=self.times_ms[events],
                actions=self.actions[events],
                event_hashes=self.event_hashes[events],
            )


def concatenate(parts: Sequence[PackedWindows]) -> PackedWindows:
    """The windows of all parts, which share no user."""
    columns = ("counts", "items", "times_ms", "actions", "event_hashes")
    return PackedWindows(
        [user for part in parts for user in part.users],
        *(np.concatenate([getattr(part, name) for part in parts]) for name in columns),
    )
