"""The lag of every assigned partition, in records and in seconds, from the first second on."""

from collections.abc import Sequence
from typing import Final

from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Partition, Records, Session
from engine.eventlog.time_source import TimeSource
from engine.metrics import Metrics

_POLLS: Final = 5
"""Reads for the oldest unread records of all partitions in question."""
_POLL_S: Final = 0.2
_RECORDS: Final = 10_000


class LagGauges:
    """Keeps the metrics of lag.

    A lag in seconds is the age of the oldest unread record. It is no older than the last record that was read, and no
    older than the last moment without any lag. Of a partition from which nothing was read, the record is looked at.
    """

    def __init__(self, metrics: Metrics, log: EventLog, time: TimeSource) -> None:
        self._metrics = metrics
        self._log = log
        self._time = time
        self._since_ms: dict[Partition, int] = {}
        """By partition, a time before which no unread record was appended."""
        self._unknown: set[Partition] = set()
        """Partitions with a lag and no such time at the last update: reading may be about to begin."""

    def read(self, polled: Sequence[Records]) -> None:
        """These records were read."""
        for records in polled:
            known_ms = self._since_ms.get(records.partition, 0)
            self._since_ms[records.partition] = max(known_ms, records.timestamps_ms[-1])

    def update(self, session: Session) -> None:
        """Bring the metrics up to date."""
        lag, now_ms = session.lag(), self._time.now_ms()
        self._since_ms |= dict.fromkeys((partition for partition, count in lag.items() if not count), now_ms)
        unknown = {partition: count for partition, count in lag.items() if partition not in self._since_ms}
        self._look_at({partition: count for partition, count in unknown.items() if partition in self._unknown})
        self._unknown = set(unknown)
        for partition, count in lag.items():
            labels = partition.topic, str(partition.number)
            self._metrics.consumer_lag.labels(*labels).set(count)
            since_ms = self._since_ms.get(partition)
            if since_ms is not None:
                self._metrics.consumer_lag_seconds.labels(*labels).set(max(0, now_ms - since_ms) / 1000)

    def drop(self, partitions: Sequence[Partition]) -> None:
        """These partitions are another worker's."""
        for partition in partitions:
            self._since_ms.pop(partition, None)
            for gauge in (self._metrics.consumer_lag, self._metrics.consumer_lag_seconds):
                gauge.remove_by_labels({"topic": partition.topic, "partition": str(partition.number)})

    def clear(self) -> None:
        """No partition is held."""
        self._since_ms.clear()
        self._metrics.consumer_lag.clear()
        self._metrics.consumer_lag_seconds.clear()

    def _look_at(self, lag: dict[Partition, int]) -> None:
        """Read the oldest unread record of each of these partitions, as far as that is quick."""
        if not lag:
            return
        try:
            with self._log.reader(list(lag)) as reader:
                for partition, count in lag.items():
                    bounds = reader.bounds[partition]
                    reader.seek(partition, max(bounds.start, bounds.stop - count))
                for _ in range(_POLLS):
                    for records in reader.poll(_POLL_S, _RECORDS):
                        self._since_ms.setdefault(records.partition, records.timestamps_ms[0])
                    if lag.keys() <= self._since_ms.keys():
                        return
        except EventLogError:
            return  # the session meets the same trouble, and reports it
