"""The changelog: every changed window on a compacted topic, so that another worker can go on.

A record's key is the user, its value the whole window (`engine.windows.codec`), or null for a user who was forgotten: a
tombstone. It goes to the partition with the number of the user's clicks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ChangelogError
from engine.eventlog.base import Outgoing, Records


@dataclass(frozen=True, slots=True)
class Changes:
    """Encoded windows of B users."""

    users: list[str]
    values: list[bytes]
    partitions: list[int]


def records(topic: str, changes: Changes, forgotten: Sequence[tuple[str, int]]) -> Outgoing:
    """Records of B changed windows, and a tombstone for each forgotten user, given with the partition."""
    tombstones: list[bytes | None] = [None] * len(forgotten)
    return Outgoing(
        topic=topic,
        keys=[*(user.encode() for user in changes.users), *(user.encode() for user, _ in forgotten)],
        values=[*changes.values, *tombstones],
        partitions=[*changes.partitions, *(partition for _, partition in forgotten)],
    )


def newest_by_user(records: Records) -> dict[str, bytes | None]:
    """The last value of each user in these records; None is a tombstone.

    Raises:
        ChangelogError: a key is no user id.
    """
    return {_user(key, records): value for key, value in zip(records.keys, records.values, strict=True)}


def place_of(records: Records) -> str:
    """Topic, partition and offsets of these records, for messages to people."""
    topic, number = records.partition
    return f"topic {topic} partition {number}, offsets {records.offsets[0]} to {records.offsets[-1]}"


def _user(key: bytes | None, records: Records) -> str:
    try:
        return (key or b"").decode()
    except UnicodeDecodeError as error:
        raise ChangelogError(f"{place_of(records)}: key {key!r} is no user id; who wrote to this topic?") from error
