"""Fetches, verifies and warms announced releases in the background; the worker takes them between two batches."""

import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from engine import contract
from engine.catalogue.ids import Catalogue
from engine.errors import DamagedReleaseError, EventLogError, HeadraceError, ReleaseError
from engine.messages.announcement import Announcement
from engine.metrics import Metrics
from engine.releases import bundles, serving
from engine.releases.announcements import Feed, copy_bundle
from engine.releases.bundles import Bundle
from engine.releases.serving import LiveRelease
from engine.settings.sections import Settings

logger = logging.getLogger(__name__)


class ReleaseLoader:
    """Follows the feeds in a thread of its own.

    A release that is damaged or does not fit is refused by name, counted, and not tried again until it is announced
    anew; what is in use goes on.
    """

    def __init__(
        self, settings: Settings, catalogue: Catalogue, metrics: Metrics, feeds: Callable[[], Sequence[Feed]]
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._metrics = metrics
        self._open_feeds = feeds
        self._ready: LiveRelease | None = None
        self._arrived = threading.Event()
        self._stop = threading.Event()
        self._done: tuple[str, int] | None = None  # version and time of the announcement handled last
        self._thread = threading.Thread(target=self._run, name="headrace-releases", daemon=True)

    def start(self) -> None:
        """Warm the release of the settings, if one is named, then follow the feeds.

        Raises:
            ReleaseError: the release named in the settings cannot be used.
        """
        if self._settings.releases.path:
            self._offer(bundles.read(self._settings.releases.path))
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until a release is ready to be taken; False after `timeout_s` without one."""
        return self._arrived.wait(timeout_s)

    def take(self) -> LiveRelease | None:
        """The newest release that became ready since the last call."""
        if not self._arrived.is_set():
            return None
        self._arrived.clear()
        return self._ready

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        feeds: Sequence[Feed] = ()
        try:
            while not self._stop.is_set():
                try:
                    feeds = feeds or self._open_feeds()
                    self._look(feeds)
                except EventLogError as error:
                    logger.warning("releases cannot be followed, trying again: %s", error)
                self._stop.wait(self._settings.releases.poll_interval_s)
        finally:
            for feed in feeds:
                feed.close()

    def _look(self, feeds: Sequence[Feed]) -> None:
        found = [newest for feed in feeds if (newest := self._newest(feed))]
        newest = max(found, key=lambda one: one.announced_ms, default=None)
        if newest is None or (newest.version, newest.announced_ms) == self._done:
            return
        self._done = (newest.version, newest.announced_ms)
        try:
            self._offer(self._fetch(newest))
        except (HeadraceError, OSError) as error:
            self._refuse(f"{newest.model}-{newest.version}", error)

    def _newest(self, feed: Feed) -> Announcement | None:
        try:
            return feed.newest()
        except ReleaseError as error:
            logger.warning("%s", error)
            return None

    def _fetch(self, announcement: Announcement) -> Bundle:
        """Read an announced bundle from a copy of our own, so that nobody changes it after it was verified."""
        source = Path(announcement.bundle)
        with tempfile.TemporaryDirectory(prefix="headrace-release-") as folder:
            copy = copy_bundle(source, Path(folder))
            if bundles.checksum(copy / contract.MANIFEST_FILE) != announcement.manifest_checksum:
                raise DamagedReleaseError(f"release {source}: its manifest is not the one that was announced")
            return bundles.read(copy)

    def _offer(self, bundle: Bundle) -> None:
        self._ready = serving.warm(bundle, self._catalogue, self._settings.index, self._settings.worker.threads)
        self._arrived.set()
        logger.info("release %s is warm (%d items)", self._ready.name, len(self._ready.index))

    def _refuse(self, name: str, error: Exception) -> None:
        reason = type(error).__name__.removesuffix("Error")
        self._metrics.release_refusals.labels(reason).inc()
        logger.error("release %s refused, the old one goes on: %s", name, error)
