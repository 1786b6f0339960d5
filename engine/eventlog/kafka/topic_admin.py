"""Topics created, and compared with what they should be."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    AuthorizationError,
    KafkaTimeoutError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from engine.errors import EventLogError, RightMissingError
from engine.eventlog.base import MAX_RECORD_BYTES, TopicSpec

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S: Final = 0.1
_COMPACTED: Final = {
    "cleanup.policy": "compact",
    # Compaction leaves the active segment out and starts at this dirty share; smaller values make restores faster.
    "segment.bytes": str(64 * 2**20),
    "min.cleanable.dirty.ratio": "0.2",
}


@dataclass(frozen=True, slots=True)
class ExistingTopic:
    """A topic as it is on the cluster."""

    partitions: int
    replication: int
    configs: Mapping[str, str]
    """Every one of its configurations, the broker's defaults included."""

    def differences(self, spec: TopicSpec) -> Iterator[str]:
        """What differs from a specification that does not leave it to the broker, in words."""
        counts = (("partitions", self.partitions, spec.partitions), ("replicas", self.replication, spec.replication))
        for name, count, expected in counts:
            if expected not in (count, -1):
                yield f"{name}: {count}, expected {expected}"
        for name, value in topic_configs(spec).items():
            if self.configs.get(name) != value:
                yield f"{name}: {self.configs.get(name)}, expected {value}"


def topic_configs(spec: TopicSpec) -> dict[str, str]:
    """The configurations that a topic is created with."""
    retention = {} if spec.retention_ms is None else {"retention.ms": str(spec.retention_ms)}
    return {"max.message.bytes": str(MAX_RECORD_BYTES)} | retention | (_COMPACTED if spec.compacted else {})


def create_missing(admin: Any, specs: Sequence[TopicSpec], timeout_ms: float) -> None:
    """Create the topics that are missing, and log each.

    Raises:
        EventLogError: one cannot be created.
    """
    counts = partition_counts(admin, [spec.name for spec in specs])
    missing = {spec.name: _options(spec) for spec in specs if spec.name not in counts}
    if not missing:
        return
    for answer in admin.create_topics(missing, raise_errors=False)["topics"]:
        error = for_code(answer["error_code"])
        if not answer["error_code"]:
            logger.info(
                "created topic %s: %s partitions, %s replicas, %s",
                answer["name"],
                answer["num_partitions"],
                answer["replication_factor"],
                ", ".join("=".join(pair) for pair in missing[answer["name"]]["configs"].items()),
            )
        elif issubclass(error, AuthorizationError):
            raise RightMissingError(
                f"topic {answer['name']!r} could not be created: {error.__name__}; give this client's user the right to"
                " create it, or create it by hand"
            )
        # Another worker may have created it meanwhile.
        elif error is not TopicAlreadyExistsError:
            raise EventLogError(
                f"topic {answer['name']!r} could not be created:"
                f" {answer['error_message'] or error.__name__}; create it by hand, or give this client the right to"
            )
    admin.wait_for_topics(list(missing), timeout_ms=timeout_ms)


def grow(admin: Any, topic: str, partitions: int, timeout_ms: float) -> None:
    """Raise a topic's number of partitions, and wait for it; a topic that has as many stays as it is.

    Raises:
        KafkaError: the broker refused, or it is not done in time.
    """
    if partition_counts(admin, [topic]).get(topic, 0) >= partitions:
        return
    admin.create_partitions({topic: partitions}, timeout_ms=int(timeout_ms))
    deadline_s = time.monotonic() + timeout_ms / 1000
    while partition_counts(admin, [topic]).get(topic, 0) < partitions:
        if time.monotonic() > deadline_s:
            raise KafkaTimeoutError(f"topic {topic!r} has not {partitions} partitions within {timeout_ms / 1000:g} s")
        time.sleep(_LOOK_AGAIN_S)
    logger.info("topic %s has %d partitions now", topic, partitions)


def existing(admin: Any, names: Sequence[str]) -> dict[str, ExistingTopic]:
    """Those of these topics that exist."""
    described = {topic["name"]: topic["partitions"] for topic in admin.describe_topics(list(names))}
    present = list(partition_counts(admin, names))
    if not present:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in present]
    configs = admin.describe_configs(resources, config_filter="all")["topic"]
    return {
        name: ExistingTopic(
            partitions=len(described[name]),
            replication=min(len(partition["replica_nodes"]) for partition in described[name]),
            configs={key: str(config["value"]) for key, config in configs[name].items()},
        )
        for name in present
    }


def partition_counts(admin: Any, topics: Sequence[str]) -> dict[str, int]:
    """Number of partitions by topic, without topics that do not exist.

    Raises:
        EventLogError: a name cannot be one, or the client lacks the right to look.
    """
    counts = {}
    for topic in admin.describe_topics(list(topics)):
        error = for_code(topic["error_code"])
        if topic["partitions"]:
            counts[topic["name"]] = len(topic["partitions"])
        elif issubclass(error, AuthorizationError):
            raise RightMissingError(
                f"topic {topic['name']!r}: {error.__name__}; give this client's user the right to describe it"
            )
        elif error is not UnknownTopicOrPartitionError:
            raise EventLogError(f"topic {topic['name']!r}: {error.__name__}; check its name and this client's rights")
    return counts


def _options(spec: TopicSpec) -> dict[str, Any]:
    return {
        "num_partitions": spec.partitions,
        "replication_factor": spec.replication,
        "configs": topic_configs(spec),
    }
