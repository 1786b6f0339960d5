"""The end of a canary: one worker adds up the sums of all, and announces what they say.

That worker is the one that has the first partition of the clicks. The decision is an announcement like any other, so
that a worker that was down, or joins later, follows it too, and an operator can see its reason.
"""

import logging
import threading
import time
from typing import Final

import msgspec
import numpy as np

from engine.errors import EventLogError, ReleaseError
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Outgoing, Reader
from engine.messages.announcement import Announcement
from engine.messages.canary_sums import CanarySums
from engine.metrics import Metrics
from engine.quality import experiment
from engine.quality.experiment import CLUSTERS, ArmComparison, ArmSums, Decision
from engine.releases.announcements import Feed, open_feed
from engine.releases.registrar import Registrar
from engine.releases.registry import Change, Registry
from engine.settings.sections import Settings

logger = logging.getLogger(__name__)

_HOUR_MS: Final = 3_600_000
_MAX_RECORDS: Final = 1000
_END_POLL_S: Final = 0.2
_ARM_NAMES: Final = ("live", "canary")
_STATES: Final[dict[str, str]] = {"promote": "live", "take_back": "retired"}


class SumsReader:
    """The last record of each worker's session."""

    def __init__(self, reader: Reader, mode: str = "split") -> None:
        self._reader = reader
        self._mode = mode
        self._records: dict[bytes, CanarySums] = {}

    def total(self, canary: Announcement, control: str) -> ArmSums:
        """What all workers have counted of a canary beside this live release."""
        self._read()
        total = ArmSums.empty()
        expected = (canary.name, control, canary.announced_ms, self._mode)
        for record in self._records.values():
            if (record.canary, record.control, record.announced_ms, record.mode) == expected:
                total += ArmSums(*(np.array(sums, np.float64) for sums in (record.clicks, record.hits, record.gains)))
        return total

    def keys(self, canary: Announcement) -> list[bytes]:
        """Keys of the records of a canary."""
        return [key for key, record in self._records.items() if record.canary == canary.name]

    def close(self) -> None:
        """Free the reader."""
        self._reader.close()

    def _read(self) -> None:
        """Read all that is there; at first to the end as it was, so that nothing is decided by a part of it."""
        while (polled := self._reader.poll(0.0, _MAX_RECORDS)) or not self._reader.at_end():
            polled = polled or self._reader.poll(_END_POLL_S, _MAX_RECORDS)
            for records in polled:
                for key, value in zip(records.keys, records.values, strict=True):
                    self._apply(key or b"", value)

    def _apply(self, key: bytes, value: bytes | None) -> None:
        self._records.pop(key, None)
        if value is None:
            return
        try:
            record = msgspec.json.decode(value, type=CanarySums)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        shapes = {len(row) for sums in (record.clicks, record.hits, record.gains) for row in sums}
        if shapes == {CLUSTERS} and {len(record.clicks), len(record.hits), len(record.gains)} == {experiment.ARMS}:
            self._records[key] = record


class CanaryWatch:
    """Looks at the sums in a thread of its own, as long as this worker is the one to decide."""

    def __init__(self, settings: Settings, log: EventLog, metrics: Metrics) -> None:
        self._settings = settings
        self._log = log
        self._metrics = metrics
        self._feed: Feed | None = None
        self._sums: SumsReader | None = None
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
        """Judge the canary that there is, and announce its end; None without one.

        Raises:
            EventLogError: the sums could not be read, or the announcement not be sent.
            ReleaseError: the same, of a watched folder.
        """
        releases = self._settings.releases
        self._feed = self._feed or open_feed(releases, self._log, topic_plan.releases(self._settings))
        registry = self._feed.registry()
        canary = registry.canary()
        if canary is None:
            self._metrics.clear_canary()
            return None
        settings = self._settings.canary
        compare = experiment.compare_interleaved if settings.mode == "interleave" else experiment.compare
        comparison = compare(self._total(canary, registry.live()[0].name), settings)
        self._show(canary, comparison)
        decision = experiment.decide(comparison, settings, (now_ms - canary.announced_ms) / _HOUR_MS)
        if decision != "wait":
            self._announce(canary, decision, comparison, now_ms)
        return decision

    def _total(self, canary: Announcement, control: str) -> ArmSums:
        if self._sums is None:
            topic = topic_plan.canary_sums(self._settings)
            self._log.ensure_topics([topic])
            self._sums = SumsReader(self._log.reader([topic.name]), self._settings.canary.mode)
        return self._sums.total(canary, control)

    def _announce(self, canary: Announcement, decision: Decision, comparison: ArmComparison, now_ms: int) -> None:
        """Announce the end, if the canary is still one, and end its sums."""
        end = self._settings.canary.on_no_difference if decision == "no_difference" else decision
        reason = f"canary {decision.replace('_', ' ')}: {comparison.sentence()}"
        registrar = Registrar(
            canary.model, self._log, topic_plan.releases(self._settings), self._settings.releases.folder
        )
        if registrar.change(lambda registry: ending(registry, canary, _STATES[end], now_ms, reason)):
            self._metrics.canary_decisions.labels(decision).inc()
            logger.warning("%s is %s: %s", canary.name, _STATES[end], reason)
        keys: list[bytes | None] = [*self._sums.keys(canary)] if self._sums else []
        with self._log.producer() as producer:
            producer.send(Outgoing(self._settings.canary.topic, keys, [None] * len(keys)))

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
        finally:
            self._close_readers()

    def _look_safely(self) -> None:
        try:
            self.look(time.time_ns() // 1_000_000)
            self._failure = ""
        except (EventLogError, ReleaseError, OSError) as error:
            if self._failure != str(error):
                logger.error("the canary cannot be judged, trying again: %s", error)
            self._failure = str(error)
            self._close_readers()

    def _close_readers(self) -> None:
        feed, sums, self._feed, self._sums = self._feed, self._sums, None, None
        for reader in (feed, sums):
            try:
                if reader is not None:
                    reader.close()
            except EventLogError as error:
                logger.debug("closing failed: %s", error)


def ending(registry: Registry, canary: Announcement, state: str, now_ms: int, reason: str) -> list[Change]:
    """The records that end a canary; none where it has ended meanwhile."""
    if registry.canary() != canary:
        return []
    if state == "live":
        return registry.promote(canary.version, now_ms, reason)
    return registry.retire(canary.version, now_ms, reason)
