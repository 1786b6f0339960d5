"""A random script of calls, on the in-process log and on a real Kafka: both answer alike.

Partitions are always named, since each log chooses them by a hash of its own. Offsets are compared as ranks: a Kafka
partition has markers of transactions between its records, so what counts is how many records lie before an offset.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from engine.errors import DeliveryError, EventLogError
from engine.eventlog.base import EventLog, Headers, Outgoing, Partition, Reader, Rebalance, Records, Session, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.settings.sections import KafkaSettings
from tests.waiting import LIMIT_S

LONG = os.environ.get("LONG_TESTS") == "1"
MOST_TOPICS = 3
MOST_AT_ONCE = 1_000
NOW_MS = int(time.time() * 1000)


@dataclass(frozen=True)
class Row:
    """A record as it is sent; the partition is taken modulo those that the topic has."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    age_ms: int | None
    """How long before the test it happened; None leaves the stamp to the log."""


BYTES = st.binary(max_size=6)
ROW = st.builds(
    Row,
    partition=st.integers(0, 5),
    key=st.none() | BYTES,
    value=st.none() | BYTES,
    headers=st.lists(st.tuples(st.text(min_size=1, max_size=3), BYTES), max_size=2).map(tuple),
    age_ms=st.none() | st.integers(1, 3_600_000),
).filter(lambda row: row.key is not None or row.value is not None)  # a Kafka client sends no record with neither
ROWS = st.lists(ROW, min_size=1, max_size=5)


@dataclass
class Twin:
    """One of the two logs, and the offset that it gave to each record of each partition."""

    log: EventLog
    offsets: dict[Partition, dict[int, int]] = field(default_factory=dict)
    """By partition and rank, of the records read so far."""
    promised: list[tuple[Partition, int, int]] = field(default_factory=list)
    """Partition, number of records and offset after the last of them, as commits returned them."""

    def offset(self, partition: Partition, rank: int) -> int | None:
        """Where to go on after so many records; None where that was never read."""
        return 0 if rank == 0 else self._after(self.offsets.get(partition, {}).get(rank - 1))

    def rank(self, partition: Partition, offset: int) -> int:
        """How many of the records read so far lie before an offset."""
        return sum(known < offset for known in self.offsets.get(partition, {}).values())

    def _after(self, offset: int | None) -> int | None:
        return None if offset is None else offset + 1


@dataclass
class Member:
    """The end of one log that reads: a session or a reader, and how far it has read each partition."""

    twin: Twin
    end: Session | Reader
    ranks: dict[Partition, int]


class Twins(RuleBasedStateMachine):
    """The script. What both logs must answer follows from `records`, which each call is noted in."""

    def __init__(self, kafka_log: EventLog) -> None:
        super().__init__()
        self.twins = [Twin(MemoryLog()), Twin(kafka_log)]
        self.suffix = uuid4().hex[:8]
        self.topics: dict[str, int] = {}
        self.records: dict[Partition, list[Row]] = {}
        self.transactions: dict[Partition, int] = {}
        self.committed: dict[tuple[str, Partition], int] = {}
        self.sessions: dict[str, list[Member]] = {}
        self.paused: dict[str, set[Partition]] = {}
        self.readers: list[tuple[dict[Partition, int], list[Member]]] = []
        self.identities: dict[str, list[str]] = {}
        self.refused: set[str] = set()
        """Mistakes made so far; once in a script is enough."""

    # Topics.

    @initialize(partitions=st.integers(1, 3), rows=ROWS)
    def begin_with_two_topics(self, partitions: int, rows: list[Row]) -> None:
        for count in (partitions, 2):
            self.create_topic(count)
        for name in self.topics:
            self._produce(name, rows)

    @precondition(lambda self: len(self.topics) < MOST_TOPICS)
    @rule(partitions=st.integers(1, 3))
    def create_topic(self, partitions: int) -> None:
        name = f"topic{len(self.topics)}-{self.suffix}"
        for twin in self.twins:
            assert twin.log.partitions(name) == 0
            twin.log.ensure_topics([TopicSpec(name, partitions)])
        self.topics[name] = partitions
        self.records |= {Partition(name, number): [] for number in range(partitions)}

    @rule(data=st.data(), partitions=st.integers(1, 4))
    def existing_topics_are_left_as_they_are(self, data: st.DataObject, partitions: int) -> None:
        name = self._topic(data)
        for twin in self.twins:
            twin.log.ensure_topics([TopicSpec(name, partitions)])
            assert twin.log.partitions(name) == self.topics[name]
        identities = [twin.log.identity(name) for twin in self.twins]
        assert self.identities.setdefault(name, identities) == identities
        others = [known for other, known in self.identities.items() if other != name]
        assert not {identity for known in others for identity in known} & {*identities}

    # Records outside of sessions.

    @rule(data=st.data(), rows=ROWS)
    def produce(self, data: st.DataObject, rows: list[Row]) -> None:
        self._produce(self._topic(data), rows)

    def _produce(self, name: str, rows: list[Row]) -> None:
        for twin in self.twins:
            with twin.log.producer() as producer:
                producer.send(self._outgoing(name, rows))
                producer.flush()
        self._note(name, rows)

    # Sessions.

    @precondition(lambda self: len(self.sessions) < 2)
    @rule(data=st.data())
    def open_session(self, data: st.DataObject) -> None:
        name = self._topic(data)
        group = data.draw(st.sampled_from(sorted({"one", "two"} - self.sessions.keys())))
        everything = self._partitions(name)
        self.paused[group] = set()
        self.sessions[group] = [
            Member(
                twin,
                twin.log.session([name], f"{group}-{self.suffix}", Rebalance()),
                {partition: self.committed.get((group, partition), 0) for partition in everything},
            )
            for twin in self.twins
        ]
        for member in self.sessions[group]:
            self._until(member, partial(self._holds, member, everything), most=1)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), most=st.integers(1, 3))
    def poll_some(self, data: st.DataObject, most: int) -> None:
        group = self._group(data)
        for member in self.sessions[group]:
            left = self._left(member, self.paused[group])
            goal = sum(member.ranks.values()) + min(most, left)
            self._until(member, partial(self._has_read, member, goal), most)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def poll_to_the_end(self, data: st.DataObject) -> None:
        self._poll_to_the_end(self._group(data))

    def _poll_to_the_end(self, group: str) -> None:
        for member in self.sessions[group]:
            self._until(member, partial(self._has_read_all, member, self.paused[group]))
            assert member.end.poll(0.0, MOST_AT_ONCE) == []

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), rows=ROWS | st.just([]), state=ROWS | st.just([]), fraction=st.sampled_from([0.0, 0.5, 1.0]))
    def commit(self, data: st.DataObject, rows: list[Row], state: list[Row], fraction: float) -> None:
        """Outputs and state go to different topics, as the engine sends them."""
        group = self._group(data)
        members = self.sessions[group]
        names = data.draw(st.permutations(sorted(self.topics)))
        ranks = {
            partition: int(fraction * min(member.ranks[partition] for member in members))
            for partition in members[0].ranks
        }
        for member in members:
            session = self._session(member)
            if rows:
                session.send(self._outgoing(names[0], rows))
            positions = {p: offset for p, rank in ranks.items() if (offset := member.twin.offset(p, rank)) is not None}
            assert len(positions) == len(ranks), "what was read has an offset"
            ends = session.commit(positions, [self._outgoing(names[1], state)] if state else [])
            counts = self._counts(names[1], state) if state else {}
            assert ends.keys() >= counts.keys()
            member.twin.promised += [(partition, count, ends[partition]) for partition, count in counts.items()]
        self.committed |= {(group, partition): rank for partition, rank in ranks.items()}
        for name, sent in zip(names, [rows, state], strict=False):
            self._note(name, sent, transaction=True)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), rows=ROWS | st.just([]))
    def close_session(self, data: st.DataObject, rows: list[Row]) -> None:
        """What was sent and not committed is gone."""
        group = self._group(data)
        name = self._topic(data)
        for member in self.sessions.pop(group):
            session = self._session(member)
            if rows:
                session.send(self._outgoing(name, rows))
            session.close()
            with pytest.raises(EventLogError):
                session.commit({next(iter(member.ranks)): 0})
        for partition in self._counts(name, rows):
            self.transactions[partition] = self.transactions.get(partition, 0) + 1

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), rows=ROWS)
    def pause_or_resume(self, data: st.DataObject, rows: list[Row]) -> None:
        """Records that come after it are there to be held back, or to be let through."""
        group = self._group(data)
        members, paused = self.sessions[group], self.paused[group]
        partition = data.draw(st.sampled_from(sorted(members[0].ranks)))
        for member in members:
            session = self._session(member)
            (session.resume if partition in paused else session.pause)([partition])
        paused ^= {partition}
        self._produce(partition.topic, [replace(row, partition=partition.number) for row in rows])
        self._poll_to_the_end(group)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def lag(self, data: st.DataObject) -> None:
        """Kafka knows an end from the first fetch on, as of the last one, and counts markers of transactions too."""
        ours, theirs = self.sessions[self._group(data)]
        left = {partition: len(self.records[partition]) - rank for partition, rank in ours.ranks.items()}
        assert self._session(ours).lag() == left
        for partition, lag in self._session(theirs).lag().items():
            most = len(self.records[partition]) - theirs.ranks[partition]
            gaps = 2 * self.transactions.get(partition, 0) * (1 + len(self.records[partition]))
            assert 0 <= lag <= most + gaps

    # Readers.

    @precondition(lambda self: len(self.readers) < 2)
    @rule(data=st.data(), single=st.booleans())
    def open_reader(self, data: st.DataObject, single: bool) -> None:
        partitions = self._partitions(self._topic(data))
        if single:
            partitions = [data.draw(st.sampled_from(partitions))]
        counts = {partition: len(self.records[partition]) for partition in partitions}
        members = []
        for twin in self.twins:
            reader = twin.log.reader(partitions if single else [partitions[0].topic])
            members.append(Member(twin, reader, dict.fromkeys(partitions, 0)))
            assert reader.bounds.keys() == counts.keys()
            assert all(bounds.start == 0 and bounds.stop >= counts[p] for p, bounds in reader.bounds.items())
            assert all(reader.position(partition) == 0 for partition in partitions)
            assert reader.at_end() or any(bounds for bounds in reader.bounds.values())
            assert not reader.at_end() or not any(counts.values())
        self.readers.append((counts, members))

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def read_to_the_end(self, data: st.DataObject) -> None:
        counts, members = data.draw(st.sampled_from(self.readers))
        for member in members:
            reader = self._reader(member)
            self._until(member, partial(self._has_read_all, member))
            self._until(member, reader.at_end)
            for partition, bounds in reader.bounds.items():
                assert member.twin.rank(partition, reader.position(partition)) == len(self.records[partition])
                assert member.twin.rank(partition, bounds.stop) == counts[partition]

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), fraction=st.floats(0, 1))
    def seek(self, data: st.DataObject, fraction: float) -> None:
        counts, members = data.draw(st.sampled_from(self.readers))
        partition = data.draw(st.sampled_from(sorted(counts)))
        rank = int(fraction * len(self.records[partition]))
        offsets = [member.twin.offset(partition, rank) for member in members]
        for member, offset in zip(members, offsets, strict=True):
            if offset is not None and None not in offsets:
                reader = self._reader(member)
                reader.seek(partition, offset)
                member.ranks[partition] = rank
                assert reader.position(partition) == offset
                assert rank >= counts[partition] or not reader.at_end()

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def close_reader(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.readers))
        self.readers.remove(chosen)
        for member in chosen[1]:
            self._reader(member).close()

    # Mistakes.

    @precondition(lambda self: "unknown topic" not in self.refused)
    @rule()
    def unknown_topics_are_refused(self) -> None:
        self.refused.add("unknown topic")
        name = f"nowhere-{self.suffix}"
        for twin in self.twins:
            assert twin.log.partitions(name) == 0
            calls: list[Callable[[EventLog], object]] = [
                lambda log: log.session([name], name, Rebalance()),
                lambda log: log.reader([name]),
                lambda log: log.identity(name),
            ]
            for call in calls:
                with pytest.raises(EventLogError, match=name):
                    call(twin.log)

    @precondition(lambda self: self.sessions and "columns" not in self.refused)
    @rule(data=st.data())
    def columns_of_different_lengths_are_refused(self, data: st.DataObject) -> None:
        self.refused.add("columns")
        wrong = Outgoing(self._topic(data), [b"a", b"b"], [b"1"])
        for twin in self.twins:
            with twin.log.producer() as producer, pytest.raises(EventLogError, match="different lengths"):
                producer.send(wrong)
        for member in self.sessions[self._group(data)]:
            with pytest.raises(EventLogError, match="different lengths"):
                self._session(member).send(wrong)

    def teardown(self) -> None:
        """Read everything once more, from the start; then leave nothing open."""
        try:
            self._everything_is_there()
        finally:
            members = [member for _, members in self.readers for member in members]
            for member in (*members, *(member for members in self.sessions.values() for member in members)):
                member.end.close()

    def _everything_is_there(self) -> None:
        for twin in self.twins:
            with twin.log.reader(sorted(self.topics)) as reader:
                member = Member(twin, reader, dict.fromkeys(self.records, 0))
                self._until(member, partial(self._has_read_all, member))
                self._until(member, reader.at_end)
            for partition, count, end in twin.promised:
                assert twin.offset(partition, count) == end

    # What the rules share.

    def _topic(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.topics)))

    def _group(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.sessions)))

    def _partitions(self, name: str) -> list[Partition]:
        return [Partition(name, number) for number in range(self.topics[name])]

    def _outgoing(self, name: str, rows: Sequence[Row]) -> Outgoing:
        stamps = [NOW_MS - (row.age_ms or 0) for row in rows]
        return Outgoing(
            name,
            keys=[row.key for row in rows],
            values=[row.value for row in rows],
            timestamps_ms=stamps if all(row.age_ms for row in rows) else None,
            headers=[row.headers for row in rows] if any(row.headers for row in rows) else None,
            partitions=[row.partition % self.topics[name] for row in rows],
        )

    def _counts(self, name: str, rows: Iterable[Row]) -> dict[Partition, int]:
        """How many records each partition has with these added, of those that get any."""
        counts: dict[Partition, int] = {}
        for row in rows:
            partition = Partition(name, row.partition % self.topics[name])
            counts[partition] = counts.get(partition, len(self.records[partition])) + 1
        return counts

    def _note(self, name: str, rows: Sequence[Row], *, transaction: bool = False) -> None:
        stamped = all(row.age_ms for row in rows)
        for row in rows:
            partition = Partition(name, row.partition % self.topics[name])
            self.records[partition].append(row if stamped else Row(0, row.key, row.value, row.headers, None))
        for partition in self._counts(name, rows) if transaction else ():
            self.transactions[partition] = self.transactions.get(partition, 0) + 1

    def _left(self, member: Member, paused: set[Partition] | None = None) -> int:
        """Records that it has not read of the partitions that are not paused."""
        return sum(
            len(self.records[partition]) - rank
            for partition, rank in member.ranks.items()
            if partition not in (paused or ())
        )

    def _holds(self, member: Member, partitions: list[Partition]) -> bool:
        return sorted(self._session(member).assignment()) == partitions

    def _has_read(self, member: Member, count: int) -> bool:
        return sum(member.ranks.values()) >= count

    def _has_read_all(self, member: Member, paused: set[Partition] | None = None) -> bool:
        return not self._left(member, paused)

    def _until(self, member: Member, happened: Callable[[], bool], most: int = MOST_AT_ONCE) -> None:
        """Poll until something happened, and compare all that comes with what was sent."""
        deadline_s = time.monotonic() + LIMIT_S
        while not happened():
            assert time.monotonic() < deadline_s, f"{type(member.end).__name__}: it did not happen in time"
            batch = member.end.poll(0.05, most)
            assert sum(map(len, batch)) <= most
            for records in batch:
                self._compare(member, records)

    def _compare(self, member: Member, records: Records) -> None:
        partition, first = records.partition, member.ranks[records.partition]
        sent = self.records[partition][first : first + len(records)]
        assert records.keys == [row.key for row in sent]
        assert records.values == [row.value for row in sent]
        assert [_plain(headers) for headers in records.headers] == [list(row.headers) for row in sent]
        for row, stamp_ms in zip(sent, records.timestamps_ms, strict=True):
            assert stamp_ms == NOW_MS - row.age_ms if row.age_ms else 0 <= stamp_ms - NOW_MS < 3_600_000
        known = member.twin.offsets.setdefault(partition, {})
        for rank, offset in enumerate(records.offsets, start=first):
            assert known.setdefault(rank, offset) == offset
            assert known.get(rank - 1, -1) < offset
        member.ranks[partition] += len(records)

    def _session(self, member: Member) -> Session:
        return cast("Session", member.end)

    def _reader(self, member: Member) -> Reader:
        return cast("Reader", member.end)


def _plain(headers: Headers) -> list[tuple[str, bytes]]:
    return list(headers)


@pytest.mark.kafka
@pytest.mark.timeout(1800 if LONG else 300)
def test_both_logs_answer_a_random_script_alike(kafka_settings: KafkaSettings) -> None:
    patient = kafka_settings.model_copy(update={"session_timeout_s": 30.0, "delivery_timeout_s": 60.0})

    class Script(Twins):
        def __init__(self) -> None:
            super().__init__(KafkaLog(patient))

    run_state_machine_as_test(
        Script,
        settings=settings(
            max_examples=40 if LONG else 3,
            stateful_step_count=80 if LONG else 50,
            derandomize=not LONG,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a failure is printed as it was; to make it shorter takes minutes on a broker
        ),
    )


# Where the in-process log still answers otherwise. It is the one to mend: a mark that is no longer true fails its test.

MEMORY_DIFFERS = pytest.param("memory", marks=pytest.mark.xfail(strict=True, reason="the in-process log differs"))
BOTH = pytest.mark.parametrize("which", [MEMORY_DIFFERS, pytest.param("kafka", marks=pytest.mark.kafka)])


@pytest.fixture
def log(which: str, request: pytest.FixtureRequest) -> EventLog:
    if which == "memory":
        return MemoryLog()
    settings: KafkaSettings = request.getfixturevalue("kafka_settings")
    return KafkaLog(settings.model_copy(update={"connect_timeout_s": 2.0}))


@pytest.fixture
def topics(log: EventLog) -> tuple[str, str]:
    """A topic of two partitions, and a compacted one."""
    names = f"lists-{uuid4().hex[:8]}", f"windows-{uuid4().hex[:8]}"
    log.ensure_topics([TopicSpec(names[0], 2), TopicSpec(names[1], 2, compacted=True)])
    return names


@BOTH
def test_a_commit_returns_ends_of_the_partitions_that_got_state_alone(log: EventLog, topics: tuple[str, str]) -> None:
    with closing(log.session([topics[0]], topics[0], Rebalance())) as session:
        ends = session.commit({}, [Outgoing(topics[1], [b"ann"], [b"window"], partitions=[1])])
    assert ends == {Partition(topics[1], 1): 1}


@BOTH
def test_a_reader_of_a_partition_that_is_not_there_is_refused(log: EventLog, topics: tuple[str, str]) -> None:
    for partition in (Partition(topics[0], 7), Partition("nowhere", 0)):
        with pytest.raises(EventLogError, match=partition.topic):
            log.reader([partition])


@BOTH
def test_a_record_for_a_partition_that_is_not_there_is_refused(log: EventLog, topics: tuple[str, str]) -> None:
    with log.producer() as producer, pytest.raises(DeliveryError, match=topics[0]):
        producer.send(Outgoing(topics[0], [b"ann"], [b"list"], partitions=[7]))


@BOTH
def test_a_commit_with_such_a_record_shows_nothing_at_all(log: EventLog, topics: tuple[str, str]) -> None:
    def commit() -> None:
        with closing(log.session([topics[0]], topics[0], Rebalance())) as session:
            for number in (0, 7):
                session.send(Outgoing(topics[0], [b"ann"], [b"list"], partitions=[number]))
            session.commit({})

    with pytest.raises(DeliveryError):
        commit()
    with log.reader([topics[0]]) as reader:
        assert reader.poll(0.5, 10) == []


@BOTH
def test_a_record_without_a_key_is_refused_by_a_compacted_topic(log: EventLog, topics: tuple[str, str]) -> None:
    def send() -> None:
        with log.producer() as producer:
            producer.send(Outgoing(topics[1], [None], [b"window"], partitions=[0]))
            producer.flush()

    with pytest.raises(DeliveryError, match=topics[1]):
        send()
