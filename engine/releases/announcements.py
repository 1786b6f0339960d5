"""Announcements of releases: on the topic `releases`, in a watched folder, or both.

An announcement says which state a release is in and where its bundle is. The topic and the folder carry the same
messages; what they mean together is in `engine.releases.registry`. In a folder, next to the bundles, `MODEL.json` is
the announcement to serve by, and below it those of the other versions and the last pin.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from engine import contract
from engine.errors import DamagedReleaseError, EventLogError, ReleaseError
from engine.eventlog.base import EventLog, Outgoing, Producer, Reader, TopicSpec
from engine.messages.announcement import Announcement, FolderHistory, ReleasePin
from engine.messages.experiment_messages import Experiment
from engine.releases import bundle_files, bundles
from engine.releases.registry import Change, Registry
from engine.settings.sections import ReleaseSettings

logger = logging.getLogger(__name__)

_MAX_POLL_RECORDS: Final = 1000
_END_POLL_S: Final = 0.2
_REOPEN_S: Final = 30.0
"""Pause before a feed that failed is opened again: opening one may wait for a broker until a time limit."""


State = Literal["candidate", "canary", "live", "retired"]


def announce(bundle: Path, state: State, now_ms: int, address: str | None = None) -> Announcement:
    """The announcement of a verified bundle.

    Args:
        bundle: its folder.
        state: of the release.
        now_ms: the current time.
        address: where workers fetch it from; `bundle` as an absolute path where None.

    Raises:
        ReleaseError: the bundle is damaged or does not fit.
    """
    manifest = bundles.read(bundle).manifest
    return Announcement(
        model=manifest.model,
        version=manifest.version,
        state=state,
        bundle=address or str(bundle.resolve()),
        manifest_checksum=bundles.checksum(bundle / contract.MANIFEST_FILE),
        announced_ms=now_ms,
        figures=manifest.figures,
        content=bundles.content_of(manifest),
    )


def copy_bundle(bundle: Path, folder: Path) -> Path:
    """Copy a bundle into `folder`, atomically for readers; an existing copy is left as it is.

    Raises:
        ReleaseError: something in it is no file of a bundle.
    """
    target = folder / bundle.resolve().name
    if not target.exists():
        partial = folder / f".{target.name}.partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        bundle_files.copy(bundle, partial)
        partial.rename(target)
    return target


def send(announcement: Announcement, producer: Producer, topic: str) -> None:
    """Announce on a topic, and wait until the log has it."""
    send_changes([announcement], producer, topic)


def send_changes(changes: Iterable[Change], producer: Producer, topic: str) -> None:
    """Put records of the registry on a topic in their order, and wait until the log has them."""
    records = [*changes]
    producer.send(Outgoing(topic, [record.key for record in records], [*map(msgspec.json.encode, records)]))
    producer.flush()


def write(announcement: Announcement, folder: Path) -> Path:
    """Announce in a folder, atomically for readers."""
    return write_changes([announcement], folder)


def write_changes(changes: Sequence[Change], folder: Path) -> Path:
    """Put records of one model's registry into a folder, atomically for readers; what is damaged there is replaced."""
    model = changes[0].model
    path = folder / f"{model}.json"
    with _locked(folder / f".{path.name}.lock"):
        try:
            registry = FolderFeed(folder, model).registry()
        except DamagedReleaseError:
            registry = Registry(model)
        registry = registry.with_changes(changes)
        partial = folder / f".{path.name}.partial-{os.getpid()}"
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(_folder_message(registry)), indent=1))
        partial.replace(path)
    return path


def _folder_message(registry: Registry) -> dict[str, object]:
    """The newest announcement, by which workers from before there was a registry serve, and all else in its history."""
    newest = next(iter(registry.live()), None) or max(registry.versions.values(), key=_announced_ms)
    others = [announcement for announcement in registry.versions.values() if announcement != newest]
    pins, experiments = [registry.last_pin] if registry.last_pin else [], [*registry.experiments.values()]
    history = FolderHistory(others=others, pins=pins, experiments=experiments)
    fields: dict[str, object] = msgspec.to_builtins(newest)
    fields.update(msgspec.to_builtins(history))
    return fields


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process at the latest: two writers do not undo each other."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of bytes that are no announcement: wrong fields, no UTF-8, or nested too deeply."""


class Feed(Protocol):
    """A source of announcements of one model."""

    def registry(self) -> Registry:
        """All that is known of the model's releases.

        Raises:
            ReleaseError: the source cannot be read.
            EventLogError: the same, where the source is a topic.
        """
        ...

    def live(self) -> list[Announcement]:
        """Announcements of the live releases of the model that is followed, newest first.

        Raises:
            ReleaseError: the source cannot be read.
            EventLogError: the same, where the source is a topic.
        """
        ...

    def close(self) -> None:
        """Free what the feed holds."""
        ...


class FolderFeed:
    """Announcements in a watched folder."""

    def __init__(self, folder: Path, model: str) -> None:
        self._folder = folder
        self._model = model
        self._path = folder / f"{model}.json"

    def live(self) -> list[Announcement]:
        """See `Feed.live`."""
        return self.registry().live()

    def registry(self) -> Registry:
        """See `Feed.registry`."""
        try:
            raw = self._path.read_bytes()
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._folder.is_dir():
                return Registry(self._model)
            raise ReleaseError(
                f"setting 'releases.folder': {self._path} cannot be read ({error.strerror}), expected a folder that"
                " `headrace publish --folder` writes to"
            ) from error
        try:
            announcement = msgspec.json.decode(raw, type=Announcement)
            history = msgspec.json.decode(raw, type=FolderHistory)
        except _UNDECODABLE as error:
            raise DamagedReleaseError(
                f"{self._path} is not an announcement: {error}; expected what `headrace publish --folder` writes;"
                " publish the release again"
            ) from error
        return Registry(self._model).with_changes([*history.pins, *history.experiments, *history.others, announcement])

    def close(self) -> None:
        """See `Feed.close`."""


class TopicFeed:
    """Announcements on the topic `releases`; records that are not announcements are ignored."""

    def __init__(self, reader: Reader, model: str) -> None:
        self._reader = reader
        self._model = model
        self._by_key: dict[bytes, Change] = {}
        self._is_whole = False
        """Whether all records have been read that were there when the reader was made."""

    def live(self) -> list[Announcement]:
        """See `Feed.live`."""
        return self.registry().live()

    def registry(self) -> Registry:
        """See `Feed.registry`."""
        while polled := self._reader.poll(0.0, _MAX_POLL_RECORDS):
            for records in polled:
                for key, value in zip(records.keys, records.values, strict=True):
                    self._apply(key, value)
        self._is_whole = self._is_whole or self._reader.at_end()
        changes = self._by_key.values() if self._is_whole else []  # a half of them might lack a pin, or what is live
        return Registry(self._model).with_changes(changes)

    def whole_registry(self) -> Registry:
        """The registry once all records have been read that were there when the reader was made."""
        registry = self.registry()
        while not self._is_whole:
            for records in self._reader.poll(_END_POLL_S, _MAX_POLL_RECORDS):
                for key, value in zip(records.keys, records.values, strict=True):
                    self._apply(key, value)
            registry = self.registry()
        return registry

    def close(self) -> None:
        """See `Feed.close`."""
        self._reader.close()

    def _apply(self, key: bytes | None, value: bytes | None) -> None:
        """Add one record; a null withdraws the announcement with its key, model and version, and no other."""
        if value is None:
            self._by_key.pop(key or b"", None)
            return
        change = _decoded(value)
        if change is not None and change.model == self._model:
            self._by_key[change.key] = change


def _decoded(value: bytes) -> Change | None:
    """An announcement, a pin, an experiment, or None for bytes that are none of them."""
    with suppress(*_UNDECODABLE):
        return msgspec.json.decode(value, type=Announcement)
    with suppress(*_UNDECODABLE):
        return msgspec.json.decode(value, type=ReleasePin)
    with suppress(*_UNDECODABLE):
        return msgspec.json.decode(value, type=Experiment)
    return None


class _MergedSource:
    """One feed of several: opened when it is needed, closed when it fails, opened again after a pause."""

    def __init__(self, name: str, open_feed: Callable[[], Feed], now_s: Callable[[], float]) -> None:
        self._name = name
        self._open = open_feed
        self._now_s = now_s
        self._feed: Feed | None = None
        self._reopen_at_s = 0.0
        self._failure: str | None = None
        self._registry: Registry | None = None

    def registry(self) -> Registry | None:
        """The feed's registry; while the feed fails, that before the failure.

        The last known ones count on: without them an older announcement of another feed would be the newest of all,
        and a failure would take a release back.
        """
        if self._feed is None and self._now_s() < self._reopen_at_s:
            return self._registry
        try:
            self._feed = self._feed or self._open()
            self._registry = self._feed.registry()
        except (ReleaseError, EventLogError, OSError) as error:
            self._fail(error)
        else:
            self._recover()
        return self._registry

    def close(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def _fail(self, error: Exception) -> None:
        """Close the feed, and log its failure once."""
        try:
            self.close()
        except (ReleaseError, EventLogError, OSError) as close_error:
            logger.debug("%s: closing failed: %s", self._name, close_error)
        if isinstance(error, EventLogError):
            self._reopen_at_s = self._now_s() + _REOPEN_S
        if self._failure != str(error):
            logger.warning("%s cannot be followed, trying again: %s", self._name, error)
        self._failure = str(error)

    def _recover(self) -> None:
        if self._failure is not None:
            logger.info("%s can be followed again", self._name)
        self._failure = None


class MergedFeed:
    """The announcements of several feeds: the newest of all counts, and a feed that fails does not stop the others.

    Args:
        model: the one that is followed.
        openers: what opens each feed, by the name that the log calls it, such as the setting it comes from.
        now_s: a monotonic clock.
    """

    def __init__(
        self, model: str, openers: Mapping[str, Callable[[], Feed]], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._model = model
        self._sources = [_MergedSource(name, open_feed, now_s) for name, open_feed in openers.items()]

    def live(self) -> list[Announcement]:
        """Announcements of the live releases in all feeds, newest first; a feed that fails is logged."""
        return self.registry().live()

    def registry(self) -> Registry:
        """The registry of all feeds; a feed that fails is logged."""
        registries = [source.registry() for source in self._sources]
        return reduce(Registry.merged, filter(None, registries), Registry(self._model))

    def close(self) -> None:
        """Close every feed.

        Raises:
            EventLogError: one could not be closed; the others are.
        """
        failure: EventLogError | None = None
        for source in self._sources:
            try:
                source.close()
            except EventLogError as error:
                failure = error
        if failure is not None:
            raise failure


def open_feed(settings: ReleaseSettings, log: EventLog, topic: TopicSpec | None = None) -> MergedFeed:
    """The announcements that the settings follow: those on the topic and, where one is set, those in the folder.

    Nothing is opened before `MergedFeed.live` is called.

    Args:
        settings: what to follow.
        log: has the topic.
        topic: how to create the topic where it is missing; by the log's defaults where None.
    """

    def open_topic() -> Feed:
        log.ensure_topics([topic or TopicSpec(settings.topic, compacted=True)])
        return TopicFeed(log.reader([settings.topic]), settings.model)

    openers: dict[str, Callable[[], Feed]] = {f"releases.topic {settings.topic!r}": open_topic}
    if settings.folder is not None:
        folder = settings.folder
        openers[f"releases.folder {folder}"] = lambda: FolderFeed(folder, settings.model)
    return MergedFeed(settings.model, openers)


def _announced_ms(announcement: Announcement) -> int:
    return announcement.announced_ms
