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
from dataclasses import dataclass
from typing import Final

from engine.errors import EventLogError
from engine.eventlog.base import EventLog, Reader, Records
from engine.eventlog.time_source import TimeSource
from engine.releases.release_loader import Canary, RunningExperiment
from engine.settings.sections import Settings

logger = logging.getLogger(__name__)

LOOK_BACK: Final = 10_000
"""Last records of each partition that are read at the start, and again when windows have come."""
_MAX_RECORDS: Final = 250
"""Records of a poll, which the worker takes between two batches: a few milliseconds of its time."""
_MOST_WAITING: Final = 64
"""Polls that wait to be taken; then reading waits, too."""
_POLL_S: Final = 0.1
_PAUSE_S: Final = 2.0
"""After a failure of the log, and between two looks for a topic that does not exist yet."""


@dataclass(frozen=True, slots=True)
class PolledImpressions:
    """The outcome of one poll."""

    records: list[Records]
    until_s: float | None
    """Time, by the monotonic clock, from before which the client has no more records; None before the end."""
    reading: int
    """Number of times that the end of the topic was to be read again before."""


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
        self._polled: deque[PolledImpressions] = deque()
        self.reading = 0
        """Written by the worker, read by the thread."""
        self._failure = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-shown", daemon=True)

    def __len__(self) -> int:
        """Polls that wait to be taken."""
        return len(self._polled)

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
        self.reading += 1

    def take(self) -> PolledImpressions | None:
        """The oldest poll that was not taken yet."""
        return self._polled.popleft() if self._polled else None

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow(self.reading)
            except EventLogError as error:
                self._report(f"impressions cannot be read, trying again: {error}")
                self._stop.wait(_PAUSE_S)

    def _follow(self, reading: int) -> None:
        """Read until the worker stops, or until the end of the topic is to be read again."""
        if not self._log.partitions(self._topic):
            self._report(
                f"topic {self._topic!r} (impressions.topic) does not exist: nobody counts in {self._trial}, which is"
                " judged by impressions, until reports of what was shown come; start `headrace serve` with"
                " impressions.accept = true, and report what users see (POST /v1/impressions)"
            )
            self._stop.wait(_PAUSE_S)
            return
        with self._log.reader([self._topic]) as reader:
            for partition, bounds in reader.bounds.items():
                reader.seek(partition, max(bounds.start, bounds.stop - LOOK_BACK))
            self._failure = ""
            while reading == self.reading and not self._stop.is_set():
                if len(self._polled) < _MOST_WAITING:
                    self._poll(reader, reading)
                else:
                    self._stop.wait(_POLL_S)

    def _poll(self, reader: Reader, reading: int) -> None:
        before_s = self._time.monotonic_s()
        records = reader.poll(_POLL_S, _MAX_RECORDS)
        is_at_end = sum(map(len, records)) < _MAX_RECORDS and reader.at_end()
        self._polled.append(PolledImpressions(records, before_s if is_at_end else None, reading))

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
