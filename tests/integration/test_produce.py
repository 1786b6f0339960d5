"""`headrace produce` against a real broker, as a process of its own."""

import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.arrays import FIRST_SEARCH, Clicks
from engine.catalogue.actions import Actions
from engine.eventlog.kafka import KafkaLog
from engine.ingest.decoder import ClickDecoder
from engine.settings import loader
from engine.settings.sections import ClickSettings
from models.data import dataset

pytestmark = pytest.mark.kafka


@pytest.fixture
def topic(topic_names: Callable[[str], str]) -> str:
    return topic_names("clicks")


@pytest.fixture
def produce(kafka_bootstrap: str, topic: str) -> Callable[..., subprocess.Popen[str]]:
    """Starts `headrace produce` with the broker and the topic of the test."""
    environment = os.environ | {
        "HEADRACE_CLICKS__TOPIC": topic,
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap,
        "COLUMNS": "200",
    }

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from engine.cli.main import main; main()", "produce", *arguments]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    lines = "".join(f"u{number % 7},i{number},{1_700_000_000 + number / 10},view\n" for number in range(500))
    (tmp_path / "interactions.csv.gz").write_bytes(gzip.compress(f"user,item,ts,event\n{lines}".encode()))
    return tmp_path


def read_all(log: KafkaLog, topic: str, settings: ClickSettings = ClickSettings()) -> Clicks:  # noqa: B008 - frozen
    decoder = ClickDecoder(settings, Actions(settings))
    polled = []
    with log.reader([topic]) as reader:
        while not reader.at_end():
            polled += reader.poll(1.0, 1_000)
    clicks, dead = decoder.decode(polled, time.time_ns() // 1_000_000)
    assert not dead
    return clicks


def test_a_replay_arrives_whole_and_in_order_for_every_user(
    produce: Callable[..., subprocess.Popen[str]], recorded: Path, kafka_log: KafkaLog, topic: str
) -> None:
    _, shown = produce("replay", str(recorded), "--partitions", "3", "--event-ids").communicate(timeout=60)

    clicks = read_all(kafka_log, topic)
    assert "sent 500 clicks" in shown
    assert kafka_log.partitions(topic) == 3
    assert len(clicks) == 500
    assert len(set(clicks.event_hashes.tolist())) == 500
    for user in range(7):
        mine = [item for who, item in zip(clicks.users, clicks.items, strict=True) if who == f"u{user}"]
        assert mine == [f"i{number}" for number in range(user, 500, 7)]


def test_what_arrives_is_what_training_reads_when_the_settings_name_the_columns(
    produce: Callable[..., subprocess.Popen[str]], tmp_path: Path, kafka_log: KafkaLog, topic: str
) -> None:
    columns = {
        "visitor": [{"id": f"u{number % 7}"} for number in range(200)],
        "product": [{"sku": None if number % 10 == 9 else number} for number in range(200)],
        "at": [f"2024-05-01 10:{number // 60:02d}:{number % 60:02d} UTC" for number in range(200)],
        "typed": [f"shoe {number}" if number % 10 == 9 else None for number in range(200)],
    }
    parquet.write_table(pa.table(columns), tmp_path / "export.parquet")
    config = tmp_path / "headrace.toml"
    config.write_text(
        '[clicks]\ntime_unit = "iso8601"\n[clicks.fields]\nuser = "visitor.id"\nitem = "product.sku"\ntime = "at"\n'
        'search = "typed"\n'
    )
    settings = loader.load(config, {}).clicks

    produce("replay", str(tmp_path), "--config", str(config)).communicate(timeout=60)

    clicks, learned = read_all(kafka_log, topic, settings), dataset.read(tmp_path, settings)
    assert clicks.users == [learned.user_ids[user] for user in learned.users]
    assert clicks.items == [
        learned.item_ids[item] if item < FIRST_SEARCH else learned.search_ids[item - FIRST_SEARCH]
        for item in learned.items.tolist()
    ]
    assert clicks.times_ms.tolist() == learned.times_ms.tolist()


def test_a_paced_replay_shifted_to_now_is_on_time(
    produce: Callable[..., subprocess.Popen[str]], recorded: Path, kafka_log: KafkaLog, topic: str
) -> None:
    started_ms = time.time_ns() // 1_000_000
    produce("replay", str(recorded), "--speed", "50", "--shift-to-now", "--limit", "250").communicate(timeout=60)
    ended_ms = time.time_ns() // 1_000_000

    clicks = read_all(kafka_log, topic)
    assert len(clicks) == 250
    assert started_ms <= clicks.times_ms[0] <= clicks.times_ms[-1] <= ended_ms
    assert clicks.times_ms[-1] - clicks.times_ms[0] == 498  # 24.9 s at fifty times the speed


def test_interrupted_a_replay_delivers_what_it_sent_and_says_how_much(
    produce: Callable[..., subprocess.Popen[str]], recorded: Path, kafka_log: KafkaLog, topic: str
) -> None:
    with produce("replay", str(recorded), "--rate", "5") as process:  # all 500 would take a hundred seconds
        deadline = time.monotonic() + 30
        while kafka_log.partitions(topic) == 0:
            assert time.monotonic() < deadline
        with kafka_log.reader([topic]) as reader:
            while not reader.poll(1.0, 1):
                assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=30)

    assert process.returncode == 0
    sent = len(read_all(kafka_log, topic))
    assert 0 < sent < 500
    assert f"sent {sent:,} clicks" in shown


def test_simulated_shoppers_keep_their_pace(
    produce: Callable[..., subprocess.Popen[str]], kafka_log: KafkaLog, topic: str
) -> None:
    _, shown = produce("simulate", "--rate", "300", "--seconds", "3", "--new-shoppers", "0").communicate(timeout=60)

    clicks = read_all(kafka_log, topic)
    assert f"sent {len(clicks):,} clicks" in shown
    assert 600 < len(clicks) < 1_200
    assert abs(int(clicks.times_ms[-1]) - time.time_ns() // 1_000_000) < 30_000
