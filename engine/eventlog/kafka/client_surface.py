"""Members of the Kafka client that its documentation does not promise and this package uses, checked by name.

kafka-python may rename them in any release. The requirement in `pyproject.toml` allows patch releases only, and a log
is not opened with a client that lacks one of them: it would fail later, in the middle of a rebalance or of a commit.
"""

import dis
from collections.abc import Iterator
from inspect import isfunction
from typing import Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.consumer.fetcher import Fetcher
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import TransactionalRequestResult, TransactionManager
from kafka.record.default_records import DefaultRecordBatch

from engine.eventlog.kafka.client_version import unsupported

MEMBERS: Final[tuple[tuple[type, str], ...]] = (
    (KafkaConsumer, "_client"),
    (KafkaConsumer, "_coordinator"),
    (KafkaConsumer, "_fetcher"),
    (Fetcher, "PartitionRecords"),
    (Fetcher, "_next_partition_records"),
    (Fetcher, "_parse_fetched_data"),
    (Fetcher.PartitionRecords, "_unpack_records"),
    (DefaultRecordBatch, "_buffer"),
    (DefaultRecordBatch, "_read_msg"),
    (ConsumerCoordinator, "_join_task"),
    (ConsumerCoordinator, "_send_group_coordinator_request"),
    (ConsumerCoordinator, "_send_heartbeat_request"),
    (ConsumerCoordinator, "request_rejoin"),
    (KafkaProducer, "_sender"),
    (KafkaProducer, "_transaction_manager"),
    (Sender, "force_close"),
    (Sender, "wakeup"),
    (TransactionManager, "begin_abort"),
    (TransactionManager, "begin_commit"),
    (TransactionManager, "producer_id_and_epoch"),
    (TransactionManager, "send_offsets_to_transaction"),
    (TransactionalRequestResult, "wait"),
    (FutureRecordMetadata, "_produce_future"),
    (KafkaNetClient, "await_ready"),
    (KafkaNetClient, "send"),
    (Future, "add_errback"),
    (Future, "is_done"),
    (KafkaAdminClient, "abort_transaction"),
    (KafkaAdminClient, "describe_producers"),
    (KafkaAdminClient, "describe_transactions"),
    (KafkaAdminClient, "list_transactions"),
    (KafkaConnectionManager, "bootstrapped"),
    (KafkaConnectionManager, "close"),
    (KafkaConnectionManager, "get_connection"),
    (KafkaConnection, "close"),
    (KafkaConnection, "init_future"),
    (KafkaNetSocket, "connect"),
    (KafkaNetSocket, "register_class"),
    (KafkaNetSocket, "socket"),
    (NetworkSelector, "_pending_waiters"),
    (NetworkSelector, "_pending_waiters_lock"),
    (NetworkSelector, "call_later"),
    (NetworkSelector, "call_soon_threadsafe"),
    (NetworkSelector, "close"),
    (NetworkSelector, "register_event"),
    (NetworkSelector, "sleep"),
    (NetworkSelector, "start"),
)


def check_client() -> None:
    """Check that the installed client has every member of MEMBERS.

    Raises:
        UnsupportedClientError: naming those that are missing, and the versions that have them.
    """
    missing = [f"{owner.__name__}.{name}" for owner, name in MEMBERS if not _has(owner, name)]
    if missing:
        raise unsupported(f"it has no {', '.join(missing)}")


def _has(owner: type, name: str) -> bool:
    """True if a class has an attribute, or if one of its methods sets it on the instance."""
    return hasattr(owner, name) or name in _assigned(owner, name)


def _assigned(owner: type, name: str) -> Iterator[str]:
    """Names of the attributes that methods which mention `name` assign."""
    for base in owner.__mro__:
        for method in filter(isfunction, vars(base).values()):
            if name in method.__code__.co_names:
                yield from (step.argval for step in dis.get_instructions(method) if step.opname == "STORE_ATTR")
