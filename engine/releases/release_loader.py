"""Releases fetched, verified and warmed in the background; the worker takes them between two batches.

Whatever a bundle or an announcement holds, the thread goes on: a release that cannot be served is refused by name and
counted, and the newest that can be is served instead.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from engine import contract
from engine.catalogue.ids import Catalogue
from engine.errors import DamagedReleaseError, ReleaseError, UnfitReleaseError
from engine.messages.announcement import Announcement
from engine.messages.experiment_messages import Experiment
from engine.metrics import Metrics
from engine.releases import bundles, probe, remote, serving
from engine.releases.announcements import Feed
from engine.releases.bundles import Bundle
from engine.releases.local_copies import LocalCopies
from engine.releases.registry import MAX_AHEAD_MS, Registry
from engine.releases.serving import LiveRelease
from engine.retrieval import index
from engine.retrieval.index import Graph, Index
from engine.settings.sections import Settings

logger = logging.getLogger(__name__)

_KEPT_GRAPHS: Final = 3
"""Of the live release, the one before it, and a canary."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A warm release for a share of the users."""

    announcement: Announcement
    release: LiveRelease


@dataclass(frozen=True, slots=True)
class RunningExperiment:
    """An experiment with the releases of its arms, as far as they could be made ready here."""

    experiment: Experiment
    releases: Mapping[str, LiveRelease]
    """By version, those of arms that have their own."""
    refusals: Mapping[str, str]
    """By version, the reason for which a release cannot be served here."""


@dataclass(slots=True)
class _PartialExperiment:
    """An experiment whose releases are made ready, one at each look, so that a rollback waits for one at most."""

    experiment: Experiment
    missing: list[str]
    """Versions that were not tried yet."""
    releases: dict[str, LiveRelease] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Experiment) -> "_PartialExperiment":
        """An experiment of which nothing is ready but the live release."""
        versions = {arm.version: None for arm in experiment.arms if arm.version not in {"", experiment.base_version}}
        return cls(experiment, [*versions])


@dataclass(frozen=True, slots=True)
class TrialChange:
    """A canary or an experiment that begins, or, with None, one that is over."""

    trial: Canary | RunningExperiment | None


class ReleaseSource(Protocol):
    """Warm releases, ready to be taken by a worker."""

    def start(self) -> None:
        """Begin to look for releases.

        Raises:
            ReleaseError: the release named in the settings cannot be used.
        """
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait until a release is ready to be taken; False after `timeout_s` without one."""
        ...

    def take(self) -> LiveRelease | None:
        """The newest release that became ready since the last call."""
        ...

    def take_trial(self) -> TrialChange | None:
        """The change of the canary or experiment since the last call, to be taken after the release."""
        ...

    def close(self) -> None:
        """Stop looking."""
        ...


class ReleaseLoader:
    """Follows a feed of announcements in a thread of its own.

    A release that is damaged or unfit is refused once, and not tried again until it is announced again; the release in
    use goes on. Before the first one, the next older announcement is tried.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        metrics: Metrics,
        open_feed: Callable[[], Feed],
        *,
        with_trials: bool = True,
    ) -> None:
        """Follow nothing yet.

        Args:
            settings: of releases, the index and the worker.
            catalogue: numbers the items.
            metrics: count what is refused.
            open_feed: opens the feed.
            with_trials: make canaries and the arms of experiments ready, too.
        """
        self._settings = settings
        self._with_trials = with_trials
        self._catalogue = catalogue
        self._metrics = metrics
        self._open_feed = open_feed
        self._ready: LiveRelease | None = None
        self._arrived = threading.Event()
        self._stop = threading.Event()
        self._current: Announcement | None = None
        self._refused: list[Announcement] = []
        self._copies = LocalCopies()
        self._way_back: Announcement | None = None
        self._graphs: dict[str, Graph] = {}
        self._trial: Canary | RunningExperiment | None = None
        self._trial_record: Announcement | Experiment | None = None
        self._trial_change: TrialChange | None = None
        self._partial: _PartialExperiment | None = None
        self._experiment_releases = 0
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="headrace-releases", daemon=True)

    def start(self) -> None:
        """Warm the release of the settings, if one is named, then follow the feed.

        Raises:
            ReleaseError: the release named in the settings cannot be used.
        """
        if self._settings.releases.path:
            probe.check(self._settings.releases.path, self._settings.releases, self._stop)
            bundle, threads = bundles.read(self._settings.releases.path), self._settings.worker.threads
            self._offer(serving.warm(bundle, self._catalogue, self._settings.index, threads))
            logger.info("release %s is warm (%d items)", bundle.manifest.name, bundle.manifest.items)
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

    def take_trial(self) -> TrialChange | None:
        """The change of the canary or experiment since the last call, to be taken after the release."""
        if self._arrived.is_set():
            return None  # the live release comes first
        change, self._trial_change = self._trial_change, None
        return change

    def close(self) -> None:
        """Stop following; a release that is being tried is given up."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        feed: Feed | None = None
        try:
            while not self._stop.is_set():
                try:
                    feed = feed or self._open_feed()
                    self._follow_all(feed.registry())
                    self._failure = ""
                except Exception as error:  # noqa: BLE001 - a thread that dies would silence every later release
                    self._report(error)
                self._stop.wait(self._settings.releases.poll_interval_s)
        finally:
            self._copies.close()
            if feed is not None:
                feed.close()

    def _follow_all(self, registry: Registry) -> None:
        live, canary, experiment = registry.live(), registry.canary(), registry.experiment()
        if not self._with_trials:
            canary = experiment = None
        of_arms = [] if experiment is None else [registry.versions.get(arm.version) for arm in experiment.arms]
        announced = [*live, *filter(None, [canary, *of_arms])]
        self._refused = [announcement for announcement in self._refused if announcement in announced]
        self._follow(live)
        self._follow_trial(canary if experiment is None else self._fitting(experiment), registry)
        self._prepare_way_back(live)

    def _fitting(self, experiment: Experiment) -> Experiment | None:
        """The experiment, if this worker serves by the release that is its base."""
        return experiment if self._current and self._current.version == experiment.base_version else None

    def _follow_trial(self, record: Announcement | Experiment | None, registry: Registry) -> None:
        """Make a canary or an experiment ready that has been announced; end the one that is none any more."""
        if self._partial is not None and record != self._partial.experiment:
            self._partial = None
            self._make_room_for(0)
        if record == self._trial_record or self._stop.is_set():
            return
        if self._trial is not None:
            self._end_trial(self._trial)
        if record is None or record in self._refused or self._current is None:
            return
        trial = self._experiment(record, registry) if isinstance(record, Experiment) else self._canary(record)
        if trial is not None and not self._stop.is_set():
            self._trial, self._trial_record, self._trial_change = trial, record, TrialChange(trial)

    def _end_trial(self, trial: Canary | RunningExperiment) -> None:
        """Let go of the graphs that nobody else needs."""
        if isinstance(trial, Canary) and not self._is_current(trial.announcement):
            self._graphs.pop(trial.announcement.manifest_checksum, None)
        self._make_room_for(0)
        self._trial, self._trial_record, self._trial_change = None, None, TrialChange(None)

    def _canary(self, announcement: Announcement) -> Canary | None:
        release, _ = self._warm_or_refuse(announcement)
        return None if release is None else Canary(announcement, release)

    def _experiment(self, experiment: Experiment, registry: Registry) -> RunningExperiment | None:
        """The experiment, once every release of its arms was made ready or refused; None before."""
        if self._partial is None:
            self._partial = _PartialExperiment.of(experiment)
            self._make_room_for(len(self._partial.missing))
        partial = self._partial
        if partial.missing:
            self._make_ready(partial, partial.missing.pop(0), registry)
        if partial.missing:
            return None
        self._partial = None
        return RunningExperiment(experiment, partial.releases, partial.refusals)

    def _make_ready(self, partial: _PartialExperiment, version: str, registry: Registry) -> None:
        """Make one release of an arm ready, or refuse it."""
        announcement = registry.versions.get(version)
        if announcement is None:
            partial.refusals[version] = f"no version {version!r} is announced any more; publish it again"
            return
        release, reason = self._warm_or_refuse(announcement)
        if release is None:
            partial.refusals[version] = reason
        else:
            partial.releases[version] = release

    def _warm_or_refuse(self, announcement: Announcement) -> tuple[LiveRelease | None, str]:
        """The release, or None and the reason for which it cannot be served."""
        try:
            return self._warm(announcement), ""
        except Exception as error:  # noqa: BLE001 - whatever a bundle may cause is a reason to refuse it
            if not self._stop.is_set():
                self._refuse(announcement, error)
            return None, str(error)

    def _make_room_for(self, releases: int) -> None:
        """Keep copies and graphs of so many releases of arms, in addition to those of every worker."""
        self._experiment_releases = releases
        self._copies.keep(releases)

    def _follow(self, live: list[Announcement]) -> None:
        """Make the newest release ready that can be served; nothing to do where it is the current one."""
        for announcement in live:
            if self._is_current(announcement) or self._stop.is_set():
                return
            if announcement not in self._refused and self._try(announcement):
                self._current = announcement
                return

    def _prepare_way_back(self, live: list[Announcement]) -> None:
        """Fetch, try and index the release before the current one, once, so that a rollback takes a moment."""
        candidates = [known for known in live if known not in self._refused]
        current = next((index for index, known in enumerate(candidates) if self._is_current(known)), None)
        previous = candidates[current + 1] if current is not None and current + 1 < len(candidates) else None
        if previous is None or previous == self._way_back or self._stop.is_set():
            return
        self._way_back = previous
        try:
            bundle, graph = self._fetch(previous), self._graphs.get(previous.manifest_checksum)
            built = index.build(bundle.vectors, self._settings.index, self._settings.worker.threads, graph)
            self._keep_graph(previous.manifest_checksum, built)
        except Exception as error:  # noqa: BLE001 - it is refused by name when it is gone back to
            logger.debug("release %s cannot be kept ready: %s", previous.name, error)

    def _is_current(self, announcement: Announcement) -> bool:
        """Whether the release is in use; one that is announced again unchanged is."""
        return self._current is not None and _is_same(self._current, announcement)

    def _try(self, announcement: Announcement) -> bool:
        """Whether the release could be made ready; the reason is logged and counted where not."""
        try:
            trial = self._trial
            is_warm = isinstance(trial, Canary) and _is_same(trial.announcement, announcement)
            self._offer(trial.release if isinstance(trial, Canary) and is_warm else self._warm(announcement))
        except Exception as error:  # noqa: BLE001 - whatever a bundle may cause is a reason to refuse it
            if not self._stop.is_set():
                self._refuse(announcement, error)
            return False
        return True

    def _fetch(self, announcement: Announcement) -> Bundle:
        """Read an announced bundle from a copy of our own, so that nobody changes it after it was verified."""
        ahead_ms = announcement.announced_ms - time.time_ns() // 1_000_000
        if ahead_ms > MAX_AHEAD_MS:
            raise UnfitReleaseError(
                f"its announcement is dated {ahead_ms // 1000} s in the future (announced_ms ="
                f" {announcement.announced_ms}), expected now; set the publisher's clock and publish it again"
            )
        checksum = announcement.manifest_checksum
        if (copy := self._copies.find(checksum)) is not None:
            with suppress(ReleaseError):
                return bundles.read(copy)
            self._copies.drop(checksum)  # somebody cleaned the folder for temporary files
        source = announcement.bundle
        with tempfile.TemporaryDirectory(prefix="headrace-release-") as folder:
            copy = remote.fetch(source, Path(folder))
            if bundles.checksum(copy / contract.MANIFEST_FILE) != checksum:
                raise DamagedReleaseError(f"release {source}: its manifest is not the one that was announced")
            manifest = bundles.read_manifest(copy)
            if (manifest.model, manifest.version) != (announcement.model, announcement.version):
                raise UnfitReleaseError(
                    f"release {source} is {manifest.name}, but was announced as {announcement.name}; publish it again"
                )
            probe.check(copy, self._settings.releases, self._stop)
            return bundles.read(self._copies.add(checksum, copy))

    def _warm(self, announcement: Announcement) -> LiveRelease:
        bundle, checksum = self._fetch(announcement), announcement.manifest_checksum
        settings, threads = self._settings.index, self._settings.worker.threads
        release = serving.warm(bundle, self._catalogue, settings, threads, self._graphs.get(checksum))
        self._keep_graph(checksum, release.index)
        logger.info("release %s is warm (%d items)", release.name, len(release.index))
        return release

    def _keep_graph(self, checksum: str, built: Index) -> None:
        """Keep the graphs of the current release, the one before and those of a trial, for the way back."""
        self._graphs.pop(checksum, None)
        if (graph := index.graph_of(built)) is not None:
            self._graphs[checksum] = graph
        for oldest in [*self._graphs][: -_KEPT_GRAPHS - self._experiment_releases]:
            del self._graphs[oldest]

    def _offer(self, release: LiveRelease) -> None:
        self._ready = release
        self._arrived.set()

    def _refuse(self, announcement: Announcement, error: Exception) -> None:
        self._refused.append(announcement)
        reason = type(error).__name__.removesuffix("Error") if isinstance(error, ReleaseError) else "Unfit"
        self._metrics.release_refusals.labels(reason).inc()
        logger.error("release %s is refused, the newest that can be served goes on: %s", announcement.name, error)

    def _report(self, error: Exception) -> None:
        """Log why announcements cannot be followed, once for each cause."""
        text = f"{type(error).__name__}: {error}"
        if text != self._failure:
            logger.error("releases cannot be followed, trying again: %s", text)
        self._failure = text


def _is_same(first: Announcement, second: Announcement) -> bool:
    """Whether two announcements are of one bundle."""
    return (first.version, first.manifest_checksum) == (second.version, second.manifest_checksum)
