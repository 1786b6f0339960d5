"""Detector of a stalled consumer, which polls and receives none of the records there are."""

import time
from typing import Any, Final

from kafka.structs import MemberState

from engine.errors import EventLogError
from engine.eventlog.acl_plan import OFFSETS_TOPIC
from engine.eventlog.kafka.failures import translated
from engine.settings.sections import KafkaSettings

_MIN_POLLS: Final = 3
"""Polls without records before a look at the consumer: a single `poll` may have waited long for a callback."""


class StallDetector:
    """Compares the positions of a quiet consumer with the ends of its partitions, every `kafka.stall_timeout_s`.

    Each look requests the ends from the broker. A consumer that has not reached them by the next look, though it was
    quiet in between, has stalled; so has a member that was in no stable group at both looks.
    """

    def __init__(self, consumer: Any, settings: KafkaSettings) -> None:
        self._consumer = consumer
        self._quiet_limit_s = settings.stall_timeout_s
        self._about_positions = (
            ". The broker does not tell the group's position, which a transaction that nobody ends may hold back. Give"
            f" this client the right to read {OFFSETS_TOPIC}, so that it can end it, or look for it with the rights of"
            f" an administrator: kafka-transactions.sh --bootstrap-server {settings.bootstrap_servers} find-hanging"
            f" --topic {OFFSETS_TOPIC}"
        )
        self.received()

    def received(self) -> None:
        """Note a poll with records."""
        self._ends: dict[Any, int] = {}
        self._outside = False
        self._begin_quiet_time()

    def nothing_received(self) -> None:
        """Note a poll without records.

        Raises:
            EventLogError: the consumer has stalled, or the broker does not answer.
        """
        self._polls += 1
        quiet_s = time.monotonic() - self._quiet_since_s
        if self._polls < _MIN_POLLS or quiet_s < self._quiet_limit_s:
            return
        with translated("looking for records"):
            self._look()
        self._begin_quiet_time()

    def _begin_quiet_time(self) -> None:
        self._polls = 0
        self._quiet_since_s = time.monotonic()

    def _look(self) -> None:
        """Compare with the last look, and keep this one for the next."""
        consumer, limit_s = self._consumer, self._quiet_limit_s
        reading = consumer.assignment() - consumer.paused()
        positions = {p: consumer.position(p, 0) for p in reading}
        stalled = [p for p, position in positions.items() if (position or 0) < self._ends.get(p, 0)]
        if stalled:
            names = ", ".join(f"{p.topic}/{p.partition}" for p in stalled)
            is_held_back = any(positions[p] is None for p in stalled)
            raise EventLogError(
                f"Kafka: waited for records of {names} in vain for {limit_s:g} s (kafka.stall_timeout_s);"
                f" going on with a new client{self._about_positions if is_held_back else ''}"
            )
        outside = not consumer.assignment() and consumer.group_metadata().state != MemberState.STABLE
        if outside and self._outside:
            raise EventLogError(
                f"Kafka: waited for a place in the group in vain for {limit_s:g} s (kafka.stall_timeout_s);"
                " going on with a new client"
            )
        self._outside = outside
        self._ends = consumer.end_offsets(list(reading), limit_s * 1000) if reading else {}
