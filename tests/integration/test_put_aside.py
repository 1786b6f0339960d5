"""Records that cannot be put aside as they came, or not be read by the client: the stream goes on, on a real Kafka."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer  # noqa: TID251 - records and topics that Headrace does not make

from engine.eventlog.base import Partition, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.ingest import dead_letters
from engine.ingest.dead_letters import HEAD_BYTES, LetterFilter
from engine.messages.recommendation import decode_recommendation
from engine.metrics import Metrics
from engine.settings.sections import (
    ClickSettings,
    KafkaSettings,
    RecommendationSettings,
    ReleaseSettings,
    Settings,
    WindowSettings,
)
from engine.worker.loop import Worker

pytestmark = pytest.mark.kafka

LIMIT_S = 60.0
START_MS = 1_700_000_000_000
Names = Callable[[str], str]


@pytest.fixture
def settings(kafka_settings: KafkaSettings, tiny_release: Path, topic_names: Names) -> Settings:
    """Settings of a worker with topics of its own, of which the lists' exists."""
    KafkaLog(kafka_settings).ensure_topics([TopicSpec(topic_names("recommendations"), compacted=True)])
    return Settings(
        kafka=kafka_settings.model_copy(update={"group": topic_names("group")}),
        clicks=ClickSettings(topic=topic_names("clicks"), dead_letter_topic=topic_names("dead")),
        recommendations=RecommendationSettings(topic=topic_names("recommendations")),
        windows=WindowSettings(topic=topic_names("windows"), max_users=1000),
        releases=ReleaseSettings(topic=topic_names("releases"), path=tiny_release),
    )


@contextmanager
def serving(settings: Settings, metrics: Metrics) -> Iterator[Worker]:
    """A worker in a thread of its own."""
    worker, stop = Worker(settings, KafkaLog(settings.kafka), metrics), threading.Event()
    thread = threading.Thread(target=worker.run, args=[stop])
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join(60.0)
        assert not thread.is_alive()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def make_topic(settings: Settings, name: str, **configs: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    topic = {"num_partitions": 1, "replication_factor": 1, "configs": configs}
    admin.create_topics({name: topic})
    admin.wait_for_topics([name])
    admin.close()


def producer(settings: Settings) -> KafkaProducer:
    return KafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap_servers, compression_type="gzip", max_request_size=32 * 2**20
    )


def click(user: str, number: int) -> bytes:
    return json.dumps({"user": user, "item": f"i{number}", "ts": START_MS + number}).encode()


def users_with_lists(log: KafkaLog, settings: Settings) -> set[str]:
    with log.reader([settings.recommendations.topic]) as reader:
        lists = []
        while not reader.at_end():
            lists += [value for records in reader.poll(0.2, 1000) for value in records.values]
    return {decode_recommendation(value or b"").user for value in lists}


def test_a_click_of_20_mb_leaves_its_head_where_the_topic_takes_20_kb(settings: Settings, kafka_log: KafkaLog) -> None:
    make_topic(settings, settings.clicks.topic, **{"max.message.bytes": "30000"})
    make_topic(settings, settings.clicks.dead_letter_topic, **{"max.message.bytes": "20000"})
    huge = b'{"user":"ann","rubbish":"' + b"r" * 20_000_000 + b'"}'
    sender = producer(settings)
    for key, value in [(b"ann", click("ann", 1)), (b"ann", huge), (b"bob", click("bob", 2))]:
        sender.send(settings.clicks.topic, value, key)
        sender.flush()
    sender.close()
    metrics = Metrics()
    with serving(settings, metrics):
        eventually(lambda: users_with_lists(kafka_log, settings) == {"ann", "bob"})
        (letter,) = dead_letters.read(kafka_log, settings.clicks.dead_letter_topic, LetterFilter())
        eventually(lambda: metrics.registry.get_sample_value("headrace_cut_dead_letters_total") == 1)
    assert letter.whole == (len(huge), sha256(huge).hexdigest())
    assert letter.value == huge[:HEAD_BYTES]
    assert (letter.reason, letter.key) == ("too_large", b"ann")
    assert (letter.origin, letter.origin_offset) == (Partition(settings.clicks.topic, 0), 1)
    replayed = dead_letters.replay(kafka_log, [letter])
    assert (replayed.sent, replayed.cut) == (0, 1)


def test_letters_that_are_refused_in_any_size_do_not_stop_the_stream(
    settings: Settings, kafka_log: KafkaLog, caplog: pytest.LogCaptureFixture
) -> None:
    """A compacted topic takes no record without a key."""
    make_topic(settings, settings.clicks.topic)
    make_topic(settings, settings.clicks.dead_letter_topic, **{"cleanup.policy": "compact"})
    sender = producer(settings)
    for value in [b"rubbish", click("bob", 2)]:
        sender.send(settings.clicks.topic, value)
        sender.flush()
    sender.close()
    metrics = Metrics()
    with serving(settings, metrics):
        eventually(lambda: users_with_lists(kafka_log, settings) == {"bob"})
        eventually(lambda: metrics.registry.get_sample_value("headrace_unsent_dead_letters_total") == 1)
    assert f"no dead letter of it: {settings.clicks.topic}/0/0: unparsable" in caplog.text
