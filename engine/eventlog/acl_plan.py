"""The rights that each role needs on the cluster, by the names in the settings; no role has more."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from engine.settings.sections import Settings

REKEY_SUFFIX: Final = "-rekey"
"""Of the group that puts clicks onto `clicks.by_user_topic`."""
ARCHIVE_SUFFIX: Final = "-archive"
"""Of the group of `headrace archive`."""
OFFSETS_TOPIC: Final = "__consumer_offsets"
"""The broker's own topic, of all groups' positions."""

Kind = Literal["topic", "group", "transactional-id", "cluster"]


@dataclass(frozen=True, slots=True)
class Grant:
    """Operations that a role may do on one resource; `Describe` comes with most of them, in Kafka itself."""

    kind: Kind
    name: str
    """Empty for the cluster."""
    operations: tuple[str, ...]
    purpose: str
    prefixed: bool = False
    """True for a right on every name that begins with `name` (a prefixed ACL)."""


def worker(settings: Settings) -> Iterator[Grant]:
    """`headrace run`, on topics that exist."""
    clicks, group = settings.clicks, settings.kafka.group
    yield Grant("topic", clicks.topic, ("Read",), "clicks")
    if clicks.rekey:
        yield Grant("topic", clicks.by_user_topic, ("Read", "Write"), "clicks by user: written first, then read")
    yield Grant("topic", settings.windows.topic, ("Read", "Write"), "windows: restored and written")
    yield Grant("topic", settings.recommendations.topic, ("Read", "Write"), "lists; read for what is left open there")
    yield Grant("topic", clicks.dead_letter_topic, ("Read", "Write"), "dead letters; read for what is left open there")
    yield Grant("topic", settings.releases.topic, ("Read", "Write"), "announcements of releases; the end of a canary")
    yield Grant("topic", settings.canary.topic, ("Read", "Write"), "sums of canaries and experiments")
    if settings.impressions.accept:
        yield Grant("topic", settings.impressions.topic, ("Read",), "what was shown, by which arms may be judged")
    yield Grant("group", group, ("Read",), "the group of the workers")
    if clicks.rekey:
        yield Grant("group", group + REKEY_SUFFIX, ("Read",), "the group that puts clicks onto the topic by user")
    if settings.kafka.delivery == "exactly_once":
        yield Grant("transactional-id", f"{group}-", ("Write",), "one a worker: exactly once", prefixed=True)


def archive(settings: Settings) -> Iterator[Grant]:
    """`headrace archive`."""
    yield Grant("topic", settings.clicks.topic, ("Read",), "clicks")
    yield Grant("group", settings.kafka.group + ARCHIVE_SUFFIX, ("Read",), "the group of the archivers")


def retrain(settings: Settings) -> Iterator[Grant]:
    """`headrace retrain` and `headrace publish`."""
    yield Grant("topic", settings.releases.topic, ("Read", "Write"), "announcements of releases")
    yield Grant("topic", settings.recommendations.topic, ("Read",), "the first list by a release (`--wait`)")


def serve(settings: Settings) -> Iterator[Grant]:
    """`headrace serve`, which writes nothing but impressions, on a topic that exists."""
    yield Grant("topic", settings.windows.topic, ("Read",), "windows, followed")
    yield Grant("topic", settings.recommendations.topic, ("Read",), "the lists that were pushed")
    yield Grant("topic", settings.releases.topic, ("Read",), "announcements of releases")
    if settings.impressions.accept:
        yield Grant("topic", settings.impressions.topic, ("Write",), "impressions")


def producer(settings: Settings) -> Iterator[Grant]:
    """Programs that send clicks."""
    yield Grant("topic", settings.clicks.topic, ("Write",), "clicks")


def operator(settings: Settings) -> Iterator[Grant]:
    """`headrace topics`, `repartition`, `forget`, `show`, `dead`, `releases`, `experiment`; transactions left open."""
    names = {
        "clicks": settings.clicks.topic,
        "windows": settings.windows.topic,
        "lists": settings.recommendations.topic,
        "dead letters": settings.clicks.dead_letter_topic,
        "announcements": settings.releases.topic,
        "sums of canaries and experiments": settings.canary.topic,
    }
    if settings.clicks.rekey:
        names["clicks by user"] = settings.clicks.by_user_topic
    if settings.impressions.accept:
        names["impressions"] = settings.impressions.topic
    everything = ("Alter", "Create", "Delete", "DescribeConfigs", "Read", "Write")
    for purpose, name in names.items():
        yield Grant("topic", name, everything, purpose)
    yield Grant("group", settings.kafka.group, ("Read",), "positions of the workers")
    yield Grant("topic", OFFSETS_TOPIC, ("Read",), "positions that a transaction holds back which nobody ends")
    yield Grant("cluster", "", ("Alter",), "the end of transactions that nobody ends")


ROLES: Final[dict[str, Callable[[Settings], Iterator[Grant]]]] = {
    "worker": worker,
    "archive": archive,
    "retrain": retrain,
    "serve": serve,
    "producer": producer,
    "operator": operator,
}


def arguments(grants: list[Grant], principal: str) -> list[list[str]]:
    """Arguments of Kafka's `kafka-acls.sh` that give these rights: a list for each call of it.

    Args:
        grants: what is given.
        principal: to whom, such as `User:headrace`.
    """
    calls: dict[tuple[tuple[str, ...], bool], list[Grant]] = {}
    for grant in grants:
        calls.setdefault((grant.operations, grant.prefixed), []).append(grant)
    return [
        [
            *("--add", "--allow-principal", principal),
            *(word for operation in operations for word in ("--operation", operation)),
            *(word for grant in of_call for word in (f"--{grant.kind}", grant.name) if word),
            *(("--resource-pattern-type", "prefixed") if prefixed else ()),
        ]
        for (operations, prefixed), of_call in calls.items()
    ]


def commands(grants: list[Grant], principal: str, bootstrap_servers: str) -> list[str]:
    """Shell commands that give these rights."""
    head = ["kafka-acls.sh", "--bootstrap-server", bootstrap_servers]
    return [shlex.join([*head, *call]) for call in arguments(grants, principal)]
