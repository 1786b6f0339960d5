"""The end of a canary, and the looks at an experiment: one worker adds up the sums of all, and says what they say.

That worker is the one that has the first partition of the clicks. The decision is an announcement like any other, so
that a worker that was down, or joins later, follows it too, and an operator can see its reason.
"""

import logging
import math
import threading
import time
from typing import Final

import msgspec

from engine.errors import EventLogError, ReleaseError
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Outgoing, Producer
from engine.messages.announcement import Announcement
from engine.messages.experiment_messages import Experiment
from engine.metrics import Metrics
from engine.quality import experiment, experiment_report
from engine.quality.experiment import ArmComparison, Decision
from engine.quality.experiment_report import ExperimentReport
from engine.releases.announcements import Feed, open_feed
from engine.releases.registrar import Registrar
from engine.releases.registry import Change, Registry
from engine.settings.sections import Settings
from engine.worker.sums_reader import SumsReader

logger = logging.getLogger(__name__)

_HOUR_MS: Final = 3_600_000
_ARM_NAMES: Final = ("live", "canary")
_STATES: Final[dict[str, str]] = {"promote": "live", "take_back": "retired"}


class CanaryWatch:
    """Looks at the sums in a thread of its own, as long as this worker is the one to decide."""

    def __init__(self, settings: Settings, log: EventLog, metrics: Metrics) -> None:
        self._settings = settings
        self._log = log
        self._metrics = metrics
        self._feed: Feed | None = None
        self._sums: SumsReader | None = None
        self._producer: Producer | None = None
        self._running: Experiment | None = None
        """The experiment of the last look."""
        self._failure = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-canary", daemon=True)
        self.is_decider = False
        """Written by the worker's loop, read here."""

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self, now_ms: int) -> Decision | None:
        """Judge the canary that there is, and announce its end; None without one. Look at an experiment instead.

        Raises:
            EventLogError: the sums could not be read, or the announcement not be sent.
            ReleaseError: the same, of a watched folder.
        """
        releases = self._settings.releases
        self._feed = self._feed or open_feed(releases, self._log, topic_plan.releases(self._settings))
        registry = self._feed.registry()
        running = registry.experiment()
        if running != self._running:
            self._metrics.clear_experiment()
        self._running = running
        if running is not None:
            self._look_at(running, now_ms)
        canary = registry.canary()
        if canary is None:
            self._metrics.clear_canary()
            return None
        settings = self._settings.canary
        compare = experiment.compare_interleaved if settings.mode == "interleave" else experiment.compare
        comparison = compare(self._reader().total(canary, registry.live()[0].name), settings)
        self._show(canary, comparison)
        decision = experiment.decide(comparison, settings, (now_ms - registry.canary_since_ms(canary)) / _HOUR_MS)
        if decision != "wait":
            self._announce(canary, decision, comparison, now_ms)
        return decision

    def _reader(self) -> SumsReader:
        if self._sums is None:
            topic = topic_plan.canary_sums(self._settings)
            self._log.ensure_topics([topic])
            canary = self._settings.canary
            self._sums = SumsReader(self._log.reader([topic.name]), canary.mode, canary.exposure)
        return self._sums

    def _look_at(self, running: Experiment, now_ms: int) -> None:
        """Show the figures of an experiment, and keep them for its curves over time."""
        counts = self._reader().counts(running)
        report = experiment_report.report(running, "running", counts, [], now_ms)
        self._show_experiment(report)
        look = experiment_report.look_of(report)
        self._producer = self._producer or self._log.producer()
        self._producer.send(Outgoing(self._settings.canary.topic, [look.key], [msgspec.json.encode(look)]))
        self._producer.flush()

    def _announce(self, canary: Announcement, decision: Decision, comparison: ArmComparison, now_ms: int) -> None:
        """Announce the end, if the canary is still one, and end its sums.

        One by whose lists nobody clicked is taken back in any case: it may be that no worker can serve it.
        """
        end = self._settings.canary.on_no_difference if decision == "no_difference" else decision
        if not comparison.users[experiment.CANARY]:
            end = "take_back"
        by = ", by what was shown" if self._settings.canary.exposure == "impressions" else ""
        reason = f"canary {decision.replace('_', ' ')}: {comparison.sentence()}{by}"
        registrar = Registrar(
            canary.model, self._log, topic_plan.releases(self._settings), self._settings.releases.folder
        )
        if registrar.change(lambda registry: ending(registry, canary, _STATES[end], now_ms, reason)):
            self._metrics.canary_decisions.labels(decision).inc()
            logger.warning("%s is %s: %s", canary.name, _STATES[end], reason)
        keys: list[bytes | None] = [*self._sums.keys(canary)] if self._sums else []
        with self._log.producer() as producer:
            producer.send(Outgoing(self._settings.canary.topic, keys, [None] * len(keys)))

    def _show_experiment(self, report: ExperimentReport) -> None:
        metrics, name = self._metrics, report.experiment
        ratio = report.sample_ratio.p_value
        metrics.experiment_sample_ratio.labels(name).set(1.0 if ratio is None else ratio)
        for arm in report.arms:
            metrics.experiment_users.labels(name, arm.arm).set(arm.users)
            metrics.experiment_gain.labels(name, arm.arm).set(arm.gain or 0.0)
            bounds = arm.always_valid
            if arm.lift is None or bounds is None:
                continue
            upper = math.inf if bounds.upper is None else bounds.upper
            for bound, value in (("estimate", arm.lift), ("lower", bounds.lower), ("upper", upper)):
                metrics.experiment_lift.labels(name, arm.arm, bound).set(value)

    def _show(self, canary: Announcement, comparison: ArmComparison) -> None:
        metrics = self._metrics
        metrics.canary.labels(canary.model, canary.version).set(1)
        for arm, name in enumerate(_ARM_NAMES):
            metrics.canary_users.labels(name).set(comparison.users[arm])
            metrics.canary_gain.labels(name).set(comparison.rates[arm])
        bounds = {"estimate": comparison.difference, "lower": comparison.lower, "upper": comparison.upper}
        for name, value in bounds.items():
            metrics.canary_difference.labels(name).set(float(value))

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._settings.canary.interval_s):
                if self.is_decider:
                    self._look_safely()
                else:
                    self._metrics.clear_canary()
                    self._metrics.clear_experiment()
        finally:
            self._close_readers()

    def _look_safely(self) -> None:
        try:
            self.look(time.time_ns() // 1_000_000)
            self._failure = ""
        except (EventLogError, ReleaseError, OSError) as error:
            if self._failure != str(error):
                logger.error("the canary or experiment cannot be judged, trying again: %s", error)
            self._failure = str(error)
            self._close_readers()

    def _close_readers(self) -> None:
        opened = (self._feed, self._sums, self._producer)
        self._feed = self._sums = self._producer = None
        for source in opened:
            try:
                if source is not None:
                    source.close()
            except EventLogError as error:
                logger.debug("closing failed: %s", error)


def ending(registry: Registry, canary: Announcement, state: str, now_ms: int, reason: str) -> list[Change]:
    """The records that end a canary; none where it has ended meanwhile."""
    if registry.canary() != canary:
        return []
    if state == "live":
        return registry.promote(canary.version, now_ms, reason)
    return registry.retire(canary.version, now_ms, reason)
