"""The in-process twin of Kafka: for the demo, the tests and the benchmarks, where no broker is needed.

A partition is a handful of parallel lists; appending and reading a batch are extends and slices of them, with no
object per record. One condition guards everything: whoever waits for records or for a change of the group sleeps on it.

It keeps Kafka's meaning where the engine relies on it: order within a partition, equal keys in one partition (by
CRC-32, so the numbers differ from Kafka's), positions per group, and a cooperative rebalance in which a partition is
handed on only after its holder gave it up inside its own `poll`. What a session sends becomes visible together with
its positions at `commit`, all at once, as in a transaction. Compacted topics keep everything, as Kafka's may;
`retain_records` is what bounds a topic here.
"""

from collections.abc import Callable, Mapping, Sequence

from engine.eventlog.base import Partition, Rebalance, TopicSpec
from engine.eventlog.memory.group import ConsumerGroup
from engine.eventlog.memory.reader import MemoryProducer, MemoryReader
from engine.eventlog.memory.session import MemorySession
from engine.eventlog.memory.topics import Topics
from engine.eventlog.time_source import wall_ms


class MemoryLog:
    """Topics in this process, safe to use from many threads (see `engine.eventlog.base.EventLog`)."""

    def __init__(self, retain_records: Mapping[str, int] | None = None, now_ms: Callable[[], int] = wall_ms) -> None:
        """Make an empty log.

        Args:
            retain_records: by topic, the records that a partition keeps at least; the oldest beyond twice that are
                dropped. Topics not named keep everything.
            now_ms: the clock that stamps records, Unix milliseconds.
        """
        self._topics = Topics(retain_records or {}, now_ms)
        self._groups: dict[str, ConsumerGroup] = {}

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create those that are missing; existing topics are left as they are."""
        with self._topics.changed:
            self._topics.create(specs)

    def partitions(self, topic: str) -> int:
        """Partitions of `topic`; 0 when it does not exist."""
        with self._topics.changed:
            return self._topics.count(topic)

    def identity(self, topic: str) -> str:
        """A name no other topic has or had."""
        with self._topics.changed:
            return self._topics.identity(topic)

    def end_abandoned(self, partitions: Sequence[Partition], shared: Sequence[str] = ()) -> bool:
        """Nothing is ever left open here: a commit is one step."""
        del partitions, shared
        return True

    def begin_group(self, group: str, topic: str, from_ms: int | None) -> None:
        """Let a group without positions begin at this time, or at the end (see `engine.eventlog.base.EventLog`)."""
        with self._topics.changed:
            positions = self._groups.setdefault(group, ConsumerGroup()).positions
            partitions = self._topics.partitions([topic])
            if not positions.keys() & set(partitions):
                positions |= {
                    partition: self._topics.journal(partition).first_from(from_ms) for partition in partitions
                }

    def group_positions(self, group: str, topic: str) -> dict[int, int]:
        """By partition, the next record that a group will read."""
        with self._topics.changed:
            known = self._groups[group].positions if group in self._groups else {}
            return {partition.number: offset for partition, offset in known.items() if partition.topic == topic}

    def delete_before(self, offsets: Mapping[Partition, int]) -> None:
        """Delete the records of each partition before an offset."""
        with self._topics.changed:
            for partition, offset in offsets.items():
                self._topics.journal(partition).delete_before(offset)

    def session(self, topics: Sequence[str], group: str, rebalance: Rebalance) -> MemorySession:
        """A new member of `group`; its partitions arrive at its first `poll`."""
        with self._topics.changed:
            members = self._groups.setdefault(group, ConsumerGroup())
            session = MemorySession(self._topics, members, rebalance)
            members.join(session, self._topics.partitions(topics))
            self._topics.changed.notify_all()
            return session

    def producer(self) -> MemoryProducer:
        """A new producer; what it sends is visible at once."""
        return MemoryProducer(self._topics)

    def reader(self, topics: Sequence[str | Partition]) -> MemoryReader:
        """A new reader of whole `topics`, or single partitions of them, from their start."""
        with self._topics.changed:
            partitions = [topic for topic in topics if isinstance(topic, Partition)]
            whole = self._topics.partitions([topic for topic in topics if isinstance(topic, str)])
            return MemoryReader(self._topics, [*partitions, *whole])
