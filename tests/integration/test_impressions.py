"""Reports of what was shown: checked by the decision that they name, and on their topic before they are answered."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.errors import EventLogError
from engine.eventlog.base import Outgoing
from engine.eventlog.memory.log import MemoryLog
from engine.ingest.pseudonyms import Pseudonyms
from engine.messages.impression import Impression
from engine.settings.sections import ClickSettings
from tests.integration.served import Served, serving
from tests.waiting import until


@pytest.fixture(scope="module")
def served(tiny_release: Path) -> Iterator[Served]:
    with serving(tiny_release, impressions=True) as running:
        yield running


def shown(*items: str) -> list[dict[str, Any]]:
    return [{"item": item, "place": place} for place, item in enumerate(items, 1)]


def report(running: Served, *impressions: dict[str, Any]) -> dict[str, int]:
    answer = running.post("/v1/impressions", {"impressions": impressions})
    assert answer.status_code == 202, answer.text
    counts: dict[str, int] = answer.json()
    return counts


def on_topic(running: Served) -> list[tuple[bytes | None, Impression]]:
    """Every record of the topic, with its key; None where it has an empty one."""
    with running.log.reader(["impressions"]) as reader:
        records = []
        while not reader.at_end():
            for batch in reader.poll(0.1, 1000):
                values = [msgspec.json.decode(value or b"", type=Impression) for value in batch.values]
                records += [*zip(batch.keys, values, strict=True)]
    return sorted(records, key=lambda record: record[1].received_ms)


def items_of(answer: Any) -> list[str]:
    return [listed["item"] for listed in answer.json()["items"]]


def test_what_was_shown_of_a_computed_list_is_on_the_topic_with_its_user_and_release(served: Served) -> None:
    served.click(("ann", "i10"))
    answer = served.post("/v1/lists", {"user": "ann"})
    first, second, *_ = items_of(answer)
    decision = answer.json()["id"]
    now_ms = time.time_ns() // 1_000_000
    assert report(served, {"decision": decision, "items": shown(first, second), "time_ms": now_ms - 5000}) == {
        "taken": 1,
        "known": 1,
    }
    key, impression = on_topic(served)[-1]
    assert key == b"ann"
    assert (impression.decision, impression.user, impression.release) == (decision, "ann", "two-hop-tiny")
    assert (impression.shown_ms, impression.is_known) == (now_ms - 5000, True)
    assert [(each.item, each.place) for each in impression.items] == [(first, 1), (second, 2)]
    assert now_ms <= impression.received_ms <= time.time_ns() // 1_000_000
    assert 'headrace_impressions_total{decision="known"}' in served.get("/metrics").text


def test_pages_items_sessions_and_pushed_lists_are_decisions_too(served: Served) -> None:
    pushed = json.loads(served.click(("bob", "i20"))["bob"])
    first = served.post("/v1/lists", {"user": "bob", "count": 3})
    second = served.post("/v1/next", {"decision": first.json()["id"]})
    session = served.post("/v1/session", {"events": [{"item": "i30"}]})
    similar = served.get("/v1/similar", item="i10", user="bob")
    popular = served.get("/v1/popular")
    answers = [first, second, session, similar, popular]
    reports = [{"decision": answer.json()["id"], "items": shown(items_of(answer)[0])} for answer in answers]
    reports.append({"decision": pushed["id"], "user": "bob", "items": shown(pushed["items"][0]["item"])})
    assert report(served, *reports) == {"taken": 6, "known": 6}
    users = {impression.decision: (key, impression.user) for key, impression in on_topic(served)}
    bob, nobody = (b"bob", "bob"), (None, "")
    assert [users[each["decision"]] for each in reports] == [bob, bob, nobody, bob, nobody, bob]


def test_a_decision_of_another_server_is_taken_as_it_is_reported(served: Served) -> None:
    away = {"decision": "elsewhere", "user": "cat", "items": shown("i1")}
    assert report(served, away, {"decision": "0-7-two-hop-9", "items": shown("i2")}) == {"taken": 2, "known": 0}
    by_decision = {impression.decision: (key, impression) for key, impression in on_topic(served)}
    key, impression = by_decision["elsewhere"]
    assert (key, impression.user, impression.release, impression.is_known) == (b"cat", "cat", "", False)
    key, impression = by_decision["0-7-two-hop-9"]
    assert (key, impression.user, impression.is_known) == (None, "", False)


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"items": shown("i119", "i119")}, 409, "impressions[1].items[0].item"),
        ({"user": "somebody else"}, 409, "impressions[1].user"),
        ({"time_ms": 0}, 409, "impressions[1].time_ms"),
        ({"time_ms": 4_000_000_000_000}, 409, "impressions[1].time_ms"),
        ({"items": []}, 400, "impressions[1].items"),
        ({"items": [{"item": "i1", "place": 0}]}, 400, "impressions[1].items[0].place"),
        ({"decision": ""}, 400, "impressions[1].decision"),
        ({"seen": True}, 400, "seen"),
    ],
)
def test_one_report_that_breaks_a_rule_keeps_all_of_the_request_from_the_topic(
    served: Served, change: dict[str, Any], status: int, field: str
) -> None:
    answer = served.post("/v1/session", {"events": [{"item": "i119"}]})
    good = {"decision": answer.json()["id"], "items": shown(items_of(answer)[0])}
    before = len(on_topic(served))
    refused = served.post("/v1/impressions", {"impressions": [good, good | change]})
    assert (refused.status_code, refused.json().get("field")) == (status, field), refused.text
    assert len(on_topic(served)) == before


def test_an_item_is_reported_once(served: Served) -> None:
    twice = {"decision": "elsewhere", "items": shown("i1", "i2", "i1")}
    refused = served.post("/v1/impressions", {"impressions": [twice]})
    assert refused.json()["field"] == "impressions[0].items[2].item"


def test_a_log_that_does_not_take_them_is_a_503_and_the_next_report_is_taken(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {"decision": "elsewhere", "user": "dan", "items": shown("i1")}

    def fail(_self: MemoryLog) -> None:
        raise EventLogError("no broker")

    sender = served.server.service._impressions
    assert sender is not None
    with monkeypatch.context() as patch:
        patch.setattr(sender, "_producer", None)
        patch.setattr(MemoryLog, "producer", fail)
        answer = served.post("/v1/impressions", {"impressions": [away]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert report(served, away) == {"taken": 1, "known": 0}


def test_users_are_pseudonyms_where_windows_have_some(tiny_release: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("k" * 40)
    pseudonym = Pseudonyms(ClickSettings(pseudonym_key_file=key_file)).of("ann")
    with serving(tiny_release, impressions=True, pseudonym_key_file=key_file) as running:
        running.log.producer().send(
            Outgoing("clicks", [b"ann"], [b'{"user": "ann", "item": "i10", "ts": 1700000000000}'])
        )
        until(lambda: running.get("/v1/list", user="ann").status_code == 200)
        answer = running.post("/v1/lists", {"user": "ann"})
        report(
            running,
            {"decision": answer.json()["id"], "user": "ann", "items": shown(items_of(answer)[0])},
            {"decision": "elsewhere", "user": "ann", "items": shown("i1")},
        )
        assert [(key, each.user) for key, each in on_topic(running)] == [(pseudonym.encode(), pseudonym)] * 2


def test_without_the_setting_nothing_is_taken_and_there_is_no_topic(tiny_release: Path) -> None:
    with serving(tiny_release) as running:
        refused = running.post("/v1/impressions", {"impressions": [{"decision": "x", "items": shown("i1")}]})
        assert (refused.status_code, "impressions.accept" in refused.json()["detail"]) == (404, True)
        assert running.log.partitions("impressions") == 0
