"""The interface of an event log: no more than the engine needs.

Two packages implement these protocols: `engine.eventlog.kafka` (a real broker) and `engine.eventlog.memory`
(in-process, for the demo, the tests and the benchmarks). A checklist of named properties in
`tests/contracts/test_eventlog.py` runs against both.

A `Session` is a worker's connection to the log: it reads the worker's share of the input partitions and writes output.
Outputs and input positions go through one object, because they are committed together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, Self

from engine.errors import EventLogError

Headers = Sequence[tuple[str, bytes]]
MAX_RECORD_BYTES: Final = 16 * 2**20
"""Largest record that is sent, and that topics created here accept, as a dead letter holds any record that came in."""


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one partition in offset order, as parallel lists (all of the same length)."""

    partition: Partition
    offsets: list[int]
    timestamps_ms: list[int]
    """Time at which the log appended each record, or that its producer gave it, Unix milliseconds."""
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]
    origins: list[tuple[Partition, int]] | None = None
    """Partition and offset of the first topic, for records that were put on a second one."""

    def __len__(self) -> int:
        return len(self.offsets)

    def origin(self, index: int) -> tuple[Partition, int]:
        """Partition and offset at which a record was first."""
        return (self.partition, self.offsets[index]) if self.origins is None else self.origins[index]


@dataclass(slots=True)
class Outgoing:
    """Records to send to one topic, as parallel lists; the log chooses partitions by key, unless they are named.

    A record with neither key nor value may come back with an empty value: Kafka's client sends none without both.
    """

    topic: str
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    timestamps_ms: list[int] | None = None
    """None gives each record the time at which it is sent."""
    headers: list[Headers] | None = None
    partitions: list[int] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def check(self) -> None:
        """Refuse lists of different lengths, which would pair keys with the wrong values.

        Raises:
            EventLogError: the lengths differ; it names them and the topic.
        """
        columns = (self.keys, self.values, self.timestamps_ms, self.headers, self.partitions)
        lengths = [len(column) for column in columns if column is not None]
        if len(set(lengths)) != 1:
            raise EventLogError(
                f"topic {self.topic!r}: columns of different lengths, found {lengths}, expected one length;"
                " give each record an entry in every column"
            )


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic, as it is to be created where it is missing."""

    name: str
    partitions: int = 1
    """-1 for the broker's default."""
    compacted: bool = False
    replication: int = -1
    """Replicas of each partition; -1 for the broker's default."""
    retention_ms: int | None = None
    """Age at which records are deleted; None for the broker's default."""


@dataclass(frozen=True, slots=True)
class Rebalance:
    """Callbacks of a session, called inside `poll` when partitions come and go. `poll` raises the errors of a callback.

    The session's thread waits meanwhile, but the call may be on another thread.
    """

    assigned: Callable[[Sequence[Partition]], None] = lambda _partitions: None
    revoked: Callable[[Sequence[Partition]], None] = lambda _partitions: None
    """Partitions to be handed over in an orderly way: a commit is still allowed in the callback."""
    lost: Callable[[Sequence[Partition]], None] = lambda _partitions: None
    """Partitions that other members have already: drop their state, commit nothing."""


class Session(Protocol):
    """A worker's connection to the log. Belongs to one thread."""

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Records that arrived, at most `max_records`; empty after `timeout_s` without any."""
        ...

    def send(self, outgoing: Outgoing) -> None:
        """Hand records over for delivery; they become valid with `commit`. The lists must not be changed afterwards.

        Raises:
            EventLogError: the topic does not exist, or (DeliveryError) a record is not accepted.
        """
        ...

    def commit(self, positions: Mapping[Partition, int], state: Sequence[Outgoing] = ()) -> dict[Partition, int]:
        """Deliver all that was sent, then `state`, then record `positions` (the next offsets to read) as done.

        In that order where there is no transaction: with the state delivered first, a crash would leave inputs that
        change nothing when they are read again, and so get no output.

        Returns:
            For each partition of the records of `state`, the offset after the last of them.

        Raises:
            DeliveryError: an output was refused or not delivered in time; no position was recorded.
            EventLogError: the positions were not recorded, so these inputs are read again. After any error close the
                session and go on with a new one.
        """
        ...

    def assignment(self) -> list[Partition]:
        """The input partitions that this session holds now."""
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at `offset` in an assigned partition, wherever the group's position is."""
        ...

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop reading assigned partitions; may be called inside the callback that assigns them."""
        ...

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Go on reading paused partitions."""
        ...

    def lag(self) -> dict[Partition, int]:
        """Records not yet read, for each assigned partition whose position and end are known."""
        ...

    def silent_s(self) -> float:
        """Time since a broker last answered this session; may be called by any thread."""
        ...

    def take_deleted(self) -> dict[Partition, range]:
        """Offsets that were deleted before this session read them, since the last call; reading goes on after them."""
        ...

    def unserved(self) -> list[Partition]:
        """Partitions that are this member's to read by what the group says, and that it does not read.

        Asks the broker; empty where it does not answer, or while the group is being settled.
        """
        ...

    def close(self) -> None:
        """Leave the group and free every thread and socket, calling no callback; uncommitted output may be lost."""
        ...


class Producer(Protocol):
    """Sends records to topics, outside any session."""

    def send(self, outgoing: Outgoing) -> None:
        """Hand records over for delivery."""
        ...

    def flush(self) -> None:
        """Wait until all that was sent is accepted.

        Raises:
            DeliveryError: a record was refused or not accepted in time.
        """
        ...

    def close(self) -> None:
        """Flush, then free every thread and socket."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class Reader(Protocol):
    """Reads partitions from their start, without a group, and goes on with records that arrive."""

    @property
    def bounds(self) -> Mapping[Partition, range]:
        """First offset and end of each partition at the time when the reader was made.

        Records of unfinished transactions count: those of a successful commit may become readable a little later.
        """
        ...

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Records that arrived, at most `max_records`; empty after `timeout_s` without any."""
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at `offset` in one partition."""
        ...

    def position(self, partition: Partition) -> int:
        """The next offset to read, after transaction markers and records that compaction removed."""
        ...

    def at_end(self) -> bool:
        """True once all records from before the reader was made have been read (by position)."""
        ...

    def close(self) -> None:
        """Free every thread and socket."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class EventLog(Protocol):
    """Topics, and sessions, producers and readers of them."""

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create the topics that are missing; existing ones are left as they are."""
        ...

    def partitions(self, topic: str) -> int:
        """Number of partitions of `topic`; 0 where it does not exist."""
        ...

    def identity(self, topic: str) -> str:
        """A name that no other topic has or had, and that changes when the topic is deleted and created again.

        Raises:
            EventLogError: the topic does not exist.
        """
        ...

    def end_abandoned(self, partitions: Sequence[Partition], shared: Sequence[str] = ()) -> bool:
        """End the transactions that writers left open; nothing after an open transaction can be read.

        Args:
            partitions: the caller is the successor of every writer there: whatever is open is ended, because a dead
                writer's is open until a time limit ends it.
            shared: topics that others write to meanwhile: what no time limit would end is ended there.

        Returns:
            False where the partitions and topics could not be looked at: what the caller sends there might become a
            part of what is open.

        Raises:
            EventLogError: the caller must go on with a new session.
        """
        ...

    def begin_group(self, group: str, topic: str, from_ms: int | None) -> None:
        """Let a group without positions in `topic` begin at the first records appended from this time on.

        Partitions that are added later are read from their start: what is in them came after the group began.

        Args:
            group: its name; one that has positions, or members, stays as it is.
            topic: what it will read.
            from_ms: Unix milliseconds; None for the end.

        Raises:
            EventLogError: the topic does not exist.
        """
        ...

    def group_positions(self, group: str, topic: str) -> dict[int, int]:
        """By partition, the next record that a group will read.

        Nothing for partitions in which it has no position, for a group or topic that does not exist.
        """
        ...

    def delete_before(self, offsets: Mapping[Partition, int]) -> None:
        """Delete the records of each partition before an offset.

        Raises:
            EventLogError: the broker refused, as for a compacted topic or for want of the right.
        """
        ...

    def session(self, topics: Sequence[str], group: str, rebalance: Rebalance) -> Session:
        """A new member of `group` reading `topics` from the group's committed positions (from the start at first)."""
        ...

    def producer(self) -> Producer:
        """A new producer."""
        ...

    def reader(self, topics: Sequence[str | Partition]) -> Reader:
        """A new reader of whole `topics`, or single partitions of them, from their start."""
        ...
