"""Which of several retrainers of a model is the one that works: the member of a group that has a partition.

All join one consumer group for the topic of releases, `kafka.group` with `-retrain-MODEL`, and read nothing. The broker
gives partition 0 to one of them, and to another one when that one is gone.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Final, Self

from engine.errors import EventLogError
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Partition, Rebalance
from engine.settings.sections import Settings

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.2
_AGAIN_S: Final = 2.0


class Election:
    """A member of the group, which takes part in a thread of its own while the retrainer works; a context manager."""

    def __init__(self, settings: Settings, log: EventLog) -> None:
        group = f"{settings.kafka.group}-retrain-{settings.releases.model}"
        kafka = settings.kafka.model_copy(update={"group": group, "delivery": "at_least_once"})
        self._settings = settings.model_copy(update={"kafka": kafka})
        self._log = log
        self._seat = Partition(settings.releases.topic, 0)
        self._elected, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-election", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()

    def is_elected(self) -> bool:
        """Whether this is the one retrainer now."""
        return self._elected.is_set()

    def wait(self, limit_s: float) -> bool:
        """Wait to be elected; False after `limit_s` without."""
        return self._elected.wait(limit_s)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._take_part()
            except EventLogError as error:
                logger.warning("the retrainers' group %s cannot be reached: %s", self._settings.kafka.group, error)
                self._ended.wait(_AGAIN_S)
            finally:
                self._elected.clear()

    def _take_part(self) -> None:
        """Be a member until the end, or until the group cannot be reached."""
        self._log.ensure_topics([topic_plan.releases(self._settings)])
        rebalance = Rebalance(revoked=self._given_up, lost=self._given_up)
        session = self._log.session([self._seat.topic], self._settings.kafka.group, rebalance)
        try:
            while not self._ended.is_set():
                session.poll(_POLL_S, 1)
                held = session.assignment()
                session.pause(held)  # announcements are read elsewhere
                if self._seat in held:
                    self._elected.set()
        finally:
            session.close()

    def _given_up(self, partitions: Sequence[Partition]) -> None:
        if self._seat in partitions:
            self._elected.clear()
