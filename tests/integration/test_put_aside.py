"""Records that cannot be put aside as they came, or not be read by the client: the stream goes on, on a real Kafka."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition  # noqa: TID251 - records and topics that Headrace does not make

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
from tests.waiting import until

pytestmark = pytest.mark.kafka

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
        until(lambda: users_with_lists(kafka_log, settings) == {"ann", "bob"})
        (letter,) = dead_letters.read(kafka_log, settings.clicks.dead_letter_topic, LetterFilter())
        until(lambda: metrics.registry.get_sample_value("headrace_cut_dead_letters_total") == 1)
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
        until(lambda: users_with_lists(kafka_log, settings) == {"bob"})
        until(lambda: metrics.registry.get_sample_value("headrace_unsent_dead_letters_total") == 1)
    assert f"no dead letter of it: {settings.clicks.topic}/0/0: unparsable" in caplog.text


class NotText(str):
    """A name of a header that is not UTF-8, as clients in C write it."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        del encoding, errors
        return b"\xff\xfebad"


@pytest.mark.parametrize("codec", [None, "gzip"])
def test_a_header_whose_name_is_not_utf_8_stops_nobody(
    settings: Settings, kafka_log: KafkaLog, codec: str | None
) -> None:
    topic = settings.clicks.topic
    kafka_log.ensure_topics([TopicSpec(topic)])
    sender = KafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers, compression_type=codec, linger_ms=200)
    bad = [(NotText("x"), b"1"), ("trace", b"2")]
    for key, value, headers in [
        (b"ann", click("ann", 1), []),
        (b"bob", click("bob", 2), bad),
        (b"eve", b"rubbish", bad),
        (b"joe", click("joe", 3), []),
    ]:
        sender.send(topic, value, key, headers)
    sender.close()
    with serving(settings, Metrics()):
        until(lambda: users_with_lists(kafka_log, settings) == {"ann", "bob", "joe"})
    (letter,) = dead_letters.read(kafka_log, settings.clicks.dead_letter_topic, LetterFilter())
    assert (letter.value, letter.origin_offset) == (b"rubbish", 2)
    assert letter.headers == [("\\xff\\xfebad", b"1"), ("trace", b"2")]
    with kafka_log.reader([topic]) as reader:
        assert [records.offsets for records in reader.poll(5.0, 100)] == [[0, 1, 2, 3]]


def test_records_deleted_before_they_were_read_are_told_and_counted(
    settings: Settings, kafka_log: KafkaLog, caplog: pytest.LogCaptureFixture
) -> None:
    topic = settings.clicks.topic
    kafka_log.ensure_topics([TopicSpec(topic)])
    sender = producer(settings)
    metrics = Metrics()
    sender.send(topic, click("ann", 1), b"ann").get(10)
    with serving(settings, metrics):
        until(lambda: users_with_lists(kafka_log, settings) == {"ann"})
    for number in range(2, 5):
        sender.send(topic, click("bob", number), b"bob").get(10)
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    admin.delete_records({TopicPartition(topic, 0): 4})
    admin.close()
    with serving(settings, metrics):
        until(lambda: metrics.registry.get_sample_value("headrace_deleted_records_total") == 3)
        sender.send(topic, click("eve", 5), b"eve").get(10)
        until(lambda: users_with_lists(kafka_log, settings) == {"ann", "eve"})
    sender.close()
    warnings = [record.message for record in caplog.records if "deleted by retention" in record.message]
    assert len(warnings) == 1
    assert f"3 records of {topic}/0 (offsets 1 to 3)" in warnings[0]
    assert metrics.registry.get_sample_value("headrace_deleted_records_total") == 3
