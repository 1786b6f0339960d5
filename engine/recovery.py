"""Recovery: the windows of newly assigned partitions, from the last snapshot and the changelog behind it.

A partition is restored when the changelog was read, by position, to the end it had when it was asked for. Until then
its clicks wait, while other partitions go on: the worker restores one step between two batches.
"""

import logging
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from engine.changelog import Changelog
from engine.eventlog.base import EventLog, Partition, Reader
from engine.metrics import Metrics
from engine.settings import Settings
from engine.snapshot import Moment, Snapshots
from engine.window_store import PackedWindows

logger = logging.getLogger(__name__)

_RECORDS_AT_ONCE: Final = 2_000
"""Changelog records per step: some ten milliseconds, for which other partitions' clicks wait."""
_REPORT_EVERY_S: Final = 5.0


class Restorer:
    """Restores partitions step by step; belongs to the worker's thread, but for `begin`, `drop` and `progress`."""

    def __init__(
        self, settings: Settings, log: EventLog, changelog: Changelog, snapshots: Snapshots, metrics: Metrics
    ) -> None:
        self._topic = settings.windows.topic
        self._log = log
        self._changelog = changelog
        self._snapshots = snapshots
        self._metrics = metrics
        self._waiting: set[int] = set()
        self._reader: Reader | None = None
        self._outdated = False
        self._snapshot_parts: dict[int, Iterator[PackedWindows]] = {}
        self.identity = ""
        """Of the changelog (`EventLog.identity`); known when the first partition is restored."""
        self._began_s: dict[int, float] = {}
        self._report_due_s = 0.0
        self.progress: str | None = None
        """How far it is, for people; None when nothing waits."""

    def begin(self, partitions: Collection[int]) -> None:
        """Have these partitions restored by the steps to come."""
        now_s = time.monotonic()
        self._began_s |= dict.fromkeys(partitions, now_s)
        # An open reader knows the ends of another moment: since then another worker may have written more.
        self._outdated = True
        self._set_waiting(self._waiting | set(partitions))

    def drop(self, partitions: Collection[int]) -> None:
        """These partitions went to another worker."""
        for number in partitions:
            self._snapshot_parts.pop(number, None)
        self._set_waiting(self._waiting - set(partitions))

    def close(self) -> None:
        """Give up whatever is under way."""
        self.drop(self._waiting)
        self._close_reader()

    def waits(self) -> bool:
        """Whether any partition is not restored yet."""
        return bool(self._waiting)

    def restored(self) -> list[int]:
        """The partitions whose windows are complete."""
        return [number for number in self._changelog.positions if number not in self._waiting]

    def step(self, timeout_s: float) -> list[int]:
        """Go on for a part of a snapshot or one read of the changelog; returns the partitions that are restored now.

        Raises:
            EventLogError: the changelog cannot be read.
        """
        started_s = time.monotonic()
        reader = self._open()
        fresh = self._waiting - self._changelog.positions.keys()
        if fresh:
            self._start(reader, min(fresh))
        elif self._snapshot_parts:
            self._load(min(self._snapshot_parts))
        else:
            self._read(reader, timeout_s)
        done = [number for number in sorted(self._waiting) if self._is_done(reader, number)]
        for number in done:
            logger.info("partition %d is restored after %.2f s", number, time.monotonic() - self._began_s.pop(number))
        self._set_waiting(self._waiting - set(done))
        if self._waiting:
            self._report(reader)
        else:
            self._close_reader()
        self._metrics.restore_seconds.inc(time.monotonic() - started_s)
        return done

    def _open(self) -> Reader:
        """A reader of every partition that waits; a new one when others came to wait."""
        if self._reader is None or self._outdated:
            self._close_reader()
            self._outdated = False
            self.identity = self._log.identity(self._topic)
            self._reader = self._log.reader([Partition(self._topic, number) for number in sorted(self._waiting)])
            for partition in self._reader.bounds:
                if partition.number in self._changelog.positions:
                    self._reader.seek(partition, self._changelog.positions[partition.number])
        return self._reader

    def _start(self, reader: Reader, number: int) -> None:
        """Begin with the snapshot, to read on from there; with the changelog's start where there is none."""
        partition = Partition(self._topic, number)
        bounds = reader.bounds[partition]
        found = self._snapshots.read(self.identity, number, bounds, time.time_ns() // 1_000_000)
        position = bounds.start
        if isinstance(found, str):
            self._metrics.refused_snapshots.labels(found).inc()
        elif found:
            position, self._snapshot_parts[number] = found
            reader.seek(partition, position)
        self._changelog.positions[number] = position
        logger.info("partition %d: reading the changelog from %d to %d", number, position, bounds.stop)

    def _load(self, number: int) -> None:
        """Take over the next part of a snapshot."""
        packed = next(self._snapshot_parts[number], None)
        if packed is None:
            del self._snapshot_parts[number]
        else:
            self._changelog.load(packed, number)
            self._metrics.restored_users.labels("snapshot").inc(len(packed))

    def _read(self, reader: Reader, timeout_s: float) -> None:
        for records in reader.poll(timeout_s, _RECORDS_AT_ONCE):
            if records.partition.number in self._waiting:
                users = self._changelog.apply(records)
                self._changelog.positions[records.partition.number] = records.offsets[-1] + 1
                self._metrics.restored_users.labels("changelog").inc(users)

    def _is_done(self, reader: Reader, number: int) -> bool:
        if number not in self._changelog.positions or number in self._snapshot_parts:
            return False
        partition = Partition(self._topic, number)
        return reader.position(partition) >= reader.bounds[partition].stop

    def _report(self, reader: Reader) -> None:
        """Say how far it is, by position."""
        told: list[str] = []
        for number in sorted(self._waiting):
            bounds = reader.bounds[Partition(self._topic, number)]
            position = self._changelog.positions.get(number, bounds.start)
            told.append(f"partition {number} at {position} of {bounds.stop}")
        self.progress = f"windows are being restored: {', '.join(told)}"
        if time.monotonic() >= self._report_due_s:
            self._report_due_s = time.monotonic() + _REPORT_EVERY_S
            logger.info(self.progress)

    def _set_waiting(self, partitions: set[int]) -> None:
        self._waiting = partitions
        self._metrics.restoring.set(len(partitions))
        if not partitions:
            self.progress = None
        elif self.progress is None:
            self.progress = f"windows of partitions {sorted(partitions)} wait to be restored"

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class Saver:
    """Writes snapshots of all restored partitions: now and then, one at a time, in the background, and at the end."""

    def __init__(self, settings: Settings, changelog: Changelog, snapshots: Snapshots, restorer: Restorer) -> None:
        self._settings = settings.snapshots
        self._changelog = changelog
        self._snapshots = snapshots
        self._restorer = restorer
        self._queue: list[int] = []
        self._due_s = time.monotonic() + self._settings.interval_s
        self._pool = ThreadPoolExecutor(1, "snapshots")
        self._under_way: Future[None] | None = None

    def step(self, now_s: float) -> None:
        """Begin with the next snapshot when it is time; called between two batches, when nothing is uncommitted."""
        if self._settings.folder is None:
            return
        if now_s >= self._due_s:
            self._due_s = now_s + self._settings.interval_s
            self._queue = self._restorer.restored()
            self._snapshots.sweep(time.time_ns() // 1_000_000)
        if self._queue and (self._under_way is None or self._under_way.done()):
            self._settle()
            self._begin(self._queue.pop())

    def finish(self) -> None:
        """Write all of them."""
        if self._settings.folder is not None:
            for number in self._restorer.restored():
                self._begin(number)
                self._settle()

    def close(self) -> None:
        """Free the thread."""
        self._pool.shutdown()

    def _begin(self, number: int) -> None:
        if number in self._restorer.restored():
            now_ms = time.time_ns() // 1_000_000
            moment = Moment(self._restorer.identity, number, self._changelog.positions[number], now_ms)
            self._under_way = self._pool.submit(self._snapshots.write, moment, self._changelog.pack(number))

    def _settle(self) -> None:
        """Wait for the one under way; a failure costs only time at the next start."""
        if self._under_way is not None:
            try:
                self._under_way.result()
            except OSError as error:
                logger.error("a snapshot cannot be written to snapshots.folder %s: %s", self._settings.folder, error)
            self._under_way = None
