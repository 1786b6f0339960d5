"""The in-process twin of Kafka: for the demo, the tests and the benchmarks, where no broker is needed.

A partition is a handful of parallel lists; appending and reading a batch are extends and slices of them, with no
object per record. One condition guards everything: who waits for records or for a change of the group sleeps on it.

It keeps Kafka's meaning where the engine relies on it: order within a partition, equal keys in one partition (by
CRC-32, so the numbers differ from Kafka's), positions per group, and a cooperative rebalance in which a partition is
handed on only after its holder gave it up inside its own `poll`. What a session sends becomes visible together with
its positions at `commit`, all at once, as in a transaction. Compacted topics keep everything, as Kafka's may;
`retain_records` is what bounds a topic here.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self
from uuid import uuid4
from zlib import crc32

from engine.errors import EventLogError
from engine.eventlog.base import Headers, Outgoing, Partition, Rebalance, Records, TopicSpec


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryLog:
    """Topics in this process, safe to use from many threads."""

    def __init__(
        self, retain_records: Mapping[str, int] | None = None, now_ms: Callable[[], int] = _wall_clock_ms
    ) -> None:
        """Make an empty log.

        Args:
            retain_records: by topic, how many records a partition keeps at least; the oldest beyond twice that are
                dropped. Topics not named keep everything.
            now_ms: the clock that stamps records, Unix milliseconds.
        """
        self._retain_records = dict(retain_records or {})
        self._now_ms = now_ms
        self._topics: dict[str, list[_Journal]] = {}
        self._identities: dict[str, str] = {}
        self._groups: dict[str, _Group] = {}
        self._keyless_turn = 0
        self.changed = threading.Condition()
        """Guards every field of the log, its journals and its groups; notified when any of them changes."""

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create those that are missing; existing topics are left as they are."""
        with self.changed:
            for spec in specs:
                retain = self._retain_records.get(spec.name)
                self._topics.setdefault(spec.name, [_Journal(retain) for _ in range(spec.partitions)])
                self._identities.setdefault(spec.name, uuid4().hex)

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has; 0 when it does not exist."""
        with self.changed:
            return len(self._topics.get(topic, ()))

    def identity(self, topic: str) -> str:
        """A name no other topic has or had."""
        with self.changed:
            self._journals(topic)
            return self._identities[topic]

    def end_abandoned(self, partitions: Sequence[Partition]) -> None:
        """Nothing is ever left open here: a commit is one step."""

    def session(self, topics: Sequence[str], group: str, rebalance: Rebalance) -> "MemorySession":
        """A new member of `group`; its partitions arrive at its first `poll`."""
        with self.changed:
            members = self._groups.setdefault(group, _Group())
            session = MemorySession(self, members, rebalance)
            members.join(session, self.all_partitions(topics))
            self.changed.notify_all()
            return session

    def producer(self) -> "MemoryProducer":
        """A new producer; what it sends is visible at once."""
        return MemoryProducer(self)

    def reader(self, topics: Sequence[str | Partition]) -> "MemoryReader":
        """A new reader of whole `topics`, or single partitions of them, from their start."""
        with self.changed:
            partitions = [topic for topic in topics if isinstance(topic, Partition)]
            whole = self.all_partitions([topic for topic in topics if isinstance(topic, str)])
            return MemoryReader(self, [*partitions, *whole])

    def all_partitions(self, topics: Sequence[str]) -> list[Partition]:
        """Every partition of `topics`, in order."""
        return [Partition(topic, number) for topic in topics for number in range(len(self._journals(topic)))]

    def journal(self, partition: Partition) -> "_Journal":
        """The records of one partition."""
        return self._topics[partition.topic][partition.number]

    def append(self, outgoing: Outgoing) -> None:
        """Add records to the partitions named, or else those of their keys; the caller holds `changed`."""
        count = len(outgoing)
        columns = (
            outgoing.keys,
            outgoing.values,
            [self._now_ms()] * count if outgoing.timestamps_ms is None else outgoing.timestamps_ms,
            [()] * count if outgoing.headers is None else outgoing.headers,
        )
        journals = self._journals(outgoing.topic)
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

    def _journals(self, topic: str) -> "list[_Journal]":
        if topic not in self._topics:
            raise EventLogError(f"topic {topic!r} does not exist; create it first (ensure_topics)")
        return self._topics[topic]


class MemorySession:
    """A worker's end of the log (see `engine.eventlog.base.Session`)."""

    def __init__(self, log: MemoryLog, group: "_Group", rebalance: Rebalance) -> None:
        self._log = log
        self._group = group
        self._rebalance = rebalance
        self._cursor = _Cursor(log, {})
        self._paused: set[Partition] = set()
        self._sent: list[Outgoing] = []

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Records that arrived, at most `max_records`; partitions come and go in here."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._take_part_in_rebalance()
            with self._log.changed:
                records = self._cursor.take(max_records, self._paused)
                remaining = deadline - time.monotonic()
                if records or remaining <= 0:
                    return records
                if not self._group.waits_for(self):
                    self._log.changed.wait(remaining)

    def send(self, outgoing: Outgoing) -> None:
        """Keep records back until `commit`."""
        outgoing.check()
        self._log.all_partitions(
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
        with self._log.changed:
            foreign = [partition for partition in positions if self._group.holders.get(partition) is not self]
            if foreign:
                raise EventLogError(
                    f"cannot commit {foreign}: not held by this session; start again from the last commit"
                )
            for outgoing in sent:
                self._log.append(outgoing)
            self._group.positions.update(positions)
            self._log.changed.notify_all()
            ends = self._log.all_partitions([outgoing.topic for outgoing in state])
            return {partition: self._log.journal(partition).end for partition in ends}

    def assignment(self) -> list[Partition]:
        """The input partitions this session holds now."""
        return list(self._cursor.positions)

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Hold back the records of assigned partitions."""
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Let the records of paused partitions come."""
        self._paused.difference_update(partitions)

    def lag(self) -> dict[Partition, int]:
        """Records not yet read, for each assigned partition."""
        with self._log.changed:
            return self._cursor.lag()

    def close(self) -> None:
        """Leave the group; what was sent and not committed is gone."""
        with self._log.changed:
            self._sent.clear()
            self._cursor.positions.clear()
            self._group.leave(self)
            self._log.changed.notify_all()

    def _take_part_in_rebalance(self) -> None:
        """Give up what goes to others, then take what is free. The callbacks run without the lock: they may commit."""
        with self._log.changed:
            leaving = self._group.leaving(self)
        if leaving:
            self._rebalance.revoked(leaving)
            with self._log.changed:
                for partition in leaving:
                    del self._group.holders[partition], self._cursor.positions[partition]
                self._paused.difference_update(leaving)
                self._log.changed.notify_all()
        with self._log.changed:
            arriving = self._group.arriving(self)
            for partition in arriving:
                self._group.holders[partition] = self
                self._cursor.positions[partition] = self._group.positions.get(partition, 0)
        if arriving:
            self._rebalance.assigned(arriving)


class MemoryProducer:
    """Puts records on topics; they are visible at once."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def send(self, outgoing: Outgoing) -> None:
        """Append records."""
        outgoing.check()
        with self._log.changed:
            self._log.append(outgoing)
            self._log.changed.notify_all()

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

    def __init__(self, log: MemoryLog, partitions: Sequence[Partition]) -> None:
        self._log = log
        journals = {partition: log.journal(partition) for partition in partitions}
        self.bounds = {partition: range(journal.start, journal.end) for partition, journal in journals.items()}
        self._cursor = _Cursor(log, {partition: bounds.start for partition, bounds in self.bounds.items()})

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Records that arrived, at most `max_records`; empty after `timeout_s` without any."""
        deadline = time.monotonic() + timeout_s
        with self._log.changed:
            while not (records := self._cursor.take(max_records)) and (remaining := deadline - time.monotonic()) > 0:
                self._log.changed.wait(remaining)
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


@dataclass(slots=True)
class _Journal:
    """The records of one partition, as parallel lists."""

    retain: int | None
    start: int = 0
    """Offset of the oldest record kept."""
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    timestamps_ms: list[int] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Offset the next record will get."""
        return self.start + len(self.values)

    def extend(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
        headers: Sequence[Headers],
    ) -> None:
        """Append records, and drop the oldest when there are twice as many as must be kept.

        Waiting for twice as many makes a drop cost a constant per record appended.
        """
        self.keys.extend(keys)
        self.values.extend(values)
        self.timestamps_ms.extend(timestamps_ms)
        self.headers.extend(headers)
        if self.retain is not None and len(self.values) > 2 * self.retain:
            excess = len(self.values) - self.retain
            for column in (self.keys, self.values, self.timestamps_ms, self.headers):
                del column[:excess]
            self.start += excess

    def read(self, partition: Partition, position: int, max_records: int) -> Records:
        """Records from offset `position` on, at most `max_records`; from the oldest kept where those are gone."""
        position = max(position, self.start)
        stop = min(position + max_records, self.end)
        rows = slice(position - self.start, stop - self.start)
        return Records(
            partition=partition,
            offsets=list(range(position, stop)),
            timestamps_ms=self.timestamps_ms[rows],
            keys=self.keys[rows],
            values=self.values[rows],
            headers=self.headers[rows],
        )


class _Cursor:
    """The next offset to read of some partitions; used under the log's lock."""

    def __init__(self, log: MemoryLog, positions: dict[Partition, int]) -> None:
        self._log = log
        self.positions = positions

    def lag(self) -> dict[Partition, int]:
        """Records not yet read, by partition."""
        return {
            partition: journal.end - max(position, journal.start)
            for partition, position in self.positions.items()
            for journal in [self._log.journal(partition)]
        }

    def take(self, max_records: int, paused: Collection[Partition] = ()) -> list[Records]:
        """At most `max_records` from all partitions together but the paused ones, and move past them."""
        batch = []
        for partition in [partition for partition, waiting in self.lag().items() if waiting > 0]:
            if partition in paused:
                continue
            if max_records <= 0:
                break
            records = self._log.journal(partition).read(partition, self.positions[partition], max_records)
            batch.append(records)
            max_records -= len(records)
            # Put back at the end of the dict: the next call starts with the partitions that were read least recently.
            del self.positions[partition]
            self.positions[partition] = records.offsets[-1] + 1
        return batch


@dataclass(slots=True)
class _Group:
    """The sessions that share topics, and the positions they committed; used under the log's lock.

    `targets` says who should hold a partition, `holders` who does. A session drops what it should not hold, then takes
    what nobody holds, each inside its own poll; so two never hold one partition.
    """

    partitions: list[Partition] = field(default_factory=list)
    sessions: list[MemorySession] = field(default_factory=list)
    positions: dict[Partition, int] = field(default_factory=dict)
    targets: dict[Partition, MemorySession] = field(default_factory=dict)
    holders: dict[Partition, MemorySession] = field(default_factory=dict)

    def join(self, session: MemorySession, partitions: list[Partition]) -> None:
        """Add a session and share `partitions` out anew; all sessions of a group read the same topics."""
        if self.sessions and partitions != self.partitions:
            raise EventLogError("a session asks for other topics than the rest of its group; use another group name")
        self.partitions = partitions
        self.sessions.append(session)
        self._share_out()

    def leave(self, session: MemorySession) -> None:
        """Remove a session and share its partitions out; again is harmless."""
        if session in self.sessions:
            self.sessions.remove(session)
            self.holders = {partition: holder for partition, holder in self.holders.items() if holder is not session}
            self._share_out()

    def leaving(self, session: MemorySession) -> list[Partition]:
        """What `session` holds and should not."""
        return [p for p, holder in self.holders.items() if holder is session and self.targets.get(p) is not session]

    def arriving(self, session: MemorySession) -> list[Partition]:
        """What `session` should hold and nobody does."""
        return [p for p, target in self.targets.items() if target is session and p not in self.holders]

    def waits_for(self, session: MemorySession) -> bool:
        """Whether a step of the rebalance is up to `session`."""
        return bool(self.leaving(session) or self.arriving(session))

    def _share_out(self) -> None:
        """Even shares that move as little as possible: what is held stays, what is free goes to the smallest share."""
        shares = {s: [p for p in self.partitions if self.holders.get(p) is s] for s in self.sessions}
        if not shares:
            self.targets = {}
            return
        for partition in self.partitions:
            if partition not in self.holders:
                min(shares.values(), key=len).append(partition)
        while len(largest := max(shares.values(), key=len)) > len(smallest := min(shares.values(), key=len)) + 1:
            smallest.append(largest.pop())
        self.targets = {partition: session for session, share in shares.items() for partition in share}
