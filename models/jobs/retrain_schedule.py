"""The times of retrainings: by interval or by a cron expression, and earlier after enough new clicks or by drift."""

import datetime as dt
from typing import Final

from engine.errors import MissingExtraError, SettingsError
from engine.settings.sections import RetrainSettings
from models.jobs.drift_watch import UnknownItems

_HOUR_MS: Final = 3_600_000


class RetrainSchedule:
    """When the next retraining begins; knows no clock.

    Raises:
        SettingsError: `retrain.cron` cannot be parsed.
        MissingExtraError: cron expressions need an extra that is not installed.
    """

    def __init__(self, settings: RetrainSettings, now_ms: int) -> None:
        """The first one by interval is due at once, the first one by `retrain.cron` at its time."""
        self._settings = settings
        self._clicks_at_last = 0
        self.due_ms = now_ms if settings.cron is None else self._next_by_cron(settings.cron, now_ms)
        """Unix milliseconds, without regard to new clicks."""

    def is_due(self, now_ms: int, clicks: int | None, drift: UnknownItems | None = None) -> bool:
        """Whether one is to begin now.

        Args:
            now_ms: Unix milliseconds.
            clicks: records that the archive has; None where it is not known.
            drift: clicks since the live release and the last retraining; None where they are not known.
        """
        enough, added = self._settings.new_clicks, (clicks or 0) - self._clicks_at_last
        return now_ms >= self.due_ms or (enough is not None and added >= enough) or self.has_drifted(drift)

    def has_drifted(self, drift: UnknownItems | None) -> bool:
        """Whether drift alone is a reason to begin."""
        settings = self._settings
        if drift is None or not settings.on_drift:
            return False
        return drift.clicks >= settings.drift_clicks and drift.share >= settings.drift_share

    def began(self, now_ms: int, clicks: int | None) -> None:
        """One begins now."""
        self._clicks_at_last = clicks or 0
        cron = self._settings.cron
        interval_ms = round(self._settings.interval_h * _HOUR_MS)
        self.due_ms = now_ms + interval_ms if cron is None else self._next_by_cron(cron, now_ms)

    @staticmethod
    def _next_by_cron(cron: str, now_ms: int) -> int:
        try:
            from cronsim import CronSim, CronSimError  # noqa: PLC0415 - only for cron expressions
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"retrain.cron needs {error.name}, which is not installed: pip install 'headrace[train]'"
            ) from error
        try:
            due = next(CronSim(cron, dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)))
        except (CronSimError, StopIteration) as error:
            raise SettingsError(
                f"retrain.cron: found {cron!r} ({str(error) or 'it never comes'}), expected minute, hour, day, month"
                " and day of the week, as in '0 3 * * *'; mend it, or leave it out for retrain.interval_h"
            ) from error
        return round(due.timestamp() * 1000)
