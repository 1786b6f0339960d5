"""What every event log promises, checked on the in-process log and on a real Kafka."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import pytest

from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Outgoing, Partition, Reader, Rebalance, Records, Session, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from tests.conftest import only_long
from tests.integration.conftest import kafka_bootstrap, kafka_log, kafka_settings, topic_names
from tests.waiting import LIMIT_S

__all__ = ["kafka_bootstrap", "kafka_log", "kafka_settings", "topic_names"]  # fixtures, used by name

EXACTLY, AT_LEAST = "exactly_once", "at_least_once"
Names = Callable[[str], str]


@pytest.fixture(
    params=[
        "memory",
        pytest.param(EXACTLY, marks=pytest.mark.kafka),
        pytest.param(AT_LEAST, marks=[pytest.mark.kafka, only_long]),
    ]
)
def log(request: pytest.FixtureRequest) -> EventLog:
    if request.param == "memory":
        return MemoryLog()
    return KafkaLog(request.getfixturevalue("kafka_settings").model_copy(update={"delivery": request.param}))


@pytest.fixture
def atomic(request: pytest.FixtureRequest) -> bool:
    """Whether outputs and positions become visible together."""
    return bool(request.node.callspec.params["log"] != AT_LEAST)


@dataclass
class Worker:
    """A session, what it read, and which callbacks it got."""

    session: Session
    events: list[tuple[str, list[Partition]]]
    values: list[bytes | None] = field(default_factory=list)

    def step(self, timeout_s: float = 0.1) -> None:
        """Read a little and commit it."""
        batch = self.session.poll(timeout_s, 100)
        self.values += [value for records in batch for value in records.values]
        self.session.commit(positions(batch))


@pytest.fixture
def join(log: EventLog) -> Iterator[Callable[[str, str], Worker]]:
    """Makes workers in a group, closed after the test."""
    with ExitStack() as stack:

        def make(topic: str, group: str) -> Worker:
            events: list[tuple[str, list[Partition]]] = []
            rebalance = Rebalance(
                assigned=lambda partitions: events.append(("assigned", sorted(partitions))),
                revoked=lambda partitions: events.append(("revoked", sorted(partitions))),
                lost=lambda partitions: events.append(("lost", sorted(partitions))),
            )
            session = stack.enter_context(closing(log.session([topic], group, rebalance)))
            return Worker(session, events)

        yield make


def positions(batch: list[Records]) -> dict[Partition, int]:
    return {records.partition: records.offsets[-1] + 1 for records in batch}


def put(log: EventLog, topic: str, *values: bytes, keys: list[bytes | None] | None = None) -> None:
    """Deliver values; each is its own key unless keys are given."""
    with log.producer() as producer:
        producer.send(Outgoing(topic, list(values) if keys is None else keys, list(values)))


def read_all(log: EventLog, topic: str) -> list[Records]:
    with log.reader([topic]) as reader:
        return drain(reader)


def drain(reader: Reader) -> list[Records]:
    batches: list[Records] = []
    until(reader.at_end, lambda: batches.extend(reader.poll(0.1, 1000)))
    return batches


def values_of(batches: list[Records]) -> list[bytes | None]:
    return [value for records in batches for value in records.values]


def until(happened: Callable[[], bool], step: Callable[[], object]) -> None:
    """Take steps until something happened, or fail."""
    deadline = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        step()


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_missing_topics_are_created_and_existing_ones_left_alone(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    assert log.partitions(topic) == 0
    log.ensure_topics([TopicSpec(topic, partitions=3)])
    log.ensure_topics([TopicSpec(topic, partitions=5), TopicSpec(topic_names("lists"), compacted=True)])
    assert log.partitions(topic) == 3
    assert log.partitions(topic_names("lists")) == 1


def test_records_before_an_offset_are_deleted(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("dead")
    log.ensure_topics([TopicSpec(topic)])
    put(log, topic, *numbers(5))
    log.delete_before({Partition(topic, 0): 3})
    put(log, topic, b"5")
    batches = read_all(log, topic)
    assert values_of(batches) == [b"3", b"4", b"5"]
    assert [offset for records in batches for offset in records.offsets] == [3, 4, 5]


def test_unknown_topic_is_refused_by_name(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("nowhere")
    with pytest.raises(EventLogError, match=topic):
        log.session([topic], topic_names("group"), Rebalance())
    with pytest.raises(EventLogError, match=topic):
        log.reader([topic])


def test_order_within_a_partition_is_kept(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic)])
    put(log, topic, *numbers(500))
    batches = read_all(log, topic)
    assert values_of(batches) == numbers(500)
    assert [offset for records in batches for offset in records.offsets] == list(range(500))


def test_equal_keys_land_in_one_partition_and_different_ones_spread(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic, partitions=4)])
    keys: list[bytes | None] = [b"user-%d" % (number % 50) for number in range(200)]
    put(log, topic, *numbers(200), keys=keys)
    seen: dict[bytes | None, set[int]] = {}
    for records in read_all(log, topic):
        for key in records.keys:
            seen.setdefault(key, set()).add(records.partition.number)
    assert len(seen) == 50
    assert all(len(partitions) == 1 for partitions in seen.values())
    assert set.union(*seen.values()) == {0, 1, 2, 3}


def test_records_come_back_as_they_were_sent(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic)])
    hour_ago_ms = int(time.time() * 1000) - 3_600_000  # a broker deletes what is older than a topic's retention
    sent = Outgoing(
        topic,
        keys=[b"a", None, b"gone", "ключ".encode()],
        values=[b"\x00\xff", b"", None, b"{}"],
        timestamps_ms=[hour_ago_ms, hour_ago_ms + 1, hour_ago_ms - 1, hour_ago_ms + 3],
        headers=[[("reason", b"bad"), ("reason", b"twice")], [], [("origin", b"\xff")], []],
    )
    with log.producer() as producer:
        producer.send(sent)
    (records,) = read_all(log, topic)
    assert records.partition == Partition(topic, 0)
    assert records.keys == sent.keys
    assert records.values == sent.values
    assert records.timestamps_ms == sent.timestamps_ms
    assert [list(headers) for headers in records.headers] == sent.headers


def test_records_are_stamped_with_the_time_of_sending(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic)])
    before_ms = int(time.time() * 1000)
    put(log, topic, b"now")
    (records,) = read_all(log, topic)
    assert before_ms <= records.timestamps_ms[0] <= time.time() * 1000


def test_lists_of_different_lengths_are_refused(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic)])
    with log.producer() as producer, pytest.raises(EventLogError, match="different lengths"):
        producer.send(Outgoing(topic, [b"a", b"b"], [b"1"]))
    assert read_all(log, topic) == []


def test_output_counts_after_commit(log: EventLog, topic_names: Names, atomic: bool) -> None:
    topic, lists = topic_names("clicks"), topic_names("lists")
    log.ensure_topics([TopicSpec(topic), TopicSpec(lists)])
    with closing(log.session([topic], topic_names("group"), Rebalance())) as session:
        session.send(Outgoing(lists, [b"u"], [b"list"]))
        if atomic:
            with log.reader([lists]) as reader:
                assert reader.poll(0.5, 10) == []
        session.commit({})
        assert values_of(read_all(log, lists)) == [b"list"]


def test_uncommitted_records_come_again_and_committed_ones_do_not(log: EventLog, topic_names: Names) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    log.ensure_topics([TopicSpec(topic)])
    put(log, topic, *numbers(10))
    first: list[Records] = []
    with closing(log.session([topic], group, Rebalance())) as session:
        until(lambda: bool(first), lambda: first.extend(session.poll(0.1, 4)))
        session.commit({first[0].partition: 2})
    assert values_of(first) == numbers(4)
    again: list[Records] = []
    with closing(log.session([topic], group, Rebalance())) as session:
        until(lambda: sum(map(len, again)) >= 8, lambda: again.extend(session.poll(0.1, 100)))
    assert values_of(again) == numbers(10)[2:]


def test_poll_returns_at_most_what_was_asked_for(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic, partitions=2)])
    put(log, topic, *numbers(100))
    with log.reader([topic]) as reader:
        sizes: list[int] = []
        until(reader.at_end, lambda: sizes.append(sum(map(len, reader.poll(0.1, 7)))))
    assert max(sizes) <= 7
    assert sum(sizes) == 100


def test_poll_of_an_empty_topic_ends_in_time(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic)])
    with log.reader([topic]) as reader, closing(log.session([topic], topic_names("group"), Rebalance())) as session:
        for end in (reader, session):
            started = time.monotonic()
            assert end.poll(0.2, 10) == []
            assert 0.1 < time.monotonic() - started < 2.0


def test_a_waiting_poll_returns_as_soon_as_a_record_arrives(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic)])
    with log.reader([topic]) as reader:
        assert reader.poll(0.1, 10) == []
        started = time.monotonic()
        sender = threading.Timer(0.1, put, [log, topic, b"late"])
        sender.start()
        assert values_of(reader.poll(LIMIT_S, 10)) == [b"late"]
        assert time.monotonic() - started < LIMIT_S / 4
        sender.join()


def test_a_reader_knows_the_end_of_its_beginning(log: EventLog, topic_names: Names) -> None:
    topic, empty = topic_names("clicks"), topic_names("empty")
    log.ensure_topics([TopicSpec(topic, partitions=2), TopicSpec(empty)])
    with log.reader([empty]) as reader:
        assert reader.at_end()
    put(log, topic, *numbers(20))
    with log.reader([topic, empty]) as reader:
        assert not reader.at_end()
        put(log, topic, b"later")
        seen = values_of(drain(reader))
        assert sorted(set(seen) - {b"later"}, key=lambda value: int(value or b"")) == numbers(20)
        put(log, topic, b"last")
        until(lambda: b"last" in seen, lambda: seen.extend(values_of(reader.poll(0.1, 10))))
        assert b"later" in seen
        assert reader.at_end()


def test_a_big_value_passes(log: EventLog, topic_names: Names) -> None:
    topic, lists = topic_names("clicks"), topic_names("lists")
    log.ensure_topics([TopicSpec(topic), TopicSpec(lists)])
    big = bytes(range(256)) * (5 * 2**20 // 256)
    put(log, topic, b"before", big, b"after", keys=[b"u", b"u", b"u"])
    with closing(log.session([topic], topic_names("group"), Rebalance())) as session:
        seen: list[bytes | None] = []
        until(lambda: len(seen) == 3, lambda: seen.extend(values_of(session.poll(0.1, 10))))
        assert seen == [b"before", big, b"after"]
        session.send(Outgoing(lists, [b"u"], [big]))
        session.commit({Partition(topic, 0): 3})
    assert values_of(read_all(log, lists)) == [big]


def test_what_waits_while_its_partition_is_paused_comes_when_it_is_resumed(
    log: EventLog, topic_names: Names, join: Callable[[str, str], Worker]
) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic, partitions=2)])
    with log.producer() as producer:
        producer.send(Outgoing(topic, [*numbers(20)], [*numbers(20)], partitions=[number % 2 for number in range(20)]))
    session = join(topic, topic_names("group")).session
    read: dict[Partition, int] = {}

    def step(most: int) -> None:
        for records in session.poll(0.1, most):
            read[records.partition] = read.get(records.partition, 0) + len(records)

    until(lambda: bool(read), lambda: step(1))
    (begun,) = read  # the client may hold the rest of this partition already
    session.pause([begun])
    until(lambda: max(read.values()) == 10, lambda: step(100))
    assert read[begun] == 1
    session.resume([begun])
    until(lambda: sum(read.values()) == 20, lambda: step(100))


def test_a_member_goes_on_where_it_is_told_and_not_at_the_groups_position(log: EventLog, topic_names: Names) -> None:
    """Whether the partition is at rest since it was assigned, or is being read."""
    topic, group = topic_names("clicks"), topic_names("group")
    log.ensure_topics([TopicSpec(topic)])
    put(log, topic, *numbers(10))
    log.delete_before({Partition(topic, 0): 2})
    assigned: list[Partition] = []
    values: list[bytes | None] = []
    later: list[bytes] = []

    def pause(partitions: Sequence[Partition]) -> None:
        session.pause(partitions)
        assigned.extend(partitions)

    session = log.session([topic], group, Rebalance(assigned=pause))
    with closing(session):
        until(lambda: bool(assigned), lambda: session.poll(0.1, 100))
        for offset in (7, 4, 0, 10):
            values.clear()
            session.seek(assigned[0], offset)
            session.resume(assigned)
            later.append(b"later-%d" % offset)
            put(log, topic, later[-1])
            until(lambda: later[-1] in values, lambda: values.extend(values_of(session.poll(0.1, 100))))
            assert values == [*numbers(10), *later][max(offset, 2) :]
            assert session.lag() == {assigned[0]: 0}


def test_lag_counts_what_is_not_yet_read(log: EventLog, topic_names: Names, join: Callable[[str, str], Worker]) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic)])
    put(log, topic, *numbers(10))
    worker = join(topic, topic_names("group"))
    batch: list[Records] = []
    until(lambda: bool(batch), lambda: batch.extend(worker.session.poll(0.1, 4)))
    assert worker.session.lag() == {Partition(topic, 0): 6}
    until(lambda: sum(map(len, batch)) == 10, lambda: batch.extend(worker.session.poll(0.1, 4)))
    assert worker.session.lag() == {Partition(topic, 0): 0}


def test_a_lone_member_gets_every_partition_once(
    log: EventLog, topic_names: Names, join: Callable[[str, str], Worker]
) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic, partitions=3)])
    worker = join(topic, topic_names("group"))
    assert worker.session.assignment() == []
    until(lambda: len(worker.session.assignment()) == 3, worker.step)
    everything = [Partition(topic, number) for number in range(3)]
    assert sorted(worker.session.assignment()) == everything
    assert worker.events == [("assigned", everything)]


def test_two_members_share_and_every_record_is_read_once(
    log: EventLog, topic_names: Names, join: Callable[[str, str], Worker]
) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    log.ensure_topics([TopicSpec(topic, partitions=4)])
    workers = [join(topic, group), join(topic, group)]
    until(lambda: balanced(workers, 2), lambda: step_all(workers))
    put(log, topic, *numbers(200))
    until(lambda: sum(len(worker.values) for worker in workers) >= 200, lambda: step_all(workers))
    step_all(workers)
    seen = [value for worker in workers for value in worker.values]
    assert sorted(seen, key=lambda value: int(value or b"")) == numbers(200)
    assert all(worker.values for worker in workers)


def test_a_newcomer_gets_its_share_and_only_that_moves(
    log: EventLog, topic_names: Names, join: Callable[[str, str], Worker]
) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    log.ensure_topics([TopicSpec(topic, partitions=4)])
    old = join(topic, group)
    until(lambda: len(old.session.assignment()) == 4, old.step)
    new = join(topic, group)
    until(lambda: balanced([old, new], 2), lambda: step_all([old, new]))
    revoked = [partition for name, partitions in old.events if name == "revoked" for partition in partitions]
    assert sorted(revoked) == sorted(new.session.assignment())
    assert set(old.session.assignment()).isdisjoint(new.session.assignment())
    assert not [name for name, _ in old.events + new.events if name == "lost"]


def test_what_a_member_commits_while_it_hands_over_is_kept(log: EventLog, topic_names: Names) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    log.ensure_topics([TopicSpec(topic, partitions=2)])
    put(log, topic, *numbers(40))
    read: dict[Partition, int] = {}
    seen: list[bytes | None] = []

    def hand_over(partitions: list[Partition]) -> None:
        old.commit({partition: read[partition] for partition in partitions})

    with closing(log.session([topic], group, Rebalance(revoked=lambda p: hand_over(list(p))))) as old:

        def step_old() -> None:
            batch = old.poll(0.1, 100)
            read.update(positions(batch))
            seen.extend(values_of(batch))

        until(lambda: len(seen) == 40, step_old)
        with closing(log.session([topic], group, Rebalance())) as new:
            again: list[Records] = []

            def step_both() -> None:
                step_old()
                again.extend(new.poll(0.1, 100))

            until(lambda: len(old.assignment()) == len(new.assignment()) == 1, step_both)
            put(log, topic, *numbers(40))
            until(lambda: len(seen) + sum(map(len, again)) >= 80, step_both)
            (taken,) = new.assignment()
            assert again[0].offsets[0] == read[taken]


@pytest.mark.parametrize(("after_ms", "first"), [(None, 6), (2_500, 3), (9_000, 6), (0, 0)])
def test_a_new_group_begins_where_it_is_told_and_an_old_one_goes_on(
    log: EventLog, topic_names: Names, join: Callable[[str, str], Worker], after_ms: int | None, first: int
) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    log.ensure_topics([TopicSpec(topic, partitions=2)])
    with log.producer() as producer:
        # one record at 0, 1, 2 ... 5 s of the last minute (brokers delete old ones), in one partition and the other
        began_ms = time.time_ns() // 1_000_000 - 60_000
        stamps, places = [began_ms + second * 1000 for second in range(6)], [0, 1] * 3
        producer.send(Outgoing(topic, [b"k"] * 6, [*numbers(6)], timestamps_ms=stamps, partitions=places))
    for _ in range(2):  # a second worker of the group changes nothing
        log.begin_group(group, topic, None if after_ms is None else began_ms + after_ms)
    worker = join(topic, group)
    until(lambda: len(worker.session.assignment()) == 2, worker.step)
    put(log, topic, b"later")
    until(lambda: b"later" in worker.values, worker.step)
    assert sorted(value or b"" for value in worker.values) == sorted([*numbers(6)[first:], b"later"])
    worker.session.close()
    put(log, topic, b"meanwhile")
    log.begin_group(group, topic, None)
    again = join(topic, group)
    until(lambda: b"meanwhile" in again.values, again.step)
    assert again.values == [b"meanwhile"]


def test_a_group_with_members_stays_where_it_is(
    log: EventLog, topic_names: Names, join: Callable[[str, str], Worker]
) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    log.ensure_topics([TopicSpec(topic)])
    put(log, topic, b"before")
    worker = join(topic, group)
    until(lambda: b"before" in worker.values, lambda: worker.values.extend(values_of(worker.session.poll(0.1, 10))))
    log.begin_group(group, topic, None)
    worker.session.commit({Partition(topic, 0): 0})
    worker.session.close()
    again = join(topic, group)
    until(lambda: bool(again.values), again.step)
    assert again.values == [b"before"]


def test_the_partitions_of_a_leaving_member_go_to_the_other(
    log: EventLog, topic_names: Names, join: Callable[[str, str], Worker]
) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    log.ensure_topics([TopicSpec(topic, partitions=4)])
    stays, leaves = join(topic, group), join(topic, group)
    until(lambda: balanced([stays, leaves], 2), lambda: step_all([stays, leaves]))
    before = list(leaves.events)
    leaves.session.close()
    assert leaves.events == before, "closing calls no callback"
    until(lambda: len(stays.session.assignment()) == 4, stays.step)


def test_an_error_in_a_callback_comes_out_of_poll(log: EventLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic)])

    def refuse(_partitions: object) -> None:
        raise EventLogError("no room for this partition")

    session = log.session([topic], topic_names("group"), Rebalance(assigned=refuse))
    with closing(session), pytest.raises(EventLogError, match="no room"):
        until(lambda: False, lambda: session.poll(0.1, 10))


def test_a_closed_session_commits_nothing(
    log: EventLog, topic_names: Names, join: Callable[[str, str], Worker]
) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    log.ensure_topics([TopicSpec(topic)])
    worker = join(topic, group)
    until(lambda: len(worker.session.assignment()) == 1, worker.step)
    worker.session.close()
    with pytest.raises(EventLogError):
        worker.session.commit({Partition(topic, 0): 5})


def step_all(workers: list[Worker]) -> None:
    for worker in workers:
        worker.step()


def balanced(workers: list[Worker], share: int) -> bool:
    return all(len(worker.session.assignment()) == share for worker in workers)
