"""Rekeyed clicks are in their user's partition, and read back as the records that they were."""

import json

import pytest

from engine.catalogue.actions import Actions
from engine.eventlog.base import Headers, Partition, Records
from engine.eventlog.murmur2 import partition_of
from engine.ingest import forget_requests, rekeying
from engine.ingest.decoder import ClickDecoder
from engine.ingest.rekeying import MAX_VALUE_BYTES, RecordUsers
from engine.settings.sections import ClickFields, ClickSettings

NOW_MS = 1_700_000_000_000
PARTITIONS = 4
SETTINGS = ClickSettings(rekey=True, max_bytes=200)
CLICK = b'{"user":"ann","item":"i1","ts":1600000000000}'


def record(value: bytes | None, key: bytes | None, headers: Headers = (), partition: int = 2) -> Records:
    return Records(Partition("shop/clicks", partition), [41], [NOW_MS - 5], [key], [value], [headers])


def moved(records: Records) -> Records:
    """What the second topic has of a record."""
    outgoing = rekeying.rekeyed(records, "by-user", PARTITIONS, RecordUsers(SETTINGS))
    assert outgoing.timestamps_ms is None
    assert outgoing.headers is not None
    assert outgoing.partitions is not None
    (number,) = outgoing.partitions
    partition = Partition("by-user", number)
    return Records(partition, [7], [NOW_MS], outgoing.keys, outgoing.values, outgoing.headers)


@pytest.mark.parametrize("key", [None, b"session-1", b"ann", b"", b"=x", b"-", b"\xff"])
def test_a_click_goes_to_its_user_and_comes_back_as_it_was(key: bytes | None) -> None:
    before = record(CLICK, key, [("trace", b"1")])
    after = moved(before)
    assert after.partition.number == partition_of(b"ann", PARTITIONS)
    assert after.keys == [b"ann"]
    back = rekeying.restored(after)
    assert (back.partition, back.offsets) == (after.partition, [7])
    assert (back.keys, back.values, back.timestamps_ms) == (before.keys, before.values, before.timestamps_ms)
    assert back.headers == [[("trace", b"1")]]
    assert back.origins == [(Partition("shop/clicks", 2), 41)]


@pytest.mark.parametrize(
    ("value", "key", "user"),
    [
        (CLICK, None, "ann"),
        (b'\xef\xbb\xbf{"user":"ann"}', None, "ann"),  # a byte order mark
        (b'{"user":7,"item":"i"}', None, "7"),
        (b'{"user":0}', None, "0"),
        (b'{"user":"ann","ts":"soon","item":[]}', b"x", "ann"),
        (b'{"user":"","item":"i"}', b"x", None),
        (b'{"user":["ann"]}', b"x", None),
        (b'{"user":"\\ud800"}', b"x", None),
        (b"rubbish", b"ann", None),
        (b"[" * 150, None, None),
        (b'{"user":"ann","much":"' + b"x" * 200 + b'"}', None, None),  # more than clicks.max_bytes
        (None, b"ann", "ann"),
        (None, b'"ann"', "ann"),
        (None, b"\xff", None),
        (None, None, None),
    ],
)
def test_the_user_of_a_record(value: bytes | None, key: bytes | None, user: str | None) -> None:
    assert RecordUsers(SETTINGS).of(key, value) == user


def test_the_user_may_be_deep_in_the_message() -> None:
    users = RecordUsers(ClickSettings(fields=ClickFields(user="visitor.0.id")))
    assert users.of(None, b'{"visitor":[{"id":"ann"}]}') == "ann"


def test_records_without_a_user_go_with_their_key_or_partition() -> None:
    assert moved(record(b"rubbish", b"ann")).partition.number == partition_of(b"ann", PARTITIONS)
    assert moved(record(b"rubbish", None, partition=6)).partition.number == 6 % PARTITIONS
    assert moved(record(None, None)).keys == [b""]  # Kafka's client sends no record with neither


def test_of_a_value_that_no_topic_takes_the_head_goes_on() -> None:
    value = b"x" * (MAX_VALUE_BYTES + 1)
    after = moved(record(value, b"ann"))
    assert after.values == [value[:-1]]
    clicks, (letter,) = ClickDecoder(SETTINGS, Actions(SETTINGS)).decode([after], NOW_MS)
    assert (len(clicks), letter.reason) == (0, "too_large")
    assert ("headrace.origin-bytes", b"%d" % len(value)) in letter.headers


def test_clicks_and_dead_letters_name_the_place_where_they_were_first() -> None:
    bad = json.dumps({"user": "ann", "item": "i2", "ts": "soon"}).encode()
    polled = [moved(record(value, None, [("trace", b"1")])) for value in (CLICK, bad)]
    clicks, (letter,) = ClickDecoder(SETTINGS, Actions(SETTINGS)).decode(polled, NOW_MS)
    home = partition_of(b"ann", PARTITIONS)
    assert clicks.partitions.tolist() == [home]
    assert clicks.first_partitions is not None
    assert (clicks.first_partitions.tolist(), clicks.offsets.tolist()) == ([2], [41])
    assert clicks.appends_ms.tolist() == [NOW_MS - 5]
    assert (letter.partition, letter.offset, letter.key) == (Partition("shop/clicks", 2), 41, None)
    assert letter.timestamp_ms == NOW_MS - 5
    assert [name for name, _ in letter.headers] == ["trace"]


def test_requests_to_forget_go_to_the_users_partition() -> None:
    request = forget_requests.in_every_partition("clicks", 1, "ann")
    assert request.headers is not None
    after = moved(record(None, request.keys[0], request.headers[0]))
    clicks, dead = ClickDecoder(SETTINGS, Actions(SETTINGS)).decode([after], NOW_MS)
    (forgotten,) = clicks.forgotten
    assert (forgotten.user, forgotten.partition, dead) == ("ann", partition_of(b"ann", PARTITIONS), [])
