"""Options of the client, from the settings of the section [kafka]."""

from typing import Any, Final

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from engine.errors import SettingsError
from engine.eventlog.base import MAX_RECORD_BYTES
from engine.eventlog.kafka.client import Connector
from engine.eventlog.kafka.login import tls_options
from engine.settings.sections import KafkaSettings

_BATCH_BYTES: Final = 512 * 2**10
"""Largest produce batch of a partition. An idempotent producer has one batch a partition in flight, so a small one
turns a commit into many round trips; a broker refuses batches above its message.max.bytes (1 MiB unless set)."""
_FETCH_MAX_WAIT_MS: Final = 250
"""How long the broker holds a fetch without records. A newly assigned partition may have to wait for its end."""
_RECONNECT_BACKOFF_MAX_MS: Final = 1_000
"""Longest time until a broker that is back is connected to again (the client's default: 30 s)."""
_RETRY_BACKOFF_MS: Final = 20
_TRANSACTION_RETRY_MS: Final = 2
"""Pause of the client after the first request of a transaction, which is refused until the markers of the last one are
written. The client's default of 100 ms shows up as the 99th percentile of freshness."""
_REQUEST_TIMEOUT_MS: Final = 30_000
_METADATA_AGE_MS: Final = 5_000
"""Time after which members look for new partitions (the client's default: five minutes)."""
_HEARTBEAT_MS: Final = 1_000
"""Interval of heartbeats, at which members notice a rebalance."""


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """Options of every client: addresses and encryption; the login is in `login.py`.

    Raises:
        SettingsError: an address is not one, or a certificate file cannot be used.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": _servers(settings),
        "client_id": settings.client_id,
        "bootstrap_timeout_ms": settings.connect_timeout_s * 1000,
        "proxy_url": f"{Connector.SCHEMES[0]}://",
        "reconnect_backoff_max_ms": _RECONNECT_BACKOFF_MAX_MS,
        "retry_backoff_ms": _RETRY_BACKOFF_MS,
    }
    return options | tls_options(settings)


def _servers(settings: KafkaSettings) -> list[str]:
    servers = [server.strip() for server in settings.bootstrap_servers.split(",")]
    for server in servers:
        host, _, port = server.rpartition(":")
        if not (host and port.isdigit()):
            raise SettingsError(
                f"setting 'kafka.bootstrap_servers': found {server!r}, expected host:port, or several with commas,"
                " for example 127.0.0.1:9092"
            )
    return servers


def consumer_options() -> dict[str, Any]:
    """Options of a consumer of committed records, without a group."""
    return {
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        "fetch_max_wait_ms": _FETCH_MAX_WAIT_MS,
        "metrics_enabled": False,  # they cost CPU time for each request, and are not read
        "allow_auto_create_topics": False,
    }


def session_options(settings: KafkaSettings, group: str) -> dict[str, Any]:
    """Options of a consumer that is a member of `group`."""
    session_ms = int(settings.session_timeout_s * 1000)
    return consumer_options() | {
        "metadata_max_age_ms": _METADATA_AGE_MS,
        "group_id": group,
        "partition_assignment_strategy": [CooperativeStickyAssignor],
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": min(_HEARTBEAT_MS, session_ms // 3),
        "max_poll_interval_ms": int(settings.max_poll_interval_s * 1000),
        "group_instance_id": settings.static_member,
    }


def producer_options(settings: KafkaSettings, time_limit_s: float) -> dict[str, Any]:
    """Options of a producer that sends each record once, in order, to all replicas, within a time limit."""
    delivery_ms = int(time_limit_s * 1000)
    return {
        "acks": "all",
        "enable_idempotence": True,
        "compression_type": None if settings.compression == "none" else settings.compression,
        "linger_ms": settings.linger_ms,
        "batch_size": _BATCH_BYTES,
        "max_request_size": MAX_RECORD_BYTES,
        "max_block_ms": delivery_ms,
        # The client requires at least the time of one request and of the linger for a delivery.
        "delivery_timeout_ms": delivery_ms + settings.linger_ms,
        "request_timeout_ms": min(_REQUEST_TIMEOUT_MS, delivery_ms),
        "metrics_enabled": False,
        "allow_auto_create_topics": False,
    }


def transaction_options(settings: KafkaSettings, transactional_id: str) -> dict[str, Any]:
    """Options of a producer in transactions, with `kafka.commit_timeout_s` as its time limit."""
    return producer_options(settings, settings.commit_timeout_s) | {
        "transactional_id": transactional_id,
        "transaction_timeout_ms": int(settings.transaction_timeout_s * 1000),
        "retry_backoff_ms": _TRANSACTION_RETRY_MS,
    }
