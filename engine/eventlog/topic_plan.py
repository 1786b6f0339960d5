"""The topics of a deployment, as the settings want them; who creates them, and when.

A worker creates its own topics where they are missing, and the topic of clicks only where `clicks.create_topic` says
so: that one is the user's, and its number of partitions is for the user to decide. `headrace topics create` makes all
of them.
"""

import datetime as dt
from collections.abc import Iterator
from typing import Final

from engine.errors import EventLogError, SettingsError
from engine.eventlog.base import EventLog, TopicSpec
from engine.settings.sections import Settings

_HOUR_MS: Final = 3_600_000
ANY_NUMBER: Final = -1
"""Leaves a number of partitions or replicas to the broker."""


def clicks(settings: Settings, partitions: int | None = None) -> TopicSpec:
    """The topic of clicks; `topics.partitions` of them, or the broker's default, unless a number is named."""
    topics = settings.topics
    count = partitions or topics.partitions or ANY_NUMBER
    retention_ms = _milliseconds(topics.click_retention_h)
    return TopicSpec(settings.clicks.topic, count, replication=_replication(settings), retention_ms=retention_ms)


def outputs(settings: Settings, partitions: int) -> list[TopicSpec]:
    """Lists, windows and dead letters of a deployment with so many partitions of clicks."""
    replication = _replication(settings)
    retention_ms = _milliseconds(settings.topics.dead_letter_retention_h)
    return [
        TopicSpec(settings.recommendations.topic, partitions, compacted=True, replication=replication),
        TopicSpec(settings.windows.topic, partitions, compacted=True, replication=replication),
        TopicSpec(settings.clicks.dead_letter_topic, replication=replication, retention_ms=retention_ms),
    ]


def clicks_by_user(settings: Settings, partitions: int) -> TopicSpec:
    """The topic that clicks are put onto by user (`clicks.rekey`), which needs no longer than the topic of clicks."""
    retention_ms = _milliseconds(settings.topics.click_retention_h)
    return TopicSpec(
        settings.clicks.by_user_topic, partitions, replication=_replication(settings), retention_ms=retention_ms
    )


def releases(settings: Settings) -> TopicSpec:
    """The topic of announcements."""
    return TopicSpec(settings.releases.topic, compacted=True, replication=_replication(settings))


def canary_sums(settings: Settings) -> TopicSpec:
    """The topic of a canary's judged clicks."""
    return TopicSpec(settings.canary.topic, compacted=True, replication=_replication(settings))


def impressions(settings: Settings, partitions: int) -> TopicSpec:
    """The topic of impressions, which a server writes."""
    retention_ms = _milliseconds(settings.topics.impression_retention_h)
    return TopicSpec(
        settings.impressions.topic, partitions, replication=_replication(settings), retention_ms=retention_ms
    )


def whole(settings: Settings, partitions: int) -> Iterator[TopicSpec]:
    """All topics of a deployment, that of clicks first."""
    yield clicks(settings, partitions)
    if settings.clicks.rekey:
        yield clicks_by_user(settings, partitions)
    yield from outputs(settings, partitions)
    yield releases(settings)
    yield canary_sums(settings)
    if settings.impressions.accept:
        yield impressions(settings, partitions)


def prepare(log: EventLog, settings: Settings) -> int:
    """Create what a worker needs and may create; returns the number of partitions that have windows.

    That is fewer than the partitions of clicks when the clicks were given more (`engine.worker.growth`).

    Raises:
        EventLogError: the topic of clicks does not exist, and a worker may not create it.
        SettingsError: the changelog has more partitions than the clicks.
    """
    topic, changelog = settings.clicks.topic, settings.windows.topic
    partitions = source_partitions(log, settings)
    log.ensure_topics(outputs(settings, partitions))
    count = log.partitions(changelog)
    if count > partitions:
        raise SettingsError(
            f"windows.topic {changelog!r} has {count} partitions, clicks.topic {topic!r} has {partitions}:"
            " a window is in the partition of its user's clicks; give clicks as many and run `headrace repartition`, or"
            " name a new topic for windows"
        )
    return count


def source_partitions(log: EventLog, settings: Settings) -> int:
    """Number of partitions of the topic of clicks, which is created where a worker may.

    Raises:
        EventLogError: the topic does not exist, and a worker may not create it.
    """
    topic = settings.clicks.topic
    partitions = log.partitions(topic)
    if not partitions and settings.clicks.create_topic:
        log.ensure_topics([clicks(settings)])
        partitions = log.partitions(topic)
    if not partitions:
        raise EventLogError(
            f"topic {topic!r} (clicks.topic) does not exist, expected the topic that your clicks go to; create it"
            " (`headrace topics create --partitions N` makes it and all others), name another one, or set"
            " clicks.create_topic"
        )
    return partitions


def check_impressions(log: EventLog, settings: Settings) -> None:
    """Check that reports of what was shown can come, before something is judged by them.

    Raises:
        SettingsError: no server takes them, or their topic does not exist.
    """
    topic = settings.impressions.topic
    if not settings.impressions.accept:
        raise SettingsError(
            "--exposure: found 'impressions' while impressions.accept is false, expected reports of what users are"
            " shown; set impressions.accept = true, here and for `headrace serve`, or say --exposure lists"
        )
    if not log.partitions(topic):
        raise SettingsError(
            f"--exposure: found 'impressions', but topic {topic!r} (impressions.topic) does not exist, expected the"
            " reports of what users are shown; start `headrace serve`, report some (POST /v1/impressions) or create the"
            " topic (`headrace topics create`), or say --exposure lists"
        )


def begin(log: EventLog, settings: Settings) -> None:
    """Let a new group begin where `clicks.start` says.

    Raises:
        EventLogError: the topic of clicks does not exist.
    """
    start = settings.clicks.start
    if start != "earliest":
        log.begin_group(settings.kafka.group, settings.clicks.topic, start_ms(start))


def start_ms(start: str) -> int | None:
    """Unix milliseconds of a time in ISO 8601, which is UTC where it names no zone; None for `latest`."""
    if start == "latest":
        return None
    time = dt.datetime.fromisoformat(start)
    return round((time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp() * 1000)


def _replication(settings: Settings) -> int:
    return settings.topics.replication or ANY_NUMBER


def _milliseconds(hours: float | None) -> int | None:
    return None if hours is None else round(hours * _HOUR_MS)
