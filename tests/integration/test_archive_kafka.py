"""`headrace archive` on a real Kafka: killed by kill -9 at random moments, it holds each click of the topic once."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.eventlog.base import Outgoing, Partition, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.time_source import TimeSource
from engine.interactions.archive_folder import ArchiveFolder
from engine.interactions.archive_table import ArchiveTable
from engine.metrics import Metrics
from engine.settings.loader import ENV_PREFIX
from engine.settings.sections import ArchiveSettings, ClickSettings, KafkaSettings, Settings
from engine.worker.archiver import Archiver, archive_once
from tests.waiting import LIMIT_S, until

pytestmark = pytest.mark.kafka

PARTITIONS = 3
LONG = os.environ.get("LONG_TESTS") == "1"
KILLS = 20 if LONG else 2
Row = tuple[int, int, str]
"""Partition, offset, item."""


@contextmanager
def process(settings: Settings, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)} | {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "HEADRACE_KAFKA__GROUP": settings.kafka.group,
        "HEADRACE_KAFKA__SESSION_TIMEOUT_S": "2",
        "HEADRACE_CLICKS__TOPIC": settings.clicks.topic,
        "HEADRACE_ARCHIVE__FOLDER": str(settings.archive.folder),
        "HEADRACE_ARCHIVE__FILE_AGE_S": str(settings.archive.file_age_s),
        "HEADRACE_ARCHIVE__COMPACTION_INTERVAL_S": "1",
        "HEADRACE_TELEMETRY__PORT": "0",
    }
    command = [sys.executable, "-c", "from engine.cli.archive import archive; archive()"]
    with output.open("ab") as file:
        archiver = subprocess.Popen(command, env=environ, stdout=file, stderr=file)
    try:
        yield archiver
    finally:
        if archiver.poll() is None:
            archiver.kill()
        archiver.wait(LIMIT_S)


@pytest.fixture
def site(
    kafka_log: KafkaLog, kafka_settings: KafkaSettings, topic_names: Callable[[str], str], tmp_path: Path
) -> Settings:
    topic = topic_names("clicks")
    kafka_log.ensure_topics([TopicSpec(topic, PARTITIONS)])
    return Settings(
        kafka=kafka_settings.model_copy(update={"group": topic_names("group")}),
        clicks=ClickSettings(topic=topic),
        archive=ArchiveSettings(folder=str(tmp_path / "archive"), file_age_s=0.2),
    )


def shop(log: KafkaLog, topic: str, stop: threading.Event) -> None:
    """Clicks, some hundred a second."""
    numbers = iter(range(10**9))
    with log.producer() as producer:
        while not stop.wait(0.1):
            values = [
                json.dumps({"user": f"u{number % 40}", "item": f"i{number}", "ts": time.time_ns() // 10**6}).encode()
                for number, _ in zip(numbers, range(30), strict=False)
            ]
            keys = [json.loads(value)["user"].encode() for value in values]
            producer.send(Outgoing(topic, keys, [*values]))
            producer.flush()


def on_topic(log: KafkaLog, topic: str) -> list[Row]:
    rows: list[Row] = []
    with log.reader([topic]) as reader:
        while not reader.at_end():
            for records in reader.poll(0.2, 5_000):
                items = [json.loads(value or b"")["item"] for value in records.values]
                rows += [(records.partition.number, *row) for row in zip(records.offsets, items, strict=True)]
    return sorted(rows)


def in_archive(settings: Settings) -> list[Row]:
    table = ArchiveTable(ArchiveFolder(str(settings.archive.folder)))
    return sorted(
        row
        for batch in table.batches(["partition", "offset", "item"])
        for row in zip(*(column.to_pylist() for column in batch.values()), strict=True)
    )


def wait_for_files(settings: Settings, more_than: int, log_file: Path) -> int:
    deadline_s = time.monotonic() + LIMIT_S
    while (rows := len(in_archive(settings))) <= more_than:
        assert time.monotonic() < deadline_s, log_file.read_text()[-3000:]
        time.sleep(0.1)
    return rows


def wait_for_share(log_file: Path) -> None:
    """Wait until an archiver has partitions."""
    deadline_s = time.monotonic() + LIMIT_S
    while "archiving partitions" not in log_file.read_text():
        assert time.monotonic() < deadline_s, log_file.read_text()[-3000:]
        time.sleep(0.1)


def test_killed_at_random_moments_it_holds_each_click_once(site: Settings, kafka_log: KafkaLog, tmp_path: Path) -> None:
    draw, stop, log_file, rows = random.Random(1), threading.Event(), tmp_path / "archive.log", -1
    shoppers = threading.Thread(target=shop, args=(kafka_log, site.clicks.topic, stop))
    shoppers.start()
    try:
        for _ in range(KILLS):
            with process(site, log_file) as archiver:
                rows = wait_for_files(site, rows, log_file)
                time.sleep(draw.uniform(0.0, 1.5))
                archiver.send_signal(signal.SIGKILL)
        second_log = tmp_path / "second.log"
        with process(site, log_file) as first, process(site, second_log) as second:
            wait_for_share(second_log)
            wait_for_files(site, rows, log_file)
            second.send_signal(signal.SIGTERM)
            assert second.wait(LIMIT_S) == 0
            wait_for_files(site, len(in_archive(site)), log_file)
            stop.set()
            shoppers.join()
            first.send_signal(signal.SIGTERM)
            assert first.wait(LIMIT_S) == 0
    finally:
        stop.set()
        shoppers.join()
    archive_once(site, kafka_log, Metrics(), TimeSource())
    assert in_archive(site) == on_topic(kafka_log, site.clicks.topic)
    assert archive_once(site, kafka_log, Metrics(), TimeSource()) == 0
    assert {len(parts) for parts in ArchiveFolder(str(site.archive.folder)).parts().values()} == {1}


def test_what_was_deleted_before_is_reported_and_the_rest_is_archived(
    site: Settings, kafka_log: KafkaLog, caplog: pytest.LogCaptureFixture
) -> None:
    """A new archive begins with the oldest record there is; a later gap is a loss."""
    topic = site.clicks.topic
    value = json.dumps({"user": "ann", "item": "x", "ts": time.time_ns() // 10**6}).encode()
    with kafka_log.producer() as producer:
        producer.send(Outgoing(topic, [None] * 10, [value] * 10, partitions=[0] * 10))
    kafka_log.delete_before({Partition(topic, 0): 3})
    metrics = Metrics()
    assert archive_once(site, kafka_log, metrics, TimeSource()) == 7
    assert "were deleted by retention" not in caplog.text
    with kafka_log.producer() as producer:
        producer.send(Outgoing(topic, [None] * 10, [value] * 10, partitions=[0] * 10))
    kafka_log.delete_before({Partition(topic, 0): 15})
    assert archive_once(site, kafka_log, metrics, TimeSource()) == 5
    assert "5 records of" in caplog.text
    assert [offset for _, offset, _ in in_archive(site)] == [*range(3, 10), *range(15, 20)]
    archiver = Archiver(
        site.model_copy(update={"archive": ArchiveSettings(folder=f"{site.archive.folder}-new")}), kafka_log, metrics
    )
    stop = threading.Event()
    thread = threading.Thread(target=archiver.run, args=(stop,))
    thread.start()
    try:
        until(lambda: metrics.registry.get_sample_value("headrace_archive_unwritten_seconds"))
    finally:
        stop.set()
        thread.join(LIMIT_S)
    assert [row[1] for row in in_archive(archiver._settings)] == [*range(15, 20)]
    assert metrics.registry.get_sample_value("headrace_deleted_records_total") == 5.0
