"""The thread that reads reports of what was shown, while a canary or an experiment is judged by them.

It is a member of no group: reports need not be in the partitions of their users' clicks, which another partitioner, a
pseudonym or another number of partitions puts elsewhere. Every worker reads all of them, and takes those of its own
users. Nothing is counted by how often a report is read, so that no position has to be kept: who was shown something is
a set of users, and what a click is judged by is the last list. When windows have come to this worker, the end of the
topic is read again.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Reader, Records
from engine.eventlog.time_source import TimeSource
from engine.releases.release_loader import Canary, RunningExperiment
from engine.settings.sections import Settings

logger = logging.getLogger(__name__)

LOOK_BACK: Final = 10_000
"""Last records of each partition that are read at the start, and again when windows have come."""
_MAX_RECORDS: Final = 1_000
_MOST_WAITING: Final = 64
"""Polls that wait to be taken; then reading waits, too."""
_POLL_S: Final = 0.1
_PAUSE_S: Final = 2.0
"""After a failure of the log, and between two looks for a topic that does not exist yet."""


class ImpressionFollower:
    """Reads the topic of impressions from shortly before its end on."""

    def __init__(self, log: EventLog, topic: str, trial: str, time: TimeSource) -> None:
        """Read nothing yet.

        Args:
            log: has the topic, now or later.
            topic: of impressions.
            trial: what is judged by them, for messages.
            time: as the worker reads it.
        """
        self._log, self._topic, self._trial, self._time = log, topic, trial, time
        self._polled: deque[list[Records]] = deque()
        self._lock = threading.Lock()
        self._begins_again = False
        self._read_until_s: float | None = None
        self._failure = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-shown", daemon=True)

    @property
    def read_until_s(self) -> float | None:
        """Time, by the monotonic clock, at which all records that the client had could be taken; None before."""
        with self._lock:
            return self._read_until_s

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading, soon: the caller need not wait for it."""
        self._stop.set()

    def close(self) -> None:
        """Stop reading, and wait for it."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()

    def begin_again(self) -> None:
        """Read the end of the topic once more."""
        with self._lock:
            self._begins_again, self._read_until_s = True, None

    def take(self) -> Iterator[Records]:
        """The records that were read since the last call."""
        while self._polled:
            yield from self._polled.popleft()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except EventLogError as error:
                self._report(f"impressions cannot be read, trying again: {error}")
                self._stop.wait(_PAUSE_S)

    def _follow(self) -> None:
        """Read until the end, or until the topic is to be read again."""
        if not self._log.partitions(self._topic):
            self._report(
                f"topic {self._topic!r} (impressions.topic) does not exist: nobody counts in {self._trial}, which is"
                " judged by impressions, until reports of what was shown come; start `headrace serve` with"
                " impressions.accept = true, and report what users see (POST /v1/impressions)"
            )
            self._stop.wait(_PAUSE_S)
            return
        with self._lock:
            self._begins_again = False
        with self._log.reader([self._topic]) as reader:
            for partition, bounds in reader.bounds.items():
                reader.seek(partition, max(bounds.start, bounds.stop - LOOK_BACK))
            self._failure = ""
            while not (self._stop.is_set() or self._begins_again):
                self._poll(reader)

    def _poll(self, reader: Reader) -> None:
        if len(self._polled) >= _MOST_WAITING:
            self._stop.wait(_POLL_S)
            return
        before_s = self._time.monotonic_s()
        polled = reader.poll(_POLL_S, _MAX_RECORDS)
        if polled:
            self._polled.append(polled)
        is_at_end = sum(map(len, polled)) < _MAX_RECORDS and reader.at_end()
        with self._lock:
            if is_at_end and not self._begins_again:
                self._read_until_s = before_s

    def _report(self, text: str) -> None:
        """Log what is wrong, once for each cause."""
        if text != self._failure:
            logger.error("%s", text)
        self._failure = text


def of_trial(
    trial: Canary | RunningExperiment | None, settings: Settings, log: EventLog, time: TimeSource
) -> ImpressionFollower | None:
    """A follower for a canary or an experiment that is judged by impressions; None for any other."""
    if isinstance(trial, Canary) and settings.canary.exposure == "impressions":
        name = f"the canary {trial.announcement.name}"
    elif isinstance(trial, RunningExperiment) and trial.experiment.exposure == "impressions":
        name = f"the experiment {trial.experiment.experiment!r}"
    else:
        return None
    return ImpressionFollower(log, settings.impressions.topic, name, time)
