"""Readers and producers of the in-process log, outside any group."""

import time
from collections.abc import Sequence
from typing import Self

from engine.eventlog.base import Outgoing, Partition, Records
from engine.eventlog.memory.topics import Cursor, Topics


class MemoryProducer:
    """Puts records on topics; they are visible at once."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    def send(self, outgoing: Outgoing) -> None:
        """Append records."""
        outgoing.check()
        with self._topics.changed:
            self._topics.append(outgoing)
            self._topics.changed.notify_all()

    def flush(self) -> None:
        """Nothing is ever under way here."""

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class MemoryReader:
    """Reads partitions from their start, without a group."""

    def __init__(self, topics: Topics, partitions: Sequence[Partition]) -> None:
        self._topics = topics
        journals = {partition: topics.journal(partition) for partition in partitions}
        self.bounds = {partition: range(journal.start, journal.end) for partition, journal in journals.items()}
        self._cursor = Cursor(topics, {partition: bounds.start for partition, bounds in self.bounds.items()})

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Records that arrived, at most `max_records`; empty after `timeout_s` without any."""
        deadline = time.monotonic() + timeout_s
        with self._topics.changed:
            while not (records := self._cursor.take(max_records)) and (remaining := deadline - time.monotonic()) > 0:
                self._topics.changed.wait(remaining)
            return records

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at `offset` in one partition."""
        self._cursor.positions[partition] = offset

    def position(self, partition: Partition) -> int:
        """The next offset to read."""
        return self._cursor.positions[partition]

    def at_end(self) -> bool:
        """True once everything that was there when the reader was made has been read."""
        return all(self._cursor.positions[partition] >= bounds.stop for partition, bounds in self.bounds.items())

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
