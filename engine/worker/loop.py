"""The loop: poll clicks, process them, and take a new release between two batches."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from threadpoolctl import threadpool_limits

from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import EventLogError
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Partition, Rebalance, Session
from engine.eventlog.share_watch import ShareWatch
from engine.eventlog.time_source import TimeSource
from engine.metrics import Metrics
from engine.releases.announcements import open_feed
from engine.releases.release_loader import Canary, ReleaseLoader, ReleaseSource, RunningExperiment
from engine.settings.sections import Settings
from engine.windows.restorer import Restorer
from engine.windows.saver import Saver
from engine.windows.snapshots import Snapshots
from engine.worker import impression_follower
from engine.worker.access import Access
from engine.worker.batch import BatchReport, Processor
from engine.worker.canary_watch import CanaryWatch
from engine.worker.changelog_guard import ChangelogGuard
from engine.worker.growth import Growth
from engine.worker.lag import LagGauges
from engine.worker.rekeyer import Rekeyer
from engine.worker.tracing import Tracing

logger = logging.getLogger(__name__)

_GAUGES_EVERY_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 5.0
_NO_RELEASE_EVERY_S: Final = 60.0
_SILENT_S: Final = 5.0
"""Time without an answer from any broker, of which heartbeats bring one a second, after which a worker is not ready."""
_SETTLED_S: Final = 30.0
"""After a session that lasted this long the pauses start again at the first."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Time, releases, the background thread and traces of a worker: what a simulation or a program replaces."""

    time: TimeSource = field(default_factory=TimeSource)
    releases: Callable[[Catalogue], ReleaseSource] | None = None
    """Opens the source of releases, whose items are numbered by the catalogue; the settings' own where None."""
    executor: Callable[[], Executor] = lambda: ThreadPoolExecutor(1, "snapshots")
    """Opens what writes snapshots beside the loop, once a session."""
    tracing: Tracing = field(default_factory=Tracing)


class Worker:
    """One member of the consumer group.

    `run` serves in the calling thread until it is told to stop. A scheduler that has several workers in one thread
    calls `start`, then `step` again and again, and `close`.
    """

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        metrics: Metrics,
        observe: Callable[[BatchReport], None] = lambda _report: None,
        environment: Environment | None = None,
    ) -> None:
        self._log = log
        self._metrics = metrics
        self._environment = environment or Environment()
        self._time = self._environment.time
        self._rekeyer = Rekeyer(settings, log, metrics, self._time) if settings.clicks.rekey else None
        self._settings = settings = _behind_rekeyer(settings) if settings.clicks.rekey else settings
        catalogue = Catalogue()
        self._processor = Processor(settings, catalogue, metrics, observe, self._time)
        self._processor.tracing = self._environment.tracing
        self._releases = self._open_releases(catalogue)
        self._snapshots = Snapshots(settings.snapshots, catalogue, Actions(settings.clicks))
        # A simulation, which replaces the releases, has no threads.
        self._canary_watch = CanaryWatch(settings, log, metrics) if self._environment.releases is None else None
        self._follower: impression_follower.ImpressionFollower | None = None
        self._restorer = Restorer(settings, log, self._processor.windows, self._snapshots, metrics, self._time)
        self._session: Session | None = None
        self._saver: Saver | None = None
        self._joined_s = 0.0
        self._growth = Growth(settings, 0)
        self._share_watch = ShareWatch(settings.kafka.stall_timeout_s)
        self._pause_s = _FIRST_PAUSE_S
        self._gauges_due_s = 0.0
        self.heartbeat_s = self._time.monotonic_s()
        self._not_ready: str | None = "the worker has not started yet"
        """Written by the loop, read by any thread."""
        self._lag = LagGauges(metrics, log, self._time)
        self._access = Access(settings.kafka.first_connect_timeout_s)
        self._changelog_guard = ChangelogGuard(settings)
        self._no_release_due_s = 0.0

    @property
    def release_name(self) -> str | None:
        """The release in use, None before the first."""
        return self._processor.live.name if self._processor.live else None

    @property
    def not_ready(self) -> str | None:
        """Why this worker serves nobody at the moment; None when it does. May be read by any thread."""
        silent_s = self.broker_silent_s
        if silent_s > _SILENT_S:
            return f"no broker has answered for {silent_s:.0f} s (kafka.bootstrap_servers)"
        return self._not_ready

    @property
    def broker_silent_s(self) -> float:
        """Time since any broker answered; 0 without a session. May be read by any thread."""
        session = self._session
        return session.silent_s() if session is not None else 0.0

    @property
    def loop_idle_s(self) -> float:
        """Time since the last turn of the loop. May be read by any thread."""
        return max(0.0, self._time.monotonic_s() - self.oldest_heartbeat_s)

    @property
    def oldest_heartbeat_s(self) -> float:
        """Time of the last turn of the loop, or of the one that keys clicks by user where that is longer ago."""
        return self.heartbeat_s if self._rekeyer is None else min(self.heartbeat_s, self._rekeyer.heartbeat_s)

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set. A failure of the log ends in a new session that starts from the last commit.

        Raises:
            ReleaseError: the release named in the settings cannot be used.
            EventLogError: the cluster has refused the login, or a right, since the start.
        """
        try:
            self.start()
            # The matrices of a batch are small: more BLAS threads than asked for only wait for one another.
            with threadpool_limits(self._settings.worker.threads, user_api="blas"):
                while not stop.is_set():
                    stop.wait(self.step())
        finally:
            self.close()

    def start(self) -> None:
        """Begin to look for releases.

        Raises:
            ReleaseError: the release named in the settings cannot be used.
        """
        if self._rekeyer is not None:
            self._rekeyer.start()
        self._releases.start()
        if self._canary_watch is not None:
            self._canary_watch.start()

    def step(self) -> float:
        """One turn of the loop; returns the seconds to pause before the next.

        The first turn joins the group, and so does the one after a failure of the log.

        Raises:
            SettingsError: the topics do not fit one another, or the changelog is another deployment's.
        """
        self.heartbeat_s = self._time.monotonic_s()
        try:
            if self._rekeyer is not None:
                self._rekeyer.check()
            if self._session is None and not self._join():
                return 0.0
            self._serve()
        except EventLogError as error:
            return self._leave_after(error)
        except BaseException:
            self._leave(in_order=False)
            raise
        return 0.0

    def close(self) -> None:
        """Leave the group in order, write snapshots of all windows, and stop looking for releases."""
        try:
            self._leave(in_order=True)
        finally:
            self._releases.close()
            if self._follower is not None:
                self._follower.close()
            if self._canary_watch is not None:
                self._canary_watch.close()
            if self._rekeyer is not None:
                self._rekeyer.close()

    def _open_releases(self, catalogue: Catalogue) -> ReleaseSource:
        if self._environment.releases is not None:
            return self._environment.releases(catalogue)
        settings, log = self._settings, self._log
        return ReleaseLoader(
            settings, catalogue, self._metrics, lambda: open_feed(settings.releases, log, topic_plan.releases(settings))
        )

    def _join(self) -> bool:
        """Open a session as soon as there is a release to serve by; False while there is none."""
        if self._processor.live is None:
            self._not_ready = "no release is live yet"
            self._access.check(self._log, self._settings.clicks.topic)
            self._releases.wait(self._settings.worker.poll_timeout_s)
            self._take_release()
            if self._processor.live is None:
                self._report_no_release()
            return False
        self._joined_s = self.heartbeat_s
        self._share_watch = ShareWatch(self._settings.kafka.stall_timeout_s)
        self._not_ready = "no partition is assigned yet"
        if self._rekeyer is not None:
            self._rekeyer.prepare_topics()
        self._changelog_guard.before(self._log)
        partitions = topic_plan.prepare(self._log, self._settings)
        self._changelog_guard.after(self._log)
        topic = self._settings.clicks.topic
        self._processor.expect(topic, self._log.partitions(topic))  # of which some may have no windows yet
        self._growth = Growth(self._settings, partitions)
        if self._rekeyer is None:
            topic_plan.begin(self._log, self._settings)
        rebalance = Rebalance(assigned=self._assigned, revoked=self._given_up, lost=self._given_up)
        self._session = self._log.session([self._settings.clicks.topic], self._settings.kafka.group, rebalance)
        self._restorer.stand_by(range(partitions))
        windows, executor = self._processor.windows, self._environment.executor()
        self._saver = Saver(self._settings, windows, self._snapshots, self._restorer, executor)
        return True

    def _serve(self) -> None:
        session, saver = self._session, self._saver
        if session is None or saver is None:
            raise RuntimeError("a turn was taken outside any session")
        self._turn(session)
        saver.step(self.heartbeat_s)
        if not (saver.writes() or self._restorer.reads_snapshots()):
            self._processor.sweep()

    def _leave_after(self, error: EventLogError) -> float:
        """Throw the session away; returns the pause before a new one starts from the last commit."""
        now_s = self._time.monotonic_s()
        lasted = self._session is not None and now_s - self._joined_s > _SETTLED_S
        try:
            self._leave(in_order=False)
        except EventLogError as close_error:
            logger.debug("closing the session failed: %s", close_error)
        self._access.failed(error, now_s, lasted=lasted)
        self._metrics.restarts.inc()
        self._pause_s = _FIRST_PAUSE_S if lasted else min(2 * self._pause_s, _LONGEST_PAUSE_S)
        logger.error("the event log failed, again in %.1f s from the last commit: %s", self._pause_s, error)
        self._not_ready = f"the event log failed: {error}"
        return self._pause_s

    def _leave(self, *, in_order: bool) -> None:
        """Close the session; windows and snapshots under way are its own, and go with it."""
        session, saver = self._session, self._saver
        self._session = self._saver = None
        if session is None:
            return
        self._not_ready = "the worker has left its group"
        try:
            session.close()  # first, so that the others can take over while this worker writes its snapshots
            if in_order and saver is not None:
                saver.finish()
        finally:
            if saver is not None:
                saver.close()
            self._restorer.close()
            self._processor.clear()
            self._lag.clear()

    def _turn(self, session: Session) -> None:
        settings = self._settings.worker
        has_reports = self._processor.take_impressions()
        has_work = self._processor.count_restored() or self._restorer.behind() or has_reports
        polled = session.poll(0.0 if has_work else settings.poll_timeout_s, settings.max_batch_clicks)
        self._report_deleted(session)
        if polled:
            with self._environment.tracing.batch(polled):
                self._processor.process(polled, session)
            self._lag.read(polled)
            self._access.served()
            self._read_again(session)
        restored = self._restorer.step(settings.poll_timeout_s)
        if restored:
            self._processor.restored(restored)
            self._processor.rewrite(restored, session)
            session.resume([Partition(self._settings.clicks.topic, number) for number in restored])
        self._take_release()
        if self._growth.is_due(self.heartbeat_s):
            self._growth.look(self.heartbeat_s, self._log.partitions(self._settings.windows.topic))
        if self._share_watch.is_due(self.heartbeat_s):
            self._share_watch.look(self.heartbeat_s, session.unserved())
        self._not_ready = self._restorer.progress if session.assignment() else "no partition is assigned yet"
        self._not_ready = self._not_ready or self._growth.message
        if self._rekeyer is not None:
            self._not_ready = self._not_ready or self._rekeyer.not_ready
        if self._canary_watch is not None:
            self._canary_watch.is_decider = Partition(self._settings.clicks.topic, 0) in session.assignment()
        if self.heartbeat_s >= self._gauges_due_s:
            self._processor.set_gauges()
            self._lag.update(session)
            self._gauges_due_s = self.heartbeat_s + _GAUGES_EVERY_S

    def _read_again(self, session: Session) -> None:
        """Restore partitions of the changelog once more that somebody else wrote to, as a late predecessor does."""
        if intruded := self._processor.windows.take_intruded():
            logger.warning("partitions %s of the changelog have another writer, and are read again", intruded)
            session.pause([Partition(self._settings.clicks.topic, number) for number in intruded])
            self._restorer.begin(intruded)

    def _report_deleted(self, session: Session) -> None:
        """Warn of records that nobody read and nobody will."""
        for partition, offsets in session.take_deleted().items():
            self._metrics.deleted_records.inc(len(offsets))
            logger.warning(
                "%d records of %s (offsets %d to %d) were deleted by retention before this group read them, and are"
                " in no window; keep the topic longer (retention.ms, retention.bytes) than a worker may be away",
                *(len(offsets), _names([partition]), offsets.start, offsets.stop - 1),
            )

    def _report_no_release(self) -> None:
        """Warn that nothing is served, at once and every minute."""
        if self.heartbeat_s < self._no_release_due_s:
            return
        self._no_release_due_s = self.heartbeat_s + _NO_RELEASE_EVERY_S
        releases = self._settings.releases
        logger.warning(
            "no list is sent, as no release is live: waiting for one of model %r (releases.model) on the topic %r%s;"
            " announce one with `headrace publish`, or name a bundle in releases.path",
            *(releases.model, releases.topic, f" or in {releases.folder}" if releases.folder else ""),
        )

    def _take_release(self) -> None:
        release = self._releases.take()
        if release:
            self._processor.swap(release)
            logger.info("release %s is live", release.name)
        if change := self._releases.take_trial():
            self._take_trial(change.trial)

    def _take_trial(self, trial: Canary | RunningExperiment | None) -> None:
        if trial is None:
            logger.info("the canary or experiment is over")
        else:
            self._log.ensure_topics([topic_plan.canary_sums(self._settings)])
        if isinstance(trial, Canary):
            share = self._settings.canary.share
            logger.info("release %s is a canary for a share of %g of the users", trial.announcement.name, share)
        if isinstance(trial, RunningExperiment):
            experiment = trial.experiment
            logger.info("the experiment %r has begun, with %d arms", experiment.experiment, len(experiment.arms))
        self._follower = impression_follower.of_trial(trial, self._settings, self._log, self._time)
        self._processor.serve_trial(trial, self._follower)

    def _assigned(self, partitions: Sequence[Partition]) -> None:
        """Their clicks wait until their windows are restored."""
        if self._session is not None:
            self._session.pause(partitions)
        self._restorer.begin(self._growth.assigned([partition.number for partition in partitions]))
        logger.info("assigned: %s", _names(partitions))

    def _given_up(self, partitions: Sequence[Partition]) -> None:
        """Revoked or lost alike: every batch was committed before the poll in which this is called."""
        numbers = self._growth.given_up([partition.number for partition in partitions])
        self._processor.hand_over(numbers)
        self._restorer.drop(numbers)
        self._lag.drop(partitions)
        logger.info("given up: %s", _names(partitions))


def _behind_rekeyer(settings: Settings) -> Settings:
    """The settings of a worker that reads the rekeyed clicks."""
    clicks = settings.clicks.model_copy(update={"topic": settings.clicks.by_user_topic})
    kafka = settings.kafka.model_copy(update={"deployment": settings.deployment})  # named after the user's own topic
    return settings.model_copy(update={"clicks": clicks, "kafka": kafka})


def _labels(partition: Partition) -> tuple[str, str]:
    return partition.topic, str(partition.number)


def _names(partitions: Sequence[Partition]) -> str:
    return ", ".join("/".join(_labels(partition)) for partition in partitions) or "nothing"
