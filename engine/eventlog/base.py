"""What the engine needs of an event log, and nothing more.

Two implementations stand behind these protocols: `engine.eventlog.kafka` (a real broker) and
`engine.eventlog.memory.log` (in-process, for the demo, the tests and the benchmarks). A checklist of named
properties in `tests/contracts/test_eventlog.py` runs against both.

A `Session` is a worker's end of the log: it reads its share of the input partitions and writes output. Outputs and
input positions go through one object because they are committed together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from engine.errors import EventLogError

Headers = Sequence[tuple[str, bytes]]


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
    """When the log took the record (or what its producer stamped), Unix milliseconds."""
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(slots=True)
class Outgoing:
    """Records to send to one topic, as parallel lists; the log chooses partitions by key, unless they are named."""

    topic: str
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    timestamps_ms: list[int] | None = None
    """None stamps each record with the time it is sent."""
    headers: list[Headers] | None = None
    partitions: list[int] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def check(self) -> None:
        """Refuse lists of different lengths, which would pair keys with the wrong values.

        Raises:
            EventLogError: naming the topic and the lengths.
        """
        columns = (self.keys, self.values, self.timestamps_ms, self.headers, self.partitions)
        lengths = [len(column) for column in columns if column is not None]
        if len(set(lengths)) != 1:
            raise EventLogError(f"topic {self.topic}: the lists to send have different lengths, {lengths}")


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be created when it is missing."""

    name: str
    partitions: int = 1
    compacted: bool = False
    replication: int = -1
    """-1 takes the broker's default."""


@dataclass(frozen=True, slots=True)
class Rebalance:
    """What a session calls, inside `poll`, when partitions come and go. An error raised here comes out of that `poll`.

    The session's thread waits meanwhile, but the call may come on another one.
    """

    assigned: Callable[[Sequence[Partition]], None] = lambda _partitions: None
    revoked: Callable[[Sequence[Partition]], None] = lambda _partitions: None
    """Asked to hand over in order: a commit is still allowed here."""
    lost: Callable[[Sequence[Partition]], None] = lambda _partitions: None
    """Already somebody else's: drop the state, commit nothing."""


class Session(Protocol):
    """A worker's end of the log. Belongs to one thread."""

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Records that arrived, at most `max_records`; empty after `timeout_s` without any."""
        ...

    def send(self, outgoing: Outgoing) -> None:
        """Hand records over for delivery; they count only after `commit`. The lists must not change any more.

        Raises:
            EventLogError: the topic does not exist, or (DeliveryError) a record cannot be taken.
        """
        ...

    def commit(self, positions: Mapping[Partition, int], state: Sequence[Outgoing] = ()) -> dict[Partition, int]:
        """Deliver all that was sent, then `state`, then record `positions` (next offset to read) as done.

        In that order where there is no transaction: were state delivered first, a crash would leave inputs that change
        nothing when they come again, and so get no output.

        Returns:
            For each partition that `state` went to, the offset behind its last record of `state`.

        Raises:
            DeliveryError: an output was refused or not delivered in time; no position was recorded.
            EventLogError: the positions were not recorded, so these inputs will come again. After any error close the
                session and go on with a new one.
        """
        ...

    def assignment(self) -> list[Partition]:
        """The input partitions this session holds now."""
        ...

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Hold back the records of assigned partitions; may be called inside the callback that assigns them."""
        ...

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Let the records of paused partitions come."""
        ...

    def lag(self) -> dict[Partition, int]:
        """Records not yet read, for each assigned partition whose end is known. Asks no broker."""
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
    """Puts records on topics, outside any session."""

    def send(self, outgoing: Outgoing) -> None:
        """Hand records over for delivery."""
        ...

    def flush(self) -> None:
        """Wait until everything sent was accepted.

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
    """Reads partitions from their start, without a group, and goes on with what arrives."""

    @property
    def bounds(self) -> Mapping[Partition, range]:
        """First offset kept and end of each partition when the reader was made.

        Records of unfinished transactions count: a commit that succeeded may come to light a little later.
        """
        ...

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Records that arrived, at most `max_records`; empty after `timeout_s` without any."""
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at `offset` in one partition."""
        ...

    def position(self, partition: Partition) -> int:
        """The next offset to read; where a transaction ended or records are compacted away, behind that."""
        ...

    def at_end(self) -> bool:
        """True once everything that was there when the reader was made has been read (by position)."""
        ...

    def close(self) -> None:
        """Free every thread and socket."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class EventLog(Protocol):
    """A place with topics."""

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create those that are missing; existing topics are left as they are."""
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has; 0 when it does not exist."""
        ...

    def identity(self, topic: str) -> str:
        """A name no other topic has or had, nor this one before it was deleted and created anew.

        Raises:
            EventLogError: the topic does not exist.
        """
        ...

    def end_abandoned(self, partitions: Sequence[Partition]) -> None:
        """End the transactions that writers left open on these partitions; the caller is their successor there.

        Nobody can read past an open one, and a writer that died would hold its successor up until a time limit ends it.
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
