"""Clicks put once more onto a topic that is keyed by user, each with its origin, and read back as they were.

A record keeps its value and its headers. Its key is the user's id, its partition that of Kafka's partitioner (murmur2),
and two headers say what it was before:

    headrace.origin       topic/partition/offset/timestamp in ms
    headrace.origin-key   "=" and the key, or "-" where it had none

It is stamped with the time at which it is sent, as a broker deletes by that time, and would delete old clicks at once.
A record in which no user can be read goes with its key, or without one with its partition: it becomes a dead letter.
Of a value that no topic of ours would take the first bytes go on, and a third header says how many there were:

    headrace.origin-bytes   size of the value
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import msgspec

from engine.eventlog.base import Headers, Outgoing, Partition, Records
from engine.eventlog.murmur2 import partition_of
from engine.ingest import forget_requests
from engine.ingest.fields import ClickLayout
from engine.settings.sections import ClickSettings

ORIGIN_HEADER: Final = "headrace.origin"
KEY_HEADER: Final = "headrace.origin-key"
SIZE_HEADER: Final = "headrace.origin-bytes"
MAX_VALUE_BYTES: Final = 15 * 2**20
"""A megabyte less than the largest record that Kafka takes from us, for key and headers (`kafka/options.py`)."""
_NO_KEY: Final = b"-"
_KEY: Final = b"="


class RecordUsers:
    """The users of records, as clicks or requests to forget name them.

    Raises:
        SettingsError: the fields of the settings cannot be mapped.
    """

    def __init__(self, settings: ClickSettings) -> None:
        layout = ClickLayout(settings)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(layout.type_of("user")).decode
        self._get = layout.getter("user")
        self._steps = layout.fields["user"].steps
        self._max_bytes = settings.max_bytes

    def of(self, key: bytes | None, value: bytes | None) -> str | None:
        """The user of a record; None where none can be read."""
        if value is None:
            return forget_requests.user_of(key)
        if len(value) > self._max_bytes:
            return None
        try:
            user = self._get(self._decode(value))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            user = self._leniently(value)
        return str(user) if user or user == 0 else None

    def _leniently(self, value: bytes) -> str | int | None:
        """The user of a message that the strict decoder refuses, for a fault that may cost no click."""
        try:
            node: Any = json.loads(value.decode("utf-8-sig"))
            for step in self._steps:
                node = node[step]
            str(node).encode()
        except (ValueError, RecursionError, LookupError, TypeError):
            return None
        return node if type(node) in {str, int} else None


def rekeyed(records: Records, topic: str, partitions: int, users: RecordUsers) -> Outgoing:
    """The records of one partition, keyed by user, for a topic with so many partitions."""
    outgoing = Outgoing(topic, headers=[], partitions=[])
    headers, numbers = outgoing.headers, outgoing.partitions
    columns = zip(records.keys, records.values, records.headers, records.offsets, records.timestamps_ms, strict=True)
    for key, value, own_headers, offset, timestamp_ms in columns:
        user = users.of(key, value)
        new_key = key if user is None else user.encode()
        outgoing.keys.append(b"" if new_key is None and value is None else new_key)
        outgoing.values.append(value and value[:MAX_VALUE_BYTES])
        if headers is not None and numbers is not None:
            origin = _origin_headers(records.partition, offset, timestamp_ms, key)
            headers.append([*own_headers, *origin, *_size_headers(value)])
            numbers.append(partition_of(new_key, partitions) if new_key else records.partition.number % partitions)
    return outgoing


def restored(records: Records) -> Records:
    """Rekeyed records with the keys, headers and times that they had, and their origins; others stay as they are."""
    added = [dict(headers) for headers in records.headers]
    origins = [
        _origin(row.get(ORIGIN_HEADER), Partition(*records.partition), offset, stamped_ms)
        for row, offset, stamped_ms in zip(added, records.offsets, records.timestamps_ms, strict=True)
    ]
    return replace(
        records,
        keys=[_key(row.get(KEY_HEADER), key) for row, key in zip(added, records.keys, strict=True)],
        timestamps_ms=[timestamp_ms for _, _, timestamp_ms in origins],
        headers=[_without_origin(headers) for headers in records.headers],
        origins=[(partition, offset) for partition, offset, _ in origins],
    )


def _origin_headers(partition: Partition, offset: int, timestamp_ms: int, key: bytes | None) -> Headers:
    origin = f"{partition.topic}/{partition.number}/{offset}/{timestamp_ms}".encode()
    return [(ORIGIN_HEADER, origin), (KEY_HEADER, _NO_KEY if key is None else _KEY + key)]


def _size_headers(value: bytes | None) -> Headers:
    """The size of a value that is cut; nothing for one that goes whole."""
    return [(SIZE_HEADER, b"%d" % len(value))] if value and len(value) > MAX_VALUE_BYTES else []


def _origin(header: bytes | None, partition: Partition, offset: int, stamped_ms: int) -> tuple[Partition, int, int]:
    """Partition, offset and time that a record had; those that it has where its header does not say."""
    try:
        topic, number, first_offset, timestamp_ms = (header or b"").decode().rsplit("/", 3)
        return Partition(topic, int(number)), int(first_offset), int(timestamp_ms)
    except ValueError:
        return partition, offset, stamped_ms


def _key(header: bytes | None, key: bytes | None) -> bytes | None:
    if header is None:
        return key
    return None if header == _NO_KEY else header.removeprefix(_KEY)


def _without_origin(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name not in {ORIGIN_HEADER, KEY_HEADER}]
