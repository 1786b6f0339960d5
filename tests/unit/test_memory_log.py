"""What only the in-process log does: a clock of its own, retention, commits all at once."""

import threading
from contextlib import closing

import pytest

from engine.errors import EventLogError
from engine.eventlog.base import Outgoing, Partition, Rebalance, TopicSpec
from engine.eventlog.memory.log import MemoryLog

CLICKS = Partition("clicks", 0)


def with_topics(log: MemoryLog, *topics: str) -> MemoryLog:
    log.ensure_topics([TopicSpec(topic) for topic in topics])
    return log


def put(log: MemoryLog, topic: str, *values: bytes) -> None:
    log.producer().send(Outgoing(topic, [b"u"] * len(values), list(values)))


def count(log: MemoryLog, topic: str) -> int:
    return sum(map(len, log.reader([topic]).poll(0, 10_000)))


def test_the_clock_is_an_argument() -> None:
    log = with_topics(MemoryLog(now_ms=lambda: 1_700_000_000_000), "clicks")
    put(log, "clicks", b"a")
    (records,) = log.reader(["clicks"]).poll(0, 10)
    assert records.timestamps_ms == [1_700_000_000_000]


def test_retention_keeps_at_least_what_it_promises_and_at_most_twice_that() -> None:
    log = with_topics(MemoryLog(retain_records={"clicks": 10}), "clicks")
    for number in range(55):
        put(log, "clicks", b"%d" % number)
    (records,) = log.reader(["clicks"]).poll(0, 100)
    assert 10 <= len(records) <= 20
    assert records.offsets[-1] == 54
    assert records.values == [b"%d" % offset for offset in records.offsets]


def test_a_session_left_behind_by_retention_goes_on_with_the_oldest_record() -> None:
    log = with_topics(MemoryLog(retain_records={"clicks": 10}), "clicks")
    with closing(log.session(["clicks"], "group", Rebalance())) as session:
        assert session.poll(0, 10) == []
        for number in range(55):
            put(log, "clicks", b"%d" % number)
        (records,) = session.poll(0, 100)
        assert records.offsets[0] >= 55 - 20
        assert records.values[0] == b"%d" % records.offsets[0]
        assert session.lag() == {CLICKS: 0}


def test_a_commit_is_seen_whole_or_not_at_all() -> None:
    log = with_topics(MemoryLog(), "clicks", "lists", "windows")
    done = threading.Event()
    torn: list[tuple[int, int]] = []

    def watch() -> None:
        while not done.is_set():
            windows, lists = count(log, "windows"), count(log, "lists")
            if windows > lists:  # windows were counted first, so they may lag behind the lists but never lead
                torn.append((windows, lists))

    watcher = threading.Thread(target=watch)
    with closing(log.session(["clicks"], "group", Rebalance())) as session:
        watcher.start()
        for _ in range(300):
            session.send(Outgoing("windows", [b"u"], [b"window"]))
            session.send(Outgoing("lists", [b"u"], [b"list"]))
            session.commit({})
        done.set()
        watcher.join()
    assert torn == []
    assert count(log, "lists") == count(log, "windows") == 300


def test_positions_of_a_partition_held_by_another_are_refused_and_nothing_becomes_visible() -> None:
    log = with_topics(MemoryLog(), "clicks", "lists")
    with (
        closing(log.session(["clicks"], "group", Rebalance())) as holder,
        closing(log.session(["clicks"], "group", Rebalance())) as other,
    ):
        holder.poll(0, 1)
        other.poll(0, 1)
        assert (holder.assignment(), other.assignment()) == ([CLICKS], [])
        other.send(Outgoing("lists", [b"u"], [b"list"]))
        with pytest.raises(EventLogError, match="not held by this session"):
            other.commit({CLICKS: 1})
    assert count(log, "lists") == 0


def test_a_group_reads_one_set_of_topics() -> None:
    log = with_topics(MemoryLog(), "clicks", "items")
    with closing(log.session(["clicks"], "group", Rebalance())), pytest.raises(EventLogError, match="other topics"):
        log.session(["items"], "group", Rebalance())


def test_output_to_an_unknown_topic_is_refused_when_it_is_sent() -> None:
    log = with_topics(MemoryLog(), "clicks")
    with closing(log.session(["clicks"], "group", Rebalance())) as session, pytest.raises(EventLogError, match="lists"):
        session.send(Outgoing("lists", [b"u"], [b"list"]))
