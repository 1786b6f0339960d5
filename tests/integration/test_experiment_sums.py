"""The sums of an experiment are those that its lists and clicks tell, whenever workers die."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from engine.cli.experiment import read_report
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Outgoing, Rebalance, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.messages.experiment_messages import Experiment
from engine.quality.experiment_report import ExperimentCounts
from engine.releases import experiments
from engine.releases.experiments import Judgement
from engine.releases.registrar import Registrar
from engine.settings import loader
from engine.settings.sections import CanarySettings, KafkaSettings, Settings, WorkerSettings
from engine.worker.sums_reader import SumsReader
from models.publishing import announce
from tests.conftest import TINY_ITEMS, Report, only_long
from tests.integration import equality
from tests.integration.experiment_recount import JudgedClick, Recount, all_records, begin_of, recount
from tests.integration.site import Site
from tests.integration.test_crash import Death, MortalLog, MortalSession
from tests.integration.test_rollback import settings_of
from tests.waiting import LIMIT_S, until

ARMS = ("control", "short count=3", "diverse diversity=0.2 share=0.3")
USERS, CLICKS, PARTITIONS = 60, 600, 3
DEADLY = 0.04
"""Probability that a worker on the in-process log dies at a step of a commit."""
KILLS = 12
"""Of processes on Kafka."""
START_MS = 1_700_000_000_000
HALF = TINY_ITEMS // 2


class Walk:
    """Users who walk along the rings of items that the tiny release was trained on."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(1)
        self._places = [0] * USERS
        self._clicks = 0

    def clicks(self, topic: str, count: int) -> Outgoing:
        """The next clicks."""
        users, values = self._rng.integers(0, USERS, count).tolist(), list[bytes | None]()
        for user in users:
            self._clicks += 1
            self._places[user] = (self._places[user] + int(self._rng.integers(1, 3))) % HALF
            item = f"i{self._places[user] + HALF * (user % 2)}"
            time_ms = START_MS + 60_000 * self._clicks
            values.append(json.dumps({"user": f"u{user}", "item": item, "ts": time_ms}).encode())
        return Outgoing(topic, [f"u{user}".encode() for user in users], values)


def begin_experiment(log: EventLog, settings: Settings, release: Path) -> Experiment:
    """Publish the release, and start an experiment over it."""
    topic = topic_plan.releases(settings)
    announce.to_topic(release, log, topic, time.time_ns() // 1_000_000)
    registrar = Registrar(settings.releases.model, log, topic)
    arms = [*map(experiments.parse_arm, ARMS)]
    now_ms = time.time_ns() // 1_000_000
    (record,) = registrar.change(
        lambda registry: experiments.start(registry, "sums", arms, now_ms, judgement=Judgement(0.05, 50))
    )
    assert isinstance(record, Experiment)
    return record


def counted(log: EventLog, settings: Settings, experiment: Experiment) -> ExperimentCounts:
    """The sums of all sessions together."""
    with closing(SumsReader(log.reader([settings.canary.topic]))) as sums:
        return sums.counts(experiment)


class SessionsLog(MortalLog):
    """A log that knows at which offsets its sessions began, one after the other."""

    def __init__(self, deadly: float, settings: Settings) -> None:
        self._rng = np.random.default_rng(0)
        self._settings = settings
        self.begins: list[dict[int, int]] = []
        super().__init__(lambda _point: bool(self._rng.random() < deadly), ())

    def session(self, topics: Sequence[str], group: str, rebalance: Rebalance) -> MortalSession:
        self.begins.append(self.group_positions(group, self._settings.clicks.topic))
        return super().session(topics, group, rebalance)


def site_settings(**sections: object) -> Settings:
    return settings_of(lambda name: name, poll_interval_s=0.02).model_copy(update=sections)


def test_the_sums_are_those_of_the_lists_and_clicks_whenever_workers_die(tiny_release: Path) -> None:
    """A record with each batch: all that is missing are clicks by a list that an earlier session sent."""
    settings = site_settings(
        canary=CanarySettings(interval_s=1e-9), worker=WorkerSettings(max_batch_clicks=8, poll_timeout_s=0.01)
    )
    log = SessionsLog(DEADLY, settings)
    log.ensure_topics([TopicSpec(settings.clicks.topic, PARTITIONS), *topic_plan.outputs(settings, PARTITIONS)])
    experiment = begin_experiment(log, settings, tiny_release)
    clicks = Walk().clicks(settings.clicks.topic, CLICKS)
    log.producer().send(clicks)
    deaths = 0
    while left := CLICKS - sum(log.group_positions(settings.kafka.group, settings.clicks.topic).values()):
        try:
            equality.serve(log, settings, left)
        except Death:
            deaths += 1
    assert deaths > 3
    whole, counts = recount(log, settings, experiment), counted(log, settings, experiment)
    expected = whole.sums(lambda click: click.list_offset >= begin_of(log.begins, click.partition, click.offset))
    assert whole.sums().clicks.sum() > expected.clicks.sum() > CLICKS // 3
    np.testing.assert_array_equal(counts.sums.clicks, expected.clicks)
    np.testing.assert_array_equal(counts.sums.hits, expected.hits)
    np.testing.assert_allclose(counts.sums.gains, expected.gains, atol=1e-4)
    check_report(log, settings, whole, counts)


def check_report(log: EventLog, settings: Settings, whole: Recount, counts: ExperimentCounts) -> None:
    """The users of the report are those who were sent lists, its clicks those of the sums."""
    for sampled, user_tickets in zip(counts.sample.tickets, whole.user_tickets, strict=True):
        np.testing.assert_array_equal(sampled, user_tickets)
    registrar = Registrar(settings.releases.model, log, topic_plan.releases(settings))
    report = read_report(registrar, log, settings, "sums", time.time_ns() // 1_000_000)
    assert [arm.users for arm in report.arms] == [len(users) for users in whole.users]
    assert [arm.clicks for arm in report.arms] == counts.sums.clicks.sum(axis=1).tolist()
    assert not report.sample_ratio.mismatch


class Workers:
    """Two worker processes, of which now and then one is killed and started again."""

    def __init__(self, site: Site) -> None:
        self._site, self._rng = site, np.random.default_rng()
        self._stack = ExitStack()
        self._processes = [self._stack.enter_context(site.worker()) for _ in range(2)]
        self.kills_ms: list[int] = []

    def kill_one(self) -> None:
        """kill -9, and another in its place."""
        index = int(self._rng.integers(2))
        self._processes[index].kill()
        self._processes[index].wait(LIMIT_S)
        self.kills_ms.append(time.time_ns() // 1_000_000)
        self._processes[index] = self._stack.enter_context(self._site.worker())

    def close(self) -> None:
        self._stack.close()


@only_long
@pytest.mark.kafka
def test_processes_killed_at_random_lose_what_is_documented_and_count_nothing_twice(
    kafka_log: KafkaLog,
    kafka_settings: KafkaSettings,
    topic_names: Callable[[str], str],
    tiny_release: Path,
    tmp_path: Path,
    report: Report,
) -> None:
    """Kept lists, not compacted ones: the recount needs them all."""
    site = Site(kafka_log, kafka_settings.bootstrap_servers, topic_names, tiny_release, tmp_path)
    lists, sums = topic_names("all-lists"), topic_names("canary-sums")
    kafka_log.ensure_topics([TopicSpec(lists, PARTITIONS)])
    del site.environ["HEADRACE_RELEASES__PATH"]
    site.environ |= {
        "HEADRACE_RECOMMENDATIONS__TOPIC": lists,
        "HEADRACE_CANARY__TOPIC": sums,
        "HEADRACE_CANARY__INTERVAL_S": "1",
        "HEADRACE_KAFKA__COMMIT_TIMEOUT_S": "4",
        "HEADRACE_KAFKA__TRANSACTION_TIMEOUT_S": "5",
    }
    settings = loader.load(None, site.environ)
    experiment = begin_experiment(kafka_log, settings, tiny_release)
    walk, rng = Walk(), np.random.default_rng()
    with closing(Workers(site)) as workers, kafka_log.producer() as producer:
        for _ in range(KILLS):
            for _ in range(int(rng.integers(100, 400))):
                producer.send(walk.clicks(site.clicks, 4))
                time.sleep(0.02)
            workers.kill_one()
            producer.flush()
            wait_until_processed(kafka_log, settings)
    whole, counts = recount(kafka_log, settings, experiment), counted(kafka_log, settings, experiment)
    moved, spans_ms = moves_ms(site.log_file), spans_after_records_ms(kafka_log, sums, workers.kills_ms)
    by_lists = whole.sums(lambda click: is_by_a_lost_list(click, moved))
    lost = whole.sums(lambda click: is_by_a_lost_list(click, moved) or is_after_a_record(click, spans_ms))
    missing = whole.sums().clicks - counts.sums.clicks
    report(
        f"{KILLS} kills, {counts.sessions} sessions: of {len(whole.clicks)} judged clicks {missing.sum():.0f} are not"
        f" counted, {by_lists.clicks.sum():.0f} of them by lists of an earlier session, and of"
        f" {(lost.clicks - by_lists.clicks).sum():.0f} after the last record of a session",
        {"judged": len(whole.clicks), "missing": missing.sum(), "by_lists": by_lists.clicks.sum()},
    )
    assert (missing >= by_lists.clicks).all()
    assert (missing <= lost.clicks).all()
    assert (counts.sums.hits <= whole.sums().hits - by_lists.hits).all()
    assert (counts.sums.hits >= whole.sums().hits - lost.hits).all()
    assert (counts.sums.gains <= whole.sums().gains - by_lists.gains + 1e-3).all()
    assert (counts.sums.gains >= whole.sums().gains - lost.gains - 1e-3).all()
    check_report(kafka_log, settings, whole, counts)


def wait_until_processed(log: KafkaLog, settings: Settings) -> None:
    """Wait until the group has committed all clicks."""
    with closing(log.reader([settings.clicks.topic])) as reader:
        ends = {partition.number: bounds.stop for partition, bounds in reader.bounds.items()}
    until(lambda: log.group_positions(settings.kafka.group, settings.clicks.topic) == ends)


def moves_ms(log_file: Path) -> list[tuple[int, int]]:
    """Partitions that came to a worker, each with the time, by the workers' log."""
    moves = list[tuple[int, int]]()
    for line in log_file.read_text().splitlines():
        head, mark, names = line.partition(" INFO engine.worker.loop: assigned: ")
        if mark:
            time_ms = round(datetime.strptime(head, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp() * 1000)
            moves += [(int(name.rpartition("/")[2]), time_ms) for name in names.split(", ")]
    return moves


def is_by_a_lost_list(click: JudgedClick, moves: Sequence[tuple[int, int]]) -> bool:
    """True if its partition came to another session between the list and the click: that one knows no list."""
    return any(
        partition == click.partition and click.list_ms < moved_ms <= click.processed_ms for partition, moved_ms in moves
    )


def spans_after_records_ms(log: EventLog, topic: str, kills_ms: Sequence[int]) -> list[tuple[int, int]]:
    """From the last record of each session to the next kill, or on without end."""
    times_ms: dict[bytes, int] = {}
    for records in all_records(log, topic):
        dated = zip(records.keys, records.timestamps_ms, strict=True)
        times_ms |= {key: time_ms for key, time_ms in dated if key is not None and b"/look/" not in key}
    return [
        (begin_ms, min((kill_ms for kill_ms in kills_ms if kill_ms >= begin_ms), default=1 << 62))
        for begin_ms in times_ms.values()
    ]


def is_after_a_record(click: JudgedClick, spans_ms: Sequence[tuple[int, int]]) -> bool:
    """True if the click was processed in one of these spans."""
    return any(begin_ms <= click.processed_ms <= end_ms for begin_ms, end_ms in spans_ms)
