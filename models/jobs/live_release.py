"""The live release of a model, and the announcement of a new one: on the topic `releases`, or in a watched folder."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog
from engine.messages.announcement import Announcement
from engine.releases import bundles, remote
from engine.releases.announcements import FolderFeed, State
from engine.releases.bundles import Bundle
from engine.releases.registrar import Registrar
from engine.releases.registry import Registry
from engine.settings.sections import Settings
from models.publishing import announce


class Stage(Protocol):
    """Where releases of one model are announced."""

    def registry(self) -> Registry:
        """The releases that are announced.

        Raises:
            EventLogError: they cannot be read.
            ReleaseError: likewise, in a folder.
        """
        ...

    def publish(self, bundle: Path, state: State) -> None:
        """Load a bundle as a worker does, and announce it.

        Raises:
            ReleaseError: no worker could serve by it.
            EventLogError: the announcement was not accepted.
        """
        ...


@dataclass(frozen=True, slots=True)
class TopicStage:
    """The topic of the settings, and their folder."""

    settings: Settings
    log: EventLog

    def registry(self) -> Registry:
        """See `Stage.registry`. All of the topic is read: what was not read is no proof that nothing is live."""
        releases, topic = self.settings.releases, topic_plan.releases(self.settings)
        return Registrar(releases.model, self.log, topic, releases.folder).read()

    def publish(self, bundle: Path, state: State) -> None:
        """See `Stage.publish`."""
        with announce.checked(str(bundle), self.settings.releases) as checked:
            now_ms = self.registry().next_ms(_now_ms())
            announce.to_topic(checked, self.log, topic_plan.releases(self.settings), now_ms, state=state)


@dataclass(frozen=True, slots=True)
class FolderStage:
    """A watched folder alone."""

    settings: Settings
    folder: Path

    def registry(self) -> Registry:
        """See `Stage.registry`."""
        if not self.folder.is_dir():
            return Registry(self.settings.releases.model)
        return FolderFeed(self.folder, self.settings.releases.model).registry()

    def publish(self, bundle: Path, state: State) -> None:
        """See `Stage.publish`."""
        with announce.checked(str(bundle), self.settings.releases) as checked:
            announce.to_folder(checked, self.folder, self.registry().next_ms(_now_ms()), state)


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
