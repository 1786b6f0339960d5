"""The HTTP interface and a worker on one log: what it repeats, what it computes, and how it refuses."""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import msgspec
import pytest

from engine.errors import EventLogError
from engine.eventlog.base import Outgoing, Partition, Records, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.memory.reader import MemoryReader
from engine.releases import announcements
from engine.view.list_follower import ListFollower
from engine.view.requests import ListQuery
from engine.view.stored_lists import StoredLists
from tests.integration.served import START_MS, Served, serving
from tests.waiting import LIMIT_S, until

SAME = ("user", "release", "event_ms", "items", "interests")
"""Fields of a list that do not depend on when and why it was computed."""


@pytest.fixture(scope="module")
def served(tiny_release: Path) -> Iterator[Served]:
    with serving(tiny_release) as running:
        yield running


def same(one_list: dict[str, Any]) -> dict[str, Any]:
    return {name: one_list[name] for name in SAME}


def assert_near(answer: dict[str, Any], pushed: dict[str, Any]) -> None:
    """The same list; a micro-batch of another size may round a score or a share differently in its last digit."""
    assert [listed["item"] for listed in answer["items"]] == [listed["item"] for listed in pushed["items"]]
    assert near(answer, pushed), (answer, pushed)


def near(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(near(left[name], right[name]) for name in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(near(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right or (isinstance(left, float) and abs(left - right) <= 2e-4))


def items(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [listed["item"] for listed in answer.json()["items"]]


def test_a_stored_list_is_the_pushed_one_byte_for_byte(served: Served) -> None:
    pushed = served.click(("ann", "i10"), ("ann", "i11"))
    answer = served.get("/v1/list", user="ann")
    assert (answer.status_code, answer.content) == (200, pushed["ann"])
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("user", ["ä b/c+d", "a&b=c", "%41", "\N{PILE OF POO}", "user=x"])
def test_any_text_may_be_the_id_of_a_user(served: Served, user: str) -> None:
    pushed = served.click((user, "i10"))
    assert served.get("/v1/list", user=user).content == pushed[user]
    assert items(served.post("/v1/lists", {"user": user})) == [
        each["item"] for each in json.loads(pushed[user])["items"]
    ]


def test_a_list_computed_now_is_what_the_worker_pushed_for_the_same_window(served: Served) -> None:
    pushed = served.click(("bea", "i20"), ("ben", "i80"), ("bea", "i22"), ("cold", "never heard of"))
    for user, message in pushed.items():
        answer = served.post("/v1/lists", {"user": user})
        assert same(answer.json()) == same(json.loads(message)), user
        assert answer.json()["page"] == 1


def test_a_list_as_of_an_earlier_time_is_the_one_pushed_then(served: Served) -> None:
    first = json.loads(served.click(("cat", "i30"))["cat"])
    second = json.loads(served.click(("cat", "i90"))["cat"])
    answer = served.post("/v1/lists", {"user": "cat", "time_ms": first["event_ms"]})
    assert same(answer.json()) == same(first)
    assert same(first) != same(second)


def test_pages_of_a_decision_never_repeat_an_item_and_continue_the_longer_list(served: Served) -> None:
    served.click(("dan", "i40"), ("dan", "i41"))
    first = served.post("/v1/lists", {"user": "dan", "count": 4})
    second = served.post("/v1/next", {"decision": first.json()["id"]})
    third = served.post("/v1/next", {"decision": second.json()["id"]})
    whole = items(served.post("/v1/lists", {"user": "dan", "count": 12}))
    assert [*items(first), *items(second), *items(third)] == whole
    assert [answer.json()["page"] for answer in (first, second, third)] == [1, 2, 3]


def test_the_pushed_list_has_a_next_page_too(served: Served) -> None:
    pushed = json.loads(served.click(("eve", "i50"))["eve"])
    answer = served.post("/v1/next", {"decision": pushed["id"], "user": "eve"})
    whole = items(served.post("/v1/lists", {"user": "eve", "count": 10}))
    assert [listed["item"] for listed in pushed["items"]] + items(answer) == whole
    assert served.post("/v1/next", {"decision": pushed["id"]}).status_code == 404


def test_a_session_gets_the_list_of_a_user_with_the_same_clicks_and_leaves_nothing(served: Served) -> None:
    pushed = json.loads(served.click(("fay", "i60"), ("fay", "i61"))["fay"])
    events = [{"item": "i60", "time_ms": pushed["event_ms"] - 1000}, {"item": "i61", "time_ms": pushed["event_ms"]}]
    answer = served.post("/v1/session", {"events": events}).json()
    assert same(answer) == same(pushed) | {"user": ""}
    assert served.post("/v1/session", {"events": [{"item": "unheard of"}]}).json()["items"][0]["source"] == "popular"
    assert "unheard of" not in served.post("/v1/rank", {"items": ["i1"], "events": []}).text
    second = served.post("/v1/next", {"decision": answer["id"]})
    assert not {*items(second)} & {listed["item"] for listed in answer["items"]}


def test_exclusions_diversity_and_count_concern_this_request_alone(served: Served) -> None:
    served.click(("gus", "i70"))
    before = items(served.post("/v1/lists", {"user": "gus"}))
    without = items(served.post("/v1/lists", {"user": "gus", "exclude": [before[0], "unheard of"], "count": 4}))
    assert without == before[1:5]
    assert "i70" in items(served.post("/v1/lists", {"user": "gus", "exclude_seen": False, "count": 60}))
    assert items(served.post("/v1/lists", {"user": "gus", "diversity": 0.9})) != before
    assert items(served.post("/v1/lists", {"user": "gus"})) == before


def test_similar_items_and_the_dial_towards_a_user(served: Served) -> None:
    served.click(("hal", "i100"))
    alike = items(served.get("/v1/similar", item="i10", count=8))
    assert len(alike) == 8
    assert "i10" not in alike
    assert {*alike[:3]} & {"i9", "i11", "i12", "i8", "i13"}  # the ring on which shoppers walk
    assert items(served.get("/v1/similar", item="i10", count=8, user="hal", dial=0)) == alike
    for_hal = served.get("/v1/similar", item="i10", count=20, user="hal", dial=1)
    assert items(served.post("/v1/rank", {"user": "hal", "items": items(for_hal)})) == items(for_hal)


def test_ranking_of_the_items_of_a_list_is_its_order(served: Served) -> None:
    pushed = json.loads(served.click(("ida", "i110"), ("ida", "i111"))["ida"])
    listed = [entry["item"] for entry in pushed["items"]]
    answer = served.post("/v1/rank", {"user": "ida", "items": ["unheard of", *reversed(listed)]})
    assert items(answer) == [*listed, "unheard of"]
    assert answer.json()["items"][-1]["score"] is None
    scores = [entry["score"] for entry in answer.json()["items"][:-1]]
    assert scores == pytest.approx([entry["score"] for entry in pushed["items"]], abs=1e-3)


def test_an_explanation_says_rank_score_and_reasons(served: Served) -> None:
    pushed = json.loads(served.click(("joe", "i15"))["joe"])
    best = pushed["items"][0]
    answer = served.get("/v1/explanation", user="joe", item=best["item"]).json()
    assert (answer["rank"], answer["known"], answer["seen"]) == (1, True, False)
    assert max(part["score"] for part in answer["interests"]) == pytest.approx(best["score"], abs=1e-3)
    assert answer["interests"][0]["reasons"][0]["item"] == "i15"
    seen = served.get("/v1/explanation", user="joe", item="i15").json()
    assert (seen["rank"], seen["seen"]) == (None, True)
    unknown = served.get("/v1/explanation", user="joe", item="unheard of").json()
    assert (unknown["known"], unknown["interests"]) == (False, [])


def test_the_window_and_the_map_of_a_user(served: Served) -> None:
    served.click(("kim", "i25"), ("kim", "i26"))
    window = served.get("/v1/window", user="kim").json()["events"]
    assert [(event["item"], event["kind"], event["action"]) for event in window] == [
        ("i25", "item", "view"),
        ("i26", "item", "view"),
    ]
    whole = served.get("/v1/map").json()
    assert len(whole["items"]) == len(whole["x"]) == len(whole["y"]) == 120
    assert all(-1 <= place <= 1 for place in [*whole["x"], *whole["y"]])
    mine = served.get("/v1/map/user", user="kim").json()
    assert (mine["window"], len(mine["interests"])) == (window, 2)
    assert served.get("/v1/map/user", user="nobody").json()["interests"] == []


def test_popular_items_are_those_that_a_cold_user_gets(served: Served) -> None:
    cold = served.post("/v1/lists", {"user": "nobody"}).json()
    assert {listed["source"] for listed in cold["items"]} == {"popular"}
    assert items(served.get("/v1/popular", count=5)) == [listed["item"] for listed in cold["items"]]


def test_pages_of_items_go_on_where_the_last_one_ended(served: Served) -> None:
    for path, params in (("/v1/popular", {}), ("/v1/similar", {"item": "i10"})):
        first = served.get(path, count=4, **params)
        second = served.post("/v1/next", {"decision": first.json()["id"]})
        third = served.post("/v1/next", {"decision": second.json()["id"]})
        assert items(first) + items(second) + items(third) == items(served.get(path, count=12, **params))
        assert [answer.json()["page"] for answer in (first, second, third)] == [1, 2, 3]
    ranked = served.post("/v1/rank", {"items": ["i1", "i2"], "user": "nobody"})
    assert items(served.post("/v1/next", {"decision": ranked.json()["id"]})) == []


def test_an_item_that_many_click_all_at_once_trends(served: Served) -> None:
    assert "i77" not in items(served.get("/v1/trending"))
    served.click(*[(f"crowd-{number}", "i77") for number in range(60)])
    until(lambda: "i77" in items(served.get("/v1/trending")))
    best = served.get("/v1/trending").json()["items"][0]
    assert best["item"] == "i77"
    assert best["score"] > 1.0


def test_releases_of_a_watched_folder_are_shown_with_those_of_the_topic(
    served: Served, tiny_release: Path, tmp_path: Path
) -> None:
    announcement = announcements.announce(tiny_release, "live", 1000)
    other = msgspec.structs.replace(announcement, model="other", announced_ms=3000)
    announcements.write(announcement, tmp_path)
    settings = served.settings.releases.model_copy(update={"folder": tmp_path})
    log = MemoryLog()
    log.ensure_topics([TopicSpec(name) for name in ("recommendations", "releases")])
    follower = ListFollower(served.settings.model_copy(update={"releases": settings}), log, StoredLists(10))
    follower.start()
    try:
        until(lambda: follower.announced() == [announcement])
        announcements.send(other, log.producer(), "releases")
        announcements.send(announcement, log.producer(), "releases")
        until(lambda: follower.announced() == [other, announcement])
    finally:
        follower.close()


def test_health_releases_metrics_and_the_description(served: Served) -> None:
    assert served.get("/v1/health/live").json() == served.get("/v1/health/ready").json() == {"status": "ok"}
    assert served.get("/v1/releases").json()["live"] == "two-hop-tiny"
    assert 'headrace_requests_total{path="/v1/list",status="200"}' in served.get("/metrics").text
    assert served.get("/v1/openapi.json").json()["info"]["title"] == "Headrace"


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/v1/lists", {"user": "ann", "count": 0}, 400, "count"),
        ("/v1/lists", {"user": "ann", "cuont": 3}, 400, "cuont"),
        ("/v1/lists", {"count": 3}, 400, "user"),
        ("/v1/lists", {"user": ""}, 400, "user"),
        ("/v1/session", {"events": [{"item": "i1", "action": "stare"}]}, 400, "events[0].action"),
        ("/v1/session", {"events": [{"item": "i1"}, {"action": "view"}]}, 400, "events[1].item"),
        ("/v1/lists", {"user": "ann", "exclude_where": {"category": ["shoes"]}}, 404, "exclude_where"),
        ("/v1/rank", {"items": [], "user": "ann"}, 400, "items"),
        ("/v1/next", {"decision": "unheard of"}, 404, "decision"),
        ("/v1/list?user=nobody", None, 404, "user"),
        ("/v1/list", None, 400, "user"),
        ("/v1/similar?item=unheard+of", None, 404, "item"),
        ("/v1/similar?item=i1&count=many", None, 400, "count"),
        ("/v1/nothing", None, 404, ""),
    ],
)
def test_a_refusal_is_a_problem_that_names_the_field(
    served: Served, path: str, body: Any, status: int, field: str
) -> None:
    answer = served.client.get(path) if body is None else served.post(path, body)
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem.get("field", "")) == (status, status, field)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"]


def test_a_mistake_of_the_server_is_a_problem_and_ends_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_count: int) -> None:
        raise ZeroDivisionError("a secret of the inside")

    with monkeypatch.context() as patch:
        patch.setattr(served.server.service._compute._items, "popular", fail)
        answer = served.get("/v1/popular")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    assert "a secret of the inside" in caplog.text
    assert served.get("/v1/popular").status_code == 200


def test_concurrent_requests_are_one_micro_batch_and_each_gets_its_own_list(served: Served) -> None:
    users = [f"user-{number}" for number in range(40)]
    pushed = served.click(*[(user, f"i{number}") for number, user in enumerate(users)])
    compute = served.server.service._compute
    batches: list[int] = []
    answer = compute._responder.lists

    def counted(queries: list[ListQuery]) -> Any:
        batches.append(len(queries))
        return answer(queries)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(20) as pool:
        patch.setattr(compute._responder, "lists", counted)
        answers = dict(zip(users, pool.map(lambda user: served.post("/v1/lists", {"user": user}), users), strict=True))
    for user in users:
        assert_near(same(answers[user].json()), same(json.loads(pushed[user])))
    assert sum(batches) == len(users)
    assert max(batches) > 1


def test_too_many_requests_are_shed_and_the_server_recovers(tiny_release: Path) -> None:
    with serving(tiny_release, max_waiting=2, max_batch=1) as running, ThreadPoolExecutor(30) as pool:
        running.click(("ann", "i10"))
        gate = threading.Event()
        standby = running.server.service._standby
        step = standby.step
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(standby, "step", lambda: (gate.wait(5), step()))
            waiting = [pool.submit(running.post, "/v1/lists", {"user": "ann"}) for _ in range(30)]
            until(lambda: sum(answer.done() for answer in waiting) >= 27)
            gate.set()
            answers = [answer.result() for answer in waiting]
        shed = [answer for answer in answers if answer.status_code == 503]
        assert len(shed) >= 20
        assert all(answer.headers["retry-after"] == "1" for answer in shed)
        assert {answer.status_code for answer in answers} == {200, 503}
        assert running.get("/v1/list", user="ann").status_code == 200
        until(lambda: running.post("/v1/lists", {"user": "ann"}).status_code == 200)
        assert 'headrace_shed_requests_total{reason="queue"}' in running.get("/metrics").text


def test_a_users_list_is_streamed_as_it_changes(served: Served) -> None:
    first = served.click(("liz", "i35"))["liz"]
    with served.client.stream("GET", "/v1/events", params={"user": "liz"}, timeout=LIMIT_S) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        received = [next(lines) for _ in range(4)]
        assert received == ["retry: 1000", "", "event: list", f"data: {first.decode()}"]
        second = served.click(("liz", "i36"))["liz"]
        while not (line := next(lines)).startswith("data: "):
            pass
    assert line == f"data: {second.decode()}"
    until(lambda: "headrace_streams 0.0" in served.get("/metrics").text)


def test_figures_are_streamed(served: Served) -> None:
    with served.client.stream("GET", "/v1/figures", timeout=LIMIT_S) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        clicks = json.loads(next(lines).removeprefix("data: "))["clicks"]
        hit = json.loads(served.click(("moe", "i45"))["moe"])["items"][0]["item"]
        served.click(("moe", hit))
        while (figures := json.loads(next(lines).removeprefix("data: ")))["clicks"] < clicks + 2:
            pass
    assert figures["recent_users"][0] == "moe"
    assert (figures["status"], figures["release"]) == ("ok", "two-hop-tiny")
    judged = {counts["release"]: counts for counts in figures["next_clicks"]}["two-hop-tiny"]
    assert judged["hits"] >= 1
    assert judged["low"] <= judged["rate"] <= judged["high"]


def test_clicks_are_sent_by_the_demo_alone(served: Served) -> None:
    assert served.post("/v1/clicks", {"user": "ann", "item": "i1"}).status_code == 404


def test_a_forgotten_user_leaves_nothing_on_the_server(served: Served) -> None:
    served.click(("nan", "i55"))
    decision = served.post("/v1/lists", {"user": "nan"}).json()["id"]
    served.log.producer().send(Outgoing("clicks", [b"nan"] * 3, [None] * 3, partitions=[0, 1, 2]))
    until(lambda: served.get("/v1/list", user="nan").status_code == 404)
    until(lambda: served.get("/v1/window", user="nan").json()["events"] == [])
    assert served.post("/v1/next", {"decision": decision}).status_code == 404
    assert "nan" not in served.server.service.figures_now().recent_users


def test_a_server_with_a_share_of_the_partitions_knows_their_users_alone(tiny_release: Path) -> None:
    users = [f"user-{number}" for number in range(12)]
    with serving(tiny_release, partitions=[1]) as running:
        values: list[bytes | None] = [
            json.dumps({"user": user, "item": "i10", "ts": START_MS}).encode() for user in users
        ]
        running.log.producer().send(Outgoing("clicks", [user.encode() for user in users], values))
        until(lambda: all(running.get("/v1/list", user=user).status_code == 200 for user in users))
        own = {user for user in users if crc32(user.encode()) % 3 == 1}

        def known() -> set[str]:
            return {user for user in users if running.get("/v1/window", user=user).json()["events"]}

        until(lambda: known() == own)
        assert 0 < len(own) < len(users)


class BreakableLog(MemoryLog):
    """A log that is away now and then."""

    is_away = False

    def partitions(self, topic: str) -> int:
        self._answer()
        return super().partitions(topic)

    def reader(self, topics: Sequence[str | Partition]) -> MemoryReader:
        self._answer()
        reader = super().reader(topics)
        poll = reader.poll

        def poll_or_fail(timeout_s: float, max_records: int) -> list[Records]:
            self._answer()
            return poll(timeout_s, max_records)

        reader.poll = poll_or_fail  # type: ignore[method-assign]
        return reader

    def _answer(self) -> None:
        if self.is_away:
            raise EventLogError("no broker answers")


def test_while_no_broker_answers_what_is_held_is_served_and_then_the_rest_follows(
    tiny_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.view.standby._PAUSE_S", 0.05)
    monkeypatch.setattr("engine.view.list_follower._PAUSE_S", 0.05)
    log = BreakableLog()
    with serving(tiny_release, log=log) as running:
        pushed = running.click(("ann", "i10"))
        log.is_away = True
        until(lambda: "headrace_session_restarts_total 2.0" in running.get("/metrics").text)
        assert running.get("/v1/list", user="ann").content == pushed["ann"]
        assert same(running.post("/v1/lists", {"user": "ann"}).json()) == same(json.loads(pushed["ann"]))
        assert running.get("/readyz").status_code == 200
        log.is_away = False
        later = running.click(("ann", "i11"), ("bob", "i70"))
        assert same(running.post("/v1/lists", {"user": "ann"}).json()) == same(json.loads(later["ann"]))


def test_users_with_pseudonyms_are_asked_for_by_their_ids_or_by_those_of_their_lists(
    tiny_release: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 40)
    with serving(tiny_release, pseudonym_key_file=key) as served:
        message = json.dumps({"user": "ann", "item": "i10", "ts": served.clock_ms}).encode()
        served.log.producer().send(Outgoing("clicks", [b"ann"], [message]))
        until(lambda: served.get("/v1/list", user="ann").status_code == 200)
        pushed = served.get("/v1/list", user="ann").json()
        assert pushed["user"] != "ann"
        assert served.get("/v1/list", user=pushed["user"]).json() == pushed
        until(lambda: served.get("/v1/window", user="ann").json()["events"])
        computed = served.post("/v1/lists", {"user": "ann"}).json()
        assert computed["items"] == pushed["items"]
        for path in ("/v1/window", "/v1/map/user"):
            by_id, by_pseudonym = (served.get(path, user=user).json() for user in ("ann", pushed["user"]))
            assert by_id == by_pseudonym
        first = pushed["items"][0]["item"]
        assert served.get("/v1/explanation", user="ann", item=first).json()["rank"] == 1
        following = served.post("/v1/next", {"decision": pushed["id"], "user": "ann"}).json()
        assert not {place["item"] for place in following["items"]} & {place["item"] for place in pushed["items"]}
        assert served.post("/v1/rank", {"user": "ann", "items": [first, "i3"]}).json()["items"][0]["item"] == first
