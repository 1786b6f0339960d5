"""Dead letters: records that were no clicks, as they came, to be looked at and sent again.

A letter stands on its topic with the key, value and headers of the record it was, and with headers of ours that say why
it is here, where it came from and what its time was. Its record is stamped with the time it was put there: a broker
deletes by that, and would not keep the letter of an old record at all. Sent again, it is that old record once more.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Headers, Outgoing, Partition, Records

HEADER_PREFIX: Final = "headrace."
"""Of the headers that a dead letter gets beside its own."""
_POLL_S: Final = 0.5
_AT_ONCE: Final = 1_000

DeadLetterReason = Literal[
    "null_value",
    "too_large",
    "unparsable",
    "missing_field",
    "mistyped_field",
    "empty_id",
    "long_id",
    "reserved_id",
    "empty_search",
    "long_search",
    "time_out_of_range",
    "time_in_future",
]
"""Why a click went to the dead letters."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that is no click, and why."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    partition: Partition
    offset: int
    reason: DeadLetterReason
    detail: str

    def as_headers(self) -> Headers:
        """The record's own headers, then reason, origin and the record's own time."""
        ours = {
            "reason": self.reason,
            "detail": self.detail,
            "topic": self.partition.topic,
            "partition": str(self.partition.number),
            "offset": str(self.offset),
            "timestamp_ms": str(self.timestamp_ms),
        }
        return [*self.headers, *((HEADER_PREFIX + name, value.encode()) for name, value in ours.items())]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it is read back."""

    place: Partition
    """Partition of the topic of dead letters."""
    offset: int
    timestamp_ms: int
    """Of the record it was; of the letter itself where its headers do not say."""
    key: bytes | None
    value: bytes | None
    headers: Headers
    """Its own."""
    reason: str
    detail: str
    origin: Partition | None
    """Where it came from; None when its headers do not say."""
    origin_offset: int | None


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters are meant."""

    reason: str | None = None
    since_ms: int | None = None
    """From this time on, by the records' own time."""
    until_ms: int | None = None
    """Before this time."""

    def matches(self, letter: Letter) -> bool:
        """Whether this one is."""
        return (
            self.reason in (None, letter.reason)
            and (self.since_ms is None or letter.timestamp_ms >= self.since_ms)
            and (self.until_ms is None or letter.timestamp_ms < self.until_ms)
        )


def read(log: EventLog, topic: str, choice: LetterFilter) -> Iterator[Letter]:
    """The chosen letters of those there now, in order within each partition.

    Raises:
        EventLogError: the topic cannot be read.
    """
    with log.reader([topic]) as reader:
        ends = {partition: bounds.stop for partition, bounds in reader.bounds.items()}
        while not reader.at_end():
            for records in reader.poll(_POLL_S, _AT_ONCE):
                for letter in _letters(records):
                    # Those that arrive meanwhile are left out: a replay would otherwise read its own failures.
                    if letter.offset < ends[letter.place] and choice.matches(letter):
                        yield letter


def find(log: EventLog, place: Partition, offset: int) -> Letter:
    """The letter at this place.

    Raises:
        EventLogError: there is none.
    """
    with log.reader([place]) as reader:
        if offset in reader.bounds[place]:
            reader.seek(place, offset)
            while reader.position(place) <= offset:
                for records in reader.poll(_POLL_S, 1):
                    letter = next(_letters(records))
                    if letter.offset == offset:
                        return letter
        raise EventLogError(
            f"topic {place.topic!r} has no dead letter at {place.number}/{offset};"
            " `headrace dead list` shows those that it has"
        )


def replay(log: EventLog, letters: Iterable[Letter]) -> int:
    """Send letters to where they came from, each to its partition with its key, headers and time; returns how many.

    Raises:
        EventLogError: a letter does not say where it came from, or could not be delivered.
    """
    sent = 0
    with log.producer() as producer:
        left = iter(letters)
        while some := list(islice(left, _AT_ONCE)):
            for topic in sorted({_origin(letter).topic for letter in some}):
                outgoing = _again(topic, [letter for letter in some if _origin(letter).topic == topic])
                producer.send(outgoing)
                sent += len(outgoing)
            producer.flush()
    return sent


def _again(topic: str, letters: list[Letter]) -> Outgoing:
    return Outgoing(
        topic=topic,
        keys=[letter.key for letter in letters],
        values=[letter.value for letter in letters],
        timestamps_ms=[letter.timestamp_ms for letter in letters],
        headers=[letter.headers for letter in letters],
        partitions=[_origin(letter).number for letter in letters],
    )


def _origin(letter: Letter) -> Partition:
    if letter.origin is None:
        raise EventLogError(
            f"the dead letter at {letter.place.number}/{letter.offset} does not say where it came from: it lacks"
            f" {HEADER_PREFIX} headers, which every dead letter of `headrace run` has; leave it out with --reason,"
            " --since or --until"
        )
    return letter.origin


def _letters(records: Records) -> Iterator[Letter]:
    columns = zip(records.offsets, records.timestamps_ms, records.keys, records.values, records.headers, strict=True)
    for offset, stamped_ms, key, value, headers in columns:
        ours = {
            name.removeprefix(HEADER_PREFIX): text.decode("utf-8", "replace")
            for name, text in headers
            if name.startswith(HEADER_PREFIX)
        }
        says = {"topic", "partition"} <= ours.keys() and ours["partition"].isdigit()
        yield Letter(
            place=records.partition,
            offset=offset,
            timestamp_ms=int(ours["timestamp_ms"]) if ours.get("timestamp_ms", "").isdigit() else stamped_ms,
            key=key,
            value=value,
            headers=[(name, text) for name, text in headers if not name.startswith(HEADER_PREFIX)],
            reason=ours.get("reason", "unknown"),
            detail=ours.get("detail", ""),
            origin=Partition(ours["topic"], int(ours["partition"])) if says else None,
            origin_offset=int(ours["offset"]) if ours.get("offset", "").isdigit() else None,
        )
