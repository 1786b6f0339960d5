"""A broker in plain Python, one request at a time: journals with transactions and their markers, groups, fencing.

It keeps to what Kafka does where the engine relies on it:

- A transaction's records take offsets at once and are read after it ended; nobody reads past an open one. Its end takes
  an offset, too: a control record, which never arrives. So offsets have gaps.
- A producer of the same transactional id ends what its predecessor left open, and fences it.
- It believes its producers, as Kafka does before 3.6: records of a transaction that its own producer ended open a new
  one that no coordinator knows, and what this producer's successor sends to that partition becomes a part of it.
- Positions are taken from whoever is a member of the group, whatever partitions he commits: no broker compares.
- Positions in an open transaction hold back those of the same partitions: who takes over gets none until it ended.
- Who is silent longer than the session timeout is no member any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

from engine.errors import EventLogError
from engine.eventlog.base import Headers, Outgoing, Partition, Records, TopicSpec
from engine.eventlog.memory.group import ConsumerGroup

CHANGELOG = "windows"
"""Topic on which workers end open transactions."""
SESSION_TIMEOUT_S = 10.0
TRANSACTION_TIMEOUT_S = 600.0
"""Longer than any run: what is left open must be ended by somebody."""
POSITIONS_TIMEOUT_S = 30.0
"""Time limit of a transaction that has positions and no record on the changelog, which workers cannot end."""

CLEANER_S = 5.0
"""Between a segment's end and its compaction; three times that by Kafka's own default."""


@dataclass(slots=True)
class Transaction:
    """Records and positions that become visible together."""

    producer: str
    epoch: int
    began_s: float
    state: str = "open"
    is_fenced: bool = False
    """Whether its partitions know that its producer has a successor."""
    first_offsets: dict[Partition, int] = field(default_factory=dict)
    positions: dict[Partition, int] = field(default_factory=dict)
    records: list[tuple[Partition, "Entry"]] = field(default_factory=list)
    group: str = ""


@dataclass(slots=True)
class Entry:
    """One offset of a partition: a record, or the mark of a transaction's end."""

    offset: int
    key: bytes | None = None
    value: bytes | None = None
    timestamp_ms: int = 0
    headers: Headers = ()
    transaction: Transaction | None = None
    is_control: bool = False

    def is_readable(self) -> bool:
        """Whether a reader of committed records gets it."""
        return not self.is_control and (self.transaction is None or self.transaction.state == "committed")


@dataclass(slots=True)
class PartitionLog:
    """The entries of one partition, oldest first."""

    start: int = 0
    end: int = 0
    entries: list[Entry] = field(default_factory=list)
    is_full: bool = False
    """Whether the next record begins a new segment."""
    active_start: int = 0
    """First offset of the active segment, which compaction leaves alone."""
    rolled_s: float = 0.0

    def add(self, entry: Entry, now_s: float) -> None:
        """Give the entry the next offset."""
        if self.is_full:
            self.is_full, self.active_start, self.rolled_s = False, self.end, now_s
        entry.offset = self.end
        self.end += 1
        self.entries.append(entry)


@dataclass(slots=True)
class SimulatedGroup(ConsumerGroup):
    """A group whose members are ids, with the time at which each was last heard of."""

    heard_s: dict[str, float] = field(default_factory=dict)
    history: list[tuple[Transaction | None, dict[Partition, int]]] = field(default_factory=list)
    """Positions in the order in which they were recorded, each with its transaction."""

    def grow(self, partitions: list[Partition]) -> None:
        """Share out partitions that were added."""
        self.partitions = partitions
        self._share_out()

    def move(self, partition: Partition, member: str) -> None:
        """Give a partition to another member: what a rebalance may do at any time."""
        self.targets[partition] = member

    def record(self, positions: dict[Partition, int], transaction: Transaction | None) -> None:
        """Record positions."""
        self.positions.update(positions)
        self.history.append((transaction, dict(positions)))


class Broker:
    """All topics, producers and groups. Its clock is set by the simulation."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.wall_ms = 0
        self.topics: dict[str, list[PartitionLog]] = {}
        self.groups: dict[str, SimulatedGroup] = {}
        self._epochs: dict[str, int] = {}
        self.open: dict[str, Transaction] = {}
        """By transactional id."""
        self.hanging: list[Transaction] = []
        """Open on one partition each, and unknown to the coordinator."""
        self.committed: list[Transaction] = []

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Create the topics that are missing."""
        for spec in specs:
            self.topics.setdefault(spec.name, [PartitionLog() for _ in range(spec.partitions)])

    def log(self, partition: Partition) -> PartitionLog:
        """The log of a partition."""
        logs = self.topics.get(partition.topic, ())
        if partition.number >= len(logs):
            raise EventLogError(f"topic {partition.topic!r} has no partition {partition.number}")
        return logs[partition.number]

    def partitions(self, topic: str) -> list[Partition]:
        """Every partition of a topic."""
        return [Partition(topic, number) for number in range(len(self.topics.get(topic, ())))]

    def append(
        self, outgoing: Outgoing, rows: Sequence[int] | None = None, transaction: Transaction | None = None
    ) -> dict[Partition, int]:
        """Add records, those of `rows` or all; returns the offset after the last one, by partition."""
        logs = self.topics.get(outgoing.topic)
        if logs is None:
            raise EventLogError(f"topic {outgoing.topic!r} does not exist; create it first (ensure_topics)")
        ends: dict[Partition, int] = {}
        for row in range(len(outgoing)) if rows is None else rows:
            key = outgoing.keys[row]
            number = crc32(key or b"") % len(logs) if outgoing.partitions is None else outgoing.partitions[row]
            partition = Partition(outgoing.topic, number)
            entry = Entry(
                offset=0,
                key=key,
                value=outgoing.values[row],
                timestamp_ms=self.wall_ms if outgoing.timestamps_ms is None else outgoing.timestamps_ms[row],
                headers=() if outgoing.headers is None else outgoing.headers[row],
                transaction=transaction,
            )
            log = self.log(partition)
            if transaction is not None:
                self._join_hanging(transaction, partition)
            log.add(entry, self.now_s)
            ends[partition] = log.end
            if transaction is not None:
                transaction.first_offsets.setdefault(partition, entry.offset)
                transaction.records.append((partition, entry))
        return ends

    def stable_end(self, partition: Partition) -> int:
        """Offset up to which committed records are read: the first of an open transaction, or the end."""
        transactions = [*self.open.values(), *self.hanging]
        firsts = [t.first_offsets[partition] for t in transactions if partition in t.first_offsets]
        return min(firsts, default=self.log(partition).end)

    def read(self, partition: Partition, position: int, most: int) -> tuple[Records, int]:
        """Committed records from `position` on, and the position after them and the gaps behind them."""
        log, stop = self.log(partition), self.stable_end(partition)
        position = max(position, log.start)
        rows: list[Entry] = []
        for entry in log.entries:
            if entry.offset < position:
                continue
            if entry.offset >= stop or len(rows) == most:
                position = entry.offset
                break
            if entry.is_readable():
                rows.append(entry)
        else:
            position = max(position, min(stop, log.end))
        return as_records(partition, rows), position

    def init_producer(self, producer: str) -> int:
        """A new epoch of this transactional id; what the predecessor left open is aborted."""
        if producer in self.open:
            self.open[producer].is_fenced = True
            self.end(self.open[producer], "aborted")
        self._epochs[producer] = self._epochs.get(producer, -1) + 1
        return self._epochs[producer]

    def check_epoch(self, producer: str, epoch: int) -> None:
        """Refuse a producer that was fenced."""
        if self._epochs.get(producer) != epoch:
            raise EventLogError(f"producer {producer} epoch {epoch} was fenced")

    def begin(self, producer: str, epoch: int) -> Transaction:
        """Open a transaction."""
        self.check_epoch(producer, epoch)
        transaction = self.open[producer] = Transaction(producer, epoch, self.now_s)
        return transaction

    def check_open(self, transaction: Transaction) -> None:
        """Refuse to go on with a transaction that was ended by somebody else."""
        self.check_epoch(transaction.producer, transaction.epoch)
        if transaction.state != "open":
            raise EventLogError(f"the transaction of {transaction.producer} is {transaction.state} already")

    def end(self, transaction: Transaction, state: str) -> None:
        """Commit or abort: a mark in every partition, and the positions."""
        transaction.state = state
        del self.open[transaction.producer]
        for partition in transaction.first_offsets:
            self.log(partition).add(Entry(0, transaction=transaction, is_control=True), self.now_s)
        if state == "committed":
            self.committed.append(transaction)
            if transaction.positions:
                self.groups[transaction.group].record(transaction.positions, transaction)

    def end_late(self, producer: str, epoch: int) -> bool:
        """Commit whatever this producer has open, for an end that was on its way; False where there is nothing."""
        transaction = self.open.get(producer)
        if transaction is None or self._epochs[producer] != epoch:
            return False
        self.end(transaction, "committed")
        return True

    def hang(self, transaction: Transaction, partition: Partition) -> None:
        """Let the records of a transaction on one partition stay open when it ends."""
        part = Transaction(transaction.producer, transaction.epoch, self.now_s)
        part.first_offsets[partition] = transaction.first_offsets.pop(partition)
        part.records = [(where, entry) for where, entry in transaction.records if where == partition]
        transaction.records = [(where, entry) for where, entry in transaction.records if where != partition]
        for _, entry in part.records:
            entry.transaction = part
        self.hanging.append(part)

    def end_hanging(self, transaction: Transaction) -> None:
        """Write the mark of an abort, as an administrator may."""
        transaction.state = "aborted"
        self.hanging.remove(transaction)
        for partition in transaction.first_offsets:
            self.log(partition).add(Entry(0, transaction=transaction, is_control=True), self.now_s)

    def _join_hanging(self, transaction: Transaction, partition: Partition) -> None:
        """What is open on a partition under a producer's id takes in what its successor sends there."""
        for part in [*self.hanging]:
            if part.producer == transaction.producer and partition in part.first_offsets:
                self.hanging.remove(part)
                transaction.first_offsets[partition] = part.first_offsets[partition]
                transaction.records += part.records
                for _, entry in part.records:
                    entry.transaction = transaction

    def position(self, name: str, partition: Partition) -> int | None:
        """Committed position of a group in a partition; None while an open transaction has a pending one."""
        if any(t.group == name and partition in t.positions for t in self.open.values()):
            return None
        return self.group(name).positions.get(partition, 0)

    def group(self, name: str) -> SimulatedGroup:
        """A consumer group."""
        return self.groups.setdefault(name, SimulatedGroup())

    def join(self, name: str, member: str, topic: str) -> None:
        """Take a member in."""
        group, partitions = self.group(name), self.partitions(topic)
        if group.partitions != partitions:
            group.grow(partitions)
        group.join(member, partitions)
        group.heard_s[member] = self.now_s

    def leave(self, name: str, member: str) -> None:
        """Let a member go."""
        group = self.group(name)
        group.leave(member)
        group.heard_s.pop(member, None)

    def check_member(self, name: str, member: str) -> None:
        """Refuse what is no member."""
        if member not in self.group(name).members:
            raise EventLogError(f"{member} is no member of group {name}")

    def pass_time(self) -> None:
        """Expel silent members, and abort transactions that took too long."""
        for name, group in self.groups.items():
            for member, heard_s in list(group.heard_s.items()):
                if self.now_s - heard_s > SESSION_TIMEOUT_S:
                    self.leave(name, member)
        for transaction in list(self.open.values()):
            holds_windows = any(partition.topic == CHANGELOG for partition in transaction.first_offsets)
            limit_s = POSITIONS_TIMEOUT_S if transaction.positions and not holds_windows else TRANSACTION_TIMEOUT_S
            if self.now_s - transaction.began_s > limit_s:
                # As Kafka does: the epoch is raised with the abort, so that its producer is fenced.
                self.init_producer(transaction.producer)

    def compact(self, topic: str, *, whole: bool = False) -> None:
        """Keep the last record of each key, and the marks, below the active segment and every open transaction.

        A segment is closed by a record that finds it full, and compacted no sooner than the cleaner comes by. `whole`
        is what compaction comes to when there is nothing but time.
        """
        for partition in self.partitions(topic):
            log = self.log(partition)
            is_cleaned = whole or self.now_s - log.rolled_s >= CLEANER_S
            self._clean(
                log, min(self.stable_end(partition), log.end if whole else log.active_start if is_cleaned else 0)
            )
            log.is_full = True

    def _clean(self, log: PartitionLog, stop: int) -> None:
        last = {entry.key: entry.offset for entry in log.entries if entry.is_readable() and entry.offset < stop}
        log.entries = [
            entry
            for entry in log.entries
            if entry.offset >= stop or entry.offset == log.end - 1 or last.get(entry.key) == entry.offset
        ]

    def delete_before(self, partition: Partition, offset: int) -> None:
        """Retention: drop the oldest records."""
        log = self.log(partition)
        log.start = max(log.start, min(offset, log.end))
        log.entries = [entry for entry in log.entries if entry.offset >= log.start]


def as_records(partition: Partition, entries: Sequence[Entry]) -> Records:
    """Entries as columns."""
    return Records(
        partition,
        [entry.offset for entry in entries],
        [entry.timestamp_ms for entry in entries],
        [entry.key for entry in entries],
        [entry.value for entry in entries],
        [entry.headers for entry in entries],
    )
