"""Announcements on a topic, in a folder, and in both at once."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from engine.errors import DamagedReleaseError, EventLogError, ReleaseError
from engine.eventlog.base import Outgoing, Reader, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.announcement import Announcement
from engine.releases import announcements
from engine.releases.announcements import Feed, FolderFeed, MergedFeed, TopicFeed, open_feed
from engine.settings.sections import ReleaseSettings

TOPIC = "releases"
MODEL = "two-hop"


def newest_of(feed: Feed) -> Announcement | None:
    return next(iter(feed.live()), None)


def live(version: str, announced_ms: int, model: str = MODEL) -> Announcement:
    return Announcement(
        model=model,
        version=version,
        state="live",
        bundle=f"/releases/{model}-{version}",
        manifest_checksum="0" * 64,
        announced_ms=announced_ms,
    )


class FailingLog(MemoryLog):
    """A log whose readers can be made to fail, as those of a broker that is gone."""

    failing = False
    opened = 0

    def failing_reader(self) -> Reader:
        self.check()
        self.opened += 1
        return cast(Reader, FailingReader(self, self.reader([TOPIC])))

    def check(self) -> None:
        if self.failing:
            raise EventLogError("no broker answers")


class FailingReader:
    def __init__(self, log: FailingLog, reader: Reader) -> None:
        self._log, self._reader = log, reader

    def __getattr__(self, name: str) -> object:
        self._log.check()
        return getattr(self._reader, name)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def log() -> FailingLog:
    log = FailingLog()
    log.ensure_topics([TopicSpec(TOPIC, compacted=True)])
    return log


@pytest.fixture
def topic_feed(log: FailingLog) -> TopicFeed:
    return TopicFeed(log.reader([TOPIC]), MODEL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "releases"
    folder.mkdir()
    return folder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def merged(log: FailingLog, folder: Path, clock: Clock) -> Iterator[MergedFeed]:
    feed = MergedFeed(
        MODEL,
        {
            "releases.topic": lambda: TopicFeed(log.failing_reader(), MODEL),
            "releases.folder": lambda: FolderFeed(folder, MODEL),
        },
        now_s=clock,
    )
    yield feed
    feed.close()


def announce(log: MemoryLog, *sent: Announcement) -> None:
    with log.producer() as producer:
        for announcement in sent:
            announcements.send(announcement, producer, TOPIC)


def withdraw(log: MemoryLog, *keys: bytes | None) -> None:
    with log.producer() as producer:
        producer.send(Outgoing(TOPIC, list(keys), [None] * len(keys)))


def test_other_models_and_states_and_rubbish_are_ignored(log: FailingLog, topic_feed: TopicFeed) -> None:
    newest = live("v", 5)
    announce(
        log, newest, live("v", 6, model="other"), live("y", 4), msgspec.structs.replace(live("x", 7), state="retired")
    )
    with log.producer() as producer:
        producer.send(Outgoing(TOPIC, [b"two-hop/z"], [b"rubbish"]))
    assert newest_of(topic_feed) == newest


def test_a_state_that_is_not_known_is_not_live(log: FailingLog, topic_feed: TopicFeed) -> None:
    announce(log, live("v1", 1), live("v2", 2), msgspec.structs.replace(live("v2", 3), state="paused"))
    assert newest_of(topic_feed) == live("v1", 1)


def test_a_null_withdraws_the_announcement_with_its_key(log: FailingLog, topic_feed: TopicFeed) -> None:
    announce(log, live("v1", 1), live("v2", 2))
    withdraw(log, b"two-hop/v2")
    assert newest_of(topic_feed) == live("v1", 1)
    announce(log, live("v2", 3))
    assert newest_of(topic_feed) == live("v2", 3)


@pytest.mark.parametrize(
    "key", [b"other/v1", b"two-hop/v", b"v1", b"/v1", b"x/two-hop/v1", b"two-hop/v1/", b"\xff/v1", None]
)
def test_a_null_under_another_key_withdraws_nothing(log: FailingLog, topic_feed: TopicFeed, key: bytes | None) -> None:
    announce(log, live("v1", 1))
    withdraw(log, key)
    assert newest_of(topic_feed) == live("v1", 1)


def test_names_of_models_may_hold_a_slash(log: FailingLog) -> None:
    feed = TopicFeed(log.reader([TOPIC]), "shop/two-hop")
    announce(log, live("v1", 1, model="shop/two-hop"), live("v2", 2, model="shop/two-hop"))
    withdraw(log, b"shop/v2", b"two-hop/v2", b"shop/two-hop/v2")
    assert newest_of(feed) == live("v1", 1, model="shop/two-hop")


def test_a_folder_is_watched(folder: Path) -> None:
    feed = FolderFeed(folder, MODEL)
    assert newest_of(feed) is None
    announcements.write(live("v1", 1), folder)
    assert newest_of(feed) == live("v1", 1)
    announcements.write(msgspec.structs.replace(live("v1", 2), state="retired"), folder)
    assert newest_of(feed) is None
    (folder / "two-hop.json").write_text("rubbish")
    with pytest.raises(DamagedReleaseError, match="is not an announcement"):
        newest_of(feed)
    shutil.rmtree(folder)
    with pytest.raises(ReleaseError, match=r"setting 'releases\.folder': .*No such file"):
        newest_of(feed)


def test_the_newest_announcement_of_either_feed_counts(log: FailingLog, folder: Path, merged: MergedFeed) -> None:
    #  topic   1   .   3   3   retired
    #  folder  .   2   2   4   .
    assert newest_of(merged) is None
    announce(log, live("t1", 1))
    assert newest_of(merged) == live("t1", 1)
    announcements.write(live("f2", 2), folder)
    assert newest_of(merged) == live("f2", 2)
    announce(log, live("t3", 3))
    assert newest_of(merged) == live("t3", 3)
    announcements.write(live("f4", 4), folder)
    assert newest_of(merged) == live("f4", 4)
    (folder / "two-hop.json").unlink()
    assert newest_of(merged) == live("t3", 3)


def test_a_folder_that_is_gone_does_not_stop_the_topic(
    log: FailingLog, folder: Path, merged: MergedFeed, caplog: pytest.LogCaptureFixture
) -> None:
    announce(log, live("t1", 1))
    announcements.write(live("f2", 2), folder)
    assert newest_of(merged) == live("f2", 2)
    shutil.rmtree(folder)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert newest_of(merged) == live("f2", 2)  # what was announced last is not taken back by a failure
        announce(log, live("t3", 3))
        assert newest_of(merged) == live("t3", 3)
        folder.mkdir()
        announcements.write(live("f4", 4), folder)
        assert newest_of(merged) == live("f4", 4)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # once when it failed, once when it could be followed again
    assert said[0].startswith("releases.folder cannot be followed, trying again: setting 'releases.folder'")
    assert said[1] == "releases.folder can be followed again"


def test_a_topic_that_fails_does_not_stop_the_folder(
    log: FailingLog, folder: Path, merged: MergedFeed, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    announcements.write(live("f1", 1), folder)
    announce(log, live("t2", 2))
    assert newest_of(merged) == live("t2", 2)
    log.failing = True
    for _ in range(3):
        assert newest_of(merged) == live("t2", 2)
    announcements.write(live("f3", 3), folder)
    assert newest_of(merged) == live("f3", 3)
    assert [record.getMessage() for record in caplog.records] == [
        "releases.topic cannot be followed, trying again: no broker answers"
    ]
    log.failing = False
    announce(log, live("t4", 4))
    assert newest_of(merged) == live("f3", 3)  # to open it again may take long, so that waits a little
    clock.now_s += announcements._REOPEN_S
    assert newest_of(merged) == live("t4", 4)


def test_a_topic_that_cannot_be_opened_is_opened_later(
    log: FailingLog, folder: Path, merged: MergedFeed, clock: Clock
) -> None:
    log.failing = True
    announcements.write(live("f1", 1), folder)
    announce(log, live("t2", 2))
    assert newest_of(merged) == live("f1", 1)
    log.failing = False
    clock.now_s += announcements._REOPEN_S
    assert newest_of(merged) == live("t2", 2)
    assert log.opened == 1


def test_a_damaged_announcement_does_not_stop_the_topic(log: FailingLog, folder: Path, merged: MergedFeed) -> None:
    (folder / "two-hop.json").write_text("rubbish")
    announce(log, live("t1", 1))
    assert newest_of(merged) == live("t1", 1)


def test_the_settings_say_which_feeds_there_are(folder: Path) -> None:
    log = MemoryLog()
    feed = open_feed(ReleaseSettings(), log)
    announcements.write(live("f1", 1), folder)
    assert newest_of(feed) is None
    assert log.partitions(TOPIC) == 1
    both = open_feed(ReleaseSettings(folder=folder), log)
    assert newest_of(both) == live("f1", 1)
    announce(log, live("t2", 2))
    assert newest_of(feed) == newest_of(both) == live("t2", 2)
    feed.close()
    both.close()
