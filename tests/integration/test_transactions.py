"""Transactions on a real Kafka: all or nothing, one writer at a time, and no wait without an end."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from engine.errors import EventLogError, SettingsError
from engine.eventlog.base import Outgoing, Partition, Rebalance, Records, Session, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.kafka.output import Transactions
from engine.eventlog.kafka.session import ExactlyOnceSession
from engine.settings.loader import load
from engine.settings.sections import KafkaSettings
from tests.conftest import only_long
from tests.integration import broker
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.kafka

Names = Callable[[str], str]


class Site:
    """A topic of clicks with ten in it, two topics for output, and a group."""

    def __init__(self, settings: KafkaSettings, names: Names) -> None:
        self.settings = settings
        self.log = KafkaLog(settings)
        self.clicks, self.lists, self.windows = names("clicks"), names("lists"), names("windows")
        self.group = names("group")
        self.log.ensure_topics([TopicSpec(name) for name in (self.clicks, self.lists, self.windows)])
        with self.log.producer() as producer:
            producer.send(Outgoing(self.clicks, [b"u"] * 10, [b"%d" % number for number in range(10)]))

    @property
    def partition(self) -> Partition:
        return Partition(self.clicks, 0)

    def session(self, log: KafkaLog | None = None) -> Session:
        return (log or self.log).session([self.clicks], self.group, Rebalance())

    def seen(self, topic: str) -> list[bytes | None]:
        """What a reader of committed records finds on a topic, once no transaction is open there."""
        values: list[bytes | None] = []
        deadline = time.monotonic() + LIMIT_S
        with self.log.reader([topic]) as reader:
            while not reader.at_end():
                assert time.monotonic() < deadline, "a transaction is still open"
                values += [value for records in reader.poll(0.1, 100) for value in records.values]
        return values


@pytest.fixture
def site(kafka_settings: KafkaSettings, topic_names: Names) -> Site:
    return Site(kafka_settings, topic_names)


def poll_until_some(session: Session, max_records: int = 10) -> list[Records]:
    deadline = time.monotonic() + LIMIT_S
    batch: list[Records] = []
    while not batch:
        assert time.monotonic() < deadline, "nothing arrived"
        batch = session.poll(0.1, max_records)
    return batch


def send_both(site: Site, session: Session, value: bytes) -> None:
    session.send(Outgoing(site.lists, [b"u"], [value]))
    session.send(Outgoing(site.windows, [b"u"], [value]))


def arrive(session: Session) -> None:
    """Return when what was sent is on its topics, where only the open transaction hides it."""
    assert isinstance(session, ExactlyOnceSession)
    assert session._output.flush()


def test_outputs_state_and_positions_become_visible_together(site: Site) -> None:
    with closing(site.session()) as session:
        poll_until_some(session)
        session.send(Outgoing(site.lists, [b"u"], [b"list"]))
        ends = session.commit({site.partition: 7}, [Outgoing(site.windows, [b"u"], [b"window"])])
    assert ends == {Partition(site.windows, 0): 1}
    assert site.seen(site.lists) == [b"list"]
    assert site.seen(site.windows) == [b"window"]
    with closing(site.session()) as session:
        assert poll_until_some(session)[0].offsets == [7, 8, 9]


def test_what_is_not_committed_is_never_seen_and_its_input_comes_again(site: Site) -> None:
    with closing(site.session()) as session:
        poll_until_some(session)
        send_both(site, session, b"never")
        arrive(session)
    with closing(site.session()) as session:
        assert poll_until_some(session)[0].offsets[0] == 0
        send_both(site, session, b"list")
        session.commit({site.partition: 10})
    assert site.seen(site.lists) == site.seen(site.windows) == [b"list"]


def test_a_successor_ends_what_a_killed_worker_of_another_name_left_open(site: Site) -> None:
    patient = site.settings.model_copy(update={"transaction_timeout_s": 600.0})
    killed = KafkaLog(patient).session([site.clicks], site.group, Rebalance())
    poll_until_some(killed)
    send_both(site, killed, b"never")
    arrive(killed)
    windows = Partition(site.windows, 0)
    with site.log.reader([windows]) as reader:
        assert reader.poll(0.5, 10) == []
        assert not reader.at_end()  # nobody gets past it
        site.log.end_abandoned([windows])
        site.log.end_abandoned([windows])  # nothing is left open: nothing happens
        assert site.seen(site.windows) == site.seen(site.lists) == []
    with pytest.raises(EventLogError):
        killed.commit({site.partition: 10})
    killed.close()


def test_a_new_session_ends_what_a_killed_worker_of_the_same_name_left_open(site: Site) -> None:
    patient = site.settings.model_copy(update={"static_member": "worker-0", "transaction_timeout_s": 600.0})
    killed = KafkaLog(patient).session([site.clicks], site.group, Rebalance())
    poll_until_some(killed)
    send_both(site, killed, b"never")
    arrive(killed)
    # Another process would be killed here; what is left of one is an open transaction and a member that is silent.
    with closing(site.session(KafkaLog(patient))) as successor:
        poll_until_some(successor)
        send_both(site, successor, b"list")
        successor.commit({site.partition: 10})
        assert site.seen(site.lists) == [b"list"]
    with pytest.raises(EventLogError):
        killed.commit({site.partition: 10})
    killed.close()
    assert site.seen(site.lists) == site.seen(site.windows) == [b"list"]


def test_the_broker_aborts_what_a_dead_worker_left_open(site: Site) -> None:
    quick = site.settings.model_copy(update={"commit_timeout_s": 0.9, "transaction_timeout_s": 1.0})
    dead = KafkaLog(quick).session([site.clicks], site.group, Rebalance())
    poll_until_some(dead)
    send_both(site, dead, b"never")
    arrive(dead)
    assert site.seen(site.lists) == []
    with pytest.raises(EventLogError):
        dead.commit({site.partition: 10})
    dead.close()


@pytest.mark.parametrize("asleep", ["before it sent", "before it committed"])
def test_a_zombie_commits_nothing(site: Site, asleep: str) -> None:
    """A member that slept through its expulsion thinks that it still holds the partition."""
    sleepy = KafkaLog(site.settings.model_copy(update={"max_poll_interval_s": 2.0}))
    with closing(site.session(sleepy)) as zombie:
        poll_until_some(zombie)
        if asleep == "before it committed":
            send_both(site, zombie, b"of the zombie")
        with closing(site.session()) as successor:
            poll_until_some(successor)  # comes only when the zombie has been expelled
            send_both(site, successor, b"of the successor")
            successor.commit({site.partition: 10})
        if asleep == "before it sent":
            send_both(site, zombie, b"of the zombie")
        with pytest.raises(EventLogError, match=r"expelled|positions"):
            zombie.commit({site.partition: 10})
    assert site.seen(site.lists) == site.seen(site.windows) == [b"of the successor"]


@pytest.mark.parametrize("turn", range(4))
def test_a_zombie_that_polls_on_never_gets_what_its_successor_committed(site: Site, turn: int) -> None:
    """Whether the library tells that the partition was lost, or joins as a new member as if nothing had happened."""
    sleepy = KafkaLog(site.settings.model_copy(update={"max_poll_interval_s": 2.0}))
    lost: list[Partition] = []
    with closing(sleepy.session([site.clicks], site.group, Rebalance(lost=lost.extend))) as zombie:
        assert poll_until_some(zombie, 4)[0].offsets == [0, 1, 2, 3]
        successor = site.session()
        poll_until_some(successor)
        successor.commit({site.partition: 10})
        time.sleep(turn * 0.3)
        successor.close()
        again: list[Records] = []
        deadline = time.monotonic() + 3.0
        try:
            while time.monotonic() < deadline:
                again += zombie.poll(0.1, 10)
        except EventLogError as error:
            assert "expelled" in str(error)  # noqa: PT017 - one of two right ways
        else:
            assert lost == [site.partition]
    assert again == []


def test_positions_alone_and_outputs_alone_can_be_committed(site: Site) -> None:
    with closing(site.session()) as session:
        poll_until_some(session)
        assert session.commit({}) == {}
        session.commit({site.partition: 4})
        send_both(site, session, b"list")
        session.commit({})
    assert site.seen(site.lists) == [b"list"]
    with closing(site.session()) as session:
        assert poll_until_some(session)[0].offsets[0] == 4


def test_a_session_whose_commit_failed_commits_nothing_more(site: Site) -> None:
    hasty = KafkaLog(site.settings.model_copy(update={"commit_timeout_s": 1.0}))
    with closing(site.session(hasty)) as session:
        poll_until_some(session)
        session.send(Outgoing(site.lists, [b"u"], [b"never"]))
        with pytest.raises(EventLogError, match="nowhere"):
            session.commit({site.partition: 10}, [Outgoing("nowhere", [b"u"], [b"never"])])
        with pytest.raises(EventLogError, match="failed before"):
            session.commit({site.partition: 10})
    assert site.seen(site.lists) == []


def test_a_transaction_must_outlast_its_commit() -> None:
    with pytest.raises(SettingsError, match=r"kafka\.transaction_timeout_s is 5.*kafka\.commit_timeout_s \(15\)"):
        load(None, {"HEADRACE_KAFKA__TRANSACTION_TIMEOUT_S": "5"})


@pytest.fixture
def own_broker(kafka_home: Path, tmp_path: Path) -> Iterator[broker.Cluster]:
    """A broker that the test may stop."""
    with broker.Cluster(kafka_home, tmp_path) as cluster:
        yield cluster


def own_site(cluster: broker.Cluster) -> Site:
    settings = KafkaSettings(
        bootstrap_servers=cluster.bootstrap,
        connect_timeout_s=3.0,
        session_timeout_s=6.0,
        commit_timeout_s=2.0,
        transaction_timeout_s=30.0,
    )
    return Site(settings, lambda name: name)


@pytest.mark.parametrize(
    "when", ["commit", pytest.param("flush", marks=only_long), pytest.param("add_positions", marks=only_long)]
)
def test_a_commit_that_a_hung_broker_never_answers_ends_in_time_and_leaves_nothing_behind(
    own_broker: broker.Cluster, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    site, node = own_site(own_broker), own_broker.nodes[0]
    threads, files = set(threading.enumerate()), open_files()
    session = site.session()
    poll_until_some(session)
    send_both(site, session, b"first")
    session.commit({site.partition: 1})
    send_both(site, session, b"second")
    step = getattr(Transactions, when)

    def hang_at_step(transactions: Transactions, *args: object) -> object:
        own_broker.send_signal(node, signal.SIGSTOP)
        return step(transactions, *args)

    monkeypatch.setattr(Transactions, when, hang_at_step)
    started = time.monotonic()
    with pytest.raises(EventLogError):
        session.commit({site.partition: 2})
    session.close()
    took = time.monotonic() - started
    assert took < 4 * site.settings.commit_timeout_s, f"{took:.1f} s"
    assert set(threading.enumerate()) <= threads
    assert open_files() <= files
    busy = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - busy < 0.1, "something is still running"

    monkeypatch.undo()
    own_broker.send_signal(node, signal.SIGCONT)
    with closing(site.session()) as successor:
        again = poll_until_some(successor)[0].offsets[0]
        assert again in {1, 2}
        send_both(site, successor, b"third")
        successor.commit({site.partition: 10})
    # If the end of the second transaction reached the broker it counts, positions and all; otherwise neither does.
    committed = [b"first", b"second", b"third"] if again == 2 else [b"first", b"third"]
    assert site.seen(site.lists) == site.seen(site.windows) == committed


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as short as can be
