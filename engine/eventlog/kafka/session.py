"""A worker's session: a member of a consumer group, and the producer of its output."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from engine.errors import EventLogError
from engine.eventlog import commit_steps
from engine.eventlog.base import Outgoing, Partition, Records
from engine.eventlog.kafka.commit_throttle import CommitThrottle
from engine.eventlog.kafka.failures import translated
from engine.eventlog.kafka.fetching import DeletionWatch
from engine.eventlog.kafka.listener import Listener, keep_pending_join
from engine.eventlog.kafka.output import Output, Transactions
from engine.eventlog.kafka.reader import to_records
from engine.eventlog.kafka.stall_detector import StallDetector
from engine.eventlog.share_watch import owed
from engine.settings.sections import KafkaSettings

Shares = Callable[[], tuple[Mapping[str, Collection[Partition]], Collection[Partition]]]
"""Asks the broker which partitions each member was given, and which the group reads; nothing while it is unsettled."""

_LEAVE_LIMIT_S: Final = 2.0
"""Time limit for leaving the group."""
_ENDS_LIMIT_S: Final = 1.0
"""Time limit for asking the ends of partitions, which only the metrics need."""
_GATHER_S: Final = 0.01
"""Time limit for a second poll, of the records that gathered at the broker."""


class KafkaSession(ABC):
    """A session without its way of delivery (see `engine.eventlog.base.Session`).

    After an error close it, and go on with a new one from the last commit.
    """

    def __init__(
        self, consumer: Any, listener: Listener, output: Output, settings: KafkaSettings, shares: Shares
    ) -> None:
        self._shares = shares
        self._static_member = settings.static_member
        self._consumer = consumer
        self._listener = listener
        self._output = output
        self._time_limit_s = settings.commit_timeout_s
        self._throttle = CommitThrottle(settings.commit_share)
        self._stall_detector = StallDetector(consumer, settings)
        self._deletions = DeletionWatch(consumer._fetcher)  # noqa: SLF001 - there is no public way to it
        self._failed = False
        self._session_timeout_s = settings.session_timeout_s
        self._polled_s = 0.0
        self._looked = False
        """Whether this is known to be a member since the last poll."""
        self._starts: dict[Partition, int] = {}
        """First offsets of the last batch."""

    @abstractmethod
    def _deliver(self, positions: Mapping[Partition, int], state: Sequence[Outgoing]) -> dict[Partition, int]:
        """Commit; returns the offset after the last record sent to each partition, at least for those of `state`."""

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Records that arrived, at most `max_records`; the callbacks of a rebalance are called in here.

        Soon after a commit it waits while records gather, so that the next commit is worth its cost (`CommitThrottle`).

        Raises:
            EventLogError: the broker refused, this member was fenced, or it receives none of the records there are.
        """
        delay_s = self._throttle.delay_s(time.monotonic())
        time.sleep(delay_s)
        batch = self._poll(timeout_s, max_records)
        room = max_records - sum(map(len, batch))
        if delay_s and batch and room:
            # These came before the wait; the records that gathered during it are fetched only now.
            self._listener.removed.clear()
            more = self._poll(_GATHER_S, room)
            batch = [records for records in batch if records.partition not in self._listener.removed] + more
        self._polled_s, self._looked = time.monotonic(), False
        self._starts = {records.partition: records.offsets[0] for records in reversed(batch)}
        self._throttle.read(sum(map(len, batch)))
        if batch:
            self._stall_detector.received()
        else:
            self._stall_detector.nothing_received()
        return batch

    def send(self, outgoing: Outgoing) -> None:
        """Hand records over for delivery; they become valid with `commit`."""
        self._output.send(outgoing)

    def commit(self, positions: Mapping[Partition, int], state: Sequence[Outgoing] = ()) -> dict[Partition, int]:
        """Deliver all that was sent, then `state`, then record `positions`.

        Returns:
            For each partition of the records of `state`, the offset after the last of them.

        Raises:
            DeliveryError: an output was refused or not delivered in time; no position was recorded.
            EventLogError: the positions were not recorded: the same inputs are read again.
        """
        topics = {outgoing.topic for outgoing in state}
        if self._failed:
            raise EventLogError("Kafka: a commit of this session failed before; go on with a new session")
        self._failed = True
        ends = self._deliver(positions, state)
        self._failed = False
        return {partition: end for partition, end in ends.items() if partition.topic in topics}

    def assignment(self) -> list[Partition]:
        """The input partitions that this session holds now."""
        return [Partition(*partition) for partition in sorted(self._consumer.assignment())]

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at `offset` in an assigned partition, wherever the group's position is."""
        with translated("setting a position"):
            self._consumer.seek(TopicPartition(*partition), offset)

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop reading assigned partitions; may be called inside the callback that assigns them."""
        self._consumer.pause(*(TopicPartition(*partition) for partition in partitions))

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Go on reading paused partitions."""
        self._consumer.resume(*(TopicPartition(*partition) for partition in partitions))

    def lag(self) -> dict[Partition, int]:
        """Records not yet read, for each assigned partition; transaction markers count too.

        Asks the broker for the ends of partitions that are not being fetched.
        """
        with translated("reading positions"):
            ends = self._ends()
            positions = {partition: self._position(Partition(*partition)) for partition in ends}
        return {
            Partition(*partition): max(ends[partition] - position, 0)
            for partition, position in positions.items()
            if position is not None
        }

    def _ends(self) -> dict[Any, int]:
        """The ends of assigned partitions, as far as they are known or can be asked for now."""
        consumer = self._consumer
        paused = consumer.paused()
        known = {partition: consumer.highwater(partition) for partition in consumer.assignment() - paused}
        ends = {partition: end for partition, end in known.items() if end is not None}
        not_fetched = list(consumer.assignment() - ends.keys())
        if not_fetched and self.silent_s() < _ENDS_LIMIT_S:
            with contextlib.suppress(KafkaError):  # they are asked for again a second later
                ends |= consumer.end_offsets(not_fetched, _ENDS_LIMIT_S * 1000)
        return ends

    def silent_s(self) -> float:
        """Time since a broker last answered this member."""
        silent_s: float = self._listener.net.silent_s()
        return silent_s

    def take_deleted(self) -> dict[Partition, range]:
        """Offsets that retention deleted before this session read them, since the last call."""
        return self._deletions.take(self._position)

    def unserved(self) -> list[Partition]:
        """What the group gives this member, or nobody, and it does not read."""
        shares, topic = self._shares()
        own = {self._consumer.group_metadata().member_id, self._static_member or ""}
        reads = set(self.assignment())
        return [partition for partition in owed(shares, own, topic) if partition not in reads]

    def close(self) -> None:
        """Leave the group and free every thread and socket, calling no callback; uncommitted output may be lost."""
        self._listener.muted = True
        try:
            self._output.close(timeout_s=0.0)
        finally:
            with contextlib.suppress(KafkaError, RuntimeError):  # the group notices a missing member in any case
                self._consumer.close(autocommit=False, timeout_ms=_LEAVE_LIMIT_S * 1000)
            self._consumer._client.close()  # noqa: SLF001 - it stays open where the line above fails

    def flush(self) -> dict[Partition, int]:
        """Wait until everything sent was accepted (see `engine.eventlog.commit_steps.CommitSteps`)."""
        return self._output.flush()

    def check_membership(self) -> None:
        """Look whether this is the member that its partitions were given to.

        Raises:
            EventLogError: it was expelled.
        """
        self._membership()

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the CPU time of a commit, of all threads, for the throttle."""
        before_s = time.process_time()
        yield
        self._throttle.committed(time.process_time() - before_s, time.monotonic())

    def _position(self, partition: Partition) -> int | None:
        """The next offset to read, where it is known without a request to a broker."""
        key = TopicPartition(*partition)
        with translated("reading positions"):
            if key not in self._consumer.assignment():
                return None
            position: int | None = self._consumer.position(key, timeout_ms=0)
        return position

    def _poll(self, timeout_s: float, max_records: int) -> list[Records]:
        _make_way_for_resumed(self._consumer._fetcher)  # noqa: SLF001 - there is no public way to it
        with translated("reading"):
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        keep_pending_join(self._consumer._coordinator)  # noqa: SLF001 - there is no public way to it
        if self._listener.failure:
            raise self._listener.failure
        if self._consumer.assignment():
            self.check_membership()
        else:
            self._listener.holder.nothing_held()
        return to_records(polled)

    def _membership(self) -> Any:
        """The group's metadata, if this is still the member to which the partitions were assigned."""
        membership = self._consumer.group_metadata()
        self._listener.holder.check(membership.member_id, membership.generation_id)
        return membership


def _make_way_for_resumed(fetcher: Any) -> None:
    """Let records that were parked while their partition was paused be read again.

    The library puts them back only where no other records are next in line, and takes records that are read to their
    end for such: the resumed partition, which is not fetched while records of it are parked, would never give any.
    """
    if not fetcher._next_partition_records:  # noqa: SLF001 - there is no public way to it
        fetcher._next_partition_records = None  # noqa: SLF001


class AtLeastOnceSession(KafkaSession):
    """Delivers outputs, then state, then positions (`engine.eventlog.commit_steps.at_least_once`)."""

    def _deliver(self, positions: Mapping[Partition, int], state: Sequence[Outgoing]) -> dict[Partition, int]:
        return commit_steps.at_least_once(self, positions, state)

    def send(self, outgoing: Outgoing) -> None:
        """Hand records over for delivery, the first of a batch only as a member of the group."""
        if self._starts and not self._looked:
            silent_s = time.monotonic() - self._polled_s
            commit_steps.look_first(self, silent_s, self._session_timeout_s)
            self._looked = True
        super().send(outgoing)

    def confirm_membership(self) -> None:
        """Ask the group, by recording once more where the batch began."""
        self.record_positions(self._starts)

    def record_positions(self, positions: Mapping[Partition, int]) -> None:
        """Record the next offsets to read."""
        with translated("recording positions"):
            self._consumer.commit(_offsets(positions), timeout_ms=self._time_limit_s * 1000)

    def complete(self) -> None:
        """Nothing to do: accepted records are visible."""


class ExactlyOnceSession(KafkaSession):
    """Delivers outputs, state and positions in one transaction: all of them become visible, or none.

    Two checks fence a commit. The group's metadata goes with the positions, and the broker refuses those of a member
    that is no longer one: a worker that slept through its expulsion commits nothing, whatever it holds by its own
    account. The transactional id only separates a producer from its own predecessor: a new producer ends the
    transaction that the last one left open, and that would otherwise block every reader until
    `kafka.transaction_timeout_s`.
    """

    def __init__(  # noqa: PLR0913 - all of a session
        self,
        consumer: Any,
        listener: Listener,
        transactions: Transactions,
        settings: KafkaSettings,
        shares: Shares,
        released: Callable[[], None],
    ) -> None:
        super().__init__(consumer, listener, transactions, settings, shares)
        self._transactions = transactions
        self._released = released
        self._deadline_s = 0.0

    def _deliver(self, positions: Mapping[Partition, int], state: Sequence[Outgoing]) -> dict[Partition, int]:
        self._deadline_s = time.monotonic() + self._time_limit_s
        return commit_steps.exactly_once(self, positions, state)

    def confirm_membership(self) -> None:
        """Nothing to ask: the broker compares the membership that goes with the positions."""

    def record_positions(self, positions: Mapping[Partition, int]) -> None:
        """Make the next offsets to read a part of the transaction, with the membership under which they were read."""
        self._transactions.add_positions(_offsets(positions), self._membership(), self._deadline_s)

    def complete(self) -> None:
        """Make the transaction visible."""
        self._transactions.commit(self._deadline_s)

    def close(self) -> None:
        """End an open transaction, leave the group and free every thread and socket, calling no callback."""
        super().close()
        self._released()


def _offsets(positions: Mapping[Partition, int]) -> dict[Any, Any]:
    return {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in positions.items()}
