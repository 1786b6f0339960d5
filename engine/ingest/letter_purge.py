"""Dead letters of one user, found and deleted.

The topic of dead letters is no compacted one: a null under a key deletes nothing there, and Kafka only takes records
away from a partition's start. So the letters of all other users are sent once more, each with its own bytes, headers
and time, and everything before them is deleted. Letters that arrive meanwhile stay. A crash in between leaves letters
twice and loses none.

A letter is a user's by its key, or by the field of the user in its value where that can be read.
"""

import json
from collections.abc import Iterator
from itertools import compress
from typing import Any, Final

from engine.eventlog.base import EventLog, Outgoing, Partition, Producer, Records
from engine.ingest import forget_requests
from engine.settings.field_paths import parse_path
from engine.settings.sections import ClickSettings

_POLL_S: Final = 0.5
_MAX_RECORDS: Final = 1_000


class LetterPurge:
    """The dead letters of a user on the topic of dead letters."""

    def __init__(self, log: EventLog, settings: ClickSettings, user: str) -> None:
        self._log = log
        self._topic = settings.dead_letter_topic
        self._path = parse_path(settings.fields.user, "clicks.fields.user")
        self._user = user

    def count(self) -> int:
        """The number of the user's letters.

        Raises:
            EventLogError: the topic cannot be read.
        """
        if not self._log.partitions(self._topic):
            return 0
        ends: dict[Partition, int] = {}
        return sum(sum(self._are_users(records)) for records in self._records(ends))

    def run(self) -> int:
        """Delete the user's letters; returns their number.

        Raises:
            EventLogError: the topic cannot be read, letters of others could not be sent once more, or this client
                has no right to delete.
        """
        count = self.count()
        if count:
            ends: dict[Partition, int] = {}
            with self._log.producer() as producer:
                for records in self._records(ends):
                    self._keep_others(records, producer)
            self._log.delete_before(ends)
        return count

    def _records(self, ends: dict[Partition, int]) -> Iterator[Records]:
        """What is on the topic now; `ends` is filled with the offsets after it."""
        with self._log.reader([self._topic]) as reader:
            ends |= {partition: bounds.stop for partition, bounds in reader.bounds.items()}
            while not reader.at_end():
                for records in reader.poll(_POLL_S, _MAX_RECORDS):
                    yield _before(records, ends[records.partition])

    def _keep_others(self, records: Records, producer: Producer) -> None:
        others = [not is_users for is_users in self._are_users(records)]
        outgoing = Outgoing(
            self._topic,
            keys=list(compress(records.keys, others)),
            values=list(compress(records.values, others)),
            timestamps_ms=list(compress(records.timestamps_ms, others)),
            headers=list(compress(records.headers, others)),
            partitions=[records.partition.number] * sum(others),
        )
        producer.send(outgoing)

    def _are_users(self, records: Records) -> list[bool]:
        """[n] whether each letter is the user's."""
        return [
            forget_requests.user_of(key) == self._user or self._named_in(value) == self._user
            for key, value in zip(records.keys, records.values, strict=True)
        ]

    def _named_in(self, value: bytes | None) -> str | None:
        """The user whom a value names."""
        try:
            node: Any = json.loads((value or b"").decode("utf-8-sig"))
            for step in self._path:
                node = node[step]
        except (ValueError, RecursionError, LookupError, TypeError):
            return None
        return str(node) if type(node) in {str, int} else None


def _before(records: Records, end: int) -> Records:
    """The records before an offset."""
    count = sum(offset < end for offset in records.offsets)
    return Records(
        records.partition,
        records.offsets[:count],
        records.timestamps_ms[:count],
        records.keys[:count],
        records.values[:count],
        records.headers[:count],
    )
