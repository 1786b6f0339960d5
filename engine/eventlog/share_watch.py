"""Notices partitions that the group counts on this member to read and that it does not read.

A member may believe that all is well while the group has given it more than it knows of: an assignment can be lost on
its way when a broker stops in the middle of a rebalance. Nobody would read those partitions, for as long as everybody
lives. The member that they were given to joins again, and gets them once more.
"""

from collections.abc import Collection, Mapping

from engine.errors import EventLogError
from engine.eventlog.base import Partition


def owed(
    shares: Mapping[str, Collection[Partition]], own: Collection[str], topic: Collection[Partition]
) -> list[Partition]:
    """Partitions that are this member's to read, in order.

    Those that nobody was given are the concern of the member with the lowest id, so that not all of them join again.

    Args:
        shares: by member, the partitions that the group gave it.
        own: the ids under which the group may know this member.
        topic: all partitions that the group reads.
    """
    given = {partition for member in own for partition in shares.get(member, ())}
    if shares and min(shares) in own:
        given |= set(topic).difference(*shares.values())
    return sorted(given)


class ShareWatch:
    """Compares what a member is to read with what it reads, now and then; knows no clock."""

    def __init__(self, limit_s: float) -> None:
        """Begin to watch.

        Args:
            limit_s: time between two looks, and how long a partition may be unserved, as a rebalance takes its time.
        """
        self._limit_s = limit_s
        self._due_s: float | None = None
        self._unserved: frozenset[Partition] = frozenset()

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for a look; the first is due a while after the start."""
        if self._due_s is None:
            self._due_s = now_s + self._limit_s
        return now_s >= self._due_s

    def look(self, now_s: float, unserved: Collection[Partition]) -> None:
        """Compare with the last look.

        Raises:
            EventLogError: a partition was unserved then, too.
        """
        self._due_s = now_s + self._limit_s
        again = self._unserved.intersection(unserved)
        self._unserved = frozenset(unserved)
        if again:
            names = ", ".join(f"{topic}/{number}" for topic, number in sorted(again))
            raise EventLogError(
                f"the group gave this worker {names}, and it reads nothing of that for {self._limit_s:g} s"
                " (kafka.stall_timeout_s); joining again"
            )
