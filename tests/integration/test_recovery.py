"""Restoring, step by step: partitions wait for their windows and for nothing else, and no end is read too early."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import ChangelogError, SettingsError
from engine.eventlog.base import Headers, Outgoing, Partition, Reader, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.recommendation import decode_recommendation
from engine.metrics import Metrics
from engine.settings.sections import ReleaseSettings, Settings, SnapshotSettings, TelemetrySettings, WindowSettings
from engine.windows.changelog import POSITION_HEADER
from engine.windows.restorer import Restorer
from engine.windows.saver import Saver
from engine.windows.snapshots import Snapshots
from engine.windows.store import Events
from engine.windows.users import UserWindows
from engine.worker.loop import Worker
from tests.waiting import LIMIT_S

START_MS = 1_700_000_000_000
PARTITIONS = 2


class Copy:
    """A window store with everything that restores it, as a worker has."""

    def __init__(self, log: MemoryLog, settings: Settings) -> None:
        actions = Actions(settings.clicks)
        self.catalogue = Catalogue()
        self.user_windows = UserWindows(settings, self.catalogue, actions)
        self.store = self.user_windows.store
        self.metrics = Metrics()
        self.snapshots = Snapshots(settings.snapshots, self.catalogue, actions)
        self.restorer = Restorer(settings, log, self.user_windows, self.snapshots, self.metrics)
        self.saver = Saver(settings, self.user_windows, self.snapshots, self.restorer)
        self._log = log

    def click(self, user: str, item: str, partition: int = 0) -> None:
        """One more event in a user's window, and on the changelog."""
        slots = self.store.slots([user], np.array([partition], np.int32))
        length = len(self.store.pack(slots).items)
        event = Events(
            slots=slots,
            items=self.catalogue.numbers([item]),
            times_ms=np.array([START_MS + length], np.int64),
            actions=np.ones(1, np.uint8),
            event_hashes=np.zeros(1, np.uint32),
        )
        changes = self.user_windows.changes(self.store.append(event).changed, [])
        self._log.producer().send(changes)
        self.user_windows.positions[partition] += 1

    def forget(self, user: str, partition: int = 0) -> None:
        """No window any more, nor one on the changelog."""
        self.user_windows.forget(user)
        self._log.producer().send(self.user_windows.changes(np.empty(0, np.int32), [(user, partition)]))
        self.user_windows.positions[partition] += 1

    def items(self, user: str) -> list[str]:
        slot = self.store.find(user)
        packed = self.store.pack(np.array([] if slot is None else [slot], np.int32))
        return self.catalogue.ids(packed.items.tolist())

    def restore(self, *partitions: int) -> None:
        self.restorer.begin(partitions)
        while self.restorer.waits():
            self.restorer.step(0.0)

    def keep_warm(self) -> None:
        """Follow what the others do until there is nothing left to read."""
        while self.restorer.behind():
            self.restorer.step(0.0)
        self.restorer.step(0.0)

    def warm_partitions(self) -> float | None:
        return self.metrics.registry.get_sample_value("headrace_standby_partitions")

    def restored_from(self, source: str) -> float:
        value = self.metrics.registry.get_sample_value("headrace_restored_users_total", {"source": source})
        return value or 0.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        windows=WindowSettings(max_users=100, length=5),
        snapshots=SnapshotSettings(folder=tmp_path / "snapshots"),
        telemetry=TelemetrySettings(port=0),
    )


@pytest.fixture
def warm(settings: Settings) -> Settings:
    return settings.model_copy(update={"windows": settings.windows.model_copy(update={"standby": True})})


@pytest.fixture
def log(settings: Settings) -> MemoryLog:
    log = MemoryLog()
    log.ensure_topics([TopicSpec(settings.windows.topic, PARTITIONS, compacted=True)])
    return log


def test_windows_come_back_from_the_changelog(log: MemoryLog, settings: Settings) -> None:
    first, second = Copy(log, settings), Copy(log, settings)
    first.restore(0, 1)
    first.click("ann", "a")
    first.click("ann", "b")
    first.click("bob", "c", partition=1)
    second.restore(0, 1)
    assert (second.items("ann"), second.items("bob")) == (["a", "b"], ["c"])
    assert second.user_windows.positions == {0: 2, 1: 1}
    assert second.restored_from("snapshot") == 0


def test_a_snapshot_saves_reading_what_it_knows(log: MemoryLog, settings: Settings) -> None:
    #  changelog   ann a | ann ab     bob c     (| the snapshot knows what is before)
    first, second = Copy(log, settings), Copy(log, settings)
    first.restore(0)
    first.click("ann", "a")
    first.saver.finish()
    first.click("ann", "b")
    first.click("bob", "c")
    second.restore(0)
    assert (second.items("ann"), second.items("bob")) == (["a", "b"], ["c"])
    assert second.restored_from("snapshot") == 1
    assert second.restored_from("changelog") == 2


def test_a_damaged_snapshot_costs_only_time(log: MemoryLog, settings: Settings) -> None:
    first, second = Copy(log, settings), Copy(log, settings)
    first.restore(0)
    first.click("ann", "a")
    first.saver.finish()
    assert settings.snapshots.folder is not None
    (path,) = settings.snapshots.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    second.restore(0)
    assert second.items("ann") == ["a"]
    assert second.restored_from("snapshot") == 0
    assert second.metrics.registry.get_sample_value("headrace_refused_snapshots_total", {"reason": "damaged"}) == 1


def test_snapshots_are_written_in_the_background_when_it_is_time(log: MemoryLog, settings: Settings) -> None:
    first, second = Copy(log, settings), Copy(log, settings)
    first.restore(0, 1)
    first.click("ann", "a")
    first.click("bob", "c", partition=1)
    now_s = first.saver._due_s
    first.saver.step(now_s - 0.001)
    assert settings.snapshots.folder is not None
    assert not settings.snapshots.folder.exists()
    first.saver.step(now_s)
    first.saver._settle()
    first.saver.step(now_s)
    first.saver.close()
    second.restore(0, 1)
    assert second.restored_from("snapshot") == 2


def test_a_partition_that_comes_back_is_read_to_its_new_end(log: MemoryLog, settings: Settings) -> None:
    """Assigned, given up before it was restored, changed by another worker, assigned again."""
    other, ours = Copy(log, settings), Copy(log, settings)
    other.restore(0, 1)
    other.click("bob", "c", partition=1)
    other.click("ann", "a")
    ours.restorer.begin([0, 1])
    ours.restorer.step(0.0)  # the reader is open and has seen where the partitions end
    ours.restorer.drop([0])
    other.click("ann", "b")
    ours.restore(0)
    assert ours.items("ann") == ["a", "b"]
    assert ours.items("bob") == ["c"]


def test_a_standby_follows_and_a_takeover_reads_only_the_rest(log: MemoryLog, warm: Settings) -> None:
    #  partition 0 is the first's    ann a, bob b | ann ac | dies    (| read by the second by then)
    first, second = Copy(log, warm), Copy(log, warm)
    first.restore(0)
    first.click("ann", "a")
    first.click("bob", "b")
    second.restorer.stand_by([0, 1])
    second.keep_warm()
    assert (second.items("ann"), second.items("bob")) == (["a"], ["b"])
    assert second.warm_partitions() == 2
    assert second.restorer.restored() == []  # it may not write snapshots of what is not its own
    first.click("ann", "c")
    second.restore(0)
    assert second.items("ann") == ["a", "c"]
    assert (second.restored_from("standby"), second.restored_from("changelog")) == (2, 1)
    assert second.warm_partitions() == 1


def test_what_was_given_up_is_followed_on(log: MemoryLog, warm: Settings) -> None:
    first, second = Copy(log, warm), Copy(log, warm)
    first.restorer.stand_by([0, 1])
    first.restore(0)
    first.click("ann", "a")
    first.restorer.drop([0])
    second.restore(0)
    second.click("ann", "b")
    first.keep_warm()
    assert first.items("ann") == ["a", "b"]
    second.restorer.drop([0])
    first.restore(0)
    assert first.restored_from("changelog") == 0


def test_without_a_standby_what_was_given_up_is_dropped(log: MemoryLog, settings: Settings) -> None:
    first = Copy(log, settings)
    first.restorer.stand_by([0, 1])
    first.restore(0)
    first.click("ann", "a")
    first.restorer.drop([0])
    assert first.store.find("ann") is None
    assert not first.restorer.behind()


def test_a_snapshot_half_taken_over_by_a_standby_is_finished_by_the_takeover(log: MemoryLog, warm: Settings) -> None:
    first, second = Copy(log, warm), Copy(log, warm)
    first.restore(0)
    first.click("ann", "a")
    first.saver.finish()
    first.click("bob", "b")
    second.restorer.stand_by([0])
    second.restorer.step(0.0)  # the snapshot is found, none of it is here yet
    assert second.store.find("ann") is None
    second.restore(0)
    assert (second.items("ann"), second.items("bob")) == (["a"], ["b"])


def test_a_partition_that_cannot_be_read_is_not_kept_warm_and_not_served(log: MemoryLog, warm: Settings) -> None:
    """Its owner may be of a later version; the partitions of ours are none the worse for it."""
    copy = Copy(log, warm)
    copy.restorer.stand_by([0, 1])
    headers: list[Headers] = [[(POSITION_HEADER, b"1")]]
    later = [b"\xff of a later version"]
    log.producer().send(Outgoing(warm.windows.topic, [b"ann"], [*later], headers=headers, partitions=[1]))
    copy.keep_warm()
    assert copy.warm_partitions() == 1
    copy.restore(0)
    with pytest.raises(ChangelogError, match="version 255"):
        copy.restore(1)


def test_windows_of_another_deployment_are_refused(log: MemoryLog, settings: Settings) -> None:
    """Two shops with one changelog: the second neither restores users of the first nor uses its snapshots."""
    first, second = Copy(log, settings), Copy(log, named(settings, "second/clicks"))
    first.restore(0)
    first.click("ann", "a")
    first.saver.finish()
    with pytest.raises(SettingsError, match=r"'headrace/clicks', expected only those of 'second/clicks'"):
        second.restore(0)
    assert (second.restored_from("snapshot"), second.items("ann")) == (0, [])


def test_a_deployment_goes_on_under_its_earlier_name(log: MemoryLog, settings: Settings) -> None:
    first = Copy(log, settings)
    first.restore(0)
    first.click("ann", "a")
    renamed = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"group": "shop"})})
    with pytest.raises(SettingsError, match=r"set kafka.deployment = 'headrace/clicks'"):
        Copy(log, renamed).restore(0)
    again = Copy(log, named(renamed, "headrace/clicks"))
    again.restore(0)
    assert again.items("ann") == ["a"]


def test_a_standby_leaves_partitions_of_another_deployment(log: MemoryLog, warm: Settings) -> None:
    first, second = Copy(log, named(warm, "first/clicks")), Copy(log, warm)
    first.restore(0)
    first.click("ann", "a")
    second.restorer.stand_by([0, 1])
    second.keep_warm()
    assert (second.warm_partitions(), second.items("ann")) == (1, [])


def named(settings: Settings, deployment: str) -> Settings:
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"deployment": deployment})})


def test_progress_is_told(log: MemoryLog, settings: Settings) -> None:
    first, second = Copy(log, settings), Copy(log, settings)
    first.restore(0)
    for number in range(3):
        first.click("ann", f"i{number}")
    assert second.restorer.progress is None
    second.restorer.begin([0])
    assert second.restorer.progress == "windows of partitions [0] wait to be restored"
    second.restorer.step(0.0)
    assert second.restorer.progress == "windows are being restored: partition 0 at 0 of 3"
    assert second.metrics.registry.get_sample_value("headrace_restoring_partitions") == 1
    second.restorer.step(0.0)
    assert second.restorer.progress is None
    assert second.metrics.registry.get_sample_value("headrace_restoring_partitions") == 0


def test_a_changelog_of_another_size_is_refused(tiny_release: Path) -> None:
    log = MemoryLog()
    log.ensure_topics([TopicSpec("clicks", 2), TopicSpec("windows", 3), TopicSpec("releases")])
    releases = ReleaseSettings(path=tiny_release)
    worker = Worker(Settings(releases=releases, windows=WindowSettings(max_users=100)), log, Metrics())
    with pytest.raises(SettingsError, match=r"windows.topic 'windows' has 3 partitions, clicks.topic 'clicks' has 2"):
        worker.run(threading.Event())


def test_other_partitions_go_on_while_one_is_restored(tiny_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partition 1 never gets restored here: its clicks wait, those of partition 0 get lists, and /readyz says why."""
    log = MemoryLog()
    log.ensure_topics([TopicSpec("clicks", 2), TopicSpec("recommendations", 2), TopicSpec("windows", 2)])
    held = threading.Event()
    whole = Restorer._at_end

    def at_end(self: Restorer, reader: Reader, number: int) -> bool:
        return number != 1 and whole(self, reader, number)

    monkeypatch.setattr(Restorer, "_at_end", at_end)
    releases = ReleaseSettings(path=tiny_release, poll_interval_s=0.02)
    worker = Worker(Settings(releases=releases, windows=WindowSettings(max_users=100)), log, Metrics())
    thread = threading.Thread(target=worker.run, args=[held])
    thread.start()
    try:
        values: list[bytes | None] = [
            json.dumps({"user": user, "item": "i1", "ts": START_MS}).encode() for user in ("ann", "bob")
        ]
        log.producer().send(Outgoing("clicks", [b"ann", b"bob"], values, partitions=[0, 1]))
        with log.reader(["recommendations"]) as reader:
            while not (records := reader.poll(LIMIT_S, 10)):
                pass
        assert [decode_recommendation(value or b"").user for value in records[0].values] == ["ann"]
        assert worker.not_ready == "windows are being restored: partition 1 at 0 of 0"
        session = worker._session
        assert session is not None
        assert session.lag() == {Partition("clicks", 0): 0, Partition("clicks", 1): 1}
    finally:
        held.set()
        thread.join(LIMIT_S)
