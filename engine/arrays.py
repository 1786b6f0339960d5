"""The arrays that travel along the data path: clicks, windows, lists. One row or entry per click, user or item.

Rows of events are aligned to the right: the newest event of a window stands in its last column.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int8: TypeAlias = npt.NDArray[np.int8]
UInt8: TypeAlias = npt.NDArray[np.uint8]
Int32: TypeAlias = npt.NDArray[np.int32]
UInt32: TypeAlias = npt.NDArray[np.uint32]
Int64: TypeAlias = npt.NDArray[np.int64]
Float16: TypeAlias = npt.NDArray[np.float16]
Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Bool: TypeAlias = npt.NDArray[np.bool_]

NO_ITEM = -1
"""Stands for 'no item' wherever an item number or row is expected."""
FIRST_SEARCH = 1 << 30
"""Numbers from here on are searches (`engine.catalogue.searches`). Windows and histories hold them as they hold items;
no list, index or count does."""
NO_ACTION = 0
"""Action code of an empty place in a window; real actions count from 1."""
ACTION_BITS = 6
TIME_BITS = 42
"""An event's action and time share a word of 48 bits (`engine.windows.event_word`), which bounds both."""
MAX_ACTIONS = (1 << ACTION_BITS) - 1
MAX_TIME_MS = (1 << TIME_BITS) - 1
"""In the year 2109."""


@dataclass(frozen=True, slots=True)
class Clicks:
    """A micro-batch of decoded clicks, in the order of the log."""

    users: list[str]
    items: list[str]
    """[n] ids of items and of searches."""
    times_ms: Int64
    """[n] event time, Unix milliseconds."""
    actions: UInt8
    """[n] action codes, 1 and up (`engine.catalogue.actions.Actions`)."""
    event_hashes: UInt32
    """[n] hash of the event id; 0 where the click had none."""
    origins: Int32
    """[n] which polled record each click came from."""
    forgotten: dict[str, int] = field(default_factory=dict)
    """Users who asked to be forgotten, each with the polled record that did so last; only clicks behind it are here."""
    without_consent: int = 0
    """Clicks that are not here because their user does not allow it."""

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of B users, newest event in the last column."""

    items: Int32
    """[B, L] numbers of items and searches in the catalogue; NO_ITEM where there is no event."""
    times_ms: Int64
    """[B, L]"""
    actions: UInt8
    """[B, L] action codes; NO_ACTION where there is no event."""

    def __len__(self) -> int:
        return len(self.items)

    def take(self, users: Int64) -> "Windows":
        """The windows of these users."""
        return Windows(self.items[users], self.times_ms[users], self.actions[users])
