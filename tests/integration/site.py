"""A broker, topics of its own, and `headrace run` as a process beside the tests."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.messages.recommendation import Recommendation, decode_recommendation
from engine.settings.loader import ENV_PREFIX
from tests.conftest import TINY_ITEMS
from tests.waiting import LIMIT_S

HEADRACE = Path(sys.executable).with_name("headrace")
PARTITIONS = 3
USERS = 40
START_MS = 1_700_000_000_000


class Site:
    """One broker, one set of topics, and the settings that point a worker there."""

    def __init__(self, log: KafkaLog, bootstrap: str, topic: Callable[[str], str], release: Path, folder: Path) -> None:
        self.log = log
        self.clicks, self.lists, self.dead_letters = topic("clicks"), topic("recommendations"), topic("dead")
        self.log_file = folder / "worker.log"
        # What is set for the tests themselves is none of a worker's settings.
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)} | {
            "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "HEADRACE_KAFKA__GROUP": topic("group"),
            "HEADRACE_KAFKA__SESSION_TIMEOUT_S": "3",
            "HEADRACE_CLICKS__TOPIC": self.clicks,
            "HEADRACE_CLICKS__DEAD_LETTER_TOPIC": self.dead_letters,
            "HEADRACE_RECOMMENDATIONS__TOPIC": self.lists,
            "HEADRACE_RELEASES__TOPIC": topic("releases"),
            "HEADRACE_WINDOWS__TOPIC": topic("windows"),
            "HEADRACE_RELEASES__PATH": str(release),
            "HEADRACE_WINDOWS__MAX_USERS": "1000",
            "HEADRACE_TELEMETRY__PORT": "0",
        }
        log.ensure_topics([TopicSpec(self.clicks, PARTITIONS), TopicSpec(self.lists, PARTITIONS, compacted=True)])
        self.sent = 0
        self.newest: dict[str, int] = {}
        self._rng = np.random.default_rng(0)

    @contextmanager
    def worker(self, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
        with self.log_file.open("ab") as output:
            process = subprocess.Popen(command or [HEADRACE, "run"], env=self.environ, stdout=output, stderr=output)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(LIMIT_S)

    def wait_until_ready(self) -> None:
        """Wait until the worker started last has its partitions."""
        deadline = time.monotonic() + LIMIT_S
        started = self.log_file.read_text().rfind("metrics on")
        while "assigned: " not in self.log_file.read_text()[max(started, 0) :]:
            assert time.monotonic() < deadline, self.log_file.read_text()[-3000:]
            time.sleep(0.05)
            started = self.log_file.read_text().rfind("metrics on")

    def send_clicks(self, count: int) -> None:
        users = [f"user-{number}" for number in self._rng.integers(0, USERS, count)]
        values: list[bytes | None] = []
        for user, item in zip(users, self._rng.integers(0, TINY_ITEMS, count).tolist(), strict=True):
            self.sent += 1
            self.newest[user] = START_MS + self.sent
            values.append(json.dumps({"user": user, "item": f"i{item}", "ts": self.newest[user]}).encode())
        with self.log.producer() as producer:
            producer.send(Outgoing(self.clicks, [user.encode() for user in users], values))

    def wait_for_lists(self, done: Callable[[list[Recommendation]], bool]) -> list[Recommendation]:
        """Every list on the topic from its start, as soon as they are `done`."""
        found: list[Recommendation] = []
        deadline = time.monotonic() + LIMIT_S
        with self.log.reader([self.lists]) as reader:
            while not done(found):
                assert time.monotonic() < deadline, f"not within {LIMIT_S} s; {self.log_file.read_text()[-3000:]}"
                for records in reader.poll(0.2, 10_000):
                    found += [decode_recommendation(value or b"") for value in records.values]
        return found

    def wait_for_count(self, count: int) -> int:
        """Wait until so many lists are on the topic; returns how many there are then."""
        return len(self.wait_for_lists(lambda lists: len(lists) >= count))

    def everyone_is_up_to_date(self, lists: list[Recommendation]) -> bool:
        latest: dict[str, int] = {}
        for one in lists:
            latest[one.user] = max(one.event_ms, latest.get(one.user, 0))
        return latest == self.newest
