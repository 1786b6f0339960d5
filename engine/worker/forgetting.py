"""Forgetting of a user from outside the workers: requests to them, their answers, and dead letters.

Each worker answers a request with a record under the user's key on the changelog, in the partition with the number of
the request's: a tombstone, or a new window where the user clicked since. Nothing but the topics is looked at.

With `clicks.rekey` the requests of all partitions go to the one partition of the user's rekeyed clicks, one after the
other, and clicks come between them: the answer is the first record that knows the last of them.
"""

import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Outgoing, Reader
from engine.ingest import forget_requests, rekeying
from engine.ingest.letter_purge import LetterPurge
from engine.ingest.pseudonyms import Pseudonyms
from engine.settings.sections import Settings
from engine.windows import changelog

_POLL_S: Final = 0.2
_MAX_RECORDS: Final = 2_000


@dataclass(frozen=True, slots=True)
class ForgetOutcome:
    """What became of a request, as far as it is known."""

    partitions: int
    """Of the topic of clicks, each of which has a request."""
    answered: bool
    """Whether the workers were waited for, and answered all requests."""
    dead_letters: int
    """Letters that were deleted."""


def forget(log: EventLog, settings: Settings, user: str, wait_s: float | None) -> ForgetOutcome:
    """Request that a user be forgotten, wait for the answers, then delete the user's dead letters.

    Args:
        log: of the topics.
        settings: name the topics.
        user: id as the clicks have it.
        wait_s: how long to wait for the workers; None does not wait.

    Raises:
        EventLogError: there is no topic of clicks, or a worker did not answer in time; the requests stay, and dead
            letters are left.
    """
    partitions = log.partitions(settings.clicks.topic)
    if not partitions:
        raise EventLogError(
            f"topic {settings.clicks.topic!r} does not exist, expected the topic of clicks; correct clicks.topic"
        )
    requests = forget_requests.in_every_partition(settings.clicks.topic, partitions, user)
    if wait_s is None:
        _send(log, requests)
    else:
        _send_and_wait(log, settings, user, requests, wait_s)
    return ForgetOutcome(partitions, wait_s is not None, LetterPurge(log, settings.clicks, user).run())


def _send(log: EventLog, requests: Outgoing) -> None:
    with log.producer() as producer:
        producer.send(requests)


def _send_and_wait(log: EventLog, settings: Settings, user: str, requests: Outgoing, wait_s: float) -> None:
    deadline = _Deadline(wait_s)
    partitions = requests.partitions or []
    with ExitStack() as stack:
        answers = stack.enter_context(_from_end(log, settings.windows.topic))
        if settings.clicks.rekey:
            rekeyed = stack.enter_context(_from_end(log, settings.clicks.by_user_topic))
            _send(log, requests)
            answering = _follow_rekeyed(rekeyed, requests.keys[0], partitions, deadline)
        else:
            _send(log, requests)
            answering = dict.fromkeys(partitions, 0)
        _wait(answers, answering, Pseudonyms(settings.clicks).of(user).encode(), deadline)


@dataclass(frozen=True, slots=True)
class _Deadline:
    """How long the workers are waited for."""

    wait_s: float
    _begin_s: float = field(default_factory=time.monotonic)

    def check(self, unanswered: Collection[int]) -> None:
        """Raise once the time is over.

        Raises:
            EventLogError: it is.
        """
        if time.monotonic() > self._begin_s + self.wait_s:
            raise EventLogError(
                f"partitions {sorted(unanswered)} of the clicks: found no answer within {self.wait_s:g} s, expected one"
                " of each; the requests stay and are carried out when a worker reads them: look whether one runs, and"
                " at its lag"
            )


def _from_end(log: EventLog, topic: str) -> Reader:
    """A reader of what comes to a topic from now on."""
    reader = log.reader([topic])
    for partition, bounds in reader.bounds.items():
        reader.seek(partition, bounds.stop)
    return reader


def _follow_rekeyed(
    reader: Reader, key: bytes | None, partitions: Collection[int], deadline: _Deadline
) -> dict[int, int]:
    """For the partition to which these partitions' requests were rekeyed, the position after the last of them."""
    missing, positions = set(partitions), {}
    while missing:
        deadline.check(missing)
        for polled in reader.poll(_POLL_S, _MAX_RECORDS):
            records = rekeying.restored(polled)
            for row, record_key in enumerate(records.keys):
                is_request = records.values[row] is None and record_key == key
                if is_request and forget_requests.is_in_every_partition(records.headers[row]):
                    missing.discard(records.origin(row)[0].number)
                    positions[records.partition.number] = records.offsets[row] + 1
    return positions


def _wait(reader: Reader, positions: Mapping[int, int], key: bytes, deadline: _Deadline) -> None:
    """Wait until each partition of the changelog has a record under this key that knows the clicks up to a position."""
    unanswered = dict(positions)
    while unanswered:
        deadline.check(unanswered)
        for records in reader.poll(_POLL_S, _MAX_RECORDS):
            number = records.partition.number
            known = [
                changelog.input_position(headers) or 0
                for record_key, headers in zip(records.keys, records.headers, strict=True)
                if record_key == key
            ]
            if number in unanswered and known and max(known) >= unanswered[number]:
                del unanswered[number]
