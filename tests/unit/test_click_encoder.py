import json
from typing import Any

import numpy as np
import pytest

from engine.errors import SettingsError
from engine.settings.sections import ClickFields, ClickSettings
from producers.replay.click_encoder import ClickEncoder, ProducedEvents

EVENTS = ProducedEvents(["u1", "u2"], ["a", 'b "%d"'], np.array([1_500, 1_577_880_000_000]), ["view", "buy"])


def messages(settings: ClickSettings, events: ProducedEvents) -> list[dict[str, Any]]:
    return [json.loads(value or b"") for value in ClickEncoder(settings).encode(events).values]


def test_events_become_messages_keyed_by_user() -> None:
    outgoing = ClickEncoder(ClickSettings()).encode(EVENTS)

    assert outgoing.topic == "clicks"
    assert outgoing.keys == [b"u1", b"u2"]
    assert outgoing.timestamps_ms is None
    assert json.loads(outgoing.values[1] or b"") == {
        "user": "u2",
        "item": 'b "%d"',
        "ts": 1_577_880_000_000,
        "action": "buy",
    }


def test_fields_are_named_and_nested_as_in_the_settings() -> None:
    fields = ClickFields(user="who.id", item="what", time="who.at 100%", action="")

    assert messages(ClickSettings(fields=fields), EVENTS)[0] == {"who": {"id": "u1", "at 100%": 1_500}, "what": "a"}


@pytest.mark.parametrize(
    ("unit", "time"), [("s", 1.5), ("ms", 1_500), ("us", 1_500_000), ("iso8601", "1970-01-01T00:00:01.500Z")]
)
def test_times_have_the_unit_of_the_settings(unit: str, time: object) -> None:
    settings = ClickSettings(time_unit=unit)  # type: ignore[arg-type]

    assert messages(settings, EVENTS)[0]["ts"] == time


def test_digits_in_a_path_make_arrays_and_a_backslash_makes_keys() -> None:
    fields = ClickFields(user=r"who\.id", item="lines.1.sku", time="lines.0", action=r"did.\7")

    assert messages(ClickSettings(fields=fields), EVENTS)[0] == {
        "who.id": "u1",
        "lines": [1_500, {"sku": "a"}],
        "did": {"7": "view"},
    }


def test_without_a_time_field_the_record_carries_the_time() -> None:
    outgoing = ClickEncoder(ClickSettings(fields=ClickFields(time=""))).encode(EVENTS)

    assert outgoing.timestamps_ms == [1_500, 1_577_880_000_000]
    assert "ts" not in json.loads(outgoing.values[0] or b"")


def test_messages_have_no_field_for_a_missing_column() -> None:
    events = ProducedEvents(["u"], ["i"], np.array([1]), None, ["row-1"])

    assert messages(ClickSettings(), events) == [{"user": "u", "item": "i", "ts": 1, "event_id": "row-1"}]


def test_ids_without_a_field_and_contradicting_fields_are_refused() -> None:
    events = ProducedEvents(["u"], ["i"], np.array([1]), None, ["row-1"])
    with pytest.raises(SettingsError, match=r"clicks\.fields\.event_id is empty"):
        ClickEncoder(ClickSettings(fields=ClickFields(event_id=""))).encode(events)
    with pytest.raises(SettingsError, match=r"clicks\.fields"):
        ClickEncoder(ClickSettings(fields=ClickFields(user="who", item="who.what")))
