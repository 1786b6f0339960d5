"""Requests of a transaction that arrive late, on real Kafka: nothing lost, nothing torn, nothing left open.

A proxy (`tests.integration.proxy`) holds one request back and delivers it in the middle of the next transaction. Its
client was cut off at once, or waited until it gave up.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition  # noqa: TID251 - what the broker itself says

from engine.errors import EventLogError
from engine.eventlog.base import Outgoing, Rebalance, Session, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.kafka.session import ExactlyOnceSession
from engine.settings.sections import KafkaSettings
from tests.conftest import only_long
from tests.integration import broker, proxy
from tests.integration.proxy import LateRequest, Proxy
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.kafka

IS_LONG = os.environ.get("LONG_TESTS") == "1"
CLICKS = 6
LATE_AT = 2
"""The click whose transaction meets the late request."""
KINDS = {
    "init": proxy.INIT_PRODUCER_ID,
    "add partitions": proxy.ADD_PARTITIONS,
    "add offsets": proxy.ADD_OFFSETS,
    "positions": proxy.TRANSACTIONAL_POSITIONS,
    "end": proxy.END_TRANSACTION,
    "produce": proxy.PRODUCE,
}
BROKERS = ("verifies", "believes")
"""A broker that asks the coordinator about each transaction, and one that does not, as every Kafka before 3.6."""
ALL = [(how, kind) for how in BROKERS for kind in KINDS]
CHOSEN = [
    *(("verifies", kind) for kind in ("init", "add partitions", "end")),
    *(("believes", kind) for kind in ("positions", "end", "produce")),
]
"""Each kind that anything came of before there was a rule, where most came of it."""
cases = pytest.mark.parametrize(("proxied", "kind"), ALL if IS_LONG else CHOSEN, indirect=["proxied"])
ends = pytest.mark.parametrize(
    "cuts_off", [True, False] if IS_LONG else [True], ids=["cut off", "given up"][: 1 + IS_LONG]
)


@pytest.fixture(scope="module")
def gates(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Proxy]]:
    """Gives the broker of a kind, behind a proxy; each is started once."""
    started: dict[str, Proxy] = {}
    with ExitStack() as stack:

        def gate_of(how: str) -> Proxy:
            if how not in started:
                gate = stack.enter_context(Proxy())
                cluster = broker.Cluster(
                    kafka_home,
                    tmp_path_factory.mktemp("kafka"),
                    advertised={1: gate.port},
                    options={"transaction.partition.verification.enable": str(how == "verifies").lower()},
                )
                gate.broker_port = cluster.nodes[0].port
                stack.enter_context(cluster)
                started[how] = gate
            return started[how]

        yield gate_of


@pytest.fixture
def proxied(request: pytest.FixtureRequest, gates: Callable[[str], Proxy]) -> Proxy:
    """A broker behind a proxy."""
    return gates(request.param)


class Work:
    """Clicks, a list and a window for each, and a worker that makes them one by one, as the engine's loop does."""

    def __init__(self, gate: Proxy, names: Callable[[str], str]) -> None:
        self.gate = gate
        self.settings = KafkaSettings(
            bootstrap_servers=gate.bootstrap,
            connect_timeout_s=3.0,
            session_timeout_s=6.0,
            commit_timeout_s=2.0,
            transaction_timeout_s=30.0,
        )
        self.log = KafkaLog(self.settings)
        self.clicks, self.lists, self.windows = names("clicks"), names("lists"), names("windows")
        self.group = names("group")
        self.log.ensure_topics([TopicSpec(name) for name in (self.clicks, self.lists, self.windows)])
        with self.log.producer() as producer:
            producer.send(Outgoing(self.clicks, [b"u"] * CLICKS, [b"%d" % number for number in range(CLICKS)]))
        self.failures: list[str] = []

    def serve(self, before_commit: Callable[[int], None]) -> None:
        """Serve every click, in sessions that go on from the last commit after any failure.

        Args:
            before_commit: called in every transaction when its list is on its topic, and its window is not.
        """
        deadline = time.monotonic() + 3 * LIMIT_S
        done = 0
        while done < CLICKS:
            assert time.monotonic() < deadline, self.failures
            try:
                with closing(self.log.session([self.clicks], self.group, Rebalance())) as session:
                    while done < CLICKS:
                        assert time.monotonic() < deadline, self.failures
                        done = max(done, self._turn(session, before_commit))
            except EventLogError as error:
                self.failures.append(str(error))

    def _turn(self, session: Session, before_commit: Callable[[int], None]) -> int:
        for records in session.poll(0.1, 1):
            session.send(Outgoing(self.lists, [b"u"], records.values))
            assert isinstance(session, ExactlyOnceSession)
            session._output.flush()
            before_commit(records.offsets[0])
            session.commit(
                {records.partition: records.offsets[-1] + 1}, [Outgoing(self.windows, [b"u"], records.values)]
            )
            return records.offsets[-1] + 1
        return 0

    def committed(self, topic: str) -> list[int]:
        """What a reader of committed records finds now."""
        numbers: list[int] = []
        with self.log.reader([topic]) as reader:
            for _ in range(10):
                numbers += [int(value or b"-1") for records in reader.poll(0.05, 100) for value in records.values]
        return numbers

    def whole(self, topic: str) -> list[int]:
        """The same to the topic's end, which no open transaction hides."""
        numbers: list[int] = []
        deadline = time.monotonic() + LIMIT_S / 2
        with self.log.reader([topic]) as reader:
            while not reader.at_end():
                assert time.monotonic() < deadline, f"a transaction is still open on {topic}"
                numbers += [int(value or b"-1") for records in reader.poll(0.1, 100) for value in records.values]
        return numbers

    def open_transactions(self) -> list[str]:
        """What the broker says is open, of its partitions and of its coordinator."""
        admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{self.gate.broker_port}")
        try:
            partitions = [TopicPartition(topic, 0) for topic in (self.lists, self.windows)]
            on_topics = [
                f"{partition.topic} from {producer.current_transaction_start_offset}"
                for partition, state in admin.describe_producers(partitions).items()
                for producer in state.active_producers
                if producer.current_transaction_start_offset >= 0
            ]
            ids = [
                listing.transactional_id
                for of_broker in admin.list_transactions().values()
                for listing in of_broker
                if listing.transactional_id.startswith(self.group)
            ]
            states = admin.describe_transactions(ids)
            return on_topics + [
                f"{name} {state.state.value}" for name, state in states.items() if state.topic_partitions
            ]
        finally:
            admin.close()

    def check(self) -> None:
        """Every click once, on both topics, in its order, and nothing open."""
        assert self.whole(self.lists) == list(range(CLICKS))
        assert self.whole(self.windows) == list(range(CLICKS))
        assert self.open_transactions() == []


@pytest.fixture
def work(proxied: Proxy, topic_names: Callable[[str], str]) -> Work:
    return Work(proxied, topic_names)


@cases
@ends
def test_a_request_that_arrives_in_the_next_transaction(work: Work, kind: str, *, cuts_off: bool) -> None:
    """A worker whose process dies after it goes on in a new one: what it had not committed is not seen, nor lost."""
    held: list[LateRequest] = []
    dies = threading.Event()

    def before_commit(number: int) -> None:
        if number == LATE_AT - 1 and not held and kind != "init":
            held.append(work.gate.hold(KINDS[kind], cuts_off=cuts_off))
        elif held and held[0].arrived.is_set() and not dies.is_set():
            held[0].deliver()
            assert number not in work.committed(work.lists), "half a transaction is visible"
            dies.set()
            raise EventLogError("as if the process had died here")

    if kind == "init":
        held.append(work.gate.hold(KINDS[kind], cuts_off=cuts_off))
    work.serve(before_commit)
    assert dies.is_set()
    work.check()


@only_long
@cases
@ends
def test_a_request_that_arrives_when_all_is_done(work: Work, kind: str, *, cuts_off: bool) -> None:
    held: list[LateRequest] = []

    def before_commit(number: int) -> None:
        if number == LATE_AT and not held:
            held.append(work.gate.hold(KINDS[kind], cuts_off=cuts_off))

    if kind == "init":
        held.append(work.gate.hold(KINDS[kind], cuts_off=cuts_off))
    work.serve(before_commit)
    held[0].deliver()
    work.check()


@pytest.mark.parametrize("proxied", BROKERS[:1], indirect=True)
def test_a_producer_without_transactions_asks_again(work: Work) -> None:
    late = work.gate.hold(proxy.INIT_PRODUCER_ID, cuts_off=True)
    with work.log.producer() as producer:
        producer.send(Outgoing(work.lists, [b"u"], [b"0"]))
    late.deliver()
    assert work.whole(work.lists) == [0]
