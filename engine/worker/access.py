"""Access to the cluster at the first start: a login or a right that is refused is a mistake in the settings.

A worker that was served once goes on trying whatever happens: then it is the cluster that changed, and may change back.
"""

from typing import Final

from engine.errors import EventLogError, LoginRefusedError, RecordRefusedError, RightMissingError
from engine.eventlog.base import EventLog

_REFUSALS: Final = (LoginRefusedError, RightMissingError, RecordRefusedError)


class Access:
    """Ends a worker that the cluster refuses from the start; knows no clock.

    Args:
        limit_s: how long it is tried again, as rights may be given a moment later.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._has_served = False
        self._is_checked = False
        self._refused_since_s: float | None = None

    def check(self, log: EventLog, topic: str) -> None:
        """Reach the cluster once, where nothing else does yet.

        Raises:
            EventLogError: it cannot be reached.
        """
        if not self._is_checked:
            log.partitions(topic)
            self._is_checked = True

    def served(self) -> None:
        """A batch was committed: nothing is refused."""
        self._has_served = True

    def failed(self, error: EventLogError, now_s: float, *, lasted: bool) -> None:
        """Take note of the error that ended a session, or kept one from beginning.

        Args:
            error: the error.
            now_s: a monotonic clock.
            lasted: whether the session had gone on for long.

        Raises:
            EventLogError: the same one, where the cluster has refused this worker for too long.
        """
        if lasted:
            self._refused_since_s = None
        if self._has_served or not isinstance(error, _REFUSALS):
            return
        if self._refused_since_s is None:
            self._refused_since_s = now_s
        if now_s - self._refused_since_s >= self._limit_s:
            raise error
