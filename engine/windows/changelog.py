"""The changelog: every changed window on a compacted topic, so that another worker can go on.

A record's key is the user, its value the whole window (`engine.windows.codec`), or null for a user who was forgotten: a
tombstone. It goes to the partition with the number of the user's clicks.

The header `input-position` says how much of that partition's clicks the record knows: the offset after the last one. A
worker that was expelled and does not know it yet may put a window after those of its successor; by the header it is
known to be the older one, wherever it is. It never falls for one user: a worker that reads clicks again, because
somebody set the group's positions back, writes the position that it found instead.

The header `deployment` says whose window it is (`Settings.deployment`). Two deployments may be given one changelog by
mistake, and would take each other's users over without a word: a record of another one is refused.
"""

from dataclasses import dataclass, replace
from typing import Final

from engine.errors import SettingsError
from engine.eventlog.base import Headers, Outgoing, Records

POSITION_HEADER: Final = "input-position"
DEPLOYMENT_HEADER: Final = "deployment"


@dataclass(frozen=True, slots=True)
class Changes:
    """Encoded windows of B users; None in the place of a window is a tombstone."""

    users: list[str]
    values: list[bytes | None]
    partitions: list[int]
    input_positions: list[int]


@dataclass(frozen=True, slots=True)
class Change:
    """The newest record of one user."""

    value: bytes | None
    """A window, or None for a tombstone."""
    input_position: int | None
    """None where the record has no header: written by an earlier version, or by another program."""
    offset: int
    is_overtaken: bool = False
    """Whether a record that knows less comes after it."""
    before: "Change | None" = None
    """What a record without a position took the place of, in case that it cannot be read."""


def records(topic: str, changes: Changes, deployment: str) -> Outgoing:
    """Records of B changes, of this deployment."""
    owner = (DEPLOYMENT_HEADER, deployment.encode())
    headers: dict[int, Headers] = {
        position: [(POSITION_HEADER, b"%d" % position), owner] for position in set(changes.input_positions)
    }
    return Outgoing(
        topic=topic,
        keys=[user.encode() for user in changes.users],
        values=changes.values,
        headers=[headers[position] for position in changes.input_positions],
        partitions=changes.partitions,
    )


def refuse_strangers(records: Records, deployment: str) -> None:
    """Refuse records of another deployment; those that do not say whose they are, of earlier versions, count as ours.

    Raises:
        SettingsError: there is one.
    """
    expected = deployment.encode()
    for offset, headers in zip(records.offsets, records.headers, strict=True):
        for name, value in headers:
            if name == DEPLOYMENT_HEADER and value != expected:
                topic, number = records.partition
                other = value.decode("utf-8", "replace")
                raise SettingsError(
                    f"windows.topic {topic!r} partition {number}, offset {offset}: found a window of deployment"
                    f" {other!r}, expected only those of {deployment!r} (kafka.prefix or kafka.group, and"
                    " clicks.topic); give each deployment its own windows.topic, best by its own kafka.prefix. Where it"
                    f" is this deployment under its earlier name, set kafka.deployment = {other!r}"
                )


def newest_by_key(records: Records) -> dict[bytes, Change]:
    """For each key the record that knows most of the clicks; of equals, and of those without a position, the last."""
    newest: dict[bytes, Change] = {}
    columns = zip(records.keys, records.values, records.headers, records.offsets, strict=True)
    for key, value, headers, offset in columns:
        change = Change(value, input_position(headers), offset)
        before = newest.get(key or b"")
        if before is not None and is_older(change.input_position, before.input_position):
            newest[key or b""] = replace(before, is_overtaken=True)
        else:
            is_doubtful = change.input_position is None and change.value is not None
            newest[key or b""] = replace(change, before=before) if is_doubtful and before else change
    return newest


def is_older(position: int | None, other: int | None) -> bool:
    """Whether a record of this position knows less of the clicks than one of the other; None is not compared."""
    return position is not None and other is not None and position < other


def user_of(key: bytes) -> str | None:
    """The user whom a key names; None for a key that names none."""
    try:
        return key.decode() or None
    except UnicodeDecodeError:
        return None


def input_position(headers: Headers) -> int | None:
    """How much of its partition's clicks a record knows; None where it does not say."""
    for name, value in headers:
        if name == POSITION_HEADER:
            return int(value) if value.isdigit() else None
    return None


def place_of(records: Records) -> str:
    """Topic, partition and offsets of these records, for messages to people."""
    topic, number = records.partition
    return f"topic {topic} partition {number}, offsets {records.offsets[0]} to {records.offsets[-1]}"
