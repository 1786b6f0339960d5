"""How fast windows come back: from a snapshot, and from the changelog, in process and on a real Kafka.

10,000 users with full windows (L = 100) of a catalogue of 100,000 items, or a million with LONG_TESTS=1:

    LONG_TESTS=1 KAFKA_HOME=… pytest -s tests/benchmarks/test_restore.py

The reader of the changelog is the worker's own thread, as in `headrace run`; the broker has the other core.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest

from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.eventlog.base import EventLog, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import Metrics
from engine.settings.sections import KafkaSettings, Settings, SnapshotSettings, WindowSettings
from engine.windows.restorer import Restorer
from engine.windows.snapshots import SnapshotHeader, Snapshots
from engine.windows.users import UserWindows
from tests.benchmarks.full_windows import LENGTH, fill, name, window
from tests.conftest import Report, only_long
from tests.integration.conftest import kafka_bootstrap, kafka_log, kafka_settings, topic_names

__all__ = ["kafka_bootstrap", "kafka_log", "kafka_settings", "topic_names"]

LONG = os.environ.get("LONG_TESTS") == "1"
USERS = 1_000_000 if LONG else 10_000
PARTITIONS = 4
FLOOR_USERS_PER_S = 10_000
"""Far below what any machine does: fails on a restore that has become quadratic, not on a busy neighbour."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What one restore took."""

    users: int
    wall_s: float
    cpu_s: float

    def sentence(self, source: str) -> str:
        """One line for people."""
        return (
            f"{source:24} {self.users / self.wall_s:9,.0f} users/s  {self.wall_s:6.2f} s"
            f"  {self.cpu_s / self.users * 1e6:5.1f} µs of CPU a user"
        )


class Holder:
    """The windows of one worker, and what restores them."""

    def __init__(self, settings: Settings, log: EventLog) -> None:
        catalogue, actions = Catalogue(), Actions(settings.clicks)
        self.catalogue = catalogue
        self.user_windows = UserWindows(settings, catalogue, actions)
        self.windows = self.user_windows.store
        self.snapshots = Snapshots(settings.snapshots, catalogue, actions)
        self.restorer = Restorer(settings, log, self.user_windows, self.snapshots, Metrics())

    def restore(self) -> Restored:
        """Restore every partition, as a worker that has just been assigned all of them."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        self.restorer.begin(range(PARTITIONS))
        while self.restorer.waits():
            self.restorer.step(0.1)
        return Restored(len(self.windows), time.perf_counter() - wall_s, time.process_time() - cpu_s)

    def save(self) -> None:
        """Write a snapshot of every partition."""
        now_ms = time.time_ns() // 1_000_000
        for number in range(PARTITIONS):
            header = SnapshotHeader(self.restorer.identity, number, self.user_windows.positions[number], now_ms)
            self.snapshots.write(header, self.user_windows.pack(number))

    def window(self, user: int) -> tuple[list[str], list[int]]:
        """Items and times of a user, oldest first."""
        slot = self.windows.find(name(user))
        assert slot is not None, f"user {user} was not restored"
        packed = self.windows.pack(np.array([slot], np.int32))
        return self.catalogue.ids(packed.items.tolist()), packed.times_ms.tolist()


def test_restore_in_process(tmp_path: Path, report: Report) -> None:
    _measure(MemoryLog(), _settings("windows", tmp_path), "in-process log", report)


@only_long
@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_restore_from_kafka(
    kafka_settings: KafkaSettings, topic_names: Callable[[str], str], tmp_path: Path, report: Report
) -> None:
    log = KafkaLog(kafka_settings.model_copy(update={"delivery_timeout_s": 60.0}))
    _measure(log, _settings(topic_names("windows"), tmp_path), "Kafka", report)


def _measure(log: EventLog, settings: Settings, where: str, report: Report) -> None:
    """Write full windows of all users to the changelog, and restore them once from there and once from snapshots."""
    log.ensure_topics([TopicSpec(settings.windows.topic, PARTITIONS, compacted=True)])
    fill(log, settings, USERS, PARTITIONS)
    first, second = Holder(settings, log), Holder(settings, log)
    from_changelog = first.restore()
    first.save()
    expected = [first.window(user) for user in range(0, USERS, USERS // 100)]
    del first
    from_snapshot = second.restore()
    for source, restored in (("changelog", from_changelog), ("snapshot", from_snapshot)):
        report(restored.sentence(f"{source}, {where}"), {"source": source, "log": where, **asdict(restored)})
    assert [second.window(user) for user in range(0, USERS, USERS // 100)] == expected
    assert expected == [window(user) for user in range(0, USERS, USERS // 100)]
    for restored in (from_changelog, from_snapshot):
        assert restored.users == USERS
        assert restored.users / restored.cpu_s > FLOOR_USERS_PER_S  # the wall clock is shared


def _settings(topic: str, folder: Path) -> Settings:
    return Settings(
        windows=WindowSettings(topic=topic, length=LENGTH, max_users=USERS),
        snapshots=SnapshotSettings(folder=folder),
    )
