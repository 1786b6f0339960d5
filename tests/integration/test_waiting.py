"""Waiting and failing: a worker says what it waits for, and ends where waiting cannot help. On a real Kafka."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient  # noqa: TID251 - topics are deleted here, which Headrace never does

from engine.eventlog.base import Outgoing, Partition, Rebalance, Session, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.metrics import Metrics
from engine.settings.loader import ENV_PREFIX
from engine.settings.sections import (
    ClickSettings,
    KafkaSettings,
    RecommendationSettings,
    ReleaseSettings,
    Settings,
    WindowSettings,
)
from engine.worker.loop import Worker
from tests.conftest import only_long
from tests.integration import broker
from tests.integration.site import HEADRACE
from tests.waiting import LIMIT_S, until

pytestmark = pytest.mark.kafka

Names = Callable[[str], str]


def environ(cluster: broker.Cluster, **changes: str) -> dict[str, str]:
    """The environment of a worker that may do everything, but for the changes."""
    own = {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": cluster.bootstrap,
        "HEADRACE_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "HEADRACE_KAFKA__SASL_MECHANISM": "PLAIN",
        "HEADRACE_KAFKA__SASL_USERNAME": broker.USER,
        "HEADRACE_KAFKA__SASL_PASSWORD": broker.PASSWORD,
        "HEADRACE_KAFKA__SSL_CA_FILE": str(cluster.ca_file),
        "HEADRACE_KAFKA__FIRST_CONNECT_TIMEOUT_S": "3",
        "HEADRACE_WINDOWS__MAX_USERS": "100",
        "HEADRACE_TELEMETRY__PORT": "0",
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return others | own | {f"HEADRACE_{name}": value for name, value in changes.items()}


GUEST = {"KAFKA__SASL_USERNAME": broker.GUEST, "KAFKA__SASL_PASSWORD": broker.GUEST_PASSWORD}


@pytest.mark.parametrize("has_release", [True, False], ids=["release", "no release"])
@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"KAFKA__SASL_PASSWORD": "wrong"}, "refused the login of 'app' by PLAIN; check kafka.sasl_username"),
        ({"KAFKA__SSL_CA_FILE": "/etc/ssl/certs/ca-certificates.crt"}, "set kafka.ssl_ca_file to the certificate"),
        (GUEST, "TopicAuthorizationFailedError; give this client's user the right"),
    ],
    ids=["password", "authority", "right"],
)
def test_a_worker_that_is_refused_from_the_start_ends_with_the_cause(
    secure_cluster: broker.Cluster, changes: dict[str, str], cause: str, has_release: bool, tiny_release: Path
) -> None:
    release = {"RELEASES__PATH": str(tiny_release)} if has_release else {}
    started_s = time.monotonic()
    done = subprocess.run(
        [HEADRACE, "run"],
        env=environ(secure_cluster, **changes, **release),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert time.monotonic() - started_s > 3.0
    assert cause in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("headrace: ")
    assert "wrong" not in done.stderr


@contextmanager
def serving(worker: Worker) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=[stop])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_a_worker_is_not_ready_seconds_after_its_broker_went_away(
    kafka_home: Path, tmp_path: Path, tiny_release: Path
) -> None:
    with broker.Cluster(kafka_home, tmp_path) as cluster:
        kafka = KafkaSettings(bootstrap_servers=cluster.bootstrap)
        releases = ReleaseSettings(path=tiny_release)
        log = KafkaLog(kafka)
        log.ensure_topics([TopicSpec("clicks", 2)])
        settings = Settings(kafka=kafka, releases=releases, windows=WindowSettings(max_users=100))
        worker = Worker(settings, log, Metrics())
        with serving(worker):
            until(lambda: worker.not_ready is None)
            cluster.send_signal(cluster.nodes[0], signal.SIGSTOP)
            until(lambda: "no broker has answered for" in (worker.not_ready or ""), 9.0)
            cluster.send_signal(cluster.nodes[0], signal.SIGCONT)
            until(lambda: worker.not_ready is None)


@only_long
def test_a_broker_that_died_fills_no_log(kafka_home: Path, tmp_path: Path, tiny_release: Path) -> None:
    """The client alone writes hundreds of lines a minute."""
    with broker.Cluster(kafka_home, tmp_path / "kafka") as cluster, (tmp_path / "log").open("wb") as output:
        KafkaLog(KafkaSettings(bootstrap_servers=cluster.bootstrap)).ensure_topics([TopicSpec("clicks", 2)])
        plain = {"KAFKA__SECURITY_PROTOCOL": "PLAINTEXT", "RELEASES__PATH": str(tiny_release)}
        process = subprocess.Popen([HEADRACE, "run"], env=environ(cluster, **plain), stdout=output, stderr=output)
        try:
            until(lambda: "is restored" in (tmp_path / "log").read_text())
            before = len((tmp_path / "log").read_text().splitlines())
            cluster.stop(cluster.nodes[0], signal.SIGKILL)
            time.sleep(20.0)
            lines = (tmp_path / "log").read_text().splitlines()[before:]
        finally:
            process.terminate()
            assert process.wait(LIMIT_S) == 0
    assert len(lines) < 40, "\n".join(lines)


def test_the_lag_of_partitions_that_are_not_fetched_is_known(kafka_log: KafkaLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    kafka_log.ensure_topics([TopicSpec(topic, 3)])
    with kafka_log.producer() as producer:
        producer.send(Outgoing(topic, [None] * 70, [b"click"] * 70, partitions=[0] * 10 + [2] * 60))
    sessions: list[Session] = []

    def pause(partitions: Sequence[Partition]) -> None:
        sessions[0].pause(partitions)

    rebalance = Rebalance(assigned=pause)
    expected = {Partition(topic, number): count for number, count in enumerate([10, 0, 60])}
    with closing(kafka_log.session([topic], topic_names("group"), rebalance)) as session:
        sessions.append(session)
        deadline = time.monotonic() + LIMIT_S
        while session.lag() != expected:
            assert time.monotonic() < deadline, session.lag()
            session.poll(0.1, 100)
        with kafka_log.producer() as producer:
            producer.send(Outgoing(topic, [None], [b"click"], partitions=[1]))
        assert session.lag() == expected | {Partition(topic, 1): 1}
        session.resume([Partition(topic, 2)])
        while (read := sum(map(len, session.poll(0.1, 100)))) == 0:
            assert time.monotonic() < deadline
        assert session.lag() == expected | {Partition(topic, 1): 1, Partition(topic, 2): 60 - read}


def settings_of(kafka: KafkaSettings, release: Path, topic_names: Names) -> Settings:
    return Settings(
        kafka=kafka.model_copy(update={"group": topic_names("group")}),
        clicks=ClickSettings(topic=topic_names("clicks"), dead_letter_topic=topic_names("dead")),
        recommendations=RecommendationSettings(topic=topic_names("recommendations")),
        windows=WindowSettings(topic=topic_names("windows"), max_users=100),
        releases=ReleaseSettings(topic=topic_names("releases"), path=release),
    )


def click(log: KafkaLog, topic: str, number: int) -> None:
    value = b'{"user":"ann","item":"i%d","ts":%d}' % (number, 1_700_000_000_000 + number)
    with log.producer() as producer:
        producer.send(Outgoing(topic, [b"ann"], [value]))


def test_a_changelog_that_is_deleted_under_a_worker_is_not_made_anew_without_a_word(
    kafka_settings: KafkaSettings, tiny_release: Path, topic_names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    short = kafka_settings.model_copy(update={"commit_timeout_s": 3.0})
    settings, metrics = settings_of(short, tiny_release, topic_names), Metrics()
    log = KafkaLog(settings.kafka)
    log.ensure_topics([TopicSpec(settings.clicks.topic)])

    def lists() -> float:
        return metrics.registry.get_sample_value("headrace_lists_total") or 0.0

    worker = Worker(settings, log, metrics)
    with serving(worker):
        click(log, settings.clicks.topic, 1)
        until(lambda: lists() == 1)
        admin = KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
        admin.delete_topics([settings.windows.topic])
        admin.close()
        click(log, settings.clicks.topic, 2)
        refusal = f"windows.topic '{settings.windows.topic}' was deleted while this worker used it"
        until(lambda: refusal in (worker.not_ready or ""))
        assert log.partitions(settings.windows.topic) == 0
        later = Worker(settings, log, Metrics())
        with serving(later):
            until(lambda: "does not exist, although group" in (later.not_ready or ""))
        assert log.partitions(settings.windows.topic) == 0
        log.ensure_topics([TopicSpec(settings.windows.topic, compacted=True)])  # the operator gives in
        until(lambda: lists() == 2)
    assert "was deleted and made again: windows of before are gone" in caplog.text


def test_two_workers_of_one_static_name_are_told_why(
    kafka_settings: KafkaSettings, tiny_release: Path, topic_names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    same = kafka_settings.model_copy(update={"static_member": "pod-0"})
    settings = settings_of(same, tiny_release, topic_names)
    KafkaLog(settings.kafka).ensure_topics([TopicSpec(settings.clicks.topic)])
    first = Worker(settings, KafkaLog(settings.kafka), Metrics())
    with serving(first):
        until(lambda: first.not_ready is None)
        with serving(Worker(settings, KafkaLog(settings.kafka), Metrics())):
            until(lambda: "give each worker a kafka.static_member of its own" in caplog.text)
