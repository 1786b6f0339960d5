"""The windows and the release that a server computes by, followed as a worker's standby follows them.

    topic windows  ──> restorer ──> windows, popularity of seven days, events of the last hour
    topic releases ──> release_loader ──> a warm release

All of it belongs to one thread, which calls `step` again and again and computes in between: nothing is locked.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from engine.arrays import FIRST_SEARCH
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import EventLogError
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog
from engine.eventlog.time_source import TimeSource
from engine.metrics import Metrics
from engine.pipeline import Recommender, begin_counts
from engine.ranking.click_counts import ClickCounts
from engine.ranking.trending import RecentEvents
from engine.releases.announcements import open_feed
from engine.releases.release_loader import ReleaseLoader
from engine.releases.serving import LiveRelease
from engine.retrieval import features
from engine.settings.sections import Settings, SnapshotSettings
from engine.view.followed_windows import FollowedWindows, NewEvents
from engine.windows.restorer import Restorer
from engine.windows.snapshots import Snapshots

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 30.0
"""Between two looks at the number of partitions of the changelog."""
_MISSING_EVERY_S: Final = 1.0
"""The same while there is no changelog yet."""
_PAUSE_S: Final = 2.0
"""After a failure of the log."""


class Standby:
    """Windows, popularity and the release in use of a server."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        metrics: Metrics,
        observe: Callable[[NewEvents], None] = lambda _events: None,
        time: TimeSource | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            settings: those of the workers.
            log: has the topics.
            metrics: of the server.
            observe: takes the events that come into windows once all windows have been read, on the thread of `step`.
            time: the clocks.
        """
        standby = settings.windows.model_copy(update={"standby": True})
        self.settings = settings = settings.model_copy(update={"windows": standby})
        self.time = time or TimeSource()
        self.metrics = metrics
        self.catalogue = Catalogue()
        self.actions = Actions(settings.clicks)
        self.recent = RecentEvents()
        self.windows = FollowedWindows(settings, self.catalogue, self.actions, self._count)
        self._counts = ClickCounts(settings, self.actions.weights, self.windows.store)
        self.popularity = self._counts.popularity
        self.live: LiveRelease | None = None
        self.recommender: Recommender | None = None
        self._observe = observe
        self._log = log
        # Those of a worker on this machine are left alone: one that is ahead of a reader's end would be thrown away.
        snapshots = Snapshots(SnapshotSettings(), self.catalogue, self.actions)
        self._restorer = Restorer(settings, log, self.windows, snapshots, metrics, self.time)
        releases, topic = settings.releases, topic_plan.releases(settings)
        self._loader = ReleaseLoader(
            settings, self.catalogue, metrics, lambda: open_feed(releases, log, topic), with_trials=False
        )
        self._partitions = 0
        self._identity = ""
        """Of the changelog (`EventLog.identity`)."""
        self._look_due_s = 0.0
        self._looker = ThreadPoolExecutor(1, "headrace-look")
        self._looking: Future[tuple[int, str]] | None = None
        self._failure: str | None = None
        self._is_warm = False

    @property
    def no_release(self) -> str | None:
        """Why nothing can be computed; None once a release is live. May be read by any thread."""
        return None if self.live else f"no release of model {self.settings.releases.model!r} is live yet"

    @property
    def not_ready(self) -> str | None:
        """Why lists of users cannot be computed; None when they can. May be read by any thread."""
        if not self._partitions and not self._is_warm:
            missing = f"topic {self.settings.windows.topic!r} (windows.topic) does not exist yet"
            return self._failure or missing
        return self.no_release or (None if self._is_warm else "windows are being read")

    def start(self) -> None:
        """Begin to look for releases.

        Raises:
            ReleaseError: the release named in the settings cannot be used.
        """
        self._loader.start()
        self.take_release()

    def step(self) -> None:
        """Follow a little further; a failure of the log is logged, and what is held stays."""
        try:
            self._look()
            if self._partitions:
                self._restorer.step(0.0)
                self._is_warm = not self._restorer.behind()
                self._failure = None
        except EventLogError as error:
            self._again(error)
        self.take_release()
        self._counts.step()
        if not self._restorer.reads_snapshots():
            self._sweep()

    def is_behind(self) -> bool:
        """Whether windows are still to be read: steps should follow one another."""
        return (self._restorer.behind() and self._failure is None) or self._counts.waits

    def close(self) -> None:
        """Stop following."""
        self._looker.shutdown(wait=False, cancel_futures=True)
        try:
            self._restorer.close()
        except EventLogError as error:
            logger.debug("closing a reader of windows failed: %s", error)
        self._loader.close()

    def take_release(self) -> None:
        """Serve by the newest release that became ready."""
        release = self._loader.take()
        if release is None:
            return
        begin_counts(self._counts, release)
        if self.live is not None:
            self.metrics.release.labels(self.live.manifest.model, self.live.manifest.version).set(0)
        learned = release.manifest.action_values
        weights = features.action_weights(self.actions.weights, self.actions.codes, learned)
        self.recommender = Recommender(self.settings.recommendations, weights, self.popularity, self._counts.neighbours)
        self.live = release
        self.metrics.release.labels(release.manifest.model, release.manifest.version).set(1)
        self.metrics.release_swaps.inc()
        self.metrics.index_items.set(len(release.index))
        logger.info("release %s is live", release.name)

    def set_gauges(self) -> None:
        """Bring the metrics of sizes up to date."""
        self.metrics.users.set(len(self.windows))
        self.metrics.window_bytes.set(self.windows.store.nbytes)
        self.metrics.items.set(len(self.catalogue))
        self.metrics.stream_items.set(0 if self._counts.neighbours is None else len(self._counts.neighbours))

    def _look(self) -> None:
        """Follow the partitions that there are, those that were added too.

        A thread of its own asks the broker: one that is away would keep requests waiting until a time limit.
        """
        if self._looking is None and self.time.monotonic_s() >= self._look_due_s:
            self._looking = self._looker.submit(self._topic)
        if self._looking is None or not self._looking.done():
            return
        looking, self._looking = self._looking, None
        partitions, identity = looking.result()
        self._look_due_s = self.time.monotonic_s() + (_LOOK_EVERY_S if partitions else _MISSING_EVERY_S)
        if partitions and self._identity not in {"", identity}:
            logger.warning("the topic of windows was deleted and created again: its windows are dropped here, too")
            self._restorer.close()
            self.windows.clear()
            self._partitions = 0
        self._identity = identity or self._identity
        if partitions != self._partitions:
            self._partitions = partitions
            share = self.settings.serve.partitions
            numbers = range(partitions) if share is None else [number for number in share if number < partitions]
            self._restorer.stand_by(numbers)

    def _topic(self) -> tuple[int, str]:
        """Partitions and identity of the changelog; no identity where it does not exist."""
        topic = self.settings.windows.topic
        partitions = self._log.partitions(topic)
        return partitions, self._log.identity(topic) if partitions else ""

    def _again(self, error: EventLogError) -> None:
        """Have new readers opened after a pause, which go on where the old ones were; what is held serves meanwhile."""
        self.metrics.restarts.inc()
        if str(error) != self._failure:
            logger.error("windows cannot be followed, trying again: %s", error)
        self._failure = str(error)
        self._look_due_s = self.time.monotonic_s() + _PAUSE_S
        self._partitions = 0

    def _count(self, events: NewEvents) -> None:
        """Count new events as a worker counts clicks, and report them once all windows are here."""
        self._counts.add(events.windows, events.is_new)
        positive = (self.actions.weights[events.actions] > 0) & (events.items < FIRST_SEARCH)
        self.recent.add(events.items[positive], events.times_ms[positive])
        if self._is_warm:
            self._observe(events)

    def _sweep(self) -> None:
        """Free what the catalogue holds for no window and no release, as a worker does."""
        sweep = self.windows.sweep()
        if sweep.searches and self.live is not None:
            self.live.forget_searches()
        if len(sweep.items):
            self._counts.forget_items(sweep.items)
            self.recent.forget(sweep.items)
            self.metrics.freed_items.inc(len(sweep.items))
