"""Topics on a real Kafka: created by command and by nobody else, compared with the settings, and growing."""

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.cli.main import headrace
from engine.errors import EventLogError, SettingsError
from engine.eventlog import topic_plan
from engine.eventlog.base import Outgoing, Partition, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.murmur2 import partition_of
from engine.metrics import Metrics
from engine.settings import loader
from engine.windows.codec import WindowCodec
from engine.worker.loop import Worker
from tests.waiting import LIMIT_S, until

pytestmark = pytest.mark.kafka


@pytest.fixture
def environ(kafka_bootstrap: str, topic_names: Callable[[str], str]) -> dict[str, str]:
    """A deployment of its own, by its prefix."""
    return {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap, "HEADRACE_KAFKA__PREFIX": topic_names("shop")}


def run(environ: dict[str, str], *words: str) -> Result:
    return CliRunner(env=environ).invoke(headrace, words, catch_exceptions=False)


def lines(result: Result) -> dict[str, str]:
    """By the name of each topic after the prefix, what the command says of it."""
    assert result.exit_code == 0
    return dict(re.findall(r"^shop-\w+\.([\w.-]+): (.*)$", result.output, re.MULTILINE))


def test_all_topics_of_a_deployment_are_created_once(environ: dict[str, str], kafka_log: KafkaLog) -> None:
    environ |= {"HEADRACE_TOPICS__DEAD_LETTER_RETENTION_H": "2", "HEADRACE_TOPICS__REPLICATION": "1"}
    settings = loader.load(None, environ)
    spread = {"clicks": 3, "recommendations": 3, "windows": 3, "clicks.dead": 1, "releases": 1, "canary-sums": 1}
    planned = lines(run(environ, "topics", "create", "--partitions", "3", "--dry-run"))
    assert planned == {name: f"would be created, partitions: {count}" for name, count in spread.items()}
    assert kafka_log.partitions(settings.clicks.topic) == 0
    created = lines(run(environ, "topics", "create", "--partitions", "3"))
    assert created == {name: f"created, partitions: {count}" for name, count in spread.items()}
    again = lines(run(environ, "topics", "create"))
    assert again == {name: f"exists, partitions: {count}" for name, count in spread.items()}
    dead = settings.clicks.dead_letter_topic
    configs = kafka_log.existing([dead, settings.windows.topic])
    assert configs[dead].configs["retention.ms"] == "7200000"
    assert configs[settings.windows.topic].configs["cleanup.policy"] == "compact"


def test_what_differs_from_the_settings_is_said(environ: dict[str, str], kafka_log: KafkaLog) -> None:
    settings = loader.load(None, environ)
    kafka_log.ensure_topics([TopicSpec(settings.clicks.topic, 2), TopicSpec(settings.windows.topic, 1)])
    kafka_log.ensure_topics([TopicSpec(settings.clicks.dead_letter_topic, 2, retention_ms=1000)])
    environ["HEADRACE_TOPICS__REPLICATION"] = "3"
    report = lines(run(environ, "topics", "create", "--partitions", "4", "--dry-run"))
    assert report["clicks"] == "exists, partitions: 2; partitions: 2, expected 4; replicas: 1, expected 3"
    assert report["windows"].startswith(
        "exists, partitions: 1; partitions: 1, expected 2; replicas: 1, expected 3;"
        " cleanup.policy: delete, expected compact"
    )
    assert report["clicks.dead"] == (
        "exists, partitions: 2; replicas: 1, expected 3; retention.ms: 1000, expected 1209600000"
    )
    assert report["recommendations"] == "would be created, partitions: 2"


def test_the_number_of_partitions_is_needed_to_create_clicks(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"--partitions is missing, and topic 'shop-\w+\.clicks' .* name it here"):
        run(environ, "topics", "create")


def test_a_worker_creates_its_own_topics_and_says_so(
    environ: dict[str, str], kafka_log: KafkaLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = loader.load(None, environ)
    with pytest.raises(EventLogError, match=r"topic 'shop-\w+\.clicks' \(clicks\.topic\) does not exist"):
        topic_plan.prepare(kafka_log, settings)
    assert kafka_log.existing([spec.name for spec in topic_plan.whole(settings, 1)]) == {}
    permitted = loader.load(
        None, environ | {"HEADRACE_CLICKS__CREATE_TOPIC": "true", "HEADRACE_TOPICS__PARTITIONS": "3"}
    )
    assert topic_plan.prepare(kafka_log, permitted) == 3
    created = [record.getMessage() for record in caplog.records if record.getMessage().startswith("created topic")]
    assert [line.split()[2].partition(".")[2].rstrip(":") for line in created] == [
        "clicks",
        *("recommendations", "windows", "clicks.dead"),
    ]
    assert "3 partitions, 1 replicas" in created[0]
    assert "retention.ms=1209600000" in created[-1]


USERS = [f"user-{number}" for number in range(24)]
START_MS = 1_700_000_000_000


class Shop:
    """A deployment on the broker, whose workers run in threads, and its clicks, keyed as kafka-python keys them."""

    def __init__(self, environ: dict[str, str], log: KafkaLog, release: Path) -> None:
        short = {"KAFKA__SESSION_TIMEOUT_S": "6", "WINDOWS__MAX_USERS": "100", "RELEASES__PATH": str(release)}
        self.environ = environ | {f"HEADRACE_{name}": value for name, value in short.items()}
        self.settings = loader.load(None, self.environ)
        self.log = log
        self.rounds = 0

    def click(self) -> None:
        """One click of each user."""
        self.rounds += 1
        times = [START_MS + 1000 * self.rounds + number for number in range(len(USERS))]
        values: list[bytes | None] = [
            json.dumps({"user": user, "item": f"i{self.rounds}", "ts": time_ms}).encode()
            for user, time_ms in zip(USERS, times, strict=True)
        ]
        with self.log.producer() as producer:
            producer.send(Outgoing(self.settings.clicks.topic, [user.encode() for user in USERS], values))

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        stop = threading.Event()
        worker = Worker(self.settings, KafkaLog(self.settings.kafka), Metrics())
        thread = threading.Thread(target=worker.run, args=[stop])
        thread.start()
        try:
            yield worker
        finally:
            stop.set()
            thread.join(LIMIT_S)
        assert not thread.is_alive()

    def windows(self) -> dict[int, dict[str, list[str]]]:
        """By partition, the windows that the changelog has."""
        catalogue = Catalogue()
        codec = WindowCodec(catalogue, Actions(self.settings.clicks))
        values: dict[Partition, dict[str, bytes | None]] = {}
        with self.log.reader([self.settings.windows.topic]) as reader:
            while not reader.at_end():
                for records in reader.poll(0.1, 1000):
                    users = [(key or b"").decode() for key in records.keys]
                    values.setdefault(records.partition, {}).update(zip(users, records.values, strict=True))
        windows: dict[int, dict[str, list[str]]] = {}
        for partition, of_partition in values.items():
            for user, value in of_partition.items():
                if value is not None:
                    items = catalogue.ids(codec.decode([user], [value], "the test").items.tolist())
                    windows.setdefault(partition.number, {})[user] = items
        return windows

    def expected(self, partitions: int) -> dict[int, dict[str, list[str]]]:
        """Every user's window of all clicks, where the clicks of so many partitions go."""
        windows: dict[int, dict[str, list[str]]] = {}
        for user in USERS:
            items = [f"i{number}" for number in range(1, self.rounds + 1)]
            windows.setdefault(partition_of(user.encode(), partitions), {})[user] = items
        return windows


@pytest.fixture
def shop(environ: dict[str, str], kafka_log: KafkaLog, tiny_release: Path) -> Shop:
    return Shop(environ, kafka_log, tiny_release)


def test_two_deployments_on_one_cluster_are_kept_apart(
    shop: Shop, kafka_log: KafkaLog, topic_names: Callable[[str], str], tiny_release: Path
) -> None:
    lines(run(shop.environ, "topics", "create", "--partitions", "2"))
    shop.click()
    with shop.worker():
        until(lambda: shop.windows() == shop.expected(2))
    other = Shop(shop.environ | {"HEADRACE_KAFKA__PREFIX": topic_names("other")}, kafka_log, tiny_release)
    assert run(other.environ, "topics", "create", "--partitions", "2").exit_code == 0
    other.click()
    with other.worker():
        until(lambda: other.windows() == other.expected(2))
    # by mistake it is given the first one's changelog
    changelog = shop.settings.windows.topic
    third = Shop(other.environ | {"HEADRACE_WINDOWS__TOPIC": changelog}, kafka_log, tiny_release)
    worker = Worker(third.settings, KafkaLog(third.settings.kafka), Metrics())
    with pytest.raises(SettingsError, match=rf"windows\.topic '{changelog}' .*: found a window of deployment 'shop-"):
        worker.run(threading.Event())
    assert shop.windows() == shop.expected(2)


def test_clicks_that_are_given_more_partitions_lose_no_window(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    topic = shop.settings.clicks.topic
    lines(run(shop.environ, "topics", "create", "--partitions", "2"))
    shop.click()
    with shop.worker() as worker:
        until(lambda: shop.windows() == shop.expected(2))
        shop.log.grow(topic, 4)
        until(lambda: "run `headrace repartition`" in (worker.not_ready or ""), 20.0)
        shop.click()  # half of it goes to partitions that have no windows yet, and waits
        stayed = {user for user in USERS if partition_of(user.encode(), 4) < 2}
        until(lambda: sum(len(items) == 2 for of in shop.windows().values() for items in of.values()) == len(stayed))
        assert len([line for line in caplog.messages if "was given more partitions" in line]) == 1
        with pytest.raises(EventLogError, match=r"\(kafka\.group\) has 1 active members, expected none: .*stop all"):
            run(shop.environ, "repartition")
    moves = len(USERS) - len(stayed)
    assert run(shop.environ, "repartition", "--dry-run").output.startswith(f"{moves} windows would be moved, 0 of them")
    assert shop.log.partitions(shop.settings.windows.topic) == 2
    assert run(shop.environ, "repartition").output.startswith(f"{moves} windows are moved, 0 of them")
    assert {number: {*users} for number, users in shop.windows().items()} == {
        number: {*users} for number, users in shop.expected(4).items()
    }
    with shop.worker() as worker, shop.worker():
        until(lambda: shop.windows() == shop.expected(4))
        until(lambda: worker.not_ready is None)
        shop.click()
        until(lambda: shop.windows() == shop.expected(4))


def test_windows_stay_while_clicks_before_the_growth_are_unread(shop: Shop) -> None:
    lines(run(shop.environ, "topics", "create", "--partitions", "2"))
    shop.click()
    with shop.worker():
        until(lambda: shop.windows() == shop.expected(2))
    shop.click()
    shop.log.grow(shop.settings.clicks.topic, 4)
    with pytest.raises(EventLogError, match=r"clicks are not read yet of users whose windows are to be moved: \d+ in"):
        run(shop.environ, "repartition")
    with pytest.raises(EventLogError, match=r"are in another partition than that of their key"):
        run(shop.environ, "repartition", "--partitioner", "crc32")
    with shop.worker():  # reads what is left, although the changelog has fewer partitions
        until(lambda: shop.windows() == shop.expected(2))
    moves = sum(partition_of(user.encode(), 4) > 1 for user in USERS)
    assert run(shop.environ, "repartition").output.startswith(f"{moves} windows are moved")
    assert shop.windows() == shop.expected(4)


def test_there_is_nothing_to_move_without_topics(shop: Shop) -> None:
    with pytest.raises(SettingsError, match=r"has 0 partitions, .* there is nothing to move"):
        run(shop.environ, "repartition")
