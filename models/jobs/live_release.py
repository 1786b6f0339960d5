"""The live release of a model, and how a new one takes its place: on the topic `releases`, or in a watched folder."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from engine.errors import EventLogError
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog
from engine.messages.announcement import Announcement
from engine.releases import bundles, remote
from engine.releases.announcements import FolderFeed, TopicFeed
from engine.releases.bundles import Bundle
from engine.settings.sections import Settings
from models.publishing import announce

_READ_LIMIT_S: Final = 60.0
_PAUSE_S: Final = 0.05


class Stage(Protocol):
    """Where releases of one model go live."""

    def newest(self) -> Announcement | None:
        """The announcement of the live release; None before the first.

        Raises:
            EventLogError: it cannot be read.
            ReleaseError: likewise, in a folder.
        """
        ...

    def publish(self, bundle: Path) -> None:
        """Load a bundle as a worker does, and announce it as live.

        Raises:
            ReleaseError: no worker could serve by it.
            EventLogError: the announcement was not accepted.
        """
        ...


@dataclass(frozen=True, slots=True)
class TopicStage:
    """The topic of the settings, and their folder where it is newer."""

    settings: Settings
    log: EventLog

    def newest(self) -> Announcement | None:
        """See `Stage.newest`. All of the topic is read: what was not read is no proof that nothing is live."""
        releases = self.settings.releases
        self.log.ensure_topics([topic_plan.releases(self.settings)])
        deadline_s = time.monotonic() + _READ_LIMIT_S
        with self.log.reader([releases.topic]) as reader:
            feed = TopicFeed(reader, releases.model)
            live = feed.live()
            while not reader.at_end():
                if time.monotonic() > deadline_s:
                    raise EventLogError(
                        f"releases.topic {releases.topic!r} could not be read to its end within {_READ_LIMIT_S:g} s,"
                        " expected the announcement of the live release there; look at the brokers"
                    )
                time.sleep(_PAUSE_S)
                live = feed.live()
            live = feed.live()
        if releases.folder is not None:
            live = [*live, *FolderFeed(releases.folder, releases.model).live()]
        return max(live, key=lambda announcement: announcement.announced_ms, default=None)

    def publish(self, bundle: Path) -> None:
        """See `Stage.publish`."""
        with announce.checked(str(bundle), self.settings.releases) as checked:
            announce.to_topic(checked, self.log, topic_plan.releases(self.settings), _now_ms())


@dataclass(frozen=True, slots=True)
class FolderStage:
    """A watched folder alone."""

    settings: Settings
    folder: Path

    def newest(self) -> Announcement | None:
        """See `Stage.newest`."""
        if not self.folder.is_dir():
            return None
        return next(iter(FolderFeed(self.folder, self.settings.releases.model).live()), None)

    def publish(self, bundle: Path) -> None:
        """See `Stage.publish`."""
        with announce.checked(str(bundle), self.settings.releases) as checked:
            announce.to_folder(checked, self.folder, _now_ms())


@contextmanager
def fetched(announcement: Announcement | None) -> Iterator[Bundle | None]:
    """The bundle of an announcement, verified; None for none.

    Raises:
        ReleaseError: it cannot be fetched, or is damaged.
        MissingExtraError: fsspec, or what it needs for the address, is not installed.
    """
    if announcement is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="headrace-retrain-") as folder:
        yield bundles.read(remote.fetch(announcement.bundle, Path(folder)))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
