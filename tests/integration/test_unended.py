"""Transactions that no coordinator knows, on real Kafka: who ends them, who is left alone, what an operator is told.

They are made as a late record makes them on a broker that believes its producers: the record arrives, and its partition
was not added to any transaction.
"""

import logging
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kafka import ConsumerGroupMetadata, KafkaAdminClient, OffsetAndMetadata, TopicPartition  # noqa: TID251 - as below
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType  # noqa: TID251
from kafka.producer.transaction_manager import TransactionalRequestResult, TxnOffsetCommitHandler  # noqa: TID251

from engine.errors import EventLogError
from engine.eventlog.base import Outgoing, Partition, Rebalance, Session, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.kafka.session import ExactlyOnceSession
from engine.settings.sections import KafkaSettings
from tests.integration import broker
from tests.integration.site import Site as WorkerSite
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.kafka

BELIEVES = {"transaction.partition.verification.enable": "false"}
Names = Callable[[str], str]


@pytest.fixture(scope="module")
def believing(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[broker.Cluster]:
    """A broker that asks no coordinator about transactions, as every Kafka before 3.6."""
    with broker.Cluster(kafka_home, tmp_path_factory.mktemp("kafka"), options=BELIEVES) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def strict(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[broker.Cluster]:
    """The same, where workers may not write marks: the right CLUSTER_ACTION or ALTER of the cluster."""
    authorizer = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": "User:ANONYMOUS",
    }
    cluster = broker.Cluster(kafka_home, tmp_path_factory.mktemp("kafka"), secure=True, options=BELIEVES | authorizer)
    with cluster:
        with operator(cluster) as admin:
            admin.create_acls(
                [
                    ACL(
                        f"User:{broker.USER}",
                        "*",
                        operation,
                        ACLPermissionType.ALLOW,
                        ResourcePattern(ResourceType.CLUSTER, "kafka-cluster"),
                    )
                    for operation in (ACLOperation.CREATE, ACLOperation.DESCRIBE)
                ]
            )
        yield cluster


@contextmanager
def operator(cluster: broker.Cluster) -> Iterator[KafkaAdminClient]:
    """A client with every right."""
    admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{cluster.nodes[0].internal_port}")
    try:
        yield admin
    finally:
        admin.close()


class Site:
    """Topics of a worker, one partition each, and a click."""

    def __init__(self, settings: KafkaSettings, names: Names) -> None:
        self.settings = settings
        self.log = KafkaLog(settings)
        self.clicks, self.lists, self.windows = names("clicks"), names("lists"), names("windows")
        self.group = names("group")
        self.log.ensure_topics([TopicSpec(name) for name in (self.clicks, self.lists, self.windows)])
        with self.log.producer() as producer:
            producer.send(Outgoing(self.clicks, [b"u"], [b"click"]))

    @property
    def inherited(self) -> list[Partition]:
        return [Partition(self.windows, 0)]

    def session(self, log: KafkaLog | None = None) -> Session:
        return (log or self.log).session([self.clicks], self.group, Rebalance())

    def look(self, log: KafkaLog | None = None) -> bool:
        return (log or self.log).end_abandoned(self.inherited, [self.lists])

    def leave_open(self, transactional_id: str, *topics: str, is_old: bool = True) -> None:
        """A record on each topic in a transaction that the coordinator does not know of."""
        leave_open(self.log, transactional_id, *topics)
        if is_old:
            self.log._transactions(transactional_id).close(0.0)

    def commit_a_list(self, session: Session) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not (batch := session.poll(0.1, 10)):
            assert time.monotonic() < deadline, "nothing arrived"
        session.send(Outgoing(self.lists, [b"u"], [b"list"]))
        session.commit({batch[0].partition: batch[0].offsets[-1] + 1}, [Outgoing(self.windows, [b"u"], [b"window"])])

    def is_blocked(self, topic: str) -> bool:
        """Whether a reader of committed records gets stuck before the end."""
        with self.log.reader([topic]) as reader:
            for _ in range(10):
                reader.poll(0.1, 100)
                if reader.at_end():
                    return False
        return True

    def seen(self, topic: str) -> list[bytes | None]:
        """Everything on a topic that a reader of committed records gets."""
        values: list[bytes | None] = []
        deadline = time.monotonic() + LIMIT_S
        with self.log.reader([topic]) as reader:
            while not reader.at_end():
                assert time.monotonic() < deadline, f"a transaction is open on {topic}"
                values += [value for records in reader.poll(0.1, 100) for value in records.values]
        return values


def leave_open(log: KafkaLog, transactional_id: str, *topics: str, number: int = 0) -> None:
    """Send to partitions as if they had been added to the transaction."""
    transactions = log._transactions(transactional_id)
    for topic in topics:
        transactions._manager._partitions_in_transaction.add(TopicPartition(topic, number))
        transactions.send(Outgoing(topic, [b"u"], [b"never"], partitions=[number]))
    assert len(transactions.flush()) == len(topics)
    transactions.close(0.0)


def settings_of(cluster: broker.Cluster, **others: object) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=cluster.bootstrap, connect_timeout_s=10.0, session_timeout_s=6.0, commit_timeout_s=5.0
    ).model_copy(update=others)


def login(cluster: broker.Cluster) -> dict[str, object]:
    """Settings of a static member that logs in."""
    return {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_username": broker.USER,
        "sasl_password": broker.PASSWORD,
        "ssl_ca_file": cluster.ca_file,
        "static_member": "worker-0",
    }


@pytest.fixture
def site(believing: broker.Cluster, topic_names: Names) -> Site:
    return Site(settings_of(believing, static_member="worker-0"), topic_names)


def test_what_a_predecessor_of_the_same_name_left_open_is_ended_before_anything_is_sent(site: Site) -> None:
    site.leave_open(f"{site.group}-worker-0", site.lists, site.windows, is_old=False)
    assert site.is_blocked(site.lists)
    with closing(site.session()) as session:
        assert site.look()
        site.commit_a_list(session)
    # Sent before, these would have become a part of what was open, and would have made it visible.
    assert site.seen(site.lists) == [b"list"]
    assert site.seen(site.windows) == [b"window"]


@pytest.mark.parametrize("is_old", [True, False], ids=["of an old epoch", "of the present epoch"])
def test_what_another_worker_of_the_group_left_open_is_ended(site: Site, *, is_old: bool) -> None:
    site.leave_open(f"{site.group}-worker-1", site.lists, is_old=is_old)
    with closing(site.session()) as session:
        assert site.is_blocked(site.lists)
        assert site.look()
        site.commit_a_list(session)
    assert site.seen(site.lists) == [b"list"]


def test_a_neighbour_s_transaction_is_left_alone_where_he_may_write(site: Site) -> None:
    neighbour = KafkaLog(site.settings.model_copy(update={"static_member": "worker-1"}))
    with closing(site.session(neighbour)) as busy, closing(site.session()) as session:
        assert isinstance(busy, ExactlyOnceSession)
        busy.send(Outgoing(site.lists, [b"u"], [b"of the neighbour"]))
        assert busy._output.flush()
        assert site.look()
        busy.commit({})
        session.send(Outgoing(site.windows, [b"u"], [b"window"]))
        session.commit({})
    assert site.seen(site.lists) == [b"of the neighbour"]


def test_what_is_of_another_group_is_reported_with_the_command_that_ends_it(
    site: Site, kafka_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.leave_open("somebody-else", site.lists)
    with closing(site.session()) as session:
        for _ in range(2):
            assert site.look()
        site.commit_a_list(session)
    assert site.is_blocked(site.lists)
    run(kafka_home, command_in(caplog), site.settings.bootstrap_servers)
    assert site.seen(site.lists) == [b"list"]


def test_without_the_right_to_end_it_the_worker_goes_on_under_another_id_and_spends_no_epochs(
    strict: broker.Cluster, topic_names: Names, kafka_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(settings_of(strict, **login(strict)), topic_names)
    stuck, neighbour = f"{site.group}-worker-0", f"{site.group}-worker-1"
    site.leave_open(stuck, site.lists, is_old=False)
    site.leave_open(neighbour, site.windows, is_old=False)
    with closing(site.session()), pytest.raises(EventLogError, match="under another transactional id"):
        site.look()
    with closing(site.session()) as session, operator(strict) as admin:
        assert site.look()
        epochs = {name: state.producer_epoch for name, state in admin.describe_transactions([stuck, neighbour]).items()}
        for _ in range(3):
            assert site.look()
        again = {name: state.producer_epoch for name, state in admin.describe_transactions([stuck, neighbour]).items()}
        assert again == epochs
        site.commit_a_list(session)
    assert site.is_blocked(site.lists)
    commands = {command_in(caplog, topic) for topic in (site.lists, site.windows)}
    for command in commands:
        run(kafka_home, command, f"127.0.0.1:{strict.nodes[0].internal_port}")
    assert site.seen(site.lists) == [b"list"]
    assert site.seen(site.windows) == [b"window"]


def command_in(caplog: pytest.LogCaptureFixture, topic: str = "") -> str:
    """The command in the log, which is there once."""
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    commands = re.findall(rf"kafka-transactions\.sh (.*--topic {topic}.*)", "\n".join(errors))
    assert len(commands) == 1, errors
    return str(commands[0])


def run(kafka_home: Path, arguments: str, bootstrap: str) -> None:
    """What the command does, without the shell script around it."""
    tool = ["java", "-cp", f"{kafka_home}/libs/*", "org.apache.kafka.tools.TransactionsCommand"]
    done = subprocess.run(
        [*tool, *shlex.split(re.sub(r"(?<=--bootstrap-server )\S+", bootstrap, arguments))],
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_readers_of_the_lists_get_all_of_them_once_a_worker_has_started(
    believing: broker.Cluster, topic_names: Names, tiny_release: Path, tmp_path: Path
) -> None:
    """One of its lists' partitions, another one of its windows, and its dead letters are blocked when it starts."""
    log = KafkaLog(settings_of(believing))
    site = WorkerSite(log, believing.bootstrap, topic_names, tiny_release, tmp_path)
    site.environ["HEADRACE_KAFKA__STATIC_MEMBER"] = "worker-0"
    windows = topic_names("windows")
    own, other = f"{topic_names('group')}-worker-0", f"{topic_names('group')}-worker-1"
    log.ensure_topics([TopicSpec(windows, 3, compacted=True), TopicSpec(site.dead_letters)])
    leave_open(log, own, site.lists, windows, number=1)
    leave_open(log, other, site.lists, number=2)
    leave_open(log, other, site.dead_letters)
    with log.producer() as producer:
        producer.send(Outgoing(site.clicks, [b"u"], [b"no click"]))
    site.send_clicks(200)
    with site.worker():
        site.wait_for_lists(site.everyone_is_up_to_date)
        with log.reader([site.lists, windows, site.dead_letters]) as reader:
            deadline = time.monotonic() + LIMIT_S
            values: list[bytes | None] = []
            while not reader.at_end():
                assert time.monotonic() < deadline, site.log_file.read_text()[-3000:]
                values += [value for records in reader.poll(0.1, 1000) for value in records.values]
    assert b"never" not in values
    assert b"no click" in values


def hold_positions(log: KafkaLog, transactional_id: str, group: str, topic: str) -> None:
    """Send positions of a group as if it had been added to the transaction, of an old epoch when this returns."""
    transactions = log._transactions(transactional_id)
    manager, result = transactions._manager, TransactionalRequestResult()
    positions = {TopicPartition(topic, 0): OffsetAndMetadata(1, "", -1)}
    manager._pending_txn_offset_commits.update(positions)
    manager._enqueue_request(TxnOffsetCommitHandler(manager, ConsumerGroupMetadata(group), dict(positions), result))
    transactions._finish(result, time.monotonic() + LIMIT_S)
    transactions.close(0.0)
    log._transactions(transactional_id).close(0.0)


@pytest.mark.parametrize("worker", ["worker-0", "worker-1"])
def test_positions_that_a_transaction_holds_back_are_let_go(site: Site, worker: str) -> None:
    with closing(site.session()) as session:
        site.commit_a_list(session)
    hold_positions(site.log, f"{site.group}-{worker}", site.group, site.clicks)
    with site.log.producer() as producer:
        producer.send(Outgoing(site.clicks, [b"u"], [b"click"]))
    with closing(site.session()) as session:
        for _ in range(3):
            assert session.poll(0.1, 10) == []
        assert site.look()
        site.commit_a_list(session)
    assert site.seen(site.lists) == [b"list", b"list"]


def test_a_member_that_may_not_look_says_who_can_let_its_positions_go(
    strict: broker.Cluster, topic_names: Names
) -> None:
    site = Site(settings_of(strict, **login(strict), stall_timeout_s=0.5), topic_names)
    with closing(site.session()) as session:
        site.commit_a_list(session)
    with operator(strict) as admin:
        only_another = ResourcePattern(ResourceType.TOPIC, "__consumer_offsets")
        admin.create_acls([ACL("User:another", "*", ACLOperation.READ, ACLPermissionType.ALLOW, only_another)])
    hold_positions(site.log, f"{site.group}-worker-0", site.group, site.clicks)
    with site.log.producer() as producer:
        producer.send(Outgoing(site.clicks, [b"u"], [b"click"]))
    with closing(site.session()) as session:
        assert site.look()
        with pytest.raises(EventLogError, match="find-hanging --topic __consumer_offsets"):
            poll_until_it_fails(session)


def poll_until_it_fails(session: Session) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        session.poll(0.1, 10)
