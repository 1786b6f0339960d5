"""Forgetting of a user from outside the workers: requests to them, their answers, and dead letters.

Each worker answers a request with a record under the user's key on the changelog, in the partition with the number of
the request's: a tombstone, or a new window where the user clicked since. Nothing but the topics is looked at.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Reader
from engine.eventlog.murmur2 import partition_of
from engine.ingest import forget_requests
from engine.ingest.letter_purge import LetterPurge
from engine.ingest.pseudonyms import Pseudonyms
from engine.settings.sections import Settings

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
        with log.producer() as producer:
            producer.send(requests)
    else:
        with log.reader([settings.windows.topic]) as reader:
            for partition, bounds in reader.bounds.items():
                reader.seek(partition, bounds.stop)
            with log.producer() as producer:
                producer.send(requests)
            held_as = Pseudonyms(settings.clicks).of(user).encode()
            _wait(reader, _answering(log, settings, partitions, user), held_as, wait_s)
    return ForgetOutcome(partitions, wait_s is not None, LetterPurge(log, settings.clicks, user).run())


def _answering(log: EventLog, settings: Settings, partitions: int, user: str) -> Collection[int]:
    """Partitions of the changelog in which the answers come: one where clicks are rekeyed, else all."""
    if not settings.clicks.rekey:
        return range(partitions)
    by_user = log.partitions(settings.clicks.by_user_topic)
    return {partition_of(user.encode(), by_user)} if by_user else {0}


def _wait(reader: Reader, numbers: Collection[int], key: bytes, wait_s: float) -> None:
    """Wait until each of these partitions of the changelog has a record under this key."""
    unanswered, deadline_s = set(numbers), time.monotonic() + wait_s
    while unanswered:
        if time.monotonic() > deadline_s:
            raise EventLogError(
                f"partitions {sorted(unanswered)} of the clicks: found no answer within {wait_s:g} s, expected one of"
                " each; the requests stay and are carried out when a worker reads them: look whether one runs, and at"
                " its lag"
            )
        for records in reader.poll(_POLL_S, _MAX_RECORDS):
            if key in records.keys:
                unanswered.discard(records.partition.number)
