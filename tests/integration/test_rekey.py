"""Clicks without keys, spread over all partitions, make the windows that the same clicks make when they are keyed."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import pytest
from click.testing import CliRunner

from engine.cli import forget
from engine.errors import EventLogError, SettingsError
from engine.eventlog.base import EventLog, Outgoing, Partition, Records, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.memory.session import MemorySession
from engine.eventlog.murmur2 import partition_of
from engine.ingest import rekeying
from engine.ingest.rekeying import RecordUsers
from engine.metrics import Metrics
from engine.settings.sections import ClickSettings, Settings
from engine.windows import changelog
from engine.windows.changelog import Changes
from engine.worker import forgetting
from engine.worker.loop import Worker
from tests.conftest import only_long
from tests.integration import equality
from tests.integration.equality import Recorded
from tests.integration.site import Site
from tests.waiting import LIMIT_S, until

USERS = [f"user-{number}" for number in range(12)]
START_MS = 1_700_000_000_000


def clicks(count: int) -> Recorded:
    """Clicks of all users in turn, in the partition of Kafka's partitioner."""
    users = list(islice(cycle(USERS), count))
    values = [
        json.dumps({"user": user, "item": f"i{turn % 100}", "ts": START_MS + turn}).encode()
        for turn, user in enumerate(users)
    ]
    return Recorded(users, values, [partition_of(user.encode(), equality.PARTITIONS) for user in users])


def unkeyed(topic: str, recorded: Recorded, start: int, stop: int) -> Outgoing:
    """Some of them without keys, in all partitions in turn; a user's clicks are in more than one."""
    numbers = [(turn + turn // len(USERS)) % equality.PARTITIONS for turn in range(start, stop)]
    return Outgoing(topic, [None] * (stop - start), list(recorded.values[start:stop]), partitions=numbers)


def by_user(log: EventLog, topic: str) -> dict[str, set[int]]:
    """The partitions of each key on the topic that is keyed by user."""
    numbers: dict[str, set[int]] = {}
    with log.reader([topic]) as reader:
        while not reader.at_end():
            for records in reader.poll(0.2, 1000):
                for key in records.keys:
                    numbers.setdefault((key or b"").decode(), set()).add(records.partition.number)
    return numbers


def count(log: EventLog, topic: str) -> int:
    with log.reader([topic]) as reader:
        total = 0
        while not reader.at_end():
            total += sum(map(len, reader.poll(0.2, 1000)))
        return total


def wait_for_windows(log: EventLog, settings: Settings, windows: dict[str, list[equality.Event]]) -> equality.Outcome:
    deadline_s = time.monotonic() + LIMIT_S
    while (outcome := equality.outcome(log, settings)).windows != windows:
        assert time.monotonic() < deadline_s, outcome.windows
        time.sleep(0.2)
    return outcome


@contextmanager
def running(log: EventLog, settings: Settings, metrics: Metrics) -> Iterator[Worker]:
    stop = threading.Event()
    worker = Worker(settings, log, metrics)
    thread = threading.Thread(target=worker.run, args=[stop])
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_windows_are_those_of_the_same_clicks_keyed(tiny_release: Path) -> None:
    settings = equality.settings(tiny_release, clicks=ClickSettings(rekey=True))
    recorded = clicks(300)
    calm = equality.undisturbed(recorded, equality.settings(tiny_release))
    log, metrics = MemoryLog(), Metrics()
    log.ensure_topics(equality.topics(settings))
    log.producer().send(unkeyed("clicks", recorded, 0, 300))
    with running(log, settings, metrics) as worker:
        outcome = wait_for_windows(log, settings, calm.windows)
        until(lambda: not worker.not_ready)
    assert by_user(log, "clicks.by-user") == {
        user: {partition_of(user.encode(), equality.PARTITIONS)} for user in USERS
    }
    assert count(log, "clicks.by-user") == 300
    places = [equality.place(message) for message in outcome.lists]
    assert len(set(places)) == len(places)
    assert metrics.registry.get_sample_value("headrace_misplaced_clicks_total", {"sign": "other_partition"}) == 0


def test_a_failed_commit_is_made_up_for(
    tiny_release: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = equality.settings(tiny_release, clicks=ClickSettings(rekey=True))
    recorded = clicks(60)
    calm = equality.undisturbed(recorded, equality.settings(tiny_release))
    log, metrics, failures = MemoryLog(), Metrics(), [True]
    commit = MemorySession.commit

    def fail_once(session: MemorySession, positions: Any, state: Any = ()) -> dict[Partition, int]:
        if failures and any(partition.topic == "clicks" for partition in positions):
            failures.pop()
            raise EventLogError("the broker is away")
        return commit(session, positions, state)

    monkeypatch.setattr(MemorySession, "commit", fail_once)
    monkeypatch.setattr("engine.worker.rekeyer._PAUSE_S", 0.1)
    log.ensure_topics(equality.topics(settings))
    log.producer().send(unkeyed("clicks", recorded, 0, 60))
    with running(log, settings, metrics) as worker:
        wait_for_windows(log, settings, calm.windows)
        assert worker.oldest_heartbeat_s <= time.monotonic()
    assert count(log, "clicks.by-user") == 60
    assert "keying clicks by user failed, again in 0.1 s from the last commit: the broker is away" in caplog.text
    assert metrics.registry.get_sample_value("headrace_session_restarts_total") == 1


def test_nothing_is_sent_before_what_was_left_open_on_the_topic_by_user_was_looked_for(
    tiny_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = equality.settings(tiny_release, clicks=ClickSettings(rekey=True))
    recorded, metrics, answers = clicks(60), Metrics(), [False, False, True]
    calm = equality.undisturbed(recorded, equality.settings(tiny_release))
    sent_before: list[int] = []

    class Blind(MemoryLog):
        """A log that can first say at the third look what is open."""

        def end_abandoned(self, partitions: Sequence[Partition], shared: Sequence[str] = ()) -> bool:
            if shared != ["clicks.by-user"]:
                return super().end_abandoned(partitions, shared)
            sent_before.append(count(self, "clicks.by-user"))
            return answers.pop(0)

    log = Blind()
    monkeypatch.setattr("engine.worker.rekeyer._LOOK_AGAIN_S", 0.01)
    log.ensure_topics(equality.topics(settings))
    log.producer().send(unkeyed("clicks", recorded, 0, 60))
    with running(log, settings, metrics):
        wait_for_windows(log, settings, calm.windows)
    assert sent_before == [0, 0, 0]


def test_a_fault_that_is_no_failure_of_the_log_ends_the_worker(
    tiny_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = equality.settings(tiny_release, clicks=ClickSettings(rekey=True))

    def refuse(*_arguments: object) -> None:
        raise SettingsError("no")

    monkeypatch.setattr("engine.worker.rekeyer.Rekeyer.prepare_topics", refuse)
    worker = Worker(settings, MemoryLog(), Metrics())
    with pytest.raises(SettingsError, match="no"):
        worker.run(threading.Event())


class PollsOfReaders(MemoryLog):
    """A log that counts how often its readers were polled."""

    count = 0

    def reader(self, topics: Sequence[str | Partition]) -> Any:
        reader = super().reader(topics)
        poll = reader.poll

        def counted(timeout_s: float, max_records: int) -> list[Records]:
            self.count += 1
            return poll(timeout_s, max_records)

        reader.poll = counted  # type: ignore[method-assign]
        return reader


def test_forgetting_waits_for_the_last_of_the_rekeyed_requests() -> None:
    """Between two requests a click begins a new window: the answer to the first is not the end."""
    settings = Settings(clicks=ClickSettings(rekey=True))
    log, outcomes, changelog_topic = PollsOfReaders(), [], settings.windows.topic
    log.ensure_topics([TopicSpec("clicks", 2), TopicSpec("clicks.by-user", 1), TopicSpec(changelog_topic, 1)])
    thread = threading.Thread(target=lambda: outcomes.append(forgetting.forget(log, settings, "ann", LIMIT_S)))
    thread.start()
    first, second = requests_on(log, 2)

    def answer(position: int) -> None:
        log.producer().send(changelog.records(changelog_topic, Changes(["ann"], [None], [0], [position]), "d"))
        polls = log.count
        while thread.is_alive() and log.count < polls + 3:
            time.sleep(0.01)

    log.producer().send(rekeying.rekeyed(first, "clicks.by-user", 1, RecordUsers(settings.clicks)))
    answer(1)
    log.producer().send(Outgoing("clicks.by-user", [b"ann"], [b"{}"]))
    log.producer().send(rekeying.rekeyed(second, "clicks.by-user", 1, RecordUsers(settings.clicks)))
    answer(2)
    assert thread.is_alive()
    answer(3)
    thread.join(LIMIT_S)
    assert [outcome.answered for outcome in outcomes] == [True]


def requests_on(log: EventLog, partitions: int) -> list[Records]:
    """The requests on the topic of clicks, once each partition has one."""
    requests: dict[int, Records] = {}
    deadline_s = time.monotonic() + LIMIT_S
    with log.reader(["clicks"]) as reader:
        while len(requests) < partitions:
            assert time.monotonic() < deadline_s, requests
            requests |= {records.partition.number: records for records in reader.poll(0.1, 10)}
    return [requests[number] for number in sorted(requests)]


@only_long
@pytest.mark.kafka
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_two_workers_one_killed_on_kafka(
    kafka_bootstrap: str,
    kafka_log: KafkaLog,
    topic_names: Callable[[str], str],
    tiny_release: Path,
    tmp_path: Path,
    delivery: Literal["exactly_once", "at_least_once"],
) -> None:
    site = Site(kafka_log, kafka_bootstrap, topic_names, tiny_release, tmp_path)
    settings = equality.on_site(site, delivery)
    site.environ |= {"HEADRACE_CLICKS__REKEY": "true", "HEADRACE_CLICKS__BY_USER_TOPIC": topic_names("by-user")}
    recorded = clicks(900)
    calm = equality.undisturbed(recorded, settings)
    with site.worker(), site.worker() as other:
        for start in range(0, 900, 100):
            with kafka_log.producer() as producer:
                producer.send(unkeyed(site.clicks, recorded, start, start + 100))
            if start == 300:
                site.wait_for_count(20)
                other.kill()
            time.sleep(0.2)
        outcome = wait_for_windows(kafka_log, settings, calm.windows)
        if delivery == "exactly_once":
            assert count(kafka_log, topic_names("by-user")) == 900  # none lost, none twice
            places = [equality.place(message) for message in outcome.lists]
            assert len(set(places)) == len(places)
        done = CliRunner().invoke(forget.forget, ["user-3", "--wait", "40"], env=site.environ, catch_exceptions=False)
        assert done.exit_code == 0
    del calm.windows["user-3"]
    assert equality.outcome(kafka_log, settings).windows == calm.windows
