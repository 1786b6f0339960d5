"""Retraining without anyone watching: when it is due, on the retrainer that is elected, and again after a failure."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from engine.errors import HeadraceError
from engine.interactions.interaction_reader import InteractionReader
from engine.metrics import Metrics
from models.jobs.drift_watch import DriftWatch, UnknownItems
from models.jobs.election import Election
from models.jobs.retrain_schedule import RetrainSchedule
from models.jobs.retraining import Reports, RetrainInput, RetrainOutcome, retrain

logger = logging.getLogger(__name__)

_TURN_S: Final = 1.0
_COUNT_EVERY_S: Final = 60.0
_DRIFT_EVERY_S: Final = 300.0
"""Between two looks at the clicks themselves, which are read for it."""
_AGAIN_S: Final = 300.0
"""Pause after a retraining that failed."""


class Stopped(BaseException):
    """The service is told to stop in the middle of a training, which its next start goes on with."""


class RetrainService:
    """One retrainer. `make` gives the input of each retraining, whose items are read for it."""

    def __init__(
        self, make: Callable[[], RetrainInput], reports: Reports, election: Election, metrics: Metrics
    ) -> None:
        self._make, self._reports, self._election, self._metrics = make, reports, election, metrics
        self._known = make()
        """The input at the start, for what does not change: settings, and where the clicks are."""
        self._schedule = RetrainSchedule(self._known.settings.retrain, _now_ms())
        self._clicks: int | None = None
        self._counted_s = self._looked_s = float("-inf")
        self._drift_watch = DriftWatch(self._known.stage, self._known.source, self._known.settings.clicks)
        self._drift: UnknownItems | None = None
        self._newest_ms = 0
        """Time of the newest click when the last retraining began; drift is judged by later ones."""
        self._paused_until_s = float("-inf")
        self.heartbeat_s = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Retrain whenever it is due until `stop` is set."""
        while not stop.is_set():
            self.heartbeat_s = time.monotonic()
            self.step()
            stop.wait(_TURN_S)

    def step(self) -> RetrainOutcome | None:
        """Retrain if it is due and this is the one retrainer; returns the outcome."""
        elected, now_s = self._election.is_elected(), time.monotonic()
        self._metrics.retraining_elected.set(elected)
        self._metrics.retraining_due.set(self._schedule.due_ms / 1000)
        if not elected or now_s < self._paused_until_s:
            return None
        self._count(now_s)
        self._look_for_drift(now_s)
        if not self._schedule.is_due(_now_ms(), self._clicks, self._drift):
            return None
        if self._drift is not None and self._schedule.has_drifted(self._drift):
            logger.info(
                "retraining begins by drift: the live release does not know the items of %.0f %% of %d clicks",
                *(100.0 * self._drift.share, self._drift.clicks),
            )
        return self._retrain()

    def _retrain(self) -> RetrainOutcome | None:
        started_s, outcome = time.monotonic(), None
        try:
            newest_ms = self._newest_click_ms()
            outcome = retrain(self._make(), self._reports, _now_ms())
        except HeadraceError as error:
            logger.error("retraining failed, again in %g s: %s", _AGAIN_S, error)
            self._metrics.retrainings.labels("failed").inc()
            self._paused_until_s = time.monotonic() + _AGAIN_S
            return None
        self._schedule.began(_now_ms(), self._clicks)
        self._newest_ms, self._drift, self._looked_s = newest_ms, None, float("-inf")
        self._metrics.retraining_seconds.set(time.monotonic() - started_s)
        self._metrics.retrainings.labels(outcome.outcome).inc()
        self._metrics.retraining_success.set(_now_ms() / 1000)
        self._metrics.retraining_due.set(self._schedule.due_ms / 1000)
        logger.info("%s: %s%s", outcome.release, outcome.outcome, "".join(f"; {why}" for why in outcome.reasons))
        return outcome

    def _newest_click_ms(self) -> int:
        """Time of the newest click there is, where drift is to be judged by later ones."""
        if not self._known.settings.retrain.on_drift:
            return 0
        return InteractionReader(self._known.source, self._known.settings.clicks).newest_ms()

    def _look_for_drift(self, now_s: float) -> None:
        """Read the clicks since the live release every so often, where that decides anything."""
        if not self._known.settings.retrain.on_drift or now_s - self._looked_s < _DRIFT_EVERY_S:
            return
        self._looked_s = now_s
        try:
            self._drift = self._drift_watch.look(self._newest_ms + 1)
        except HeadraceError as error:
            logger.warning("drift cannot be looked for: %s", error)
            return
        self._metrics.retraining_unknown_share.set(self._drift.share if self._drift else 0.0)

    def _count(self, now_s: float) -> None:
        """Count the archive's records every so often, where that decides anything."""
        settings = self._known.settings
        if settings.retrain.new_clicks is None or now_s - self._counted_s < _COUNT_EVERY_S:
            return
        self._counted_s = now_s
        try:
            ends = InteractionReader(self._known.source, settings.clicks).ends()
        except HeadraceError as error:
            logger.warning("the archive cannot be looked at: %s", error)
            return
        self._clicks = None if ends is None else sum(end for _, end in ends)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
