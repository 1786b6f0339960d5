"""Announcement of a release to the workers: in a watched folder, or on the topic `releases`."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engine.errors import EventLogError, ReleaseError
from engine.eventlog.base import EventLog, Reader, TopicSpec
from engine.messages.announcement import Announcement
from engine.messages.recommendation import decode_recommendation
from engine.releases import announcements, bundles, probe, remote
from engine.releases.announcements import State
from engine.releases.registry import Registry
from engine.settings.sections import ReleaseSettings

_POLL_S: Final = 0.2
_MAX_RECORDS: Final = 1_000


@contextmanager
def checked(place: str, settings: ReleaseSettings) -> Iterator[Path]:
    """A folder with the bundle of a path or an address, loaded once as a worker loads it.

    Raises:
        ReleaseError: no worker could serve by it.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-publish-") as folder:
        bundle = remote.fetch(place, Path(folder)) if remote.is_address(place) else Path(place)
        probe.check(bundle, settings, threading.Event())
        yield bundle


def refuse_unfit(bundle: Path, registry: Registry, state: State = "live", *, with_parent: bool = True) -> None:
    """Refuse a bundle that the registry knows by another name, or whose parent it does not know; a canary too early.

    Raises:
        ReleaseError: it does.
    """
    parent = bundles.read_manifest(bundle).provenance.parent if with_parent else ""
    announcement = announcements.announce(bundle, "candidate", 0)
    registry.refuse_unfit(announcement, parent)
    if state == "canary":
        registry.refuse_canary(announcement)


def to_folder(bundle: Path, folder: Path, now_ms: int, state: State = "live") -> Announcement:
    """Copy a bundle into a watched folder and announce it there.

    Raises:
        ReleaseError: the bundle is damaged or does not fit, or the folder has another bundle of its name.
    """
    original = announcements.announce(bundle, state, now_ms)
    folder.mkdir(parents=True, exist_ok=True)
    copied = announcements.announce(announcements.copy_bundle(bundle, folder), state, now_ms)
    if copied.manifest_checksum != original.manifest_checksum:
        raise ReleaseError(
            f"{copied.bundle} holds another bundle of the same name; releases are immutable, so publish this one under"
            " a new version"
        )
    announcements.write(copied, folder)
    return copied


def to_topic(  # noqa: PLR0913 - a bundle, where to, and as what
    bundle: Path, log: EventLog, topic: TopicSpec, now_ms: int, address: str | None = None, state: State = "live"
) -> Announcement:
    """Announce a bundle on a topic, which is created where it is missing.

    The workers must be able to read the bundle's folder, or the address.

    Raises:
        ReleaseError: the bundle is damaged or does not fit.
        EventLogError: the broker did not accept the announcement.
    """
    announcement = announcements.announce(bundle, state, now_ms, address)
    log.ensure_topics([topic])
    with log.producer() as producer:
        announcements.send(announcement, producer, topic.name)
    return announcement


@contextmanager
def lists_from_now(log: EventLog, topic: str) -> Iterator[Reader]:
    """A reader of the lists that come from now on.

    Raises:
        EventLogError: the topic does not exist, or cannot be read.
    """
    with log.reader([topic]) as reader:
        for partition, bounds in reader.bounds.items():
            reader.seek(partition, bounds.stop)
        yield reader


def wait_until_taken(lists: Reader, name: str, limit_s: float) -> float:
    """Wait for a list by a release; returns the seconds waited.

    Workers say which release they serve by in their lists alone, so one that gets no clicks says nothing.

    Raises:
        EventLogError: none came in time.
    """
    started_s = time.monotonic()
    while time.monotonic() - started_s < limit_s:
        for records in lists.poll(_POLL_S, _MAX_RECORDS):
            if any(value and decode_recommendation(value).release == name for value in records.values):
                return time.monotonic() - started_s
    raise EventLogError(
        f"{name} is announced, but no list by it came within {limit_s:g} s (--wait): no clicks come, or the workers"
        " refused it; look at their log and at headrace_release_refusals_total"
    )
