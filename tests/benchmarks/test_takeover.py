"""How long clicks wait when a worker is killed: until another one has its partitions, restored, and lists flow again.

200,000 users with full windows (L = 100):

    LONG_TESTS=1 KAFKA_HOME=… pytest -s tests/benchmarks/test_takeover.py

The broker notices the death after the session time-out of three seconds, whatever the worker does; then the windows of
the dead worker's partitions are restored: from the changelog alone, from snapshots (both workers see one folder of
them, as on one machine or one volume), or from what a standby lacks.
"""

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.messages.recommendation import Recommendation
from engine.settings.loader import load
from tests.benchmarks.full_windows import LENGTH, fill
from tests.conftest import Report, only_long
from tests.integration.conftest import kafka_bootstrap, kafka_log, kafka_settings, topic_names
from tests.integration.site import PARTITIONS, START_MS, Site
from tests.waiting import LIMIT_S

__all__ = ["kafka_bootstrap", "kafka_log", "kafka_settings", "topic_names"]

USERS = 200_000
WARM = re.compile(r"partition (\d+) is warm")
RESTORED = re.compile(r"partition \d+ is restored after ([\d.]+) s")


@only_long
@pytest.mark.kafka
@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", ["changelog", "snapshots", "standby"])
def test_take_over_of_a_killed_worker(
    kafka_log: KafkaLog,
    kafka_bootstrap: str,
    topic_names: Callable[[str], str],
    tiny_release: Path,
    tmp_path: Path,
    source: str,
    report: Report,
) -> None:
    site = Site(kafka_log, kafka_bootstrap, topic_names, tiny_release, tmp_path)
    site.environ |= {"HEADRACE_WINDOWS__MAX_USERS": str(2 * USERS), "HEADRACE_WINDOWS__LENGTH": str(LENGTH)}
    if source == "snapshots":
        site.environ |= {"HEADRACE_SNAPSHOTS__FOLDER": str(tmp_path / "snapshots")}
        site.environ |= {"HEADRACE_SNAPSHOTS__INTERVAL_S": "5"}
    if source == "standby":
        site.environ |= {"HEADRACE_WINDOWS__STANDBY": "1"}
    settings = load(None, site.environ)
    site.log.ensure_topics([TopicSpec(settings.windows.topic, PARTITIONS, compacted=True)])
    fill(site.log, settings, USERS, PARTITIONS)
    with site.worker() as first:
        _wait_until_all_serve(site)
        told = len(site.log_file.read_text())
        with site.worker():
            site.wait_until_ready()
            _wait_until_all_serve(site)
            if source == "snapshots":
                _wait_for_snapshots(tmp_path / "snapshots")
            if source == "standby":
                _wait_until_warm(site.log_file, told)
            told = len(site.log_file.read_text())
            first.send_signal(signal.SIGKILL)
            silent_s = _wait_until_all_serve(site)
            restored_s = [float(each) for each in RESTORED.findall(site.log_file.read_text()[told:])]
    assert restored_s, "the second worker took nothing over"
    report(
        f"{USERS:,} users, {source}: lists again after {silent_s:.1f} s,"
        f" the session time-out of 3 s included; restored {len(restored_s)} partitions in {max(restored_s):.2f} s",
        {"users": USERS, "source": source, "silent_s": silent_s, "longest_restore_s": max(restored_s)},
    )


def _wait_until_all_serve(site: Site) -> float:
    """Send one click to each partition and wait for their lists; returns how long that took."""
    began_s = time.monotonic()
    site.sent += 1
    time_ms = START_MS + site.sent
    users = [f"probe-{number}" for number in range(PARTITIONS)]
    values: list[bytes | None] = [json.dumps({"user": user, "item": "i1", "ts": time_ms}).encode() for user in users]
    with site.log.producer() as producer:
        keys: list[bytes | None] = [user.encode() for user in users]
        producer.send(Outgoing(site.clicks, keys, values, partitions=[*range(PARTITIONS)]))

    def served(lists: list[Recommendation]) -> bool:
        return {one.user for one in lists if one.event_ms == time_ms} == set(users)

    site.wait_for_lists(served)
    return time.monotonic() - began_s


def _wait_until_warm(log_file: Path, told: int) -> None:
    """Wait until each partition is served by one worker and warm in the other, as they say from this place on."""
    deadline_s = time.monotonic() + LIMIT_S
    while len(set(WARM.findall(log_file.read_text()[told:]))) < PARTITIONS:
        assert time.monotonic() < deadline_s, "a partition is not kept warm"
        time.sleep(0.1)


def _wait_for_snapshots(folder: Path) -> None:
    """Wait until each partition has a snapshot."""
    deadline_s = time.monotonic() + LIMIT_S
    while len(list(folder.glob("*.windows"))) < PARTITIONS:
        assert time.monotonic() < deadline_s, "no snapshots were written"
        time.sleep(0.1)
