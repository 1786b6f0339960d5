"""A canary on running workers: who is served by what, and the end that the clicks make of it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Outgoing, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.messages.canary_sums import CanarySums
from engine.messages.recommendation import Recommendation, decode_recommendation
from engine.metrics import Metrics
from engine.quality import experiment
from engine.quality.experiment import CLUSTERS
from engine.releases import bundles
from engine.releases.announcements import State
from engine.releases.arms import Arms
from engine.releases.registrar import Registrar
from engine.releases.registry import Registry
from engine.settings.sections import CanarySettings, KafkaSettings, Settings
from engine.worker.canary_watch import CanaryWatch
from engine.worker.loop import Worker
from engine.worker.sums_reader import SumsReader
from models.publishing import announce
from tests.conftest import TINY_ITEMS, Report
from tests.integration.test_rollback import settings_of
from tests.unit.test_bundles import rewritten
from tests.waiting import LIMIT_S, until

PARTITIONS = 2
USERS = 600
START_MS = 1_700_000_000_000
HALF = TINY_ITEMS // 2
CANARY = CanarySettings(share=0.5, interval_s=0.3, min_users=100, difference=0.05)


class Shop:
    """Workers in threads, and shoppers who walk along the rings of items that the tiny release was trained on."""

    def __init__(self, log: EventLog, settings: Settings) -> None:
        self.log, self.settings = log, settings
        topic = topic_plan.releases(settings)
        log.ensure_topics([TopicSpec(settings.clicks.topic, PARTITIONS), topic])
        log.ensure_topics(topic_plan.outputs(settings, PARTITIONS))
        self.registrar = Registrar("two-hop", log, topic)
        self.stop = threading.Event()
        self.lists: dict[str, set[str]] = {}
        """Releases by which each user was sent a list."""
        self.messages: list[Recommendation] = []
        self._places = np.random.default_rng(0).integers(0, HALF, USERS)
        self._clicks = 0

    @contextmanager
    def worker(self) -> Iterator[tuple[Worker, Metrics]]:
        stop, metrics = threading.Event(), Metrics()
        worker = Worker(self.settings, self.log, metrics)
        thread = threading.Thread(target=worker.run, args=[stop])
        thread.start()
        try:
            until(lambda: worker.not_ready is None)
            yield worker, metrics
        finally:
            stop.set()
            thread.join(LIMIT_S)

    @contextmanager
    def open(self) -> Iterator[None]:
        threads = [threading.Thread(target=target) for target in (self._walk, self._read)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(LIMIT_S)

    def publish(self, bundle: Path, state: State) -> None:
        announce.to_topic(bundle, self.log, self.registrar.topic, time.time_ns() // 1_000_000, state=state)

    def _walk(self) -> None:
        rng = np.random.default_rng(1)
        with self.log.producer() as producer:
            while not self.stop.wait(0.01):
                users = rng.integers(0, USERS, 20)
                self._places[users] = (self._places[users] + rng.integers(1, 3, 20)) % HALF
                values: list[bytes | None] = []
                for user, place in zip(users.tolist(), self._places[users].tolist(), strict=True):
                    self._clicks += 1
                    item = f"i{place + HALF * (user % 2)}"
                    values.append(
                        json.dumps({"user": f"u{user}", "item": item, "ts": START_MS + 60_000 * self._clicks}).encode()
                    )
                keys: list[bytes | None] = [f"u{user}".encode() for user in users.tolist()]
                producer.send(Outgoing(self.settings.clicks.topic, keys, values))
                producer.flush()

    def _read(self) -> None:
        with self.log.reader([self.settings.recommendations.topic]) as lists:
            while not self.stop.is_set():
                for records in lists.poll(0.05, 1000):
                    for value in filter(None, records.values):
                        message = decode_recommendation(value)
                        self.messages.append(message)
                        self.lists.setdefault(message.user, set()).add(message.release)


def new_lists(shop: Shop) -> list[Recommendation]:
    """The next lists, of more than half of the users."""
    seen = len(shop.messages)
    until(lambda: len({message.user for message in shop.messages[seen:]}) > USERS // 2)
    return shop.messages[seen:]


@pytest.fixture
def sabotaged(tiny_release: Path, tmp_path: Path) -> Path:
    """The tiny release with its item table shuffled: every item has another one's vector."""
    shuffled = np.random.default_rng(0).permutation(bundles.read(tiny_release).vectors)
    return rewritten(tiny_release, tmp_path / "bundles", version="sabotaged", vectors=shuffled)


def run_sabotaged_canary(log: EventLog, settings: Settings, good: Path, sabotaged: Path, report: Report) -> None:
    """A sabotaged canary is taken back by what users click, on two workers of which one joins half way."""
    shop = Shop(log, settings)
    shop.publish(good, "live")
    with shop.worker() as (first, metrics), shop.open():
        shop.publish(sabotaged, "canary")
        until(lambda: any("two-hop-sabotaged" in releases for releases in shop.lists.values()))
        canary = shop.registrar.read().canary()
        assert canary is not None
        with shop.worker() as (second, _):
            until(lambda: shop.registrar.read().versions["sabotaged"].state == "retired")
            reason = shop.registrar.read().versions["sabotaged"].reason
            report(f"sabotaged: {reason}", {})
            assert reason.startswith("canary take back: gain 0.")
            shares = (1.0 - settings.canary.share, settings.canary.share)
            arms = Arms(f"{canary.name}/{canary.announced_ms}", shares, CLUSTERS)
            groups = dict(zip(shop.lists, arms.groups([*shop.lists]) >= CLUSTERS, strict=True))
            for user, releases in shop.lists.items():
                assert ("two-hop-sabotaged" not in releases) or groups[user]
            shop.lists.clear()
            until(lambda: len(shop.lists) > USERS // 2 and not second.not_ready)
            # Some by the canary were under way.
            until(lambda: {message.release for message in new_lists(shop)} == {"two-hop-tiny"})
            assert {message.release for message in new_lists(shop)} == {"two-hop-tiny"}
            assert first.release_name == second.release_name == "two-hop-tiny"
        decisions = metrics.registry.get_sample_value("headrace_canary_decisions_total", {"decision": "take_back"})
        assert decisions in {None, 1.0}  # this worker's, or the other's


def test_a_sabotaged_canary_is_taken_back(tiny_release: Path, sabotaged: Path, report: Report) -> None:
    settings = settings_of(lambda name: name, poll_interval_s=0.1).model_copy(update={"canary": CANARY})
    run_sabotaged_canary(MemoryLog(), settings, tiny_release, sabotaged, report)


@pytest.mark.kafka
def test_a_sabotaged_canary_is_taken_back_on_kafka(
    kafka_log: KafkaLog,
    kafka_settings: KafkaSettings,
    topic_names: Callable[[str], str],
    tiny_release: Path,
    sabotaged: Path,
    report: Report,
) -> None:
    canary = CANARY.model_copy(update={"topic": topic_names("canary-sums")})
    settings = settings_of(topic_names, kafka_settings).model_copy(update={"canary": canary})
    run_sabotaged_canary(kafka_log, settings, tiny_release, sabotaged, report)


def test_interleaved_lists_name_the_release_of_each_place_and_end_the_same_way(
    tiny_release: Path, sabotaged: Path
) -> None:
    both = CANARY.model_copy(update={"mode": "interleave"})
    settings = settings_of(lambda name: name, poll_interval_s=0.1).model_copy(update={"canary": both})
    shop = Shop(MemoryLog(), settings)
    shop.publish(tiny_release, "live")
    with shop.worker() as (worker, _), shop.open():
        shop.publish(sabotaged, "canary")
        until(lambda: shop.registrar.read().versions["sabotaged"].state == "retired")
        assert shop.registrar.read().versions["sabotaged"].reason.startswith("canary take back: gain 0.")
        assert worker.release_name == "two-hop-tiny"
    assert {name for releases in shop.lists.values() for name in releases} == {
        "two-hop-tiny",
        "two-hop-tiny+two-hop-sabotaged",
    }
    interleaved = [message for message in shop.messages if "+" in message.release]
    for message in interleaved:
        assert {place.release for place in message.items} == {"two-hop-tiny", "two-hop-sabotaged"}
        assert len({place.item for place in message.items}) == len(message.items)
        assert all(place.interest < len(message.interests) for place in message.items)
    others = [message for message in shop.messages if "+" not in message.release]
    assert {place.release for message in others for place in message.items} == {""}


def test_a_better_canary_is_promoted_without_another_load(tiny_release: Path, sabotaged: Path) -> None:
    settings = settings_of(lambda name: name, poll_interval_s=0.1).model_copy(update={"canary": CANARY})
    shop = Shop(MemoryLog(), settings)
    shop.publish(sabotaged, "live")
    with shop.worker() as (worker, metrics), shop.open():
        shop.publish(tiny_release, "canary")
        until(lambda: worker.release_name == "two-hop-tiny")
        registry = shop.registrar.read()
        assert registry.aliases() == {"live": "tiny", "previous": "sabotaged"}
        assert registry.versions["tiny"].reason.startswith("canary promote: gain 0.")
        assert metrics.registry.get_sample_value("headrace_canary_decisions_total", {"decision": "promote"}) == 1.0


def test_a_canary_ends_with_its_time_a_rollback_or_a_pin(tiny_release: Path, sabotaged: Path, tmp_path: Path) -> None:
    short = CANARY.model_copy(update={"max_hours": 1.0 / 3600, "min_users": 10_000})
    settings = settings_of(lambda name: name, poll_interval_s=0.1).model_copy(update={"canary": short})
    shop = Shop(MemoryLog(), settings)
    shop.publish(tiny_release, "live")
    with shop.worker() as (worker, _), shop.open():
        shop.publish(sabotaged, "canary")
        until(lambda: shop.registrar.read().versions["sabotaged"].state == "retired")
        assert shop.registrar.read().versions["sabotaged"].reason.startswith("canary no difference")
        shop.registrar.change(lambda registry: registry.pin("tiny", time.time_ns() // 1_000_000))
        # Some by the canary were under way.
        until(lambda: {message.release for message in new_lists(shop)} == {"two-hop-tiny"})
        shop.publish(rewritten(tiny_release, tmp_path, version="later"), "canary")
        assert {message.release for message in new_lists(shop)} == {"two-hop-tiny"}
        assert worker.release_name == "two-hop-tiny"


def test_a_canary_by_whose_lists_nobody_clicked_is_never_promoted(tiny_release: Path, sabotaged: Path) -> None:
    """Its time is over, and no worker could load it; one that some users were served by ends as the settings say."""
    promoting = CANARY.model_copy(update={"max_hours": 1.0, "on_no_difference": "promote", "min_users": 10_000})
    settings = settings_of(lambda name: name).model_copy(update={"canary": promoting})
    shop = Shop(MemoryLog(), settings)
    shop.log.ensure_topics([topic_plan.canary_sums(settings)])
    shop.publish(tiny_release, "live")
    for count, state in ((0, "retired"), (1, "live")):
        shop.publish(sabotaged, "canary")
        canary = shop.registrar.read().canary()
        assert canary is not None
        clicks = [[1] * CLUSTERS, [count] * CLUSTERS]
        message = sums("first", canary=canary.name, control="two-hop-tiny", clicks=clicks)
        message = msgspec.structs.replace(message, announced_ms=canary.announced_ms)
        with shop.log.producer() as producer:
            producer.send(Outgoing("canary-sums", [message.key], [msgspec.json.encode(message)]))
        watch = CanaryWatch(settings, shop.log, Metrics())
        assert watch.look(canary.announced_ms + 3_600_000) == "no_difference"
        watch.close()
        ended = shop.registrar.read().versions["sabotaged"]
        assert ended.state == state
        assert ("too few clicks to compare, users 0 and " in ended.reason) == (count == 0)


def sums(writer: str, count: int = 1, **changes: object) -> CanarySums:
    row, other = [count] * CLUSTERS, [0] * CLUSTERS
    gains = [[0.5] * CLUSTERS, [0.0] * CLUSTERS]
    fields: dict[str, object] = {
        "canary": "two-hop-b",
        "control": "two-hop-a",
        "announced_ms": 2,
        "writer": writer,
        "clicks": [row, other],
        "hits": [row, other],
        "gains": gains,
    }
    return CanarySums(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_sums_of_all_sessions_add_up_and_those_of_other_canaries_do_not(tiny_release: Path) -> None:
    """A worker's later record replaces its earlier one; rubbish, other shapes and ended canaries count nothing."""
    log, topic = MemoryLog(), TopicSpec("canary-sums", compacted=True)
    log.ensure_topics([topic])
    announced = announce.to_topic(tiny_release, log, TopicSpec("releases", compacted=True), 2, state="canary")
    canary = msgspec.structs.replace(announced, version="b")
    messages = [
        sums("first"),
        sums("second", 10),
        sums("first", 3),
        sums("other", 100, announced_ms=1),
        sums("later control", 100, control="two-hop-c"),
        sums("misshapen", 100, clicks=[[1]]),
        sums("gone", 100),
    ]
    with log.producer() as producer:
        keys: list[bytes | None] = [message.key for message in messages]
        producer.send(Outgoing("canary-sums", keys, [*map(msgspec.json.encode, messages)]))
        producer.send(Outgoing("canary-sums", [messages[-1].key, b"x"], [None, b"rubbish"]))
    total = SumsReader(log.reader(["canary-sums"])).total(canary, "two-hop-a")
    assert total.clicks[0].tolist() == [13.0] * CLUSTERS
    assert total.gains[0].tolist() == [1.0] * CLUSTERS
    assert experiment.compare(total, CANARY).users[0] > CLUSTERS


def test_a_decision_on_a_canary_that_has_ended_changes_nothing(tiny_release: Path) -> None:
    from engine.worker.canary_watch import ending  # noqa: PLC0415

    log = MemoryLog()
    topic = TopicSpec("releases", compacted=True)
    live = msgspec.structs.replace(announce.to_topic(tiny_release, log, topic, 1), version="a")
    canary = msgspec.structs.replace(live, version="b", state="canary", announced_ms=2)
    registry = Registry("two-hop").with_changes([live, canary])
    (retired,) = ending(registry, canary, "retired", 5, "worse")
    assert (retired.state, retired.reason) == ("retired", "worse")  # type: ignore[union-attr]
    assert ending(registry.with_changes([retired]), canary, "live", 6, "better") == []
    assert ending(registry.with_changes(registry.pin("a", 5)), canary, "live", 6, "better") == []
