"""Notices a client that polls on and never receives anything, though there is something to receive."""

import time
from typing import Any, Final

from kafka.structs import MemberState

from engine.errors import EventLogError
from engine.eventlog.kafka.failures import translated
from engine.settings.sections import KafkaSettings

_POLLS: Final = 3
"""Fewer say nothing: one `poll` may have waited long for a callback."""


class StallDetector:
    """Looks at a consumer that has been quiet for `kafka.stall_timeout_s`, again and again, and compares.

    A look asks the broker for the ends of the partitions. When a whole quiet time later the consumer is still not
    where they ended then, it is stuck; so is a member that took part in no settled group all the while.
    """

    def __init__(self, consumer: Any, settings: KafkaSettings) -> None:
        self._consumer = consumer
        self._quiet_limit_s = settings.stall_timeout_s
        self.received()

    def received(self) -> None:
        """There were records: all is well."""
        self._ends: dict[Any, int] = {}
        self._outside = False
        self._start_again()

    def nothing_received(self) -> None:
        """There were none.

        Raises:
            EventLogError: and there should have been, or the broker does not answer.
        """
        self._polls += 1
        quiet_s = time.monotonic() - self._quiet_since_s
        if self._polls < _POLLS or quiet_s < self._quiet_limit_s:
            return
        with translated("looking for records"):
            self._look()
        self._start_again()

    def _start_again(self) -> None:
        self._polls = 0
        self._quiet_since_s = time.monotonic()

    def _look(self) -> None:
        """Compare with what the last look saw, and see anew."""
        consumer, limit_s = self._consumer, self._quiet_limit_s
        reading = consumer.assignment() - consumer.paused()
        behind = [p for p in reading if (consumer.position(p, 0) or 0) < self._ends.get(p, 0)]
        if behind:
            names = ", ".join(f"{p.topic}/{p.partition}" for p in behind)
            raise EventLogError(
                f"Kafka: waited for records of {names} in vain for {limit_s:g} s (kafka.stall_timeout_s);"
                " going on with a new client"
            )
        outside = not consumer.assignment() and consumer.group_metadata().state != MemberState.STABLE
        if outside and self._outside:
            raise EventLogError(
                f"Kafka: waited for a place in the group in vain for {limit_s:g} s (kafka.stall_timeout_s);"
                " going on with a new client"
            )
        self._outside = outside
        self._ends = consumer.end_offsets(list(reading), limit_s * 1000) if reading else {}
