"""Events user by user, and the windows before any of them."""

from dataclasses import dataclass

import numpy as np

from engine.arrays import NO_ACTION, NO_ITEM, Bool, Int32, Int64, UInt8, Windows


@dataclass(frozen=True, slots=True)
class UserEvents:
    """n events, user by user, each user's in order of time."""

    users: Int32
    """[n] user numbers, 0 to U - 1."""
    items: Int32
    """[n] item numbers, 0 to V - 1."""
    times_ms: Int64
    """[n]"""
    actions: UInt8
    """[n] action codes."""
    item_count: int
    """V, of the whole data."""

    def __len__(self) -> int:
        return len(self.users)

    def select(self, mask: Bool) -> "UserEvents":
        """The events under `mask` [n]."""
        return UserEvents(self.users[mask], self.items[mask], self.times_ms[mask], self.actions[mask], self.item_count)

    def windows(self, ends: Int64, length: int) -> Windows:
        """Windows [B, L] of up to `length` events before each place in `ends` [B], all of the same user."""
        places = ends[:, None] - length + np.arange(length)  # [B, L]
        real, places = places >= 0, np.maximum(places, 0)
        real &= self.users[places] == self.users[ends, None]
        return Windows(
            np.where(real, self.items[places], np.int32(NO_ITEM)),
            np.where(real, self.times_ms[places], 0),
            np.where(real, self.actions[places], np.uint8(NO_ACTION)),
        )
