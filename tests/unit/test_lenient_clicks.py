"""What may be absent from a click does not cost it, and a refusal names the field and what was found there."""

import datetime as dt
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from engine.arrays import Clicks
from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.errors import SettingsError
from engine.ingest.dead_letters import DeadLetter
from engine.ingest.decoder import ClickDecoder
from engine.settings.sections import ClickFields, ClickSettings
from tests.unit.test_clicks import NOW_MS, polled

TIME_MS = 1_600_000_000_000
CLICK: dict[str, Any] = {"user": "a", "item": "x", "ts": TIME_MS}


def decode(
    events: Sequence[dict[str, Any] | bytes], fields: ClickFields | None = None, **changes: Any
) -> tuple[Clicks, list[DeadLetter]]:
    settings = ClickSettings(fields=fields or ClickFields(), **changes)
    values = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return ClickDecoder(settings, Actions(settings)).decode(polled(values), NOW_MS)


def action_names(clicks: Clicks) -> list[str]:
    names = Actions(ClickSettings()).names
    return [names[code] for code in clicks.actions]


# Optional fields that are there, and empty or of a wrong shape.


@pytest.mark.parametrize("absent", ["", "null", None, {}, [], {"id": 1}, True])
def test_an_event_id_that_is_none_makes_no_repeats(absent: object) -> None:
    clicks, dead = decode([CLICK | {"item": f"i{number}", "event_id": absent} for number in range(5)])
    assert dead == []
    assert clicks.event_hashes.tolist() == [0] * 5


def test_event_ids_are_told_apart() -> None:
    clicks, _ = decode([CLICK | {"event_id": event_id} for event_id in ("e1", "e2", 7, "7", 1.5, 0)])
    hashes = clicks.event_hashes.tolist()
    assert all(hashes)
    assert hashes[2] == hashes[3]  # ids are texts
    assert len(set(hashes)) == 5


@pytest.mark.parametrize("query", [{"utm": "1"}, [], ["red"], 7, None, "", True])
def test_a_query_that_is_no_text_does_not_cost_a_click(query: object) -> None:
    clicks, dead = decode([CLICK | {"query": query}])
    assert (clicks.items, dead) == (["x"], [])


@pytest.mark.parametrize("item", [None, ""])
def test_an_empty_item_with_words_is_a_search(item: str | None) -> None:
    clicks, dead = decode([CLICK | {"item": item, "query": "red shoes"}])
    assert (clicks.items, dead) == ([searches.id_of("red shoes")], [])


@pytest.mark.parametrize("query", [None, "", ["red"]])
def test_an_empty_item_without_words_is_an_empty_id(query: object) -> None:
    _, dead = decode([CLICK | {"item": "", "query": query}])
    assert [(letter.reason, letter.detail) for letter in dead] == [("empty_id", "the item id (item) is empty")]


def test_item_0_is_an_item() -> None:
    clicks, dead = decode([CLICK | {"item": 0, "query": "red shoes"}])
    assert (clicks.items, dead) == (["0"], [])


@pytest.mark.parametrize("props", [None, [], "", {}, "text", 7, {"verb": None}, {"verb": ["buy"]}, {"verb": ""}])
def test_a_parent_of_optional_fields_may_be_of_any_shape(props: object) -> None:
    fields = ClickFields(action="props.verb", event_id="props.meta.id")
    clicks, dead = decode([CLICK | {"props": props}, CLICK, CLICK | {"props": {"verb": "buy", "meta": 7}}], fields)
    assert dead == []
    assert action_names(clicks) == ["view", "view", "buy"]


def test_a_parent_of_a_required_field_may_not() -> None:
    fields = ClickFields(user="props.user", action="props.verb")
    _, dead = decode([CLICK | {"props": None}, CLICK], fields)
    assert [(letter.reason, letter.detail) for letter in dead] == [
        ("mistyped_field", "Expected `object`, got `null` - at `$.props`"),
        ("missing_field", "Object missing required field `props`"),
    ]


# Units and spellings of time.


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("2019-10-01 00:00:00 UTC", 1_569_888_000_000),
        ("2019-10-01 00:00:00.250 UTC", 1_569_888_000_250),
        ("2022-05-01T10:00:00Z ", 1_651_399_200_000),
        (" 2022-05-01 10:00:00", 1_651_399_200_000),
        ("2022-05-01", 1_651_363_200_000),
        ("2022-05-01T10:00", 1_651_399_200_000),
        ("2022-05-01T10:00Z", 1_651_399_200_000),
        ("2022-05-01T12:00:00+02", 1_651_399_200_000),
        ("2022-05-01T12:00:00+0200", 1_651_399_200_000),
        ("2022-05-01T12:00:00 +02:00", 1_651_399_200_000),
        ("2022-05-01 10:00:00,5 GMT", 1_651_399_200_500),
    ],
)
def test_spellings_of_iso_8601(text: str, expected_ms: int) -> None:
    clicks, dead = decode([CLICK | {"ts": text}], time_unit="iso8601")
    assert (clicks.times_ms.tolist(), dead) == ([expected_ms], [])


@pytest.mark.parametrize(
    "time", ["2024-02-30", "20240501", "May 1st", "", 1_714_557_600_000, None, "2024-05-01T25:00Z"]
)
def test_what_is_no_iso_8601_is_named(time: object) -> None:
    _, (letter,) = decode([CLICK | {"ts": time}], time_unit="iso8601")
    assert letter.reason == "mistyped_field"
    expected = "expected ISO 8601 such as 2024-05-01T10:00:00Z; is clicks.time_unit = 'iso8601' right?"
    assert letter.detail == f"the time (ts) is {time!r}, {expected}"


def test_microseconds() -> None:
    clicks, dead = decode(
        [CLICK | {"ts": 1_714_557_600_000_000}, CLICK | {"ts": 1_714_557_600_000_499}], time_unit="us", max_future_s=1e9
    )
    assert (clicks.times_ms.tolist(), dead) == ([1_714_557_600_000] * 2, [])


@pytest.mark.parametrize(
    ("time", "reason", "detail"),
    [
        ("soon", "mistyped_field", "is 'soon', expected a number of milliseconds since 1970"),
        ("2024-05-01T10:00:00Z", "mistyped_field", "is '2024-05-01T10:00:00Z', expected a number of milliseconds"),
        (True, "mistyped_field", "is True, expected a number"),
        ({"at": 1}, "mistyped_field", "is {'at': 1}, expected a number"),
        ("x" * 10_000, "mistyped_field", "xxx...xxx"),
        (-1, "time_out_of_range", "is -1, expected 1970 to 2109"),
        (1e300, "time_out_of_range", "is 1e+300, expected 1970 to 2109"),
        (10**15, "time_out_of_range", "is 1000000000000000, expected 1970 to 2109"),
        (
            1_700_000_000,
            "time_out_of_range",
            "is 1700000000, which is 1970-01-20T16:13:20Z, before clicks.earliest",
        ),
        (0, "time_out_of_range", "is 0, which is 1970-01-01T00:00:00Z, before clicks.earliest = 1990-01-01"),
        (
            NOW_MS + 3_600_001,
            "time_in_future",
            "is 1700003600001, which is 2023-11-14T23:13:20Z, more than clicks.max_future_s",
        ),
    ],
)
def test_a_time_that_is_none_is_named_with_the_unit(time: object, reason: str, detail: str) -> None:
    _, (letter,) = decode([CLICK | {"ts": time}])
    assert letter.reason == reason
    assert re.search(f"^the time \\(ts\\) .*{re.escape(detail).replace('xxx', 'x+')}", letter.detail)
    assert letter.detail.endswith("; is clicks.time_unit = 'ms' right?")
    assert len(letter.detail) < 250


@pytest.mark.parametrize(
    ("unit", "other_unit_ms"), [("ms", TIME_MS // 1000), ("us", TIME_MS), ("us", TIME_MS // 1000), ("s", 0)]
)
def test_a_time_in_a_smaller_unit_is_before_the_earliest(unit: str, other_unit_ms: int) -> None:
    _, (letter,) = decode([CLICK | {"ts": other_unit_ms}], time_unit=unit)
    assert letter.reason == "time_out_of_range"
    assert "before clicks.earliest = 1990-01-01" in letter.detail


def test_the_earliest_time_can_be_set() -> None:
    first = {"ts": 86_400_000}
    clicks, dead = decode([CLICK | first, CLICK | {"ts": 86_399_999}], earliest=dt.date(1970, 1, 2))
    assert clicks.times_ms.tolist() == [86_400_000]
    assert [letter.offset for letter in dead] == [41]


def test_a_record_without_a_time_of_its_own_is_named() -> None:
    settings = ClickSettings(fields=ClickFields(time=""))
    records = polled([b'{"user":"a","item":"x"}'])
    records[0].timestamps_ms[0] = -1  # what Kafka says where there is none
    _, (letter,) = ClickDecoder(settings, Actions(settings)).decode(records, NOW_MS)
    assert letter.detail == "the time of the record is 1969-12-31T23:59:59Z, before clicks.earliest = 1990-01-01"


# Consent.

CONSENT = ClickFields(consent="privacy.allowed")


@pytest.mark.parametrize("privacy", [None, [], "", {}, {"allowed": None}, {"allowed": ""}, "null"])
def test_a_click_without_consent_counts_as_yes_unless_consent_is_required(privacy: object) -> None:
    events = [CLICK | {"privacy": privacy}, CLICK, CLICK | {"user": "b", "privacy": {"allowed": True}}]
    clicks, dead = decode(events, CONSENT)
    assert (clicks.users, clicks.without_consent, dead) == (["a", "a", "b"], 0, [])
    clicks, dead = decode(events, CONSENT, require_consent=True)
    assert (clicks.users, clicks.without_consent, dead) == (["b"], 2, [])


@pytest.mark.parametrize("privacy", [{"allowed": "no"}, {"allowed": 0}, {"allowed": ["yes"]}, "refused", 7])
def test_a_consent_that_cannot_be_read_is_no_click(privacy: object) -> None:
    clicks, (letter,) = decode([CLICK | {"privacy": privacy}], CONSENT)
    assert (len(clicks), letter.reason, letter.withheld) == (0, "mistyped_field", False)
    _, (letter,) = decode([CLICK | {"privacy": privacy}], CONSENT, require_consent=True)
    assert (letter.reason, letter.withheld, letter.value) == ("mistyped_field", True, None)


def test_a_consent_that_cannot_be_read_is_named() -> None:
    _, (letter,) = decode([CLICK | {"privacy": {"allowed": "no"}}], CONSENT)
    assert letter.detail == "the consent (privacy.allowed) is 'no', expected true or false"


@pytest.mark.parametrize("fault", [{"ts": "soon"}, {"ts": -1}, {"user": None}, {"item": {}}, {"user": "\ud800"}])
@pytest.mark.parametrize("require_consent", [False, True])
def test_a_refusal_with_a_fault_is_kept_without_its_value(fault: dict[str, Any], require_consent: bool) -> None:
    allowed, refused = {"privacy": {"allowed": True}}, {"privacy": {"allowed": False}}
    _, dead = decode([CLICK | fault | allowed, CLICK | fault | refused], CONSENT, require_consent=require_consent)
    kept, withheld = dead
    assert kept.value is not None
    assert not kept.withheld
    assert (withheld.value, withheld.key, withheld.offset, withheld.withheld) == (None, b"key", 41, True)
    assert dict(withheld.as_headers())["headrace.withheld"] == b"no_consent"
    assert "headrace.withheld" not in dict(kept.as_headers())


def test_a_refusal_with_an_impossible_time_is_counted_as_one() -> None:
    clicks, dead = decode([CLICK | {"ts": 1, "privacy": {"allowed": False}}], CONSENT)
    assert (clicks.without_consent, dead) == (1, [])


@pytest.mark.parametrize("value", [b"rubbish", b"x" * 1_000_001, b'{"user":"a"}'])
def test_where_consent_is_required_what_cannot_be_read_has_none(value: bytes) -> None:
    _, (letter,) = decode([value], CONSENT)
    assert letter.value == value
    _, (letter,) = decode([value], CONSENT, require_consent=True)
    assert (letter.value, letter.withheld) == (None, True)


def test_required_consent_needs_a_field() -> None:
    with pytest.raises(SettingsError, match=r"require_consent' is true, but 'clicks\.fields\.consent' is empty"):
        decode([CLICK], require_consent=True)


# Bytes and texts.


def test_half_a_surrogate_pair_in_a_field_that_is_not_mapped_is_ignored() -> None:
    clicks, dead = decode(
        [b'{"user":"a","item":"x","ts":1600000000000,"title":"\\ud83d"}', CLICK | {"more": ["\udc00"]}]
    )
    assert (clicks.items, dead) == (["x", "x"], [])


@pytest.mark.parametrize("name", ["user", "item"])
def test_half_a_surrogate_pair_in_an_id_is_named(name: str) -> None:
    _, (letter,) = decode([CLICK | {name: "a\ud83d"}])
    assert letter.reason == "mistyped_field"
    assert letter.detail == f"the {name} id ({name}) has half a surrogate pair, which is no text"


def test_half_a_surrogate_pair_in_an_optional_field_does_not_cost_the_click() -> None:
    events = [
        CLICK | {"action": "\ud83d", "event_id": "\ud83d"},
        {"user": "a", "ts": TIME_MS, "query": "red shoes \ud83d"},
    ]
    clicks, dead = decode(events)
    assert (clicks.items, dead) == (["x", searches.id_of("red shoes")], [])
    assert action_names(clicks) == ["view", "search"]
    for text in (*clicks.items, *clicks.users):
        text.encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"user":"a","item":"x","ts":1600000000000,"score":NaN}', "unparsable"),
        (b'{"user":"a","item":"x","ts":1600000000000,"\\ud800":1}', "unparsable"),
        (b'{"user":"a","item":"\xff","ts":1600000000000}', "unparsable"),
        (b'{"user":"a","item":"x","ts":' + b"9" * 5000 + b"}", "mistyped_field"),
    ],
)
def test_what_is_no_json_stays_none(value: bytes, reason: str) -> None:
    _, (letter,) = decode([value])
    assert (letter.reason, letter.value) == (reason, value)


def test_a_byte_order_mark_is_ignored() -> None:
    clicks, dead = decode([b"\xef\xbb\xbf" + json.dumps(CLICK).encode()])
    assert (clicks.items, dead) == (["x"], [])


# Paths.


def test_a_key_may_have_a_dot_or_be_digits() -> None:
    fields = ClickFields(user=r"user\.id", item=r"data.\7.sku\.main", time=r"event\.at.ms")
    clicks, dead = decode([{"user.id": 1, "data": {"7": {"sku.main": "x"}}, "event.at": {"ms": TIME_MS}}], fields)
    assert (clicks.users, clicks.items, clicks.times_ms.tolist(), dead) == (["1"], ["x"], [TIME_MS], [])


def test_a_step_of_digits_is_an_index() -> None:
    fields = ClickFields(item="lines.0.id", action="lines.1.verb", event_id="ids.2", search="")
    clicks, dead = decode(
        [
            CLICK | {"lines": [{"id": "x"}, {"verb": "buy"}, "more"], "ids": [1, 2, "e3", 4]},
            CLICK | {"lines": [{"id": "y", "more": 1}], "ids": []},
            CLICK | {"lines": [{"id": "z"}, 7], "ids": None},
            CLICK | {"lines": []},
            CLICK | {"lines": {"0": {"id": "x"}}},
            CLICK | {"lines": ["x"]},
            CLICK,
        ],
        fields,
    )
    assert clicks.items == ["x", "y", "z"]
    assert action_names(clicks) == ["buy", "view", "view"]
    assert [hash_ != 0 for hash_ in clicks.event_hashes.tolist()] == [True, False, False]
    assert [(letter.offset, letter.reason, letter.detail) for letter in dead] == [
        (43, "missing_field", "Expected `array` of at least length 1, got 0 - at `$.lines`"),
        (44, "mistyped_field", "Expected `array`, got `object` - at `$.lines`"),
        (45, "mistyped_field", "Expected `object`, got `str` - at `$.lines[0]`"),
        (46, "missing_field", "Object missing required field `lines`"),
    ]


def test_an_item_in_an_array_may_be_absent_from_a_search() -> None:
    shapes: list[Any] = [[], None, [{}], [7], [None]]
    events = [{"user": "a", "ts": TIME_MS, "query": "tent", "lines": lines} for lines in shapes]
    clicks, dead = decode(events, ClickFields(item="lines.0.id"))
    assert (clicks.items, dead) == ([searches.id_of("tent")] * 5, [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (ClickFields(user="lines.100.id"), r"'clicks\.fields\.user': found index 100 in 'lines\.100\.id', expected 99"),
        (ClickFields(user="lines.0.id", item="lines.id"), "'lines' is both an object and an array"),
        (ClickFields(user="lines.0", item="lines.0.id"), r"'lines\.0' is both a field and an object"),
        (ClickFields(user="lines.0", item="lines.0"), "'lines.0' is mapped twice"),
        (ClickFields(user="0", item="item"), "'' is both an object and an array"),
    ],
)
def test_paths_that_cannot_be_are_refused(fields: ClickFields, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        decode([CLICK], fields)
