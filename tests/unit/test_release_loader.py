"""Releases are found, verified and warmed in the background; what is damaged is refused and the old one goes on."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from engine import contract
from engine.catalogue.ids import Catalogue
from engine.eventlog.base import TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.announcement import Announcement
from engine.metrics import Metrics
from engine.releases import announcements, bundles
from engine.releases.announcements import Feed, TopicFeed
from engine.releases.release_loader import ReleaseLoader
from engine.settings.sections import ReleaseSettings, Settings
from tests.unit.test_bundles import rewritten

TOPIC = "releases"
LIMIT_S = 20.0


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog()
    made.ensure_topics([TopicSpec(TOPIC, compacted=True)])
    return made


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def loader(log: MemoryLog, metrics: Metrics) -> Iterator[ReleaseLoader]:
    settings = Settings(releases=ReleaseSettings(poll_interval_s=0.02))

    def feeds() -> list[Feed]:
        return [TopicFeed(log.reader([TOPIC]), "two-hop")]

    loader = ReleaseLoader(settings, Catalogue(), metrics, feeds)
    loader.start()
    yield loader
    loader.close()


def publish(log: MemoryLog, bundle: Path, now_ms: int) -> Announcement:
    announcement = announcements.announce(bundle, "live", now_ms)
    with log.producer() as producer:
        announcements.send(announcement, producer, TOPIC)
    return announcement


def refusals(metrics: Metrics) -> float:
    return sum(
        sample.value
        for family in metrics.release_refusals.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )


def test_an_announced_release_arrives_warm(loader: ReleaseLoader, log: MemoryLog, tiny_release: Path) -> None:
    assert loader.take() is None
    publish(log, tiny_release, now_ms=1)
    assert loader.wait(LIMIT_S)
    live = loader.take()
    assert live is not None
    assert live.name == bundles.read_manifest(tiny_release).name
    assert loader.take() is None


def test_a_damaged_release_is_refused_and_a_whole_one_after_it_is_taken(
    loader: ReleaseLoader, log: MemoryLog, metrics: Metrics, tiny_release: Path, tmp_path: Path
) -> None:
    damaged = rewritten(tiny_release, tmp_path / "new", version="damaged")
    announcement = announcements.announce(damaged, "live", 1)
    (damaged / contract.VECTORS_FILE).write_bytes(b"cut short")
    with log.producer() as producer:
        announcements.send(announcement, producer, TOPIC)
    publish(log, rewritten(tiny_release, tmp_path / "new", version="whole"), now_ms=2)
    assert loader.wait(LIMIT_S)
    live = loader.take()
    assert live is not None
    assert live.manifest.version == "whole"
    publish_again = msgspec.structs.replace(announcement, announced_ms=3)
    with log.producer() as producer:
        announcements.send(publish_again, producer, TOPIC)
    _until(lambda: refusals(metrics) >= 1)
    assert loader.take() is None


def test_a_manifest_that_was_not_announced_is_refused(
    loader: ReleaseLoader, log: MemoryLog, metrics: Metrics, tiny_release: Path, tmp_path: Path
) -> None:
    bundle = rewritten(tiny_release, tmp_path / "new", version="swapped")
    announcement = announcements.announce(bundle, "live", 1)
    shutil.rmtree(bundle)
    rewritten(tiny_release, tmp_path / "new", version="swapped", figures={"other": 1.0})
    with log.producer() as producer:
        announcements.send(announcement, producer, TOPIC)
    _until(lambda: refusals(metrics) >= 1)
    assert loader.take() is None


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened within the time limit"
        time.sleep(0.01)
