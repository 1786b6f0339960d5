"""A uniform sample of distinct users, by arm: exact while they are few, of a fixed size however many they become. Pure.

A user is in the sample if the user's ticket, a uniform 32-bit number that follows from the id, is below the threshold,
the same for all arms. The threshold begins at 2^32, where everybody is in, and is lowered when there are more users
than the sample has room for. So a user counts once, however often and by however many workers the user is seen; two
samples are merged by taking the lower threshold; and, as the ticket says nothing about the arm, the sampled users of
the arms are to one another as all users are.

Source: the distinct sampling of Gibbons, "Distinct sampling for highly-accurate answers to distinct values queries and
event reports", VLDB 2001, with the threshold at the tickets themselves as in bottom-k sketches (Cohen and Kaplan,
"Summarizing data using bottom-k sketches", PODC 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import Float64, Int64, UInt32

ROOM: Final = 8192
"""Users in a sample, of all arms together: 32 kB, and shares known to within half a percentage point."""
EVERYBODY: Final = 1 << 32


@dataclass(slots=True)
class UserSample:
    """The sampled users of A arms."""

    tickets: list[UInt32]
    """[A] of the users of each arm, ascending and distinct."""
    threshold: int = EVERYBODY

    @classmethod
    def empty(cls, arms: int) -> "UserSample":
        """Nobody yet."""
        return cls([np.empty(0, np.uint32) for _ in range(arms)])

    def add(self, arm: int, tickets: UInt32) -> None:
        """Add users [n] of an arm, who may be in it already."""
        fresh = tickets[tickets.astype(np.int64) < self.threshold]
        if len(fresh):
            self.tickets[arm] = np.union1d(self.tickets[arm], fresh)
            self._make_room()

    def __add__(self, other: "UserSample") -> "UserSample":
        threshold = min(self.threshold, other.threshold)
        both = zip(self.tickets, other.tickets, strict=True)
        merged = UserSample([_below(np.union1d(*pair), threshold) for pair in both], threshold)
        merged._make_room()
        return merged

    @property
    def counts(self) -> Int64:
        """[A] sampled users of each arm."""
        return np.array([len(tickets) for tickets in self.tickets], np.int64)

    @property
    def users(self) -> Float64:
        """[A] users of each arm, estimated from the share that is sampled; exact where the threshold is not lowered."""
        return self.counts.astype(np.float64) * np.float64(EVERYBODY / self.threshold)

    def _make_room(self) -> None:
        """Lower the threshold to the lowest ticket that there is no room for."""
        if sum(map(len, self.tickets)) > ROOM:
            self.threshold = int(np.partition(np.concatenate(self.tickets), ROOM)[ROOM])
            self.tickets = [_below(tickets, self.threshold) for tickets in self.tickets]


def from_bytes(sampled: Sequence[bytes], threshold: int) -> UserSample:
    """A sample from the bytes of each arm's tickets, as `UserSample.tickets` has them (little-endian).

    Raises:
        ValueError: they are no tickets.
    """
    return UserSample([np.unique(np.frombuffer(tickets, "<u4").astype(np.uint32)) for tickets in sampled], threshold)


def _below(tickets: UInt32, threshold: int) -> UInt32:
    return tickets[: int(np.searchsorted(tickets.astype(np.int64), threshold))]
