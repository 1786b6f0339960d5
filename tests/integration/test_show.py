"""`headrace show` says what is held of a user, and after `forget` that nothing is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import forget
from engine.cli.show import show
from engine.eventlog.base import EventLog, Outgoing
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.settings.loader import load
from engine.settings.sections import Settings, SnapshotSettings
from engine.worker import user_report
from engine.worker.user_report import HeldEvent
from tests.integration import equality
from tests.integration.site import PARTITIONS, Site

START_MS = 1_700_000_000_000


def click(log: EventLog, topic: str, user: str, **fields: object) -> None:
    value = json.dumps({"user": user, "ts": START_MS, **fields}).encode()
    with log.producer() as producer:
        producer.send(Outgoing(topic, [user.encode()], [value], partitions=[1]))


@pytest.fixture
def settings(tiny_release: Path, tmp_path: Path) -> Settings:
    return equality.settings(tiny_release, snapshots=SnapshotSettings(folder=tmp_path / "snapshots"))


def test_window_list_letters_and_snapshots_are_shown(settings: Settings, tmp_path: Path) -> None:
    log = MemoryLog()
    log.ensure_topics(equality.topics(settings))
    click(log, "clicks", "ann", item="i1", action="buy")
    click(log, "clicks", "ann", query="Red shoes", ts=START_MS + 1)
    click(log, "clicks", "ann", item="i2", ts="soon")
    click(log, "clicks", "bob", item="i3")
    equality.serve(log, settings, 3)
    report = user_report.of_user(log, settings, "ann")
    (window,) = report.windows
    assert (window.partition, window.events) == (
        1,
        [HeldEvent("i1", "item", "buy", START_MS), HeldEvent("red shoes", "search", "search", START_MS + 1)],
    )
    (last_list,) = report.lists
    assert last_list.release == "two-hop-tiny"
    assert last_list.items is not None
    assert len(last_list.items) == equality.COUNT
    assert report.dead_letters == 1
    (snapshot,) = report.snapshots
    assert Path(snapshot).parent == tmp_path / "snapshots"
    assert any("search red shoes" in line for line in report.lines())


def test_nothing_is_held_of_a_stranger(settings: Settings) -> None:
    log = MemoryLog()
    assert user_report.of_user(log, settings, "ann").lines() == [
        "window: none",
        "list: none",
        "dead letters: 0",
        "snapshots on this machine: none",
    ]


def test_a_window_that_cannot_be_read_is_named(settings: Settings) -> None:
    log = MemoryLog()
    log.ensure_topics(equality.topics(settings))
    log.producer().send(Outgoing("windows", [b"ann"], [b"rubbish"], partitions=[2]))
    log.producer().send(Outgoing("recommendations", [b"ann"], [b"rubbish"], partitions=[2]))
    window_line, list_line, *_ = user_report.of_user(log, settings, "ann").lines()
    assert "window: partition 2, offset 0" in window_line
    assert "rubbish" not in window_line
    assert "damaged" in window_line or "version" in window_line
    assert list_line.endswith(": none")


@pytest.mark.kafka
def test_before_and_after_forgetting_on_kafka(
    kafka_bootstrap: str, kafka_log: KafkaLog, topic_names: Callable[[str], str], tiny_release: Path, tmp_path: Path
) -> None:
    site = Site(kafka_log, kafka_bootstrap, topic_names, tiny_release, tmp_path)
    site.environ["HEADRACE_SNAPSHOTS__FOLDER"] = str(tmp_path / "snapshots")
    click(kafka_log, site.clicks, "ann", item="i1")
    click(kafka_log, site.clicks, "ann", item="i2", ts="soon")

    def shown(*options: str) -> str:
        return CliRunner().invoke(show, ["ann", *options], env=site.environ, catch_exceptions=False).stdout

    with site.worker():
        site.wait_for_count(1)
        before = json.loads(shown("--json"))
        assert [len(window["events"]) for window in before["windows"]] == [1]
        assert [len(last["items"]) for last in before["lists"]] == [load(None, site.environ).recommendations.count]
        assert before["dead_letters"] == 1
        done = CliRunner().invoke(forget.forget, ["ann", "--wait", "40"], env=site.environ, catch_exceptions=False)
        assert done.exit_code == 0
    after = json.loads(shown("--json"))
    assert [window["events"] for window in after["windows"]] == [None] * PARTITIONS
    assert [last["items"] for last in after["lists"]] == [None]
    assert (after["dead_letters"], after["snapshots"]) == (0, [])
    assert "forgotten" in shown()
