"""Arrays of the data path: clicks and windows, with a row or an entry for each click or user.

Rows of events are aligned to the right: the newest event of a window is in its last column.
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
UInt64: TypeAlias = npt.NDArray[np.uint64]
Float16: TypeAlias = npt.NDArray[np.float16]
Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Bool: TypeAlias = npt.NDArray[np.bool_]

NO_ITEM = -1
"""In the place of an item number or row: no item."""
POPULAR = -2
"""In the place of the item that a candidate is a neighbour of: it is a candidate because it is popular."""
FIRST_SEARCH = 1 << 30
"""The lowest number of a search (`engine.catalogue.searches`). Windows and histories hold searches like items; lists,
indexes and counts do not."""
NO_ACTION = 0
"""Action code of an empty place in a window; the codes of actions begin at 1."""
ACTION_BITS = 6
TIME_BITS = 42
"""Bits of an event's action and time in a word of 48 bits (`engine.windows.event_word`), which bounds both."""
MAX_ACTIONS = (1 << ACTION_BITS) - 1
MAX_TIME_MS = (1 << TIME_BITS) - 1
"""The latest time that a window can hold, in the year 2109."""


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """A request to forget a user, from one partition of the clicks."""

    user: str
    partition: int
    is_everywhere: bool
    """There is one in every partition, and each concerns its own alone; else it concerns the user's window in any."""
    offset: int = -1
    """Of the request in its partition."""
    appended_ms: int = 0
    """Time at which the request was appended to the log, Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Clicks:
    """A micro-batch of n decoded clicks, in the order of the log."""

    users: list[str]
    """[n] ids of users."""
    items: list[str]
    """[n] ids of items and of searches."""
    times_ms: Int64
    """[n] event time, Unix milliseconds."""
    actions: UInt8
    """[n] action codes, 1 and up (`engine.catalogue.actions.Actions`)."""
    event_hashes: UInt32
    """[n] hash of the event id; 0 for a click without one."""
    partitions: Int32
    """[n] number of the partition that each click came from, to which its user's window belongs."""
    offsets: Int64
    """[n] offset in the partition where each click was first: this one, unless it was rekeyed."""
    appends_ms: Int64
    """[n] time at which the record was appended to the log, Unix milliseconds."""
    first_partitions: Int32 | None = None
    """[n] number of the partition where each click was first; None where that is `partitions`."""
    keys: list[bytes | None] = field(default_factory=list)
    """[n] keys of the records; empty where nobody needs them."""
    forgotten: list[ForgetRequest] = field(default_factory=list)
    """Requests to forget users, one for each user and partition; only clicks after them are in the batch."""
    without_consent: int = 0
    """Clicks left out, as their users gave no consent."""
    skipped: int = 0
    """Events left out, as their type is none of clicks."""

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of B users, newest event in the last column."""

    items: Int32
    """[B, L] numbers of items and searches in the catalogue; NO_ITEM where there is no event."""
    times_ms: Int64
    """[B, L] event times, Unix milliseconds."""
    actions: UInt8
    """[B, L] action codes; NO_ACTION where there is no event."""

    def __len__(self) -> int:
        return len(self.items)

    def take(self, users: Int64) -> "Windows":
        """The windows of these users."""
        return Windows(self.items[users], self.times_ms[users], self.actions[users])
