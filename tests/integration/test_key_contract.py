"""Clicks that are not keyed by user are seen, counted and warned of once; other clicks are not."""

import json
import logging
from itertools import count
from pathlib import Path

import pytest

from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import Metrics
from engine.settings.sections import Settings, WorkerSettings
from tests.integration import equality

START_MS = 1_700_000_000_000
PARTITIONS = 2


class Stream:
    """Clicks on two partitions of an in-process log, each under a key and in a partition of the test's choice."""

    def __init__(self, release: Path) -> None:
        self.settings: Settings = equality.settings(release, worker=WorkerSettings(max_batch_clicks=2))
        self.log = MemoryLog()
        topics = {spec.name: spec for spec in equality.topics(self.settings)}
        self.log.ensure_topics([TopicSpec(name, PARTITIONS, spec.compacted) for name, spec in topics.items()])
        self.metrics = Metrics()
        self._clock_ms = count(START_MS, 1000)
        self.sent = 0

    def click(self, user: str, key: bytes | None, partition: int) -> None:
        self.sent += 1
        value = json.dumps({"user": user, "item": f"i{self.sent}", "ts": next(self._clock_ms)}).encode()
        self.log.producer().send(Outgoing("clicks", [key], [value], partitions=[partition]))

    def serve(self) -> None:
        equality.serve(self.log, self.settings, self.sent, self.metrics)
        self.sent = 0

    def misplaced(self, sign: str) -> float | None:
        return self.metrics.registry.get_sample_value("headrace_misplaced_clicks_total", {"sign": sign})


@pytest.fixture
def stream(tiny_release: Path) -> Stream:
    return Stream(tiny_release)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "not keyed by user:" in record.getMessage()]


def test_one_user_in_two_partitions_is_counted_and_warned_of_once(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for turn in range(6):
            stream.click("ann", None, turn % 2)
        stream.serve()
    # The window is where her first click was read; the three of the other partition come in a batch of their own.
    assert stream.misplaced("other_partition") == 3
    (warning,) = warnings(caplog)
    assert "with the user's id as the key, all by the same partitioner, or set clicks.rekey = true" in warning
    assert "are outside" in warning
    assert "ann" not in caplog.text


@pytest.mark.parametrize(
    ("key", "partition", "strangers"),
    [
        pytest.param(b"ann", 0, 0, id="keyed by user, murmur2"),
        pytest.param(b"ann", 1, 0, id="keyed by user, another partitioner"),
        pytest.param(b'"ann"', 1, 0, id="a JSON serialiser's key"),
        pytest.param(b"session-7", 0, 0, id="another key in the user's partition"),
        pytest.param(b"session-7", 1, 1, id="another key"),
        pytest.param(None, 1, 1, id="no key"),
    ],
)
def test_the_key_shows_it_to_a_worker_that_holds_one_partition(
    stream: Stream, key: bytes | None, partition: int, strangers: int, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        stream.click("ann", key, partition)
    stream.serve()
    assert stream.misplaced("other_partition") == 0
    assert stream.misplaced("other_key") == strangers  # her first click alone
    assert len(warnings(caplog)) == strangers


def test_names_are_said_at_debug_level(stream: Stream, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "engine.worker.key_watch"):
        stream.click("ann", None, 0)
        stream.click("ann", None, 1)
        stream.serve()
    assert "['ann']" in caplog.text
