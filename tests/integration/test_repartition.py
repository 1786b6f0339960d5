"""Windows moved to other partitions: none is lost, none is left behind, and one that was cut off is finished."""

import itertools
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import pytest

from engine.errors import EventLogError
from engine.eventlog.base import Outgoing, Partition, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.memory.reader import MemoryProducer
from engine.messages.recommendation import decode_recommendation
from engine.metrics import Metrics
from engine.settings.sections import ReleaseSettings, Settings, WindowSettings, WorkerSettings
from engine.windows import repartition, restorer
from engine.windows.changelog import DEPLOYMENT_HEADER, POSITION_HEADER
from engine.windows.repartition import Moved, Placement, Repartition
from engine.worker.loop import Worker
from tests.integration.test_recovery import Copy
from tests.waiting import LIMIT_S

BEFORE, NOW = 2, 4
START_MS = 1_700_000_000_000
USERS = [f"u{number}" for number in range(20)]
SETTINGS = Settings(windows=WindowSettings(max_users=100, length=5))
POSITIONS = {0: 700, 1: 900}


def before(key: bytes) -> int:
    return crc32(key) % BEFORE


def now(key: bytes) -> int:
    return crc32(key) % NOW


def placed(log: MemoryLog) -> dict[str, dict[int, int]]:
    """By user, the partitions of the changelog that have a window, each with its input position."""
    windows: dict[str, dict[int, int]] = {}
    with log.reader(["windows"]) as reader:
        while not reader.at_end():
            for records in reader.poll(0.0, 1000):
                for key, value, headers in zip(records.keys, records.values, records.headers, strict=True):
                    of_user = windows.setdefault((key or b"").decode(), {})
                    of_user.pop(records.partition.number, None)
                    if value is not None:
                        of_user[records.partition.number] = int(dict(headers)[POSITION_HEADER])
                    assert dict(headers)[DEPLOYMENT_HEADER] == SETTINGS.deployment.encode()
    return windows


def windows_of(log: MemoryLog, *partitions: Sequence[int]) -> dict[str, list[str]]:
    """Windows that a worker has which restores these partitions, some at a time."""
    copy = Copy(log, SETTINGS)
    for numbers in partitions:
        copy.restore(*numbers)
    return {user: items for user in USERS if (items := copy.items(user))}


@pytest.fixture
def grown() -> MemoryLog:
    """A changelog of two partitions that has four now."""
    log = MemoryLog()
    log.ensure_topics([TopicSpec("windows", NOW, compacted=True)])
    copy = Copy(log, SETTINGS)
    copy.restore(*range(NOW))
    for item, user in itertools.product("ab", USERS):
        copy.click(user, f"{user}-{item}", before(user.encode()))
    return log


EXPECTED = {user: [f"{user}-a", f"{user}-b"] for user in USERS}
MOVERS = [user for user in USERS if before(user.encode()) != now(user.encode())]


def test_every_window_is_where_its_users_clicks_go_and_nowhere_else(grown: MemoryLog) -> None:
    moved = Repartition(grown, SETTINGS, now, POSITIONS).run()
    assert moved == Moved(windows=len(MOVERS), merged=0)
    assert 0 < len(MOVERS) < len(USERS)
    places = placed(grown)
    assert {user: [*partitions] for user, partitions in places.items()} == {
        user: [now(user.encode())] for user in USERS
    }
    # What a window knew of the clicks of its old partition says nothing about the new one.
    assert {places[user][now(user.encode())] for user in MOVERS} == {0}
    again = Repartition(grown, SETTINGS, now, POSITIONS).run()
    assert again == Moved(0, 0)


@pytest.mark.parametrize("order", [*itertools.permutations(range(NOW))])
def test_windows_are_the_same_in_whatever_order_partitions_are_restored(
    grown: MemoryLog, order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old records are still there, before their tombstones, until compaction."""
    monkeypatch.setattr(restorer, "_RECORDS_AT_ONCE", 3)  # records and their tombstones come in different polls
    Repartition(grown, SETTINGS, now, POSITIONS).run()
    assert windows_of(grown, *([number] for number in order)) == EXPECTED
    assert windows_of(grown, order) == EXPECTED


def test_a_part_of_the_partitions_has_a_part_of_the_windows(grown: MemoryLog) -> None:
    Repartition(grown, SETTINGS, now, POSITIONS).run()
    for number in range(NOW):
        assert windows_of(grown, [number]) == {
            user: items for user, items in EXPECTED.items() if now(user.encode()) == number
        }


@pytest.mark.parametrize("sends", range(4))
def test_a_run_that_was_cut_off_is_finished_by_the_next(
    grown: MemoryLog, sends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, count = MemoryProducer.send, itertools.count()

    def fail(self: MemoryProducer, outgoing: Outgoing) -> None:
        if next(count) == sends:
            raise EventLogError("cut off")
        send(self, outgoing)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryProducer, "send", fail)
        with pytest.raises(EventLogError, match="cut off"):
            Repartition(grown, SETTINGS, now, POSITIONS).run()
    Repartition(grown, SETTINGS, now, POSITIONS).run()
    assert all([*partitions] == [now(user.encode())] for user, partitions in placed(grown).items())
    assert windows_of(grown, range(NOW)) == EXPECTED


def test_two_windows_of_one_user_become_one(grown: MemoryLog) -> None:
    """Clicks went to the new partition before the window did, and a worker began a new one there."""
    user = MOVERS[0]
    target = now(user.encode())
    copy = Copy(grown, SETTINGS)
    copy.restore(target)
    for item in ("later-1", "later-2", "later-3", "later-4"):
        copy.click(user, item, target)
    moved = Repartition(grown, SETTINGS, now, POSITIONS).run()
    assert (moved.windows, moved.merged) == (len(MOVERS), 1)
    assert [*placed(grown)[user]] == [target]
    # by time: later-1 and a at 0, later-2 and b at 1, later-3, later-4; the first of six has no place
    assert windows_of(grown, range(NOW))[user] == [f"{user}-a", "later-2", f"{user}-b", "later-3", "later-4"]


def test_a_dry_run_writes_nothing(grown: MemoryLog) -> None:
    with grown.reader(["windows"]) as reader:
        ends = {partition: bounds.stop for partition, bounds in reader.bounds.items()}
    assert Repartition(grown, SETTINGS, now, POSITIONS).run(dry=True).windows == len(MOVERS)
    with grown.reader(["windows"]) as reader:
        assert {partition: bounds.stop for partition, bounds in reader.bounds.items()} == ends


def test_a_worker_that_starts_meanwhile_stops_it(grown: MemoryLog) -> None:
    looks = itertools.count()

    def confirm() -> None:
        if next(looks) == 1:
            raise EventLogError("a worker has started")

    with pytest.raises(EventLogError, match="a worker has started"):
        Repartition(grown, SETTINGS, now, POSITIONS).run(confirm)


@pytest.fixture
def clicks() -> MemoryLog:
    """Clicks of all users, first in two partitions and then in four."""
    log = MemoryLog()
    log.ensure_topics([TopicSpec("clicks", NOW)])
    for place in (before, now):
        keys: list[bytes | None] = [user.encode() for user in USERS]
        numbers = [place(user.encode()) for user in USERS]
        log.producer().send(Outgoing("clicks", keys, [b"{}"] * len(keys), partitions=numbers))
    return log


def ends_of_the_first_round() -> dict[int, int]:
    return {number: sum(before(user.encode()) == number for user in USERS) for number in range(BEFORE)}


def test_clicks_that_no_worker_has_read_hold_a_move_up(clicks: MemoryLog) -> None:
    read = ends_of_the_first_round()
    placement = repartition.survey(clicks, "clicks", now, before, read)
    assert placement == Placement(records=2 * len(USERS), strays=0)
    # the last click of partition 0 that came before it grew is of a user whose clicks go elsewhere now
    last = [user for user in USERS if before(user.encode()) == 0]
    position = max(index for index, user in enumerate(last) if user in MOVERS)
    unread = repartition.survey(clicks, "clicks", now, before, read | {0: position}).unread
    assert unread == {0: 1}


def test_clicks_of_another_partitioner_are_noticed(clicks: MemoryLog) -> None:
    def other(key: bytes) -> int:
        return (crc32(key) + 1) % NOW

    placement = repartition.survey(clicks, "clicks", other, lambda key: (crc32(key) + 1) % BEFORE, {})
    assert placement.strays > placement.records / 2


def test_after_a_run_that_was_cut_off_clicks_that_were_read_say_nothing(clicks: MemoryLog) -> None:
    placement = repartition.survey(clicks, "clicks", now, None, ends_of_the_first_round())
    assert placement == Placement(records=len(USERS), strays=0)


def test_a_worker_serves_the_partitions_that_have_windows_and_says_which_wait(
    tiny_release: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, stop = MemoryLog(), threading.Event()
    log.ensure_topics([TopicSpec("clicks", 3), TopicSpec("windows", 2), TopicSpec("recommendations")])
    settings = Settings(
        releases=ReleaseSettings(path=tiny_release, poll_interval_s=0.02),
        windows=WindowSettings(max_users=100),
        worker=WorkerSettings(poll_timeout_s=0.02),
    )
    worker = Worker(settings, log, Metrics())
    values: list[bytes | None] = [
        json.dumps({"user": user, "item": "i1", "ts": START_MS}).encode() for user in ("waits", "ann", "bob")
    ]
    log.producer().send(Outgoing("clicks", [b"waits", b"ann", b"bob"], values, partitions=[2, 0, 1]))
    thread = threading.Thread(target=worker.run, args=[stop])
    thread.start()
    try:
        users: set[str] = set()
        with log.reader(["recommendations"]) as reader:
            deadline_s = time.monotonic() + LIMIT_S
            while len(users) < 2 and time.monotonic() < deadline_s:
                for records in reader.poll(0.1, 10):
                    users |= {decode_recommendation(value or b"").user for value in records.values}
        while "given more partitions" not in (worker.not_ready or "") and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert users == {"ann", "bob"}
        assert worker.not_ready == (
            "clicks.topic 'clicks' was given more partitions: those of [2] wait, because windows.topic 'windows' has"
            " windows for 2. When the other partitions are read to their ends, stop all workers, run `headrace"
            " repartition`, and start them again"
        )
        assert [record.getMessage() for record in caplog.records].count(worker.not_ready) == 1
    finally:
        stop.set()
        thread.join(LIMIT_S)
    assert Partition("clicks", 2) not in log._groups["headrace"].positions
