"""Output: producers and their records in flight, with and without transactions."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any, Final, Self

from kafka.errors import InvalidProducerEpochError, KafkaError, KafkaTimeoutError, ProducerFencedError

from engine.errors import DeliveryError, EventLogError, RecordRefusedError
from engine.eventlog.base import MAX_RECORD_BYTES, Outgoing, Partition
from engine.eventlog.kafka.client import Client
from engine.eventlog.kafka.failures import describe, is_refusal, translated

_MAX_IN_FLIGHT: Final = 10_000
"""Records in flight of a producer beyond which `send` waits for the oldest, which bounds its memory."""
_ABORT_LIMIT_S: Final = 1.0
"""Time limit of an abort; after it the abort is left to the next producer, or to the broker's own limit."""


class Output:
    """A producer, and its records in flight."""

    def __init__(self, producer: Any, client: Client, time_limit_s: float) -> None:
        self._producer = producer
        self._client = client
        self._time_limit_s = time_limit_s
        self._in_flight: deque[Any] = deque()

    def send(self, outgoing: Outgoing) -> None:
        """Hand records over to the producer's thread."""
        outgoing.check()
        send, in_flight, topic = self._producer.send, self._in_flight.append, outgoing.topic
        headers = repeat(None) if outgoing.headers is None else map(list, outgoing.headers)
        partitions = repeat(None) if outgoing.partitions is None else outgoing.partitions
        timestamps = repeat(None) if outgoing.timestamps_ms is None else outgoing.timestamps_ms
        columns = zip(outgoing.keys, outgoing.values, headers, partitions, timestamps, strict=False)
        try:
            for key, value, header, partition, timestamp in columns:
                # The client refuses a record with neither; an empty value means the same.
                payload = b"" if value is None and key is None else value
                in_flight(send(topic, payload, key, header, partition, timestamp))
        except (KafkaError, TypeError, ValueError) as error:
            self._raise_refusal()
            text = (
                f"topic {topic!r}: record not accepted for sending: {describe(error)}; expected at most"
                f" {MAX_RECORD_BYTES} bytes, and an answer within {self._time_limit_s:g} s; check topic and broker"
            )
            if is_refusal(error):
                raise RecordRefusedError(text, topic) from error
            raise DeliveryError(text) from error

    def flush(self) -> dict[Partition, int]:
        """Wait until all records that were sent are accepted.

        Returns:
            For each partition of these records, the offset after the last of them.

        Raises:
            DeliveryError: a record was refused or not accepted in time; it names the first.
        """
        if not self._in_flight:
            return {}
        with contextlib.suppress(KafkaError):  # `settle` looks at the outcome of each record
            self._producer.flush(self._time_limit_s)
        last = {future._produce_future.topic_partition: future for future in self._in_flight}  # noqa: SLF001 - as below
        self.settle(0)
        return {Partition(*partition): future.value.offset + 1 for partition, future in last.items()}

    def settle(self, allowed: int) -> None:
        """Wait until at most `allowed` records are in flight."""
        deadline_s = time.monotonic() + self._time_limit_s
        while len(self._in_flight) > allowed:
            future = self._in_flight.popleft()
            if not future.succeeded():
                self._wait_for(future, max(deadline_s - time.monotonic(), 0.0))

    def close(self, timeout_s: float) -> None:
        """Stop the producer and its thread; records not accepted after `timeout_s` are dropped."""
        sender = self._producer._sender  # noqa: SLF001 - close() leaves this thread running after its time limit
        with contextlib.suppress(KafkaTimeoutError):
            self._producer.close(timeout=timeout_s)
        if sender.is_alive():
            sender.force_close()
            self._client.close_connections()
            sender.join(self._time_limit_s)
            self._producer.close(timeout=0)

    def _wait_for(self, future: Any, timeout_s: float) -> None:
        try:
            future.get(timeout_s)
        except KafkaError as error:
            self._in_flight.appendleft(future)
            self._raise_refusal()
            failed = len([future for future in self._in_flight if not future.succeeded()])
            self._in_flight.clear()
            topic, partition = future._produce_future.topic_partition  # noqa: SLF001 - the error has not always both
            raise DeliveryError(
                f"topic {topic!r} partition {partition}: {describe(error)}; {failed} records were not accepted within"
                f" {self._time_limit_s:g} s; check the topic (min.insync.replicas) and the broker"
            ) from error

    def _raise_refusal(self) -> None:
        """Name the record that was refused, if one was: it takes others with it, whose errors name no cause."""
        refused = next((future for future in self._in_flight if is_refusal(future.exception)), None)
        if refused is None:
            return
        self._in_flight.clear()
        topic, partition = refused._produce_future.topic_partition  # noqa: SLF001 - the error has not always both
        raise RecordRefusedError(
            f"topic {topic!r} partition {partition}: a record was refused: {describe(refused.exception)}; expected what"
            f" the topic takes: at most max.message.bytes (and {MAX_RECORD_BYTES} bytes), a key where it is compacted,"
            " and the right to write; change the topic, or this client's rights",
            topic,
        ) from refused.exception


class Transactions(Output):
    """Output that becomes visible with `commit`, together with input positions. The first `send` begins a transaction.

    The client's own methods wait without limit when a broker dies at the wrong moment, so their results are waited for
    here, with a time limit.

    One rule for every call: when its outcome is unknown, this producer sends nothing more, and a new one of the same
    transactional id ends the transaction (`fence`). A request that is still on its way belongs to an old epoch from
    then on, and is refused wherever it arrives. An abort by this producer would not do that: a record that arrives
    after it opens a transaction that nobody ends, and an end that arrives late ends the next transaction.
    """

    def __init__(self, producer: Any, client: Client, time_limit_s: float, fence: Callable[[], None]) -> None:
        """End the transaction that a producer of the same transactional id left open; it cannot commit from now on.

        Args:
            producer: of the library, with a transactional id.
            client: its network client.
            time_limit_s: for what the producer waits for.
            fence: makes a producer of the same transactional id, and closes it.

        Raises:
            EventLogError: it was refused, or took too long.
        """
        super().__init__(producer, client, time_limit_s)
        self._fence = fence
        self._begun = False
        self._is_answered = True
        """True while every call of the transaction was answered."""
        self._has_successor = False
        """True after a broker refused this producer because a newer one has its transactional id."""
        try:
            with translated("ending the transaction of a predecessor"):
                producer.init_transactions()
        except BaseException:
            self.close(0.0)
            raise

    @property
    def producer_id(self) -> int:
        """The broker's number of this producer, the same for all of one transactional id."""
        return int(self._manager.producer_id_and_epoch.producer_id)

    @property
    def epoch(self) -> int:
        """Tells this producer from its predecessors of the same number."""
        return int(self._manager.producer_id_and_epoch.epoch)

    def send(self, outgoing: Outgoing) -> None:
        """Hand records over to the producer's thread, in a transaction."""
        self._begin()
        self._is_answered = False
        super().send(outgoing)

    def flush(self) -> dict[Partition, int]:
        """Wait until all records that were sent are accepted.

        Returns:
            For each partition of these records, the offset after the last of them.

        Raises:
            DeliveryError: a record was refused or not accepted in time; it names the first.
        """
        with self._awaited():
            return super().flush()

    def add_positions(self, offsets: Mapping[Any, Any], membership: Any, deadline_s: float) -> None:
        """Add input positions to the transaction.

        Raises:
            EventLogError: the member may not commit any more, or it took too long.
        """
        self._begin()
        with translated("adding positions to a transaction"), self._awaited():
            self._finish(self._manager.send_offsets_to_transaction(offsets, membership), deadline_s)

    def commit(self, deadline_s: float) -> None:
        """Make all records of the transaction visible; does nothing where none was begun.

        Raises:
            EventLogError: it was refused, or took too long: the records may become visible or not.
        """
        if self._begun:
            with translated("committing a transaction"), self._awaited():
                self._finish(self._manager.begin_commit(), deadline_s)
            self._begun = False

    def close(self, timeout_s: float) -> None:
        """End an open transaction, if that is quick, and stop the producer and its thread."""
        if self._begun and self._is_answered:
            with contextlib.suppress(KafkaError, EventLogError), self._awaited():
                self._finish(self._manager.begin_abort(), time.monotonic() + _ABORT_LIMIT_S)
        super().close(timeout_s)
        if self._begun and not self._is_answered and not self._has_successor:
            self._fence()

    @property
    def _manager(self) -> Any:
        return self._producer._transaction_manager  # noqa: SLF001 - it returns the results that the methods wait for

    def _begin(self) -> None:
        if not self._begun:
            with translated("beginning a transaction"):
                self._producer.begin_transaction()
            self._begun = True

    @contextlib.contextmanager
    def _awaited(self) -> Iterator[None]:
        """Note whether the calls within came to a known end, and whether a successor is why they did not."""
        self._is_answered = False
        try:
            yield
        except (KafkaError, DeliveryError) as error:
            reason = error.__cause__ if isinstance(error, DeliveryError) else error
            self._has_successor = isinstance(reason, ProducerFencedError | InvalidProducerEpochError)
            raise
        self._is_answered = True

    def _finish(self, result: Any, deadline_s: float) -> None:
        self._producer._sender.wakeup()  # noqa: SLF001 - as the client's own methods do
        if not result.wait(max(deadline_s - time.monotonic(), 0.0) * 1000):
            raise EventLogError(
                f"Kafka: a commit took longer than kafka.commit_timeout_s = {self._time_limit_s:g} s; going on from the"
                " last commit. Raise it if this comes again"
            )


class KafkaLogProducer:
    """Sends records to topics, outside any session (see `engine.eventlog.base.Producer`)."""

    def __init__(self, output: Output, time_limit_s: float) -> None:
        self._output = output
        self._time_limit_s = time_limit_s

    def send(self, outgoing: Outgoing) -> None:
        """Hand records over for delivery; waits while too many are in flight.

        Raises:
            DeliveryError: an earlier record was refused or not accepted in time.
        """
        self._output.send(outgoing)
        self._output.settle(_MAX_IN_FLIGHT)

    def flush(self) -> None:
        """Wait until all that was sent is accepted.

        Raises:
            DeliveryError: a record was refused or not accepted in time.
        """
        self._output.flush()

    def close(self) -> None:
        """Flush, then free every thread and socket."""
        try:
            self._output.flush()
        finally:
            self._output.close(self._time_limit_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
