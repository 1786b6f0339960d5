"""Announcement of a release to the workers: in a watched folder, or on the topic `releases`."""

from pathlib import Path

from engine.errors import ReleaseError
from engine.eventlog.base import EventLog, TopicSpec
from engine.messages.announcement import Announcement
from engine.releases import announcements


def to_folder(bundle: Path, folder: Path, now_ms: int) -> Announcement:
    """Copy a bundle into a watched folder and announce it there as live.

    Raises:
        ReleaseError: the bundle is damaged or does not fit, or the folder has another bundle of its name.
    """
    original = announcements.announce(bundle, "live", now_ms)
    folder.mkdir(parents=True, exist_ok=True)
    copied = announcements.announce(announcements.copy_bundle(bundle, folder), "live", now_ms)
    if copied.manifest_checksum != original.manifest_checksum:
        raise ReleaseError(
            f"{copied.bundle} holds another bundle of the same name; releases are immutable, so publish this one under"
            " a new version"
        )
    announcements.write(copied, folder)
    return copied


def to_topic(bundle: Path, log: EventLog, topic: TopicSpec, now_ms: int) -> Announcement:
    """Announce a bundle as live on a topic, which is created where it is missing.

    The workers must be able to read the bundle's folder.

    Raises:
        ReleaseError: the bundle is damaged or does not fit.
        EventLogError: the broker did not accept the announcement.
    """
    announcement = announcements.announce(bundle, "live", now_ms)
    log.ensure_topics([topic])
    with log.producer() as producer:
        announcements.send(announcement, producer, topic.name)
    return announcement
