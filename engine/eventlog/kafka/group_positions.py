"""Positions of a consumer group: those of one without members, and the broker's own topic that holds them all."""

import logging
from collections.abc import Sequence
from typing import Any

from kafka import OffsetAndMetadata, OffsetSpec, TopicPartition
from kafka.errors import GroupIdNotFoundError, UnknownMemberIdError

from engine.errors import EventLogError
from engine.eventlog.acl_plan import OFFSETS_TOPIC
from engine.eventlog.base import Partition

logger = logging.getLogger(__name__)


def committed(admin: Any, group: str, partitions: Sequence[Partition]) -> dict[Partition, int]:
    """Positions of a group, for those partitions in which it has one."""
    keys = [TopicPartition(*partition) for partition in partitions]
    offsets = admin.list_group_offsets({group: keys})[group]
    return {Partition(*key): place.offset for key, place in offsets.items() if place.offset >= 0}


def refuse_members(admin: Any, group: str) -> None:
    """Refuse a group that has members.

    Raises:
        EventLogError: it has.
    """
    try:
        described = admin.describe_groups([group])[group]
    except GroupIdNotFoundError:
        return
    if members := described["members"]:
        names = ", ".join(sorted(f"{member['client_id']} at {member['client_host']}" for member in members))
        raise EventLogError(
            f"group {group!r} (kafka.group) has {len(members)} active members, expected none: {names}; stop all"
            " workers. One that was killed counts until kafka.session_timeout_s is over"
        )


def begin(admin: Any, group: str, partitions: Sequence[Partition], from_ms: int | None) -> None:
    """Let a group without positions begin at the first records from this time on, or at the end.

    A group with members has begun: another worker was quicker.

    Raises:
        KafkaError: the broker refused the positions.
    """
    if committed(admin, group, partitions):
        return
    keys = [TopicPartition(*partition) for partition in partitions]
    ends = admin.list_partition_offsets(dict.fromkeys(keys, OffsetSpec.LATEST))
    places = ends if from_ms is None else admin.list_partition_offsets(dict.fromkeys(keys, from_ms))
    starts = {key: ends[key].offset if places[key].offset < 0 else places[key].offset for key in keys}
    offsets = {key: OffsetAndMetadata(start, "", -1) for key, start in starts.items()}
    refusals = {error for error in admin.alter_group_offsets(group, offsets).values() if error.errno}
    for error in refusals - {UnknownMemberIdError}:
        raise error(f"positions of group {group!r}")
    if not refusals:
        shown = ", ".join(f"{key.topic}/{key.partition} at {start}" for key, start in starts.items())
        logger.info("group %s is new and begins by clicks.start: %s", group, shown)


def partition_of(group: str, partitions: int) -> Partition:
    """The partition of the broker's own topic that holds a group's positions.

    Kafka's `GroupMetadataManager.partitionFor`: Java's hash of the name, that is of its UTF-16 code units, without its
    sign, modulo the number of partitions.
    """
    encoded, hashed = group.encode("utf-16-be"), 0
    for unit in range(0, len(encoded), 2):
        hashed = (31 * hashed + int.from_bytes(encoded[unit : unit + 2])) % 2**32
    signed = hashed - 2**32 if hashed >= 2**31 else hashed
    return Partition(OFFSETS_TOPIC, (0 if signed == -(2**31) else abs(signed)) % partitions)
