"""Topics of a Kafka cluster, and its sessions, producers and readers."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from uuid import uuid4

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetSpec, TopicPartition
from kafka.errors import (
    KafkaConfigurationError,
    KafkaError,
    RetriableError,
    for_code,
)

from engine.errors import (
    BrokerUnavailableError,
    EventLogError,
    LoginRefusedError,
    RightMissingError,
    SettingsError,
)
from engine.eventlog.acl_plan import OFFSETS_TOPIC
from engine.eventlog.base import Partition, Rebalance, TopicSpec
from engine.eventlog.kafka import group_positions, topic_admin
from engine.eventlog.kafka.client import Client
from engine.eventlog.kafka.client_surface import check_client
from engine.eventlog.kafka.failures import explain_unavailable, is_permanent, translated
from engine.eventlog.kafka.fetching import parse_leniently
from engine.eventlog.kafka.listener import Listener, tell_fenced, throttle_lookups
from engine.eventlog.kafka.login import Login
from engine.eventlog.kafka.options import (
    connection_options,
    consumer_options,
    producer_options,
    session_options,
    transaction_options,
)
from engine.eventlog.kafka.output import KafkaLogProducer, Output, Transactions
from engine.eventlog.kafka.reader import KafkaReader
from engine.eventlog.kafka.session import AtLeastOnceSession, ExactlyOnceSession, KafkaSession
from engine.eventlog.kafka.topic_admin import ExistingTopic, create_missing, existing, partition_counts
from engine.eventlog.kafka.unended import Unended
from engine.settings.sections import KafkaSettings

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_RETRY_S: Final = 0.1
"""Pause before a request to the cluster is repeated."""
_FENCE_LIMIT_S: Final = 2.0
"""Time limit for ending at once what was not answered, while the brokers may be silent still."""
_SETTLED: Final = "Stable"
"""State of a group that waits for no member."""


class KafkaLog:
    """Topics of a Kafka cluster (see `engine.eventlog.base.EventLog`)."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Check the settings and the client; nothing is connected yet.

        Raises:
            SettingsError: an address is not one, the login is incomplete, or the certificate file cannot be used.
            UnsupportedClientError: the installed Kafka client lacks members that this package uses.
        """
        check_client()
        self._settings = settings
        self._connection = connection_options(settings)
        self._login = Login(settings)
        self._idle_ids: defaultdict[str, set[str]] = defaultdict(set)
        """Transactional ids of closed sessions, by group, for the next sessions, which end what those left open."""
        self._retired_ids: set[str] = set()
        """Transactional ids under which something stays open: no further session sends under them."""
        self._unended = Unended(
            fence=lambda transactional_id: self._transactions(transactional_id).close(0.0),
            is_ours=lambda transactional_id: any(transactional_id.startswith(f"{group}-") for group in self._idle_ids),
            bootstrap_servers=settings.bootstrap_servers,
            time_limit_s=settings.transaction_timeout_s,
        )

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create the topics that are missing, and log each; existing ones are left as they are."""
        self._admin(lambda admin: create_missing(admin, specs, self._settings.connect_timeout_s * 1000))

    def partitions(self, topic: str) -> int:
        """Number of partitions of `topic`; 0 where it does not exist."""
        return self._admin(lambda admin: partition_counts(admin, [topic])).get(topic, 0)

    def existing(self, topics: Sequence[str]) -> dict[str, ExistingTopic]:
        """Those of these topics that exist, as they are.

        Raises:
            EventLogError: a name cannot be one, or the client lacks the right to look.
        """
        return self._admin(lambda admin: existing(admin, topics))

    def grow(self, topic: str, partitions: int) -> None:
        """Raise a topic's number of partitions, and wait for it; a topic that has as many stays as it is.

        Raises:
            EventLogError: the broker refused, or it is not done in time.
        """
        self._admin(lambda admin: topic_admin.grow(admin, topic, partitions, self._settings.connect_timeout_s * 1000))

    def idle_positions(self, group: str, topic: str) -> dict[int, int]:
        """By partition, the next record that a group would read; nothing for partitions that it has not read.

        Raises:
            EventLogError: the group has members, or the topic does not exist.
        """
        self._all_partitions([topic])
        self.refuse_members(group)
        return self.group_positions(group, topic)

    def group_positions(self, group: str, topic: str) -> dict[int, int]:
        """By partition, the next record that a group would read; nothing for partitions that it has not read."""
        partitions = [Partition(topic, number) for number in range(self.partitions(topic))]
        if not partitions:
            return {}
        committed = self._admin(lambda admin: group_positions.committed(admin, group, partitions))
        return {partition.number: position for partition, position in committed.items()}

    def refuse_members(self, group: str) -> None:
        """Refuse a group that has members.

        Raises:
            EventLogError: it has.
        """
        self._admin(lambda admin: group_positions.refuse_members(admin, group))

    def identity(self, topic: str) -> str:
        """The broker's id of `topic`, which changes when the topic is deleted and created again.

        Raises:
            EventLogError: the topic does not exist.
        """
        described = self._admin(lambda admin: admin.describe_topics([topic]))[0]
        if described["error_code"]:
            error = for_code(described["error_code"]).__name__
            raise EventLogError(f"topic {topic!r}: {error}; create it first, or check this client's rights")
        return str(described["topic_id"])

    def end_abandoned(self, partitions: Sequence[Partition], shared: Sequence[str] = ()) -> bool:
        """End what writers left open on these partitions and topics (see `engine.eventlog.kafka.unended`).

        That includes the positions of this log's groups, which an open transaction holds back from their members.

        What cannot be ended now, because a broker is dying too or this client lacks the rights, is left to the next
        call, or to the broker itself after `kafka.transaction_timeout_s`.

        Raises:
            EventLogError: what stays open is of this process's own producer; the next session has one of another id.
        """
        try:
            stuck = self._admin(
                lambda admin: self._unended.end(
                    admin, partitions, [*_of_topics(admin, shared), *_places(admin, [*self._idle_ids])]
                ),
                retry_limit_s=0.0,
            )
        except EventLogError as error:
            logger.warning("transactions that were left open cannot be looked for now: %s", error)
            return False
        if stuck:
            self._retired_ids |= stuck
            raise EventLogError(
                f"Kafka: a transaction of {', '.join(sorted(stuck))} is open that this client may not end; going on"
                " under another transactional id. The log names the command that ends it"
            )
        return True

    def begin_group(self, group: str, topic: str, from_ms: int | None) -> None:
        """Let a group without positions begin at this time, or at the end (see `engine.eventlog.base.EventLog`).

        Raises:
            EventLogError: the topic does not exist, or the broker refused the positions.
        """
        partitions = self._all_partitions([topic])
        self._admin(lambda admin: group_positions.begin(admin, group, partitions, from_ms))

    def delete_before(self, offsets: Mapping[Partition, int]) -> None:
        """Delete the records of each partition before an offset.

        Raises:
            EventLogError: the broker refused, as for a compacted topic or for want of the right.
        """
        ends = {TopicPartition(*partition): offset for partition, offset in offsets.items()}
        self._admin(lambda admin: admin.delete_records(ends))

    def session(self, topics: Sequence[str], group: str, rebalance: Rebalance) -> KafkaSession:
        """A new member of `group`; it joins at its first `poll`.

        Raises:
            BrokerUnavailableError: no broker answered, or it refused the login.
            EventLogError: a topic does not exist.
        """
        self._all_partitions(topics)

        def shares() -> tuple[dict[str, set[Partition]], list[Partition]]:
            return self._shares(topics, group)

        if self._settings.delivery == "at_least_once":
            output = self._output(self._settings.commit_timeout_s)
            return AtLeastOnceSession(*self._member(topics, group, rebalance, output), output, self._settings, shares)
        idle = self._idle_ids[group] = self._idle_ids[group] - self._retired_ids
        transactional_id = next(iter(idle), f"{group}-{self._settings.static_member or uuid4().hex}")
        if transactional_id in self._retired_ids:
            transactional_id += f"-{uuid4().hex}"
        transactions = self._transactions(transactional_id)
        member = self._member(topics, group, rebalance, transactions)
        idle.discard(transactional_id)
        own = self._unended.own
        own[transactions.producer_id] = transactions.epoch, transactional_id

        def released() -> None:
            own.pop(transactions.producer_id, None)
            self._idle_ids[group].add(transactional_id)

        return ExactlyOnceSession(*member, transactions, self._settings, shares, released)

    def producer(self) -> "KafkaLogProducer":
        """A new producer.

        Raises:
            BrokerUnavailableError: no broker answered, or it refused the login.
        """
        limit_s = self._settings.delivery_timeout_s
        return KafkaLogProducer(self._output(limit_s), limit_s)

    def reader(self, topics: Sequence[str | Partition]) -> "KafkaReader":
        """A new reader of whole `topics`, or of single partitions, from their start; it reads committed records only.

        Raises:
            BrokerUnavailableError: no broker answered, or it refused the login.
            EventLogError: a topic does not exist.
        """
        partitions = [topic for topic in topics if isinstance(topic, Partition)]
        whole = [topic for topic in topics if isinstance(topic, str)]
        if whole:
            partitions += self._all_partitions(whole)
        bounds = self._admin(lambda admin: _bounds(admin, partitions))
        consumer, _ = self._consumer(consumer_options())
        try:
            with translated(f"reading {', '.join({partition.topic for partition in partitions})}"):
                return KafkaReader(consumer, bounds)
        except BaseException:
            consumer.close(autocommit=False)
            raise

    def _member(self, topics: Sequence[str], group: str, rebalance: Rebalance, output: Output) -> tuple[Any, Listener]:
        """A consumer and its listener; closes `output` when they cannot be made."""
        try:
            consumer, client = self._consumer(session_options(self._settings, group))
        except BaseException:
            output.close(0.0)
            raise
        throttle_lookups(consumer._coordinator, client.net)  # noqa: SLF001 - there is no public way to it
        listener = Listener(client.net, consumer, rebalance)
        tell_fenced(consumer._coordinator, listener)  # noqa: SLF001
        consumer.subscribe(topics, listener=listener)
        return consumer, listener

    def _shares(self, topics: Sequence[str], group: str) -> tuple[dict[str, set[Partition]], list[Partition]]:
        """What each member of a settled group was given, and all that it reads; nothing where that cannot be told."""
        try:
            described = self._admin(lambda admin: admin.describe_groups([group]), retry_limit_s=0.0)[group]
            if described["group_state"] != _SETTLED:
                return {}, []
            return _given(described["members"]), self._all_partitions(topics)
        except EventLogError as error:
            logger.debug("what the group's members were given cannot be told: %s", error)
            return {}, []

    def _consumer(self, options: Mapping[str, Any]) -> tuple[Any, Client]:
        consumer, client = self._open(KafkaConsumer, **options)
        parse_leniently(consumer._fetcher)  # noqa: SLF001 - there is no public way to it
        return consumer, client

    def _output(self, time_limit_s: float) -> Output:
        producer, client = self._open(KafkaProducer, **producer_options(self._settings, time_limit_s))
        return Output(producer, client, time_limit_s)

    def _transactions(self, transactional_id: str) -> Transactions:
        producer, client = self._open(KafkaProducer, **transaction_options(self._settings, transactional_id))
        return Transactions(producer, client, self._settings.commit_timeout_s, lambda: self._fence(transactional_id))

    def _fence(self, transactional_id: str) -> None:
        """End what a producer left behind whose last call was not answered, so that no reader waits for the next one.

        Where the brokers do not answer now, the next producer of this id does it when it is made.
        """
        limit_s = min(self._settings.commit_timeout_s, _FENCE_LIMIT_S)
        limits = {"bootstrap_timeout_ms": limit_s * 1000, "max_block_ms": int(limit_s * 1000)}
        try:
            producer, client = self._open(
                KafkaProducer, **(transaction_options(self._settings, transactional_id) | limits)
            )
            Transactions(producer, client, limit_s, lambda: None).close(0.0)
        except EventLogError as error:
            logger.debug("a transaction of %s is left to the next producer: %s", transactional_id, error)

    def _all_partitions(self, topics: Sequence[str]) -> list[Partition]:
        counts = self._admin(lambda admin: partition_counts(admin, topics))
        missing = [topic for topic in topics if topic not in counts]
        if missing:
            raise EventLogError(f"topic {missing[0]!r} does not exist; create it first (ensure_topics)")
        return [Partition(topic, number) for topic in topics for number in range(counts[topic])]

    def _admin(self, request: Callable[[Any], Result], retry_limit_s: float | None = None) -> Result:
        """The result of a request by a new admin client, repeated while brokers fail or leaders move.

        Args:
            request: makes the request on the client.
            retry_limit_s: how long it is repeated; `kafka.connect_timeout_s` where None.
        """
        time_limit_s = self._settings.connect_timeout_s
        deadline_s = time.monotonic() + (time_limit_s if retry_limit_s is None else retry_limit_s)
        admin, _ = self._open(KafkaAdminClient, request_timeout_ms=int(time_limit_s * 1000))
        try:
            with translated("looking after topics"):
                while True:
                    try:
                        return request(admin)
                    except RetriableError:
                        if time.monotonic() > deadline_s:
                            raise
                        time.sleep(_RETRY_S)
        finally:
            admin.close()

    def _open(self, make: Callable[..., Any], **options: Any) -> tuple[Any, "Client"]:
        """Make one of the library's clients and wait until it finds a broker; frees everything on failure."""
        clients: list[Client] = []

        def remember(**config: Any) -> Client:
            clients.append(Client(**config))
            return clients[0]

        try:
            return make(kafka_client=remember, **(self._connection | self._login.options() | options)), clients[0]
        except (KafkaError, RuntimeError, ValueError) as error:
            for client in clients:
                client.close()
            if isinstance(error, KafkaError) and not isinstance(error, KafkaConfigurationError):
                reason = clients[0].connections.last_error or error
                if is_permanent(reason):
                    raise LoginRefusedError(explain_unavailable(self._settings, reason)) from error
                raise BrokerUnavailableError(explain_unavailable(self._settings, reason)) from error
            raise SettingsError(f"the Kafka client refuses its settings: {error}; see the section [kafka]") from error


def _bounds(admin: Any, partitions: Sequence[Partition]) -> dict[Partition, range]:
    """First offset and end of each partition; not its last stable offset, which may lag after a commit."""
    keys = [TopicPartition(*partition) for partition in partitions]
    starts = admin.list_partition_offsets(dict.fromkeys(keys, OffsetSpec.EARLIEST))
    ends = admin.list_partition_offsets(dict.fromkeys(keys, OffsetSpec.LATEST))
    return {Partition(*key): range(starts[key].offset, ends[key].offset) for key in keys}


def _of_topics(admin: Any, topics: Sequence[str]) -> list[Partition]:
    """Every partition of those topics that exist."""
    counts = partition_counts(admin, topics) if topics else {}
    return [Partition(topic, number) for topic, count in counts.items() for number in range(count)]


def _places(admin: Any, groups: Sequence[str]) -> list[Partition]:
    """Partitions of `__consumer_offsets` that hold these groups' positions; none without the right to describe it."""
    try:
        count = partition_counts(admin, [OFFSETS_TOPIC]).get(OFFSETS_TOPIC)
    except RightMissingError as error:
        logger.debug("positions that a transaction holds back cannot be seen: %s", error)
        return []
    return [group_positions.partition_of(group, count) for group in groups] if count else []


def _given(members: Sequence[Mapping[str, Any]]) -> dict[str, set[Partition]]:
    """By the lasting name of each member, or else its id, the partitions that it was given."""
    return {
        member["group_instance_id"] or member["member_id"]: {
            Partition(topic["topic"], number)
            for topic in (member["member_assignment"] or {}).get("assigned_partitions", ())
            for number in topic["partitions"]
        }
        for member in members
    }
