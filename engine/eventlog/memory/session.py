"""A worker's end of the in-process log."""

import time
from collections.abc import Mapping, Sequence

from engine.errors import EventLogError
from engine.eventlog.base import Outgoing, Partition, Rebalance, Records
from engine.eventlog.memory.group import ConsumerGroup
from engine.eventlog.memory.topics import Cursor, Topics


class MemorySession:
    """A worker's end of the log (see `engine.eventlog.base.Session`)."""

    def __init__(self, topics: Topics, group: ConsumerGroup, rebalance: Rebalance) -> None:
        self._topics = topics
        self._group = group
        self._rebalance = rebalance
        self._cursor = Cursor(topics, {})
        self._paused: set[Partition] = set()
        self._sent: list[Outgoing] = []

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Records that arrived, at most `max_records`; partitions come and go in here."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._take_part_in_rebalance()
            with self._topics.changed:
                records = self._cursor.take(max_records, self._paused)
                remaining = deadline - time.monotonic()
                if records or remaining <= 0:
                    return records
                if not self._group.waits_for(self):
                    self._topics.changed.wait(remaining)

    def send(self, outgoing: Outgoing) -> None:
        """Keep records back until `commit`."""
        outgoing.check()
        self._topics.partitions(
            [outgoing.topic]
        )  # an unknown topic is refused here, so that a commit is all or nothing
        self._sent.append(outgoing)

    def commit(self, positions: Mapping[Partition, int], state: Sequence[Outgoing] = ()) -> dict[Partition, int]:
        """Make all that was sent visible and record `positions`, in one step.

        Raises:
            EventLogError: a partition is not this session's any more; nothing became visible or was recorded.
        """
        for outgoing in state:
            self.send(outgoing)
        sent, self._sent = self._sent, []
        with self._topics.changed:
            foreign = [partition for partition in positions if self._group.holders.get(partition) is not self]
            if foreign:
                raise EventLogError(
                    f"cannot commit {foreign}: not held by this session; start again from the last commit"
                )
            for outgoing in sent:
                self._topics.append(outgoing)
            self._group.positions.update(positions)
            self._topics.changed.notify_all()
            ends = self._topics.partitions([outgoing.topic for outgoing in state])
            return {partition: self._topics.journal(partition).end for partition in ends}

    def assignment(self) -> list[Partition]:
        """The input partitions this session holds now."""
        return list(self._cursor.positions)

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at `offset` in an assigned partition."""
        with self._topics.changed:
            self._cursor.positions[partition] = offset

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Hold back the records of assigned partitions."""
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Let the records of paused partitions come."""
        self._paused.difference_update(partitions)

    def lag(self) -> dict[Partition, int]:
        """Records not yet read, for each assigned partition."""
        with self._topics.changed:
            return self._cursor.lag()

    def silent_s(self) -> float:
        """A log in this process always answers."""
        return 0.0

    def take_deleted(self) -> dict[Partition, range]:
        """Nothing is ever deleted here."""
        return {}

    def unserved(self) -> list[Partition]:
        """What the group gives this session and it has not taken yet."""
        with self._topics.changed:
            return sorted(self._group.arriving(self))

    def close(self) -> None:
        """Leave the group; what was sent and not committed is gone."""
        with self._topics.changed:
            self._sent.clear()
            self._cursor.positions.clear()
            self._group.leave(self)
            self._topics.changed.notify_all()

    def _take_part_in_rebalance(self) -> None:
        """Give up what goes to others, then take what is free. The callbacks run without the lock: they may commit."""
        with self._topics.changed:
            leaving = self._group.leaving(self)
        if leaving:
            self._rebalance.revoked(leaving)
            with self._topics.changed:
                for partition in leaving:
                    del self._group.holders[partition], self._cursor.positions[partition]
                self._paused.difference_update(leaving)
                self._topics.changed.notify_all()
        with self._topics.changed:
            arriving = self._group.arriving(self)
            for partition in arriving:
                self._group.holders[partition] = self
                self._cursor.positions[partition] = self._group.positions.get(partition, 0)
        if arriving:
            self._rebalance.assigned(arriving)
