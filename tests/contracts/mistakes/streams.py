"""Mistakes with topics, dead letters, changelogs and windows."""

import importlib
from collections import Counter
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import numpy as np

from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import (
    ChangelogError,
    DeliveryError,
    EventLogError,
    NewerWindowError,
    RecordRefusedError,
    SettingsError,
)
from engine.eventlog import topic_plan
from engine.eventlog.base import Outgoing, Partition, Rebalance, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.share_watch import ShareWatch
from engine.ingest import dead_letters
from engine.metrics import Metrics
from engine.settings.sections import (
    ClickSettings,
    ImpressionSettings,
    ReleaseSettings,
    Settings,
    TelemetrySettings,
    WindowSettings,
)
from engine.windows import repartition
from engine.windows.changelog import DEPLOYMENT_HEADER
from engine.windows.codec import WindowCodec
from engine.windows.repartition import Placement
from engine.windows.store import WindowStore
from engine.windows.users import UserWindows
from engine.worker import forgetting
from engine.worker.growth import Growth
from engine.worker.loop import Worker
from engine.worker.telemetry import Telemetry
from tests.contracts.mistakes.releases import written
from tests.contracts.mistakes.row import Act, Names, Row


def log_with(*topics: str) -> MemoryLog:
    log = MemoryLog()
    log.ensure_topics([TopicSpec(topic) for topic in topics])
    return log


def session_of_other_topics(_folder: Path) -> object:
    log = log_with("clicks", "items")
    log.session(["clicks"], "group", Rebalance())
    return log.session(["items"], "group", Rebalance())


def commit_of_another_session(_folder: Path) -> object:
    return log_with("clicks").session(["clicks"], "group", Rebalance()).commit({Partition("clicks", 0): 3})


def replay_of_a_stranger(_folder: Path) -> object:
    log = log_with("clicks.dead")
    log.producer().send(Outgoing("clicks.dead", [b"k"], [b"v"]))
    return dead_letters.replay(log, dead_letters.read(log, "clicks.dead", dead_letters.LetterFilter()))


def changelog_record(value: bytes) -> Act:
    codec = WindowCodec(Catalogue(), Actions(ClickSettings()))
    return lambda _folder: codec.decode(["ann"], [value], "topic windows partition 0")


def partition_that_nobody_reads(_folder: Path) -> None:
    watch = ShareWatch(2.0)
    for now_s in (0.0, 3.0):
        watch.look(now_s, [Partition("clicks", 1)])


def changelog_that_was_given_partitions(_folder: Path) -> None:
    growth = Growth(Settings(), served=2)
    growth.assigned([1, 2])
    growth.look(0.0, partitions=3)


def more_users_than_windows(_folder: Path) -> object:
    store = WindowStore(WindowSettings(max_users=2, length=4))
    return store.slots(["ann", "bob", "eve"], np.zeros(3, np.int32))


def changelog_of_another_size(folder: Path) -> None:
    log = MemoryLog()
    log.ensure_topics([TopicSpec("clicks", 2), TopicSpec("windows", 3), TopicSpec("releases")])
    settings = Settings(releases=ReleaseSettings(path=written(folder)), windows=WindowSettings(max_users=10))
    Worker(settings, log, Metrics()).run(importlib.import_module("threading").Event())


def no_topic_of_clicks(_folder: Path) -> object:
    return topic_plan.prepare(MemoryLog(), Settings())


def busy_port(_folder: Path) -> object:
    with ExitStack() as stack:
        settings, registry = TelemetrySettings(host="127.0.0.1", port=0), Metrics().registry
        first = stack.enter_context(Telemetry(settings, registry, lambda: None, lambda: None))
        taken = TelemetrySettings(host="127.0.0.1", port=first.port)
        return Telemetry(taken, registry, lambda: None, lambda: None)


def too_large_for_the_client(log: KafkaLog, name: Names) -> None:
    log.ensure_topics([TopicSpec(name("clicks"))])
    with log.producer() as producer:
        producer.send(Outgoing(name("clicks"), [b"u"], [bytes(17 * 2**20)]))


def record_for_no_partition(log: KafkaLog, name: Names) -> None:
    log.ensure_topics([TopicSpec(name("clicks"))])
    with log.producer() as producer:
        producer.send(Outgoing(name("clicks"), [b"u"], [b"v"], partitions=[7]))


def record_without_key(log: KafkaLog, name: Names) -> None:
    log.ensure_topics([TopicSpec(name("lists"), compacted=True)])
    with log.producer() as producer:
        producer.send(Outgoing(name("lists"), [None], [b"v"]))
        producer.flush()


def commit_after_a_failure(log: KafkaLog, name: Names) -> object:
    topic = name("clicks")
    log.ensure_topics([TopicSpec(topic)])
    with closing(log.session([topic], name("group"), Rebalance())) as session:
        with suppress(EventLogError):
            session.commit({Partition(topic, 0): 1})  # held by nobody yet
        return session.commit({})


def reading_of_no_partition(log: KafkaLog, name: Names) -> object:
    topic = name("clicks")
    log.ensure_topics([TopicSpec(topic)])
    return log.reader([Partition(topic, 7)])


def forget_without_workers(_folder: Path) -> object:
    log = log_with("clicks", "windows", "clicks.dead")
    return forgetting.forget(log, Settings(), "ann", wait_s=0.01)


TOPICS = [
    Row(
        "a user to be forgotten on a topic that does not exist",
        lambda _folder: forgetting.forget(MemoryLog(), Settings(), "ann", wait_s=None),
        EventLogError,
        r"topic 'clicks' | does not exist | expected the topic of clicks | correct clicks\.topic",
    ),
    Row(
        "a user to be forgotten where no worker runs",
        forget_without_workers,
        EventLogError,
        r"partitions \[0\] of the clicks | found no answer within 0\.01 s | expected one of each | look whether",
    ),
    Row(
        "a topic that does not exist",
        lambda _folder: MemoryLog().reader(["clicks"]),
        EventLogError,
        r"topic 'clicks' | does not exist | - | create it first",
    ),
    Row(
        "keys that lack values",
        lambda _folder: log_with("clicks").producer().send(Outgoing("clicks", [b"a", b"b"], [b"1"])),
        EventLogError,
        r"topic 'clicks' | found \[2, 1\] | expected one length | an entry in every column",
    ),
    Row(
        "a group that reads two sets of topics",
        session_of_other_topics,
        EventLogError,
        r"a member asks for other topics | than the rest of its group | - | use another group name",
    ),
    Row(
        "positions of a partition that another one holds",
        commit_of_another_session,
        EventLogError,
        r"cannot commit .*'clicks' | not held by this session | - | start again from the last commit",
    ),
    Row(
        "a dead letter that is not there",
        lambda _folder: dead_letters.find(log_with("clicks.dead"), Partition("clicks.dead", 0), 9),
        EventLogError,
        r"topic 'clicks\.dead' | has no dead letter at 0/9 | - | `headrace dead list` shows those that it has",
    ),
    Row(
        "a dead letter that somebody else wrote",
        replay_of_a_stranger,
        EventLogError,
        r"the dead letter at 0/0 | does not name its origin | every dead letter of `headrace run` | --reason",
    ),
    Row(
        "no topic of clicks",
        no_topic_of_clicks,
        EventLogError,
        r"topic 'clicks' \(clicks\.topic\) | does not exist | expected the topic that your | `headrace topics create",
    ),
    Row(
        "an experiment by impressions that no server takes",
        lambda _folder: topic_plan.check_impressions(log_with("impressions"), Settings()),
        SettingsError,
        r"--exposure | found 'impressions' while impressions\.accept is false | expected reports of what | here and for"
        r" `headrace serve`, or say --exposure lists",
    ),
    Row(
        "an experiment by impressions of which there is no topic",
        lambda _folder: topic_plan.check_impressions(log_with(), Settings(impressions=ImpressionSettings(accept=True))),
        SettingsError,
        r"--exposure | topic 'impressions' \(impressions\.topic\) does not exist | expected the reports of what users"
        r" | start `headrace serve`, report some",
    ),
    Row(
        "two numbers of partitions",
        changelog_of_another_size,
        SettingsError,
        r"windows\.topic 'windows' | has 3 partitions, clicks\.topic 'clicks' has 2 | as many and run | name a new",
    ),
    Row(
        "windows to be moved by another partitioner than the producers'",
        lambda _folder: repartition.check(Placement(records=100, strays=48), "clicks"),
        EventLogError,
        r"topic 'clicks' | 48 of the last 100 clicks | expected nearly none | choose the --partitioner",
    ),
    Row(
        "windows to be moved before their clicks are read",
        lambda _folder: repartition.check(Placement(records=100, unread=Counter({1: 7})), "clicks"),
        EventLogError,
        r"topic 'clicks' | 7 in partition 1 | expected none | start a worker until these partitions are read",
    ),
    Row(
        "a port that is taken",
        busy_port,
        SettingsError,
        r"telemetry\.port \d+ | Address already in use | cannot be listened on | choose another port, or 0",
    ),
]


def windows_of_another_shop(_folder: Path) -> object:
    log, settings = log_with("windows"), Settings()
    headers = [[(DEPLOYMENT_HEADER, b"shop/clicks")]]
    log.producer().send(Outgoing("windows", [b"ann"], [b"window"], headers=[*headers]))
    with log.reader(["windows"]) as reader:
        (records,) = reader.poll(0.0, 10)
    return UserWindows(settings, Catalogue(), Actions(settings.clicks)).apply(records)


WINDOWS = [
    Row(
        "a changelog of another deployment",
        windows_of_another_shop,
        SettingsError,
        r"windows\.topic 'windows' partition 0, offset 0 | deployment 'shop/clicks' | 'headrace/clicks' | its own kaf",
    ),
    Row(
        "more windows than there is memory",
        lambda _folder: WindowStore(WindowSettings(max_users=1 << 45, length=1_000)),
        SettingsError,
        r"windows\.max_users = \d+ with windows\.length = 1000 | allocate | cannot be reserved | lower one of them",
    ),
    Row(
        "a batch with more users than windows",
        more_users_than_windows,
        SettingsError,
        r"windows\.max_users | = 2 | smaller than the users of one batch \(worker\.max_batch_clicks\) | raise it",
    ),
    Row(
        "a partition that nobody reads",
        partition_that_nobody_reads,
        EventLogError,
        r"clicks/1 | reads nothing of that for 2 s | kafka\.stall_timeout_s | joining again",
    ),
    Row(
        "a changelog that was given more partitions",
        changelog_that_was_given_partitions,
        EventLogError,
        r"windows\.topic 'windows' | has 3 partitions now | had 2 | joining again",
    ),
    Row(
        "a changelog of a later engine",
        changelog_record(b"\xff" + bytes(20)),
        NewerWindowError,
        r"topic windows partition 0 | written in version 255 | knows up to 1 | upgrade this worker",
    ),
    Row(
        "a changelog record cut short",
        changelog_record(b"\x01"),
        ChangelogError,
        r"topic windows partition 0 | 1 users is damaged | its length is not what | its head",
    ),
    Row(
        "a changelog record with ids that are no text",
        changelog_record(b"\x01\x00\x01\x00\x00\x00" + bytes(6) + b"\x01\x00" + b"\xff"),
        ChangelogError,
        r"topic windows partition 0 | can't decode byte 0xff | the window of one of 1 users is damaged | -",
    ),
]


ON_KAFKA = [
    Row(
        "a topic that does not exist",
        lambda log, name: log.session([name("none")], "group", Rebalance()),
        EventLogError,
        r"topic 'none-\w+' | does not exist | - | create it first",
    ),
    Row(
        "the identity of a topic that does not exist",
        lambda log, name: log.identity(name("none")),
        EventLogError,
        r"topic 'none-\w+' | UnknownTopicOrPartitionError | - | create it first, or check this client's rights",
    ),
    Row(
        "a topic whose name Kafka does not take",
        lambda log, _name: log.partitions("no spaces"),
        EventLogError,
        r"topic 'no spaces' | InvalidTopic | - | check its name and this client's rights",
    ),
    Row(
        "a topic with more replicas than brokers",
        lambda log, name: log.ensure_topics([TopicSpec(name("clicks"), replication=9)]),
        EventLogError,
        r"topic 'clicks-\w+' could not be created | replication factor | - | create it by hand",
    ),
    Row(
        "a record larger than the client sends",
        too_large_for_the_client,
        RecordRefusedError,
        r"topic 'clicks-\w+': record not accepted | bytes when serialized | at most 16777216 bytes | check topic and",
    ),
    Row(
        "a record for a partition that is not there",
        record_for_no_partition,
        DeliveryError,
        r"topic 'clicks-\w+': record not accepted | Unrecognized partition 7 | - | check topic and broker",
    ),
    Row(
        "a record without a key for a compacted topic",
        record_without_key,
        RecordRefusedError,
        r"topic 'lists-\w+' partition 0 | InvalidRecord | a key where it is compacted | change the topic, or this",
    ),
    Row(
        "a second commit after one that failed",
        commit_after_a_failure,
        EventLogError,
        r"Kafka: a commit of this session | failed before | - | go on with a new session",
    ),
    Row(
        "a partition that is not there",
        reading_of_no_partition,
        EventLogError,
        r"Kafka: | failed: | - | look at the broker's log and this client's rights",
    ),
]

ROWS = [*TOPICS, *WINDOWS]
