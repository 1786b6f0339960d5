"""Dead letters: records that are no clicks, kept unchanged, to be looked at and sent again.

A letter is on its topic with the key, value and headers of its record, and with headers of Headrace that give the
reason, the origin and the record's own time. The letter itself is stamped with the time at which it was sent: a broker
deletes by that time, and would delete the letter of an old record at once. Sent again, it is the old record once more.

Where the user gave no consent, the value is left out of the letter, which then cannot be sent again. Nor can a letter
that was cut, because its topic takes none of the record's size: it has the head of the value, and size and checksum of
the whole.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from typing import Final, Literal, NamedTuple

from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Headers, Outgoing, Partition, Records

HEADER_PREFIX: Final = "headrace."
"""Of the headers that a dead letter has in addition to those of its record."""
SCHEMA: Final = 1
"""Version of these headers."""
_POLL_S: Final = 0.5
_MAX_RECORDS: Final = 1_000
"""Records polled, and letters sent, at a time."""
HEAD_BYTES: Final = 16 * 2**10
"""Most that a letter keeps of a value that is cut: enough to see what it is."""

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
"""Reasons for which a record is no click."""


class Whole(NamedTuple):
    """A value of which a letter has the head alone."""

    bytes: int
    checksum: str
    """SHA-256, in hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that is no click, and the reason."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    partition: Partition
    offset: int
    reason: DeadLetterReason
    detail: str
    withheld: bool = False
    """The value is left out, as its user gave no consent."""
    whole: "Whole | None" = None
    """The value that was cut; None where `value` is all of it."""

    @property
    def size(self) -> int:
        """Bytes of key, value and headers as they are sent."""
        headers = sum(len(name.encode()) + len(text) for name, text in self.as_headers())
        return len(self.key or b"") + len(self.value or b"") + headers

    def cut_to(self, limit: int) -> "DeadLetter":
        """A letter of at most `limit` bytes with the head of the value; key and headers if there is room for them."""
        value = self.value or b""
        whole = Whole(len(value), sha256(value).hexdigest())
        room = max(limit // 2, 0)
        key = self.key if self.key is None or len(self.key) <= limit // 8 else None
        fits = sum(len(name.encode()) + len(text) for name, text in self.headers) <= limit // 8
        head = None if self.value is None else value[: min(room, HEAD_BYTES)]
        return replace(self, key=key, value=head, headers=self.headers if fits else (), whole=whole)

    def as_headers(self) -> Headers:
        """The record's own headers, then version, reason, origin and the record's own time."""
        added = {
            "schema": str(SCHEMA),
            "reason": self.reason,
            "detail": self.detail,
            "topic": self.partition.topic,
            "partition": str(self.partition.number),
            "offset": str(self.offset),
            "timestamp_ms": str(self.timestamp_ms),
        }
        if self.withheld:
            added["withheld"] = "no_consent"
        if self.whole:
            added |= {"value_bytes": str(self.whole.bytes), "value_sha256": self.whole.checksum}
        return [*self.headers, *((HEADER_PREFIX + name, text.encode()) for name, text in added.items())]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it is read back."""

    place: Partition
    """Partition of the topic of dead letters."""
    offset: int
    timestamp_ms: int
    """Of the original record; of the letter itself where its headers do not say."""
    key: bytes | None
    value: bytes | None
    headers: Headers
    """Of the original record."""
    reason: str
    detail: str
    origin: Partition | None
    """Partition of the original record; None where the headers do not say."""
    origin_offset: int | None
    withheld: bool
    """The value is left out, as its user gave no consent."""
    whole: Whole | None
    """The value of which this letter has the head; None where it has all of it."""


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """A choice of letters by reason and time; None chooses all."""

    reason: str | None = None
    since_ms: int | None = None
    """From this time on, by the original records' time."""
    until_ms: int | None = None
    """Before this time."""

    def matches(self, letter: Letter) -> bool:
        """True for a letter that is chosen."""
        return (
            self.reason in (None, letter.reason)
            and (self.since_ms is None or letter.timestamp_ms >= self.since_ms)
            and (self.until_ms is None or letter.timestamp_ms < self.until_ms)
        )


class Replayed(NamedTuple):
    """Result of a replay."""

    sent: int
    """Letters sent to their origin."""
    withheld: int
    """Letters that were not, as they have no value: a null under a user's key would be a request to forget the user."""
    cut: int
    """Letters that were not, as they have the head of their value alone."""


def read(log: EventLog, topic: str, letter_filter: LetterFilter) -> Iterator[Letter]:
    """The letters that match, of those on the topic now, in order within each partition.

    Raises:
        EventLogError: the topic cannot be read.
    """
    with log.reader([topic]) as reader:
        ends = {partition: bounds.stop for partition, bounds in reader.bounds.items()}
        while not reader.at_end():
            for records in reader.poll(_POLL_S, _MAX_RECORDS):
                for letter in _letters(records):
                    # Letters that arrive meanwhile are left out: a replay would otherwise read its own failures.
                    if letter.offset < ends[letter.place] and letter_filter.matches(letter):
                        yield letter


def find(log: EventLog, place: Partition, offset: int) -> Letter:
    """The letter at one offset.

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


def replay(log: EventLog, letters: Iterable[Letter]) -> Replayed:
    """Send letters to their origin, each to its partition with its key, headers and time.

    Raises:
        EventLogError: a letter does not name its origin, or could not be delivered.
    """
    sent = withheld = cut = 0
    with log.producer() as producer:
        remaining = iter(letters)
        while chunk := list(islice(remaining, _MAX_RECORDS)):
            complete = [letter for letter in chunk if not letter.withheld and letter.whole is None]
            for topic in sorted({_origin(letter).topic for letter in complete}):
                producer.send(_outgoing(topic, [letter for letter in complete if _origin(letter).topic == topic]))
            producer.flush()
            sent += len(complete)
            withheld += sum(letter.withheld for letter in chunk)
            cut += sum(letter.whole is not None and not letter.withheld for letter in chunk)
    return Replayed(sent, withheld, cut)


def _outgoing(topic: str, letters: list[Letter]) -> Outgoing:
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
            f"the dead letter at {letter.place.number}/{letter.offset} does not name its origin: it lacks"
            f" {HEADER_PREFIX} headers, which every dead letter of `headrace run` has; leave it out with --reason,"
            " --since or --until"
        )
    return letter.origin


def _letters(records: Records) -> Iterator[Letter]:
    columns = zip(records.offsets, records.timestamps_ms, records.keys, records.values, records.headers, strict=True)
    for offset, stamped_ms, key, value, headers in columns:
        added = {
            name.removeprefix(HEADER_PREFIX): text.decode("utf-8", "replace")
            for name, text in headers
            if name.startswith(HEADER_PREFIX)
        }
        has_origin = {"topic", "partition"} <= added.keys() and added["partition"].isdigit()
        yield Letter(
            place=records.partition,
            offset=offset,
            timestamp_ms=int(added["timestamp_ms"]) if added.get("timestamp_ms", "").isdigit() else stamped_ms,
            key=key,
            value=value,
            headers=[(name, text) for name, text in headers if not name.startswith(HEADER_PREFIX)],
            reason=added.get("reason", "unknown"),
            detail=added.get("detail", ""),
            origin=Partition(added["topic"], int(added["partition"])) if has_origin else None,
            origin_offset=int(added["offset"]) if added.get("offset", "").isdigit() else None,
            withheld="withheld" in added,
            whole=_whole(added),
        )


def _whole(added: Mapping[str, str]) -> Whole | None:
    size = added.get("value_bytes", "")
    return Whole(int(size), added.get("value_sha256", "")) if size.isdigit() else None
