"""What is Kafka's own: logins and certificates, brokers that die, expelled members, and nothing left behind."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest

from engine.errors import BrokerUnavailableError, DeliveryError, EventLogError, SettingsError
from engine.eventlog.base import MAX_RECORD_BYTES, Outgoing, Partition, Rebalance, Records, Session, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.settings.sections import KafkaSettings
from tests.conftest import only_long
from tests.integration import broker
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.kafka

deliveries = pytest.mark.parametrize("delivery", ["exactly_once", pytest.param("at_least_once", marks=only_long)])
Names = Callable[[str], str]


@pytest.fixture(scope="module")
def secure(secure_cluster: broker.Cluster) -> KafkaSettings:
    """A login that works on a broker with TLS and SASL."""
    return KafkaSettings(
        bootstrap_servers=secure_cluster.bootstrap,
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username=broker.USER,
        sasl_password=broker.PASSWORD,
        ssl_ca_file=secure_cluster.ca_file,
        connect_timeout_s=5.0,
    )


@pytest.fixture
def own_broker(kafka_home: Path, tmp_path: Path) -> Iterator[broker.Cluster]:
    """A broker that the test may kill."""
    with broker.Cluster(kafka_home, tmp_path) as cluster:
        yield cluster


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails a test after which there are more threads or open files than before it."""
    threads, files = set(threading.enumerate()), open_files()
    yield
    assert set(threading.enumerate()) <= threads
    assert open_files() <= files


def poll_until(session: Session, happened: Callable[[], bool]) -> list[Records]:
    """Poll until something happened, and give back what arrived meanwhile."""
    deadline = time.monotonic() + LIMIT_S
    batch: list[Records] = []
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        batch += session.poll(0.1, 100)
    return batch


@pytest.mark.usefixtures("nothing_left")
def test_closing_leaves_no_thread_and_no_open_file(kafka_log: KafkaLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    kafka_log.ensure_topics([TopicSpec(topic, partitions=2)])
    with kafka_log.producer() as producer:
        producer.send(Outgoing(topic, [b"u"], [b"click"]))
    with closing(kafka_log.session([topic], topic_names("group"), Rebalance())) as session:
        poll_until(session, lambda: len(session.assignment()) == 2)
        session.send(Outgoing(topic, [b"u"], [b"never committed"]))
    with kafka_log.reader([topic]) as reader:
        reader.poll(0.1, 10)


@pytest.mark.usefixtures("nothing_left")
def test_a_dead_address_is_reported_with_the_setting_to_check() -> None:
    settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}", connect_timeout_s=3.0)
    log = KafkaLog(settings)
    for connect in (log.producer, lambda: log.partitions("clicks"), lambda: log.reader(["clicks"])):
        started = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match=r"ECONNREFUSED.*kafka\.bootstrap_servers"):
            connect()
        assert time.monotonic() - started < KafkaSettings().connect_timeout_s


def test_unknown_host_is_told() -> None:
    settings = KafkaSettings(bootstrap_servers="no-such-host.invalid:9092", connect_timeout_s=0.5)
    with pytest.raises(BrokerUnavailableError, match=r"DNS.*kafka\.bootstrap_servers"):
        KafkaLog(settings).producer()


def test_a_peer_that_never_answers_does_not_hang_us() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match=r"no answer from Kafka at .*kafka\.security_protocol"):
            KafkaLog(KafkaSettings(bootstrap_servers=address, connect_timeout_s=0.5)).producer()
        assert time.monotonic() - started < KafkaSettings().connect_timeout_s


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_login_over_tls(secure: KafkaSettings, mechanism: str, topic_names: Names) -> None:
    log = KafkaLog(secure.model_copy(update={"sasl_mechanism": mechanism}))
    topic = topic_names("clicks")
    log.ensure_topics([TopicSpec(topic)])
    with log.producer() as producer:
        producer.send(Outgoing(topic, [b"u"], [b"click"]))
    with log.reader([topic]) as reader:
        assert [records.values for records in reader.poll(LIMIT_S, 10)] == [[b"click"]]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sasl_password": "not-the-password"}, r"refused the login of 'app' by SCRAM-SHA-512.*kafka\.sasl_password"),
        ({"sasl_username": "nobody"}, r"refused the login of 'nobody'.*kafka\.sasl_username"),
        ({"sasl_mechanism": "SCRAM-SHA-256"}, r"does not offer SCRAM-SHA-256.*kafka\.sasl_mechanism"),
        ({"ssl_ca_file": None}, r"certificate that cannot be trusted.*kafka\.ssl_ca_file"),
    ],
)
def test_a_refusal_says_why_and_at_once(secure: KafkaSettings, change: dict[str, str | None], reason: str) -> None:
    log = KafkaLog(secure.model_copy(update=change | {"connect_timeout_s": LIMIT_S}))
    started = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match=reason) as caught:
        log.session(["clicks"], "group", Rebalance())
    assert time.monotonic() - started < LIMIT_S, "waiting cannot help"
    assert "not-the-password" not in str(caught.value)
    assert broker.PASSWORD not in str(caught.value)


@pytest.mark.usefixtures("nothing_left")
def test_tls_to_a_plain_listener_is_told(kafka_settings: KafkaSettings) -> None:
    settings = kafka_settings.model_copy(update={"security_protocol": "SSL", "connect_timeout_s": 1.0})
    with pytest.raises(BrokerUnavailableError, match=r"TLS.*kafka\.security_protocol"):
        KafkaLog(settings).producer()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bootstrap_servers": "broker"}, r"'kafka\.bootstrap_servers': found 'broker', expected host:port"),
        ({"bootstrap_servers": ""}, r"'kafka\.bootstrap_servers': found ''"),
        ({"security_protocol": "SASL_PLAINTEXT"}, r"'kafka\.sasl_mechanism' is not set, but .* is 'SASL_PLAINTEXT'"),
        (
            {"security_protocol": "SSL", "ssl_ca_file": Path("/nowhere/ca.pem")},
            r"'kafka\.ssl_ca_file': found '/nowhere/ca.pem'",
        ),
        ({"security_protocol": "SSL", "ssl_ca_file": Path(__file__)}, r"kafka\.ssl_ca_file.*PEM"),
    ],
)
def test_unusable_settings_are_refused_before_connecting(change: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        KafkaLog(KafkaSettings().model_copy(update=change))


@pytest.mark.skipif(bool(find_spec("snappy")), reason="needs a codec whose library is not installed")
@pytest.mark.usefixtures("nothing_left")
def test_a_codec_without_its_library_is_told(kafka_settings: KafkaSettings) -> None:
    with pytest.raises(SettingsError, match="snappy"):
        KafkaLog(kafka_settings.model_copy(update={"compression": "snappy"})).producer()


def test_a_record_too_big_for_any_topic_is_refused_by_name(kafka_log: KafkaLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    kafka_log.ensure_topics([TopicSpec(topic)])
    with kafka_log.producer() as producer, pytest.raises(DeliveryError, match=topic):
        producer.send(Outgoing(topic, [b"u"], [bytes(MAX_RECORD_BYTES + 1)]))


def test_a_record_with_neither_key_nor_value_passes(kafka_log: KafkaLog, topic_names: Names) -> None:
    topic = topic_names("dead")
    kafka_log.ensure_topics([TopicSpec(topic)])
    with kafka_log.producer() as producer:
        producer.send(Outgoing(topic, [None], [None]))
    with kafka_log.reader([topic]) as reader:
        assert [records.values for records in reader.poll(LIMIT_S, 10)] == [[b""]]


def test_output_to_a_topic_that_does_not_exist_is_a_delivery_error(
    kafka_settings: KafkaSettings, topic_names: Names
) -> None:
    log = KafkaLog(kafka_settings.model_copy(update={"delivery_timeout_s": 1.0}))
    with log.producer() as producer, pytest.raises(DeliveryError, match=topic_names("nowhere")):
        producer.send(Outgoing(topic_names("nowhere"), [b"u"], [b"list"]))


def test_topics_asked_for_by_many_at_once_are_created_once(kafka_log: KafkaLog, topic_names: Names) -> None:
    specs = [TopicSpec(topic_names("clicks"), partitions=2), TopicSpec(topic_names("lists"), compacted=True)]
    failures: list[Exception] = []

    def create() -> None:
        try:
            kafka_log.ensure_topics(specs)
        except EventLogError as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert kafka_log.partitions(specs[0].name) == 2


def test_a_name_that_kafka_refuses_is_told(kafka_log: KafkaLog) -> None:
    with pytest.raises(EventLogError, match="no spaces"):
        kafka_log.ensure_topics([TopicSpec("no spaces")])


@pytest.mark.usefixtures("nothing_left")
def test_after_close_every_call_is_refused_with_our_error(kafka_log: KafkaLog, topic_names: Names) -> None:
    topic = topic_names("clicks")
    kafka_log.ensure_topics([TopicSpec(topic)])
    session = kafka_log.session([topic], topic_names("group"), Rebalance())
    producer = kafka_log.producer()
    session.close()
    producer.close()
    record = Outgoing(topic, [b"u"], [b"late"])
    late: list[Callable[[], object]] = [
        lambda: session.poll(0.1, 1),
        lambda: session.send(record),
        lambda: session.commit({Partition(topic, 0): 1}),
        lambda: producer.send(record),
    ]
    for call in late:
        with pytest.raises(EventLogError):
            call()
    session.close()
    producer.close()


@deliveries
def test_a_member_that_stops_polling_loses_its_partitions(
    kafka_settings: KafkaSettings, topic_names: Names, delivery: str
) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    log = KafkaLog(kafka_settings.model_copy(update={"delivery": delivery, "max_poll_interval_s": 2.0}))
    log.ensure_topics([TopicSpec(topic, partitions=2)])
    lost: list[Partition] = []
    with closing(log.session([topic], group, Rebalance(lost=lost.extend))) as sleeper:
        poll_until(sleeper, lambda: len(sleeper.assignment()) == 2)
        with closing(log.session([topic], group, Rebalance())) as other:
            poll_until(other, lambda: len(other.assignment()) == 2)
            with pytest.raises(EventLogError, match=r"positions|expelled"):
                sleeper.commit({Partition(topic, 0): 1})
            # What the library forgets to tell when it was about to join again anyway ends in our error.
            try:
                poll_until(sleeper, lambda: bool(lost))
            except EventLogError as error:
                assert "expelled" in str(error)  # noqa: PT017 - one of two right ways
            else:
                assert sorted(lost) == [Partition(topic, 0), Partition(topic, 1)]
                assert sleeper.assignment() == []


@deliveries
@pytest.mark.usefixtures("nothing_left")
def test_a_broker_that_dies_ends_in_our_errors_and_everything_goes_on_when_it_is_back(
    own_broker: broker.Cluster, delivery: Literal["exactly_once", "at_least_once"]
) -> None:
    settings = KafkaSettings(
        bootstrap_servers=own_broker.bootstrap,
        delivery=delivery,
        connect_timeout_s=LIMIT_S,
        session_timeout_s=2.0,
        commit_timeout_s=2.0,
    )
    log = KafkaLog(settings)
    log.ensure_topics([TopicSpec("clicks"), TopicSpec("lists", compacted=True)])
    with log.producer() as producer:
        producer.send(Outgoing("clicks", [b"u"] * 4, [b"0", b"1", b"2", b"3"]))
    clicks = Partition("clicks", 0)
    with closing(log.session(["clicks"], "group", Rebalance())) as session:
        read: list[Records] = []
        while not read:
            read = session.poll(1.0, 2)
        session.send(Outgoing("lists", [b"u"], [b"list of 0 and 1"]))
        session.commit({clicks: 2})
        with log.reader(["lists"]) as reader:
            assert [records.values for records in reader.poll(LIMIT_S, 10)] == [[b"list of 0 and 1"]]
        time.sleep(0.5)  # a lone broker that is killed before it ended a transaction everywhere never does (Kafka 4.3)

        own_broker.stop(own_broker.nodes[0], signal.SIGKILL)
        session.send(Outgoing("lists", [b"u"], [b"never delivered"]))
        started = time.monotonic()
        with pytest.raises(DeliveryError, match="lists"):
            session.commit({clicks: 4})
        assert time.monotonic() - started < 3 * settings.commit_timeout_s
        with pytest.raises(EventLogError, match="failed before"):
            session.commit({clicks: 4})

    own_broker.start(own_broker.nodes[0])
    with closing(log.session(["clicks"], "group", Rebalance())) as session:
        again: list[Records] = []
        while not again:
            again = session.poll(1.0, 10)
    assert again[0].offsets == [2, 3]
    with log.reader(["lists"]) as reader:
        assert [records.values for records in reader.poll(LIMIT_S, 10)] == [[b"list of 0 and 1"]]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def hasty(kafka_settings: KafkaSettings) -> KafkaLog:
    """Notices a standstill after twice this time."""
    return KafkaLog(kafka_settings.model_copy(update={"stall_timeout_s": 0.5}))


def test_a_consumer_that_never_receives_what_is_there_is_noticed(
    hasty: KafkaLog, topic_names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = topic_names("clicks")
    hasty.ensure_topics([TopicSpec(topic, partitions=2)])
    with closing(hasty.session([topic], topic_names("group"), Rebalance())) as session:
        poll_until(session, lambda: len(session.assignment()) == 2)
        # What was seen once in about twenty starts: everything works, and nothing ever arrives.
        fetcher = session._consumer._fetcher
        monkeypatch.setattr(fetcher, "fetch_records", lambda *_args, **_options: ({}, True))
        with hasty.producer() as producer:
            producer.send(Outgoing(topic, [b"u"], [b"click"]))
        started = time.monotonic()
        with pytest.raises(EventLogError, match=rf"waited for records of {topic}/\d in vain for 0.5 s"):
            poll_until(session, lambda: False)
        assert 0.5 < time.monotonic() - started < LIMIT_S


def test_quiet_and_paused_partitions_are_no_standstill(hasty: KafkaLog, topic_names: Names) -> None:
    topic, quiet = topic_names("clicks"), topic_names("quiet")
    hasty.ensure_topics([TopicSpec(topic), TopicSpec(quiet)])
    with closing(hasty.session([topic, quiet], topic_names("group"), Rebalance())) as session:
        poll_until(session, lambda: len(session.assignment()) == 2)
        session.pause([Partition(topic, 0)])
        with hasty.producer() as producer:
            producer.send(Outgoing(topic, [b"u"], [b"click"]))
        enough = time.monotonic() + 2.0
        assert poll_until(session, lambda: time.monotonic() > enough) == []
        session.resume([Partition(topic, 0)])
        assert poll_until(session, lambda: session.lag().get(Partition(topic, 0)) == 0)


def test_an_idle_member_of_a_settled_group_is_no_standstill(hasty: KafkaLog, topic_names: Names) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    hasty.ensure_topics([TopicSpec(topic)])
    sessions = [hasty.session([topic], group, Rebalance()) for _ in range(2)]
    try:
        enough = time.monotonic() + 4.0
        while time.monotonic() < enough:
            for session in sessions:
                session.poll(0.1, 10)
        assert sorted(len(session.assignment()) for session in sessions) == [0, 1]
    finally:
        for session in sessions:
            session.close()


def test_a_broker_that_hangs_while_nothing_is_to_be_done_is_noticed(own_broker: broker.Cluster) -> None:
    settings = KafkaSettings(bootstrap_servers=own_broker.bootstrap, stall_timeout_s=0.5, session_timeout_s=60.0)
    log = KafkaLog(settings)
    log.ensure_topics([TopicSpec("clicks")])
    with closing(log.session(["clicks"], "group", Rebalance())) as session:
        poll_until(session, lambda: len(session.assignment()) == 1)
        own_broker.send_signal(own_broker.nodes[0], signal.SIGSTOP)
        with pytest.raises(EventLogError, match="looking for records failed"):
            poll_until(session, lambda: False)


@pytest.mark.parametrize("name", [None, "worker-0"])
def test_a_member_learns_what_the_group_gave_it_and_it_does_not_read(
    name: str | None, kafka_settings: KafkaSettings, topic_names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An assignment that was lost on its way: the group counts on a member that knows nothing of it."""
    topic, group = topic_names("clicks"), topic_names("group")
    log = KafkaLog(kafka_settings.model_copy(update={"static_member": name}))
    log.ensure_topics([TopicSpec(topic, partitions=3)])
    with closing(log.session([topic], group, Rebalance())) as session:
        poll_until(session, lambda: len(session.assignment()) == 3)
        assert session.unserved() == []
        monkeypatch.setattr(session, "assignment", lambda: [Partition(topic, 1)])
        assert session.unserved() == [Partition(topic, 0), Partition(topic, 2)]


def test_a_static_member_comes_back_to_its_partitions_without_a_rebalance(
    kafka_settings: KafkaSettings, topic_names: Names
) -> None:
    topic, group = topic_names("clicks"), topic_names("group")
    kafka_settings = kafka_settings.model_copy(update={"session_timeout_s": 10.0})
    named = [KafkaLog(kafka_settings.model_copy(update={"static_member": f"worker-{n}"})) for n in range(2)]
    named[0].ensure_topics([TopicSpec(topic, partitions=4)])
    moved: list[str] = []
    watching = Rebalance(revoked=lambda _: moved.append("revoked"), lost=lambda _: moved.append("lost"))
    with closing(named[0].session([topic], group, watching)) as stays:
        comes_and_goes = named[1].session([topic], group, Rebalance())
        deadline = time.monotonic() + LIMIT_S
        while not len(stays.assignment()) == len(comes_and_goes.assignment()) == 2:
            assert time.monotonic() < deadline
            stays.poll(0.1, 10)
            comes_and_goes.poll(0.1, 10)
        held, moved[:] = comes_and_goes.assignment(), []
        comes_and_goes.close()
        with closing(named[1].session([topic], group, Rebalance())) as again:
            poll_until(again, lambda: again.assignment() == held)
            stays.poll(0.5, 10)
            assert again.assignment() == held
    assert moved == []
