"""Recovery: the windows of newly assigned partitions, from the last snapshot and the changelog behind it.

A partition is restored when the changelog was read, by position, to the end it had when it was asked for. Until then
its clicks wait, while other partitions go on: the worker restores one step between two batches.

With `windows.standby` the partitions of other workers are followed in the same steps, when nothing waits: their windows
are here when they are asked for, but for the last few changes. Which partitions a worker would have to take over nobody
knows before the group decides, so all of them are followed.
"""

import logging
import zlib
from collections.abc import Collection, Iterator
from typing import Final

from engine.errors import ChangelogError, SettingsError
from engine.eventlog.base import EventLog, Partition, Reader, Records
from engine.eventlog.time_source import TimeSource
from engine.metrics import Metrics
from engine.settings.sections import Settings
from engine.windows.packed import PackedWindows
from engine.windows.snapshots import Snapshots
from engine.windows.users import UserWindows

logger = logging.getLogger(__name__)

_RECORDS_AT_ONCE: Final = 2_000
"""Changelog records per step: some ten milliseconds, for which other partitions' clicks wait."""
_STANDBY_RECORDS_AT_ONCE: Final = 500
"""The same where nobody waits for the windows, only clicks for the step."""
_END_ABANDONED_EVERY_S: Final = 3.0
"""What a dead worker left open stands in the way of everything behind it, and cannot always be ended at once."""
_LOOK_AGAIN_S: Final = 0.5
"""The same where no broker could say what was left open."""
_LOOK_LIMIT_S: Final = 30.0
"""A topic whose partition has no leader for so long keeps the others' clicks waiting no longer."""
_REPORT_EVERY_S: Final = 5.0


class Restorer:
    """Restores partitions step by step; belongs to the worker's thread, but for `begin`, `drop` and `progress`."""

    def __init__(  # noqa: PLR0913 - the last is for simulations
        self,
        settings: Settings,
        log: EventLog,
        windows: UserWindows,
        snapshots: Snapshots,
        metrics: Metrics,
        time: TimeSource | None = None,
    ) -> None:
        self.time = time or TimeSource()
        self._topic = settings.windows.topic
        self._deployment_checksum = zlib.crc32(settings.deployment.encode())
        self._shared = (settings.recommendations.topic, settings.clicks.dead_letter_topic)
        self._keeps_warm = settings.windows.standby
        self._log = log
        self._windows = windows
        self._snapshots = snapshots
        self.metrics = metrics
        self._waiting: set[int] = set()
        self._restored: set[int] = set()
        self._standby: set[int] = set()
        self._warm: set[int] = set()
        """Standby partitions that were read to the end once."""
        self._reader: Reader | None = None
        self._outdated = False
        self._snapshot_parts: dict[int, Iterator[PackedWindows]] = {}
        self.identity = ""
        """Of the changelog (`EventLog.identity`) and the deployment, by which snapshots are told apart; known when the
        first partition is restored."""
        self._began_s: dict[int, float] = {}
        self._end_abandoned_due_s = 0.0
        self._is_clear = False
        """Whether what was left open was looked for, and ended, since the last partitions came."""
        self._report_due_s = 0.0
        self.progress: str | None = None
        """How far it is, for people; None when nothing waits."""

    def stand_by(self, partitions: Collection[int]) -> None:
        """Follow these partitions, all of the topic, as long as they are not ours; only with `windows.standby`."""
        if self._keeps_warm:
            self._outdated = True
            self._set_standby(set(partitions) - self._waiting - self._restored)

    def begin(self, partitions: Collection[int]) -> None:
        """Have these partitions restored by the steps to come."""
        now_s = self.time.monotonic_s()
        self._began_s |= dict.fromkeys(partitions, now_s)
        self._end_abandoned_due_s = now_s
        self._is_clear = False
        # An open reader knows the ends of another moment: since then another worker may have written more.
        self._outdated = True
        self._set_standby(self._standby - set(partitions))
        self._set_waiting(self._waiting | set(partitions))

    def drop(self, partitions: Collection[int]) -> None:
        """These partitions went to another worker: drop their windows, or follow what becomes of them there."""
        gone = set(partitions)
        self._restored -= gone
        if self._keeps_warm:
            self._outdated = True
            self._set_standby(self._standby | gone)
        else:
            for number in gone:
                self._drop_windows(number)
        self._set_waiting(self._waiting - gone)

    def close(self) -> None:
        """Give up whatever is under way; the windows are somebody else's to clear."""
        self._snapshot_parts.clear()
        self._restored.clear()
        self._set_standby(set())
        self._set_waiting(set())
        self._close_reader()

    def waits(self) -> bool:
        """Whether any partition is not restored yet."""
        return bool(self._waiting)

    def behind(self) -> bool:
        """Whether there is more to read than what arrives: steps should follow one another."""
        return bool(self._waiting or self._standby - self._warm)

    def reads_snapshots(self) -> bool:
        """Whether a snapshot is being read: its items have their numbers, but are not all in windows yet."""
        return bool(self._snapshot_parts)

    def restored(self) -> list[int]:
        """Our partitions whose windows are complete."""
        return sorted(self._restored)

    def step(self, timeout_s: float) -> list[int]:
        """Go on for a part of a snapshot or one read of the changelog; returns the partitions that are restored now.

        Raises:
            EventLogError: the changelog cannot be read.
        """
        if not self._waiting:
            self._keep_warm()
            return []
        started_s = self.time.monotonic_s()
        if started_s >= self._end_abandoned_due_s:
            self._end_abandoned(started_s)
        reader = self._open(self._waiting)
        self._follow(reader, timeout_s, _RECORDS_AT_ONCE)
        done = [number for number in sorted(self._waiting) if self._may_serve(number) and self._at_end(reader, number)]
        for number in done:
            logger.info(
                "partition %d is restored after %.2f s", number, self.time.monotonic_s() - self._began_s.pop(number)
            )
            self._windows.set_aside.report(number, self.metrics)
        self._restored.update(done)
        self._set_waiting(self._waiting - set(done))
        if self._waiting:
            self._report(reader)
        else:
            self._close_reader()
        self.metrics.restore_seconds.inc(self.time.monotonic_s() - started_s)
        return done

    def _keep_warm(self) -> None:
        if self._standby:
            reader = self._open(self._standby)
            self._follow(reader, 0.0, _STANDBY_RECORDS_AT_ONCE)
            for number in sorted(self._standby - self._warm):
                if self._at_end(reader, number):
                    logger.info("partition %d is warm", number)
                    self._set_warm(self._warm | {number})

    def _open(self, numbers: Collection[int]) -> Reader:
        """A reader of these partitions; a new one when others are followed now."""
        if self._reader is None or self._outdated:
            self._close_reader()
            self._outdated = False
            self.identity = f"{self._log.identity(self._topic)}-{self._deployment_checksum:08x}"
            partitions = [Partition(self._topic, number) for number in sorted(numbers)]
            self._reader = self._log.reader(partitions)
            for partition in partitions:
                if partition.number in self._windows.positions:
                    self._reader.seek(partition, self._windows.positions[partition.number])
        return self._reader

    def _follow(self, reader: Reader, timeout_s: float, most: int) -> None:
        """One step with the partitions of this reader that are still wanted."""
        followed = self._waiting or self._standby
        fresh = followed - self._windows.positions.keys()
        begun = followed & self._snapshot_parts.keys()
        if fresh:
            self._start(reader, min(fresh))
        elif begun:
            self._load(min(begun))
        else:
            for records in reader.poll(timeout_s, most):
                if records.partition.number in followed:
                    self._take(records)

    def _start(self, reader: Reader, number: int) -> None:
        """Begin with the snapshot, to read on from there; with the changelog's start where there is none."""
        partition = Partition(self._topic, number)
        bounds = reader.bounds[partition]
        found = self._snapshots.read(self.identity, number, bounds, self.time.now_ms())
        position = bounds.start
        if isinstance(found, str):
            self.metrics.refused_snapshots.labels(found).inc()
        elif found:
            position, self._snapshot_parts[number] = found
            reader.seek(partition, position)
        self._windows.positions[number] = position
        logger.info("partition %d: reading the changelog from %d to %d", number, position, bounds.stop)

    def _load(self, number: int) -> None:
        """Take over the next part of a snapshot."""
        packed = next(self._snapshot_parts[number], None)
        if packed is None:
            del self._snapshot_parts[number]
        else:
            self._windows.load(packed, number)
            self.metrics.restored_users.labels("snapshot").inc(len(packed))

    def _take(self, records: Records) -> None:
        """Bring the windows of a partition to where these records lead."""
        number = records.partition.number
        try:
            users = self._windows.apply(records)
        except (ChangelogError, SettingsError) as error:
            if number in self._waiting:
                raise
            # Its owner may be of a later version or another deployment. Should the partition come here, that will be
            # the time to refuse it.
            logger.error("partition %d is not kept warm: %s", number, error)
            self._drop_windows(number)
            self._set_standby(self._standby - {number})
            return
        self._windows.positions[number] = records.offsets[-1] + 1
        self.metrics.restored_users.labels("changelog" if number in self._waiting else "standby").inc(users)

    def _at_end(self, reader: Reader, number: int) -> bool:
        if number not in self._windows.positions or number in self._snapshot_parts:
            return False
        partition = Partition(self._topic, number)
        return reader.position(partition) >= reader.bounds[partition].stop

    def _end_abandoned(self, now_s: float) -> None:
        """End what was left open where we are about to write, and on the changelog, which we are about to read."""
        inherited = [Partition(self._topic, number) for number in sorted(self._waiting)]
        has_looked = self._log.end_abandoned(inherited, self._shared)
        self._is_clear |= has_looked
        self._end_abandoned_due_s = now_s + (_END_ABANDONED_EVERY_S if has_looked else _LOOK_AGAIN_S)

    def _may_serve(self, number: int) -> bool:
        """Whether what we send becomes no part of what was left open; after a while without an answer, taken for so."""
        return self._is_clear or self.time.monotonic_s() - self._began_s[number] > _LOOK_LIMIT_S

    def _drop_windows(self, number: int) -> None:
        self._snapshot_parts.pop(number, None)
        self._windows.drop(number)

    def _report(self, reader: Reader) -> None:
        """Say how far it is, by position."""
        told: list[str] = []
        for number in sorted(self._waiting):
            bounds = reader.bounds[Partition(self._topic, number)]
            position = self._windows.positions.get(number, bounds.start)
            told.append(f"partition {number} at {position} of {bounds.stop}")
        self.progress = f"windows are being restored: {', '.join(told)}"
        if self.time.monotonic_s() >= self._report_due_s:
            self._report_due_s = self.time.monotonic_s() + _REPORT_EVERY_S
            logger.info(self.progress)

    def _set_waiting(self, partitions: set[int]) -> None:
        self._waiting = partitions
        self.metrics.restoring.set(len(partitions))
        if not partitions:
            self.progress = None
        elif self.progress is None:
            self.progress = f"windows of partitions {sorted(partitions)} wait to be restored"

    def _set_standby(self, partitions: set[int]) -> None:
        self._standby = partitions
        self._set_warm(self._warm & partitions)

    def _set_warm(self, partitions: set[int]) -> None:
        self._warm = partitions
        self.metrics.standby.set(len(partitions))

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
