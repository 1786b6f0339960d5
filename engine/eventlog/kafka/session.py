"""A worker's session: a member of a consumer group, and the producer of its output."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from engine.errors import EventLogError
from engine.eventlog.base import Outgoing, Partition, Records
from engine.eventlog.kafka.commit_throttle import CommitThrottle
from engine.eventlog.kafka.failures import translated
from engine.eventlog.kafka.listener import Listener, keep_pending_join
from engine.eventlog.kafka.output import Output, Transactions
from engine.eventlog.kafka.reader import to_records
from engine.eventlog.kafka.stall_detector import StallDetector
from engine.settings.sections import KafkaSettings

_LEAVE_LIMIT_S: Final = 2.0
"""Time limit for leaving the group."""
_GATHER_S: Final = 0.01
"""Time limit for a second poll, of the records that gathered at the broker."""


class KafkaSession(ABC):
    """A session without its way of delivery (see `engine.eventlog.base.Session`).

    After an error close it, and go on with a new one from the last commit.
    """

    def __init__(self, consumer: Any, listener: Listener, output: Output, settings: KafkaSettings) -> None:
        self._consumer = consumer
        self._listener = listener
        self._output = output
        self._time_limit_s = settings.commit_timeout_s
        self._throttle = CommitThrottle(settings.commit_share)
        self._stall_detector = StallDetector(consumer, settings)
        self._failed = False

    @abstractmethod
    def _deliver(self, offsets: Mapping[Any, Any], state: Sequence[Outgoing]) -> dict[Partition, int]:
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
        offsets = {TopicPartition(*p): OffsetAndMetadata(offset, "", -1) for p, offset in positions.items()}
        topics = {outgoing.topic for outgoing in state}
        if self._failed:
            raise EventLogError("Kafka: a commit of this session failed before; go on with a new session")
        self._failed = True
        ends = self._deliver(offsets, state)
        self._failed = False
        return {partition: end for partition, end in ends.items() if partition.topic in topics}

    def assignment(self) -> list[Partition]:
        """The input partitions that this session holds now."""
        return [Partition(*partition) for partition in sorted(self._consumer.assignment())]

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop reading assigned partitions; may be called inside the callback that assigns them."""
        self._consumer.pause(*(TopicPartition(*partition) for partition in partitions))

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Go on reading paused partitions."""
        self._consumer.resume(*(TopicPartition(*partition) for partition in partitions))

    def lag(self) -> dict[Partition, int]:
        """Records not yet read, for each assigned partition whose end is known; transaction markers count too."""
        lag = {}
        with translated("reading positions"):
            for partition in self._consumer.assignment():
                end = self._consumer.highwater(partition)
                # The end comes with the first fetch, from when on the position is known without a request to a broker.
                position = None if end is None else self._consumer.position(partition, timeout_ms=0)
                if position is not None:
                    lag[Partition(*partition)] = max(end - position, 0)
        return lag

    def close(self) -> None:
        """Leave the group and free every thread and socket, calling no callback; uncommitted output may be lost."""
        self._listener.muted = True
        try:
            self._output.close(timeout_s=0.0)
        finally:
            with contextlib.suppress(KafkaError, RuntimeError):  # the group notices a missing member in any case
                self._consumer.close(autocommit=False, timeout_ms=_LEAVE_LIMIT_S * 1000)
            self._consumer._client.close()  # noqa: SLF001 - it stays open where the line above fails

    @contextlib.contextmanager
    def _throttled(self) -> Iterator[None]:
        """Measure the CPU time of a commit, of all threads, for the throttle."""
        before_s = time.process_time()
        yield
        self._throttle.committed(time.process_time() - before_s, time.monotonic())

    def _poll(self, timeout_s: float, max_records: int) -> list[Records]:
        with translated("reading"):
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        keep_pending_join(self._consumer._coordinator)  # noqa: SLF001 - there is no public way to it
        if self._listener.failure:
            raise self._listener.failure
        if self._consumer.assignment():
            self._membership()
        else:
            self._listener.holder = None
        return to_records(polled)

    def _membership(self) -> Any:
        """The group's metadata, if this is still the member to which the partitions were assigned.

        The library does not always report that they were lost: expelled while it is about to join again in any case, it
        joins as a new member and goes on with the partitions and positions of the old one. The broker cannot know, and
        would accept the commits of such a member; it would even accept positions of one without a generation.

        Raises:
            EventLogError: the member was expelled.
        """
        membership = self._consumer.group_metadata()
        if membership.generation_id < 0 or membership.member_id != self._listener.holder:
            raise EventLogError("Kafka: this worker was expelled from its group; going on from the last commit")
        return membership


class AtLeastOnceSession(KafkaSession):
    """Delivers outputs, then state, then positions: a crash in between repeats outputs and loses none."""

    def _deliver(self, offsets: Mapping[Any, Any], state: Sequence[Outgoing]) -> dict[Partition, int]:
        # 1. The outputs. With the positions recorded first, a crash in between would lose them.
        self._output.flush()
        # 2. The state. With the state delivered first, the same inputs would change nothing when they are read again,
        #    and so get no output.
        for outgoing in state:
            self.send(outgoing)
        ends = self._output.flush()
        # 3. The positions: from here on these inputs are not read again.
        if offsets:
            self._membership()
            with self._throttled(), translated("recording positions"):
                self._consumer.commit(offsets, timeout_ms=self._time_limit_s * 1000)
        return ends


class ExactlyOnceSession(KafkaSession):
    """Delivers outputs, state and positions in one transaction: all of them become visible, or none.

    Two checks fence a commit. The group's metadata goes with the positions, and the broker refuses those of a member
    that is no longer one: a worker that slept through its expulsion commits nothing, whatever it holds by its own
    account. The transactional id only separates a producer from its own predecessor: a new producer ends the
    transaction that the last one left open, and that would otherwise block every reader until
    `kafka.transaction_timeout_s`.
    """

    def __init__(
        self,
        consumer: Any,
        listener: Listener,
        transactions: Transactions,
        settings: KafkaSettings,
        released: Callable[[], None],
    ) -> None:
        super().__init__(consumer, listener, transactions, settings)
        self._transactions = transactions
        self._released = released

    def _deliver(self, offsets: Mapping[Any, Any], state: Sequence[Outgoing]) -> dict[Partition, int]:
        deadline_s = time.monotonic() + self._time_limit_s
        # 1. Every record: the client would commit a transaction without the records that it dropped.
        for outgoing in state:
            self.send(outgoing)
        ends = self._output.flush()
        with self._throttled():
            # 2. The positions, with the membership under which they were read.
            if offsets:
                self._transactions.add_positions(offsets, self._membership(), deadline_s)
            # 3. From here on all of it is visible, and these inputs are not read again.
            self._transactions.commit(deadline_s)
        return ends

    def close(self) -> None:
        """End an open transaction, leave the group and free every thread and socket, calling no callback."""
        super().close()
        self._released()
