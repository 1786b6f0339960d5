"""Clicks in, by the user's own field names; what is none goes aside with its reason."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from engine.arrays import Clicks, ForgetRequest
from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.errors import SettingsError
from engine.eventlog.base import Partition, Records
from engine.ingest.dead_letters import DeadLetter
from engine.ingest.decoder import ClickDecoder
from engine.settings.sections import ClickFields, ClickSettings

NOW_MS = 1_700_000_000_000


def polled(values: Sequence[bytes | None], first_offset: int = 40) -> list[Records]:
    count = len(values)
    return [
        Records(
            partition=Partition("clicks", 3),
            offsets=list(range(first_offset, first_offset + count)),
            timestamps_ms=[NOW_MS] * count,
            keys=[b"key"] * count,
            values=list(values),
            headers=[[("trace", b"1")]] * count,
        )
    ]


def null_records(*keys: bytes | None) -> list[Records]:
    count = len(keys)
    return [
        Records(Partition("clicks", 3), list(range(count)), [NOW_MS] * count, list(keys), [None] * count, [()] * count)
    ]


def decode(values: Sequence[bytes | None], settings: ClickSettings | None = None) -> tuple[Clicks, list[DeadLetter]]:
    settings = settings or ClickSettings()
    return ClickDecoder(settings, Actions(settings)).decode(polled(values), NOW_MS)


def test_plain_clicks_become_columns() -> None:
    clicks, dead = decode(
        [
            b'{"user":"ann","item":"x","ts":1600000001000,"action":"buy"}',
            b'{"user":7,"item":8,"ts":1600000002000.4}',
            b'{"user":"ann","item":"x","ts":1600000003000,"action":"unknown","event_id":"e1","more":[1,{"a":2}]}',
        ]
    )
    names = Actions(ClickSettings()).names
    assert dead == []
    assert clicks.users == ["ann", "7", "ann"]
    assert clicks.items == ["x", "8", "x"]
    assert clicks.times_ms.tolist() == [1_600_000_001_000, 1_600_000_002_000, 1_600_000_003_000]
    assert [names[code] for code in clicks.actions] == ["buy", "view", "view"]
    assert clicks.event_hashes[:2].tolist() == [0, 0]
    assert clicks.event_hashes[2] != 0


def test_nested_fields_and_iso_times() -> None:
    fields = ClickFields(user="who.id", item="what.product.sku", time="at", action="what.verb", event_id="")
    settings = ClickSettings(fields=fields, time_unit="iso8601")
    clicks, dead = decode(
        [
            b'{"who":{"id":7},"what":{"product":{"sku":"s1"},"verb":"buy"},"at":"2020-01-01T00:00:01.5Z"}',
            b'{"who":{"id":7},"what":{"product":{"sku":"s1"}},"at":"2020-01-01T02:00:00+01:00"}',
            b'{"who":{"id":7},"what":{},"at":"2020-01-01T00:00:00Z"}',
        ],
        settings,
    )
    assert clicks.times_ms.tolist() == [1_577_836_801_500, 1_577_840_400_000]
    assert [letter.reason for letter in dead] == ["missing_field"]
    assert "what.product.sku" in dead[0].detail


def test_optional_object_may_be_absent() -> None:
    clicks, dead = decode(
        [b'{"user":"a","item":"b","ts":1600000000000}'],
        ClickSettings(fields=ClickFields(action="meta.action", event_id="meta.id")),
    )
    assert (len(clicks), dead) == (1, [])


def test_seconds_and_the_records_own_time() -> None:
    seconds, _ = decode([b'{"user":"a","item":"b","ts":1600000000.5}'], ClickSettings(time_unit="s"))
    assert seconds.times_ms.tolist() == [1_600_000_000_500]
    own, _ = decode([b'{"user":"a","item":"b"}'], ClickSettings(fields=ClickFields(time="")))
    assert own.times_ms.tolist() == [NOW_MS]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "unparsable"),
        (b"{", "unparsable"),
        (b"\xff\xfe", "unparsable"),
        (b'{"a":' * 100_000, "unparsable"),
        (b"[]", "mistyped_field"),
        (b'{"user":"a","item":"b"}', "missing_field"),
        (b'{"user":true,"item":"b","ts":1600000000000}', "mistyped_field"),
        (b'{"user":"a","item":"b","ts":"soon"}', "mistyped_field"),
        (b'{"user":"a","item":"b","ts":-1}', "time_out_of_range"),
        (b'{"user":"a","item":"b","ts":1e300}', "time_out_of_range"),
        (b'{"user":"a","item":"b","ts":99999999999999999999999999}', "time_out_of_range"),
        (json.dumps({"user": "a", "item": "b", "ts": NOW_MS + 3_600_001}).encode(), "time_in_future"),
        (b'{"user":"","item":"b","ts":1600000000000}', "empty_id"),
        (b'{"user":"a","item":"","ts":1600000000000}', "empty_id"),
        (
            json.dumps({"user": "a", "item": "\u00e9" * 257, "ts": 1_600_000_000_000}, ensure_ascii=False).encode(),
            "long_id",
        ),
        (b"x" * 1_000_001, "too_large"),
    ],
)
def test_what_is_no_click_goes_aside_and_the_rest_goes_on(value: bytes | None, reason: str) -> None:
    good = b'{"user":"a","item":"b","ts":1600000000000}'
    clicks, dead = decode([good, value, good])
    assert (clicks.partitions.tolist(), clicks.offsets.tolist()) == ([3, 3], [40, 42])
    assert [letter.reason for letter in dead] == [reason]
    letter = dead[0]
    assert (letter.key, letter.value, letter.partition, letter.offset) == (b"key", value, Partition("clicks", 3), 41)
    headers = dict(letter.as_headers())
    assert headers["trace"] == b"1"
    assert headers["headrace.reason"] == reason.encode()
    assert (headers["headrace.topic"], headers["headrace.partition"], headers["headrace.offset"]) == (
        b"clicks",
        b"3",
        b"41",
    )
    assert headers["headrace.timestamp_ms"] == b"%d" % NOW_MS
    assert headers["headrace.detail"]


def test_an_id_of_exactly_the_limit_passes() -> None:
    clicks, dead = decode(
        [json.dumps({"user": "\u00e9" * 256, "item": "b", "ts": 1_600_000_000_000}, ensure_ascii=False).encode()]
    )
    assert (len(clicks), dead) == (1, [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (ClickFields(user=""), "clicks.fields.user"),
        (ClickFields(user="a", item="a.b"), "both a field and an object"),
        (ClickFields(user="a", item="a"), "mapped twice"),
        (ClickFields(user="a..b"), "empty step"),
        (ClickFields(user='a"b'), "a character that keys cannot have"),
        (ClickFields(user="a\\b"), "only before a dot or a key of digits"),
    ],
)
def test_impossible_mapping_is_refused(fields: ClickFields, message: str) -> None:
    settings = ClickSettings(fields=fields)
    with pytest.raises(SettingsError, match=message):
        ClickDecoder(settings, Actions(settings))


def test_a_record_without_a_value_asks_to_forget_the_user_who_is_its_key() -> None:
    settings = ClickSettings()
    click = b'{"user":"key","item":"b","ts":1600000000000}'
    other = b'{"user":"else","item":"b","ts":1600000000000}'
    clicks, dead = decode([click, other, None, click, other])
    assert dead == []
    assert clicks.forgotten == [ForgetRequest("key", 3, is_everywhere=False, offset=42, appended_ms=NOW_MS)]
    assert clicks.offsets.tolist() == [41, 43, 44]  # what the user did before is not even decoded into a window
    nobody, dead = ClickDecoder(settings, Actions(settings)).decode(null_records(None, b"", b"\xff", b"ann"), NOW_MS)
    assert nobody.forgotten == [ForgetRequest("ann", 3, is_everywhere=False, offset=3, appended_ms=NOW_MS)]
    assert [(letter.reason, letter.offset) for letter in dead] == [
        ("null_value", 0),
        ("null_value", 1),
        ("null_value", 2),
    ]


def test_a_click_without_consent_is_left_out_and_counted() -> None:
    settings = ClickSettings(fields=ClickFields(consent="privacy.allowed"))
    clicks, dead = decode(
        [
            b'{"user":"ann","item":"x","ts":1600000000000,"privacy":{"allowed":true}}',
            b'{"user":"bob","item":"x","ts":1600000000000,"privacy":{"allowed":false}}',
            b'{"user":"cid","item":"x","ts":1600000000000,"privacy":{}}',
            b'{"user":"dan","item":"x","ts":1600000000000}',
            b'{"user":"eve","item":"x","ts":1600000000000,"privacy":{"allowed":"no"}}',
        ],
        settings,
    )
    assert clicks.users == ["ann", "cid", "dan"]
    assert clicks.without_consent == 1
    assert [letter.reason for letter in dead] == ["mistyped_field"]


@pytest.mark.parametrize(("path", "wrap"), [("type", "{}"), ("meta.kind", '{{"kind":{}}}'), ("events.1", "[0,{}]")])
def test_events_of_skipped_types_are_counted_and_no_dead_letters(path: str, wrap: str) -> None:
    settings = ClickSettings(fields=ClickFields(type=path), skip_types=["heartbeat", "page view", "7"])
    key = path.partition(".")[0]

    def event(event_type: str, rest: str = "") -> bytes:
        return f'{{"{key}":{wrap.format(event_type)}{rest}}}'.encode()

    complete = ',"user":"ann","item":"x","ts":1600000000000'
    clicks, dead = decode(
        [
            event('"heartbeat"'),  # has neither user nor item
            event('"page view"', complete),
            event("7", ',"user":[]'),
            event('"click"', complete),
            event("null", complete),
            b'{"user":"bob","item":"y","ts":1600000000000}',  # no type at all
            event('"other"'),
            b"rubbish",
        ],
        settings,
    )
    assert (clicks.users, clicks.skipped) == (["ann", "ann", "bob"], 3)
    assert [letter.reason for letter in dead] == ["missing_field", "unparsable"]
    assert clicks.offsets.tolist() == [43, 44, 45]


def test_a_null_forgets_its_user_whatever_types_are_skipped() -> None:
    settings = ClickSettings(fields=ClickFields(type="type"), skip_types=["heartbeat"])
    clicks, dead = ClickDecoder(settings, Actions(settings)).decode(null_records(b"ann"), NOW_MS)
    assert ([request.user for request in clicks.forgotten], clicks.skipped, dead) == (["ann"], 0, [])


def test_words_in_the_place_of_an_item_are_a_search() -> None:
    clicks, dead = decode(
        [
            b'{"user":"ann","query":"Red Shoes","ts":1600000000000}',
            b'{"user":"ann","query":"  red\\u00a0\\u00a0SHOES! ","item":null,"ts":1600000000002,"action":"buy"}',
            b'{"user":"ann","query":"red shoes","item":"x","ts":1600000000003,"action":"buy"}',
        ]
    )
    names = Actions(ClickSettings()).names
    assert dead == []
    assert clicks.items == [searches.id_of("red shoes"), searches.id_of("red shoes"), "x"]
    assert searches.words_of(clicks.items[0]) == "red shoes"
    assert [names[code] for code in clicks.actions] == ["search", "search", "buy"]


@pytest.mark.parametrize(
    ("event", "reason", "said"),
    [
        ({"query": " -- "}, "empty_search", "has no words"),
        ({"query": ""}, "empty_search", "has no words"),
        ({"query": "x" * 513}, "long_search", r"clicks\.max_id_bytes = 512"),
        ({"query": "\u00e9" * 256}, "long_search", r"clicks\.max_id_bytes = 512"),  # 512 bytes, and the mark
        ({"query": ["red", "shoes"]}, "mistyped_field", "query"),
        ({"query": 7}, "mistyped_field", "query"),
        ({"query": None}, "missing_field", r"neither an item \(item\) nor the words of a search \(query\)"),
        ({}, "missing_field", "neither an item"),
        ({"item": searches.id_of("red shoes")}, "reserved_id", "is kept for the ids of searches"),
        ({"item": searches.MARK, "query": "red"}, "reserved_id", "is kept for the ids of searches"),
    ],
)
def test_what_is_neither_click_nor_search_goes_aside(event: dict[str, Any], reason: str, said: str) -> None:
    good = b'{"user":"a","query":"b","ts":1600000000000}'
    clicks, dead = decode([good, json.dumps({"user": "a", "ts": 1_600_000_000_000, **event}).encode(), good])
    assert (clicks.partitions.tolist(), clicks.offsets.tolist()) == ([3, 3], [40, 42])
    assert [letter.reason for letter in dead] == [reason]
    assert re.search(said, dead[0].detail)


def test_the_action_and_the_field_of_a_search_can_be_chosen() -> None:
    settings = ClickSettings(fields=ClickFields(search="page.q"), search_action="like")
    clicks, _ = decode(
        [b'{"user":"a","page":{"q":"b"},"ts":1600000000000}', b'{"user":"a","item":"b","ts":1600000000000}'], settings
    )
    assert [Actions(settings).names[code] for code in clicks.actions] == ["like", "view"]
    unnamed = ClickSettings(actions={"view": 1.0})
    clicks, _ = decode([b'{"user":"a","query":"b","ts":1600000000000}'], unnamed)
    assert [Actions(unnamed).names[code] for code in clicks.actions] == ["view"]


def test_without_a_field_for_searches_a_click_needs_an_item() -> None:
    _, dead = decode([b'{"user":"a","query":"b","ts":1600000000000}'], ClickSettings(fields=ClickFields(search="")))
    assert [(letter.reason, letter.detail) for letter in dead] == [
        ("missing_field", "Object missing required field `item`")
    ]
