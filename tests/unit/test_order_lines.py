"""An order with several lines is several events; other messages of the topic are one, as before."""

import json
from typing import Any

import pytest

from engine.arrays import Clicks
from engine.catalogue.actions import Actions
from engine.errors import SettingsError
from engine.eventlog.base import Partition, Records
from engine.ingest.dead_letters import DeadLetter
from engine.ingest.decoder import ClickDecoder
from engine.settings.sections import ClickFields, ClickSettings

NOW_MS = 1_700_000_000_000
FIELDS = ClickFields(lines="order.lines", line_item="product.id", consent="consent")


def decode(messages: list[Any], fields: ClickFields = FIELDS) -> tuple[Clicks, list[DeadLetter]]:
    count = len(messages)
    values: list[bytes | None] = [
        json.dumps({"user": "ann", "ts": NOW_MS - 9, **message}).encode() for message in messages
    ]
    records = Records(Partition("clicks", 1), [*range(count)], [NOW_MS] * count, [b"k"] * count, values, [()] * count)
    settings = ClickSettings(fields=fields)
    return ClickDecoder(settings, Actions(settings)).decode([records], NOW_MS)


def order(*items: object, **fields: object) -> dict[str, object]:
    return {"order": {"lines": [{"product": {"id": item}} for item in items]}, **fields}


def test_each_line_is_an_event_with_everything_else_of_the_message() -> None:
    clicks, dead = decode([{"item": "i1"}, order("i2", 3, "i4", action="buy"), {"item": "i5", "order": None}])
    assert dead == []
    assert clicks.items == ["i1", "i2", "3", "i4", "i5"]
    assert clicks.users == ["ann"] * 5
    assert clicks.offsets.tolist() == [0, 1, 1, 1, 2]
    assert clicks.times_ms.tolist() == [NOW_MS - 9] * 5
    assert len({*clicks.actions.tolist()[1:4]}) == 1
    assert clicks.actions[1] != clicks.actions[0]


def test_event_ids_differ_by_line_and_are_those_of_the_same_message_again() -> None:
    message = order("i1", "i1", event_id="e1")
    clicks, _ = decode([message, message, order("i1"), {"item": "i1", "event_id": "e1"}])
    first, second, *others = clicks.event_hashes.tolist()
    assert first != second
    assert others[:2] == [first, second]
    assert others[2] == 0
    assert others[3] not in {0, first, second}


@pytest.mark.parametrize(
    ("message", "reason", "text"),
    [
        (order("i1", "", "i3"), "empty_id", "order.lines.1.product.id"),
        (order("i1", "\ud800"), "mistyped_field", "half a surrogate pair"),
        (order("i1", None), "mistyped_field", "order"),
        (order("", ""), "empty_id", "order.lines.0.product.id"),
        ({"order": {"lines": "i1"}}, "mistyped_field", "array"),
        ({"order": {"lines": [{}]}}, "missing_field", "missing required field"),
        (
            {"order": {"lines": []}},
            "missing_field",
            "neither an item (item) nor the words of a search (query) nor lines",
        ),
        (order("i1", "i2", ts="soon"), "mistyped_field", "time (ts)"),
        (order("i1", "i2", ts=NOW_MS + 10**9), "time_in_future", "time (ts)"),
    ],
)
def test_a_message_with_a_fault_is_one_letter_and_no_event(message: dict[str, Any], reason: str, text: str) -> None:
    clicks, (letter,) = decode([{"item": "i0"}, message, {"item": "i9"}])
    assert clicks.items == ["i0", "i9"]
    assert (letter.reason, letter.offset) == (reason, 1)
    assert text in letter.detail


def test_consent_and_searches_are_those_of_the_message() -> None:
    clicks, dead = decode([order("i1", "i2", consent=False), {"query": "red shoes"}, order("i3", query="red shoes")])
    assert (clicks.without_consent, dead) == (1, [])
    assert [item[-5:] for item in clicks.items] == ["shoes", "i3"]


def test_the_item_in_a_line_is_at_the_path_of_the_item_by_default() -> None:
    clicks, dead = decode(
        [{"sku": "i1"}, {"lines": [{"sku": "i2"}, {"sku": "i3"}]}], ClickFields(item="sku", lines="lines", search="")
    )
    assert (clicks.items, dead) == (["i1", "i2", "i3"], [])
    _, (letter,) = decode([{}], ClickFields(item="sku", lines="lines", search=""))
    assert letter.detail == "neither an item (sku) nor lines (lines)"


def test_lines_are_an_array_and_nothing_else() -> None:
    with pytest.raises(SettingsError, match="both a field and an object"):
        decode([], ClickFields(lines="order", item="order.id"))
