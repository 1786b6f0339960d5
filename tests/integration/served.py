"""A worker and an HTTP server on one in-process log, and a client of both."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from engine.eventlog.base import Outgoing, Reader, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import Metrics
from engine.settings.sections import (
    ClickSettings,
    ImpressionSettings,
    RecommendationSettings,
    ReleaseSettings,
    ServeSettings,
    Settings,
    WindowSettings,
    WorkerSettings,
)
from engine.view.http_server import HttpServer
from engine.worker.loop import Worker
from tests.waiting import LIMIT_S, until

START_MS = 1_700_000_000_000


@dataclass
class Served:
    """A worker and a server that follow one log."""

    settings: Settings
    log: MemoryLog
    lists: Reader
    server: HttpServer
    client: httpx.Client
    clock_ms: int = START_MS

    def click(self, *clicks: tuple[str, str]) -> dict[str, bytes]:
        """Send clicks; returns the lists that are pushed for them by user, once the server holds them."""
        values: list[bytes | None] = []
        for user, item in clicks:
            self.clock_ms += 1000
            values.append(json.dumps({"user": user, "item": item, "ts": self.clock_ms}).encode())
        keys: list[bytes | None] = [user.encode() for user, _ in clicks]
        self.log.producer().send(Outgoing(self.settings.clicks.topic, keys, values))
        users = {user for user, _ in clicks}
        pushed: dict[str, bytes] = {}

        def is_answered() -> bool:
            for records in self.lists.poll(0.02, 1000):
                for key, value in zip(records.keys, records.values, strict=True):
                    pushed[(key or b"").decode()] = value or b""
            return all(self._newest_ms(pushed.get(user)) >= self._time_of(clicks, user) for user in users)

        until(is_answered)
        until(lambda: all(self.get("/v1/list", user=user).content == message for user, message in pushed.items()))
        until(lambda: all(self._window_ms(user) == self._time_of(clicks, user) for user in users))
        return pushed

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.client.get(path, params=params)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def _time_of(self, clicks: tuple[tuple[str, str], ...], user: str) -> int:
        """Event time of the user's newest click among these, which were the last to be sent."""
        last = max(index for index, (other, _) in enumerate(clicks) if other == user)
        return self.clock_ms - 1000 * (len(clicks) - 1 - last)

    def _newest_ms(self, message: bytes | None) -> int:
        return int(json.loads(message)["event_ms"]) if message else 0

    def _window_ms(self, user: str) -> int:
        events = self.get("/v1/window", user=user).json()["events"]
        return int(events[-1]["time_ms"]) if events else 0


def settings_for(
    release: Path, pseudonym_key_file: Path | None = None, *, impressions: bool = False, **serve: Any
) -> Settings:
    return Settings(
        impressions=ImpressionSettings(accept=impressions),
        clicks=ClickSettings(pseudonym_key_file=pseudonym_key_file),
        windows=WindowSettings(max_users=200, length=20),
        recommendations=RecommendationSettings(count=5),
        releases=ReleaseSettings(path=release, poll_interval_s=0.02),
        worker=WorkerSettings(poll_timeout_s=0.02),
        serve=ServeSettings.model_validate({"port": 0} | serve),
    )


@contextmanager
def serving(
    release: Path, headers: dict[str, str] | None = None, log: MemoryLog | None = None, **serve: Any
) -> Iterator[Served]:
    """A worker and a server until the end of the block."""
    settings, log, stop = settings_for(release, **serve), log or MemoryLog(), threading.Event()
    log.ensure_topics([TopicSpec(name, 3) for name in ("clicks", "recommendations")])
    log.ensure_topics([TopicSpec("clicks.dead"), TopicSpec("releases")])
    worker = Worker(settings, log, Metrics())
    thread = threading.Thread(target=worker.run, args=[stop])
    thread.start()
    try:
        until(lambda: worker.not_ready is None)
        with HttpServer(settings, log) as server, httpx.Client(base_url=server.address, headers=headers) as client:
            until(lambda: client.get("/readyz").status_code == 200)
            yield Served(settings, log, log.reader(["recommendations"]), server, client)
    finally:
        stop.set()
        thread.join(LIMIT_S)
        assert not thread.is_alive()
