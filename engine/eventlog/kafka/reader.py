"""Reader of whole partitions, and the client's records as columns."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from kafka import TopicPartition

from engine.eventlog.base import Headers, Partition, Records
from engine.eventlog.kafka.failures import translated


class KafkaReader:
    """Reads partitions from their start, without a group (see `engine.eventlog.base.Reader`)."""

    def __init__(self, consumer: Any, bounds: dict[Partition, range]) -> None:
        self._consumer = consumer
        self.bounds = bounds
        consumer.assign([TopicPartition(*partition) for partition in bounds])
        for partition, span in bounds.items():
            consumer.seek(TopicPartition(*partition), span.start)
        self._positions = {partition: span.start for partition, span in bounds.items()}
        self._unread = {partition for partition, span in bounds.items() if span}

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Records that arrived, at most `max_records`; empty after `timeout_s` without any."""
        with translated("reading"):
            return to_records(self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records))

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at `offset` in one partition."""
        self._consumer.seek(TopicPartition(*partition), offset)
        self._positions[partition] = offset
        if offset < self.bounds[partition].stop:
            self._unread.add(partition)

    def position(self, partition: Partition) -> int:
        """The next offset to read, after transaction markers and gaps, which never arrive as records."""
        with translated("reading positions"):
            position = self._consumer.position(TopicPartition(*partition), timeout_ms=0)
        if position is not None:
            self._positions[partition] = position
        return self._positions[partition]

    def at_end(self) -> bool:
        """True once all records from before the reader was made have been read (by position)."""
        self._unread = {p for p in self._unread if self.position(p) < self.bounds[p].stop}
        return not self._unread

    def close(self) -> None:
        """Free every thread and socket."""
        self._consumer.close(autocommit=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def to_records(polled: Mapping[Any, Sequence[Any]]) -> list[Records]:
    """The client's polled records as columns."""
    return [
        Records(
            partition=Partition(*partition),
            offsets=[row.offset for row in rows],
            timestamps_ms=[row.timestamp for row in rows],
            keys=[row.key for row in rows],
            values=[row.value for row in rows],
            headers=[_headers(row.headers) if row.headers else () for row in rows],
        )
        for partition, rows in polled.items()
    ]


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """Headers with empty values for null ones, which the client reads but does not write."""
    return [(name, b"" if value is None else value) for name, value in headers]
