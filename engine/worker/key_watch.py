"""Watch over the contract of keys: all clicks of a user are in one partition, as its key or its partitioner has it.

A window is in the partition of its user's clicks. Where they are in several, several workers each hold a part of the
window, and a restart keeps one of the parts. Two signs of that are counted:

    other_partition   a click of a user whose window is held in another partition: certain, but seen only by a worker
                      that holds both
    other_key         the first click of a user under a key that is not the user's id, in a partition where Kafka's
                      partitioner would not put that id: how unkeyed clicks look, and those keyed by session

A key in quotes, as a JSON serialiser writes it, goes with the user as well as the bare id does.
"""

import logging
from typing import Final

import numpy as np

from engine.arrays import Clicks, Int32
from engine.eventlog.murmur2 import partition_of
from engine.metrics import Metrics
from engine.windows.users import UserWindows

logger = logging.getLogger(__name__)

_CLICKS_PER_LOOK: Final = 32
"""For each so many clicks of a batch one new user's key is looked at, as a hash takes some microseconds. All of it
costs 0.2 to 0.8 µs a click in full batches."""


class KeyWatch:
    """Counts clicks that are not keyed by user, and warns once."""

    def __init__(self, windows: UserWindows, metrics: Metrics) -> None:
        self._windows = windows
        self._other_partition = metrics.misplaced_clicks.labels("other_partition")
        self._other_key = metrics.misplaced_clicks.labels("other_key")
        slots = windows.store.user_slots
        self._is_known = np.zeros(slots.capacity, np.bool_)
        """By slot, whether the user's key was looked at."""
        slots.subscribe(released=self._forget)
        self._has_warned = False
        self._topic, self._partitions = "", 1

    def expect(self, topic: str, partitions: int) -> None:
        """Clicks come from this topic, which has so many partitions."""
        self._topic, self._partitions = topic, partitions

    def look(self, clicks: Clicks, slots: Int32) -> None:
        """Look at n clicks and the slots [n] of their users."""
        if self._partitions == 1 or not len(clicks):
            return
        elsewhere = (self._windows.store.partitions(slots) != clicks.partitions).nonzero()[0].tolist()
        strangers = self._under_another_key(clicks, slots)
        if not (elsewhere or strangers):
            return
        self._other_partition.inc(len(elsewhere))
        self._other_key.inc(len(strangers))
        if logger.isEnabledFor(logging.DEBUG):
            users = sorted({clicks.users[row] for row in (*elsewhere, *strangers)})
            logger.debug("topic %s: clicks of these users are not keyed by user: %s", self._topic, users)
        if not self._has_warned:
            self._has_warned = True
            self._warn(len(elsewhere), len(strangers), len(clicks))

    def _under_another_key(self, clicks: Clicks, slots: Int32) -> list[int]:
        """Rows of the first clicks of users whose key does not go with them, of a sample of new users."""
        rows = (~self._is_known[slots]).nonzero()[0][: 1 + len(slots) // _CLICKS_PER_LOOK]
        if not len(rows) or not clicks.keys:
            return []
        self._is_known[slots[rows]] = True
        first = {clicks.users[row]: row for row in reversed(rows.tolist())}
        return [row for row in first.values() if not self._goes_with_user(clicks, row)]

    def _goes_with_user(self, clicks: Clicks, row: int) -> bool:
        key, user = clicks.keys[row], clicks.users[row].encode("utf-8", "surrogatepass")
        return key in (user, b'"%b"' % user) or partition_of(user, self._partitions) == int(clicks.partitions[row])

    def _warn(self, elsewhere: int, strangers: int, count: int) -> None:
        logger.warning(
            "topic %s: clicks are not keyed by user: of %d in this batch, %d are outside the partition that holds their"
            " user's window, and %d users have another key, or none, in a partition where Kafka would not put them."
            " Windows and lists of such users are in parts. Send clicks with the user's id as the key, all by the same"
            " partitioner, or set clicks.rekey = true; README.md (On your own clicks) has more. Counted in"
            " headrace_misplaced_clicks_total, and not said again",
            self._topic,
            count,
            elsewhere,
            strangers,
        )

    def _forget(self, slots: Int32) -> None:
        self._is_known[slots] = False
