"""The topics of the in-process log, the lock that guards them, and cursors that read them."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from uuid import uuid4
from zlib import crc32

from engine.errors import EventLogError
from engine.eventlog.base import Outgoing, Partition, Records, TopicSpec
from engine.eventlog.memory.journal import Journal


class Topics:
    """Journals by topic and partition. The caller of every method holds `changed`."""

    def __init__(self, retain_records: Mapping[str, int], now_ms: Callable[[], int]) -> None:
        self._retain_records = dict(retain_records)
        self._now_ms = now_ms
        self._journals: dict[str, list[Journal]] = {}
        self._identities: dict[str, str] = {}
        self._keyless_turn = 0
        self.changed = threading.Condition()
        """Guards the journals and the groups that read them; notified when any of them changes."""

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Create the topics that are missing; the default is one partition."""
        for spec in specs:
            retain = self._retain_records.get(spec.name)
            self._journals.setdefault(spec.name, [Journal(retain) for _ in range(abs(spec.partitions))])
            self._identities.setdefault(spec.name, uuid4().hex)

    def count(self, topic: str) -> int:
        """Partitions of `topic`; 0 when it does not exist."""
        return len(self._journals.get(topic, ()))

    def identity(self, topic: str) -> str:
        """A name no other topic has or had."""
        self._of(topic)
        return self._identities[topic]

    def partitions(self, topics: Sequence[str]) -> list[Partition]:
        """Every partition of `topics`, in order.

        Raises:
            EventLogError: a topic does not exist.
        """
        return [Partition(topic, number) for topic in topics for number in range(len(self._of(topic)))]

    def journal(self, partition: Partition) -> Journal:
        """The records of one partition."""
        return self._journals[partition.topic][partition.number]

    def append(self, outgoing: Outgoing) -> None:
        """Add records to the partitions named, or else those of their keys."""
        count = len(outgoing)
        columns = (
            outgoing.keys,
            outgoing.values,
            [self._now_ms()] * count if outgoing.timestamps_ms is None else outgoing.timestamps_ms,
            [()] * count if outgoing.headers is None else outgoing.headers,
        )
        journals = self._of(outgoing.topic)
        if len(journals) == 1:
            journals[0].extend(*columns)
            return
        for number, rows in enumerate(self._rows_by_partition(outgoing, len(journals))):
            if rows:
                keys, values, timestamps_ms, headers = columns
                journals[number].extend(
                    [keys[row] for row in rows],
                    [values[row] for row in rows],
                    [timestamps_ms[row] for row in rows],
                    [headers[row] for row in rows],
                )

    def _rows_by_partition(self, outgoing: Outgoing, partitions: int) -> list[list[int]]:
        """Equal keys go to one partition; those without a key to one partition per batch, in turn."""
        rows: list[list[int]] = [[] for _ in range(partitions)]
        self._keyless_turn += 1
        numbers = outgoing.partitions or [
            (self._keyless_turn if key is None else crc32(key)) % partitions for key in outgoing.keys
        ]
        for row, number in enumerate(numbers):
            rows[number].append(row)
        return rows

    def _of(self, topic: str) -> list[Journal]:
        if topic not in self._journals:
            raise EventLogError(f"topic {topic!r} does not exist; create it first (ensure_topics)")
        return self._journals[topic]


class Cursor:
    """The next offset to read of some partitions; used under the log's lock."""

    def __init__(self, topics: Topics, positions: dict[Partition, int]) -> None:
        self._topics = topics
        self.positions = positions

    def lag(self) -> dict[Partition, int]:
        """Records not yet read, by partition."""
        return {
            partition: journal.end - max(position, journal.start)
            for partition, position in self.positions.items()
            for journal in [self._topics.journal(partition)]
        }

    def take(self, max_records: int, paused: Collection[Partition] = ()) -> list[Records]:
        """At most `max_records` from all partitions together but the paused ones, and move past them."""
        batch = []
        for partition in [partition for partition, waiting in self.lag().items() if waiting > 0]:
            if partition in paused:
                continue
            if max_records <= 0:
                break
            records = self._topics.journal(partition).read(partition, self.positions[partition], max_records)
            batch.append(records)
            max_records -= len(records)
            # Put back at the end of the dict: the next call starts with the partitions that were read least recently.
            del self.positions[partition]
            self.positions[partition] = records.offsets[-1] + 1
        return batch
