"""Whole windows of many users without their empty places: the form in which they are written and read back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.arrays import NO_ITEM, Bool, Int32, Int64, UInt8, UInt32, Windows


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
    input_positions: Int64 | None = None
    """[B] offset after the last click of its partition that each window knows; None where nothing is known"""

    def __len__(self) -> int:
        return len(self.users)

    def known_positions(self) -> Int64:
        """[B] the input positions, 0 where nothing is known."""
        return np.zeros(len(self), np.int64) if self.input_positions is None else self.input_positions

    def aligned(self, length: int) -> Windows:
        """[B, L] the newest `length` events of each window, the newest in the last column."""
        kept = np.minimum(self.counts, length)
        newest = newest_events(self.counts, length)
        there = np.arange(length) >= length - kept[:, None]
        windows = Windows(
            items=np.full(there.shape, NO_ITEM, np.int32),
            times_ms=np.zeros(there.shape, np.int64),
            actions=np.zeros(there.shape, np.uint8),
        )
        windows.items[there], windows.times_ms[there] = self.items[newest], self.times_ms[newest]
        windows.actions[there] = self.actions[newest]
        return windows

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
                input_positions=None if self.input_positions is None else self.input_positions[users],
            )


def newest_events(counts: Int64, length: int) -> Bool:
    """[E] which events of windows with `counts` [B] events are among the newest `length` of their user."""
    ends = np.cumsum(counts)
    kept: Bool = np.arange(int(counts.sum())) >= np.repeat(ends - np.minimum(counts, length), counts)
    return kept


def concatenate(parts: Sequence[PackedWindows]) -> PackedWindows:
    """The windows of all parts, which share no user."""
    columns = ("counts", "items", "times_ms", "actions", "event_hashes")
    return PackedWindows(
        users=[user for part in parts for user in part.users],
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns},
        input_positions=np.concatenate([part.known_positions() for part in parts]),
    )
