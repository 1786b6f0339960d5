"""A forgotten user is gone: window, last list and changelog entry, and no restart brings them back."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import forget
from engine.eventlog.base import EventLog, Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.settings.sections import ClickFields, ClickSettings, KafkaSettings, Settings, SnapshotSettings
from tests.integration import equality

START_MS = 1_700_000_000_000


class Shop:
    """Clicks on one partition of an in-process log, and workers that come and go."""

    def __init__(self, chosen: Settings) -> None:
        self.chosen = chosen
        self.log = MemoryLog()
        self.log.ensure_topics(equality.topics(chosen))
        self._clock_ms = count(START_MS, 1000)

    def click(self, user: str, item: str, **fields: object) -> int:
        """Put a click on the topic; returns its time."""
        time_ms = next(self._clock_ms)
        value = json.dumps({"user": user, "item": item, "ts": time_ms, **fields}).encode()
        self.log.producer().send(Outgoing("clicks", [user.encode()], [value], partitions=[1]))
        return time_ms

    def forget(self, user: str) -> None:
        self.log.producer().send(Outgoing("clicks", [user.encode()], [None], partitions=[1]))

    def serve(self, clicks: int) -> None:
        """A worker that starts, processes so many clicks and stops."""
        equality.serve(self.log, self.chosen, clicks)

    def times(self) -> dict[str, list[int]]:
        """What the changelog has: the times of every user's clicks."""
        return {user: [time_ms for _, time_ms, _ in events] for user, events in self.windows().items()}

    def windows(self) -> dict[str, list[equality.Event]]:
        return equality.outcome(self.log, self.chosen).windows

    def last_lists(self) -> dict[str, bool]:
        """For each user ever seen on `recommendations`: is the last record a list, or a deletion?"""
        return last_values(self.log, self.chosen.recommendations.topic)


def last_values(log: EventLog, topic: str) -> dict[str, bool]:
    has_value: dict[str, bool] = {}
    with log.reader([topic]) as reader:
        while not reader.at_end():
            for records in reader.poll(0.2, 1000):
                for key, value in zip(records.keys, records.values, strict=True):
                    has_value[(key or b"").decode()] = value is not None
    return has_value


@pytest.fixture(params=[False, True], ids=["changelog", "snapshots"])
def shop(request: pytest.FixtureRequest, tiny_release: Path, tmp_path: Path) -> Shop:
    folder = tmp_path / "snapshots" if request.param else None
    return Shop(equality.settings(tiny_release, snapshots=SnapshotSettings(folder=folder)))


def test_a_forgotten_user_is_gone_and_stays_gone(shop: Shop) -> None:
    #  ann   i1 i2 | forget
    #  bob   i70   |        i71 | i72      (| a worker stops, another starts)
    shop.click("ann", "i1")
    shop.click("ann", "i2")
    first = shop.click("bob", "i70")
    shop.serve(3)
    assert shop.last_lists() == {"ann": True, "bob": True}
    shop.forget("ann")
    second = shop.click("bob", "i71")
    shop.serve(1)
    assert shop.last_lists() == {"ann": False, "bob": True}
    assert shop.times() == {"bob": [first, second]}
    third = shop.click("bob", "i72")
    shop.serve(1)
    assert shop.times() == {"bob": [first, second, third]}
    again = shop.click("ann", "i3")
    shop.serve(1)
    assert shop.times()["ann"] == [again]
    assert shop.last_lists() == {"ann": True, "bob": True}


def test_order_within_one_batch_is_kept(shop: Shop) -> None:
    #  ann   i1 forget i2          keeps i2 alone
    #  bob   i70 i71 forget        is gone, though never seen before
    shop.click("ann", "i1")
    shop.click("bob", "i70")
    shop.click("bob", "i71")
    shop.forget("ann")
    shop.forget("bob")
    kept = shop.click("ann", "i2")
    shop.serve(1)
    assert shop.times() == {"ann": [kept]}
    assert shop.last_lists() == {"ann": True, "bob": False}


def test_a_click_without_consent_leaves_no_trace(tiny_release: Path) -> None:
    fields = ClickFields(consent="consent")
    shop = Shop(equality.settings(tiny_release, clicks=ClickSettings(fields=fields)))
    first = shop.click("ann", "i1", consent=True)
    shop.click("ann", "i2", consent=False)
    shop.click("bob", "i70", consent=False)
    third = shop.click("ann", "i3")
    shop.serve(2)
    assert shop.times() == {"ann": [first, third]}
    assert shop.last_lists() == {"ann": True}
    assert last_values(shop.log, shop.chosen.clicks.dead_letter_topic) == {}


@pytest.mark.kafka
def test_the_verb_puts_a_deletion_under_the_users_key(
    kafka_settings: KafkaSettings, kafka_log: EventLog, topic_names: Callable[[str], str], tmp_path: Path
) -> None:
    clicks = topic_names("clicks")
    kafka_log.ensure_topics([TopicSpec(clicks, 3)])
    config = tmp_path / "headrace.toml"
    config.write_text(
        f'[kafka]\nbootstrap_servers = "{kafka_settings.bootstrap_servers}"\n[clicks]\ntopic = "{clicks}"\n'
    )
    with kafka_log.producer() as producer:
        producer.send(Outgoing(clicks, ["zoë".encode()], [b"{}"]))
    done = CliRunner(env=equality.NO_SETTINGS).invoke(
        forget.forget, ["zoë", "--config", str(config)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "'zoë' will be forgotten" in done.output
    with kafka_log.reader([clicks]) as reader:
        records = []
        while not reader.at_end():
            records += reader.poll(0.2, 100)
    assert [(batch.keys, batch.values) for batch in records] == [(["zoë".encode()] * 2, [b"{}", None])]
