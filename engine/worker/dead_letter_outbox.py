"""Dead letters on their way to their topic, in the sizes that it takes.

A letter holds whatever record came in, and its topic may take less: the record was compressed, or the topic is not one
that Headrace made. A letter that is refused must not stop the stream, so smaller ones are sent when the batch comes
again: with the head of the value first, and none at all, but an error in the log with the place of the record, where
the topic refuses even those.
"""

import logging
from collections.abc import Sequence
from typing import Final

from engine.eventlog.base import MAX_RECORD_BYTES, Outgoing
from engine.ingest.dead_letters import DeadLetter
from engine.metrics import Metrics

logger = logging.getLogger(__name__)

_OVERHEAD_BYTES: Final = 2**10
"""Room for what a record and its batch add to a letter."""
LIMITS: Final = (MAX_RECORD_BYTES - _OVERHEAD_BYTES, 900_000, 16 * 2**10, 2 * 2**10, 0)
"""Largest letters, tried in this order: what a topic takes that Headrace makes, what one takes with a broker's own
`max.message.bytes` (1 MiB), and then less. 0 sends none."""
_TRY_AGAIN_S: Final = 600.0
"""Time without letters, after which the smallest are tried once more."""


class DeadLetterOutbox:
    """Makes the records of dead letters; knows which sizes were refused. Times are arguments."""

    def __init__(self, topic: str, metrics: Metrics) -> None:
        self.topic = topic
        self._metrics = metrics
        self._limit_index = 0
        self._silent_until_s = 0.0
        self._largest = 0

    @property
    def limit(self) -> int:
        """Largest letter that is sent now, in bytes; 0 sends none."""
        return LIMITS[self._limit_index]

    def outgoing(self, dead: Sequence[DeadLetter], now_s: float) -> Outgoing:
        """The letters as records, cut or left out where they are larger than their topic takes."""
        if not self.limit and now_s >= self._silent_until_s:
            self._limit_index -= 1
        letters = [self._fitting(letter) for letter in dead] if self.limit else []
        self._largest = max((letter.size for letter in letters), default=0)
        return Outgoing(
            topic=self.topic,
            keys=[letter.key for letter in letters],
            values=[letter.value for letter in letters],
            headers=[letter.as_headers() for letter in letters],
        )

    def refused(self, error: Exception, now_s: float) -> None:
        """The topic refused a letter of the last batch: the next are smaller than its largest."""
        smaller = (index for index, limit in enumerate(LIMITS) if limit < min(self._largest, self.limit or 1))
        self._limit_index = next(smaller, len(LIMITS) - 1)
        if self.limit:
            logger.warning("dead letters are cut to %d bytes from now on, as one was refused: %s", self.limit, error)
            return
        self._silent_until_s = now_s + _TRY_AGAIN_S
        logger.error("no dead letters are sent for %g s, as even small ones are refused: %s", _TRY_AGAIN_S, error)

    def count(self, dead: Sequence[DeadLetter]) -> None:
        """Count the letters of a batch that was committed, and log those that were not sent."""
        for letter in dead:
            self._metrics.dead_letters.labels(letter.reason).inc()
            if not self.limit:
                self._metrics.unsent_dead_letters.inc()
                place = f"{letter.partition.topic}/{letter.partition.number}/{letter.offset}"
                logger.error("no click, and no dead letter of it: %s: %s, %s", place, letter.reason, letter.detail)
            elif letter.size > self.limit:
                self._metrics.cut_dead_letters.inc()

    def _fitting(self, letter: DeadLetter) -> DeadLetter:
        return letter if letter.size <= self.limit else letter.cut_to(self.limit)
