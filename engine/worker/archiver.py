"""The archiver: clicks, searches and requests to forget users from their topic into files, as a worker decodes them.

A member of a consumer group of its own (`kafka.group` with `-archive`), so that several share the partitions. The group
says who reads what, and no more: each partition goes on where its files end (`engine.interactions.archive_writer`), and
two members that both believe they have a partition do no harm. Positions are committed for tools that show lags.

The unit of work is one partition's records of one day, decoded by themselves, so that a file depends on its records
alone and not on what was polled with them.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np

from engine.catalogue.actions import Actions
from engine.errors import DataError, EventLogError, SettingsError
from engine.eventlog import topic_plan
from engine.eventlog.acl_plan import ARCHIVE_SUFFIX
from engine.eventlog.base import EventLog, Partition, Rebalance, Records, Session
from engine.eventlog.share_watch import ShareWatch
from engine.eventlog.time_source import TimeSource
from engine.ingest.decoder import ClickDecoder
from engine.interactions import archive_files
from engine.interactions.archive_compaction import CompactionSettings, Compactor
from engine.interactions.archive_folder import ArchiveFolder
from engine.interactions.archive_writer import ArchiveWriter
from engine.metrics import Metrics
from engine.settings.sections import Settings
from engine.worker.access import Access
from engine.worker.lag import LagGauges

logger = logging.getLogger(__name__)

_MAX_RECORDS: Final = 10_000
_GAUGES_EVERY_S: Final = 1.0
_PAUSE_S: Final = 5.0
"""Before a new session after a failure of the log or of the archive's file system."""
_DAY_MS: Final = 86_400_000


class ArchiveStream:
    """Records of the topic of clicks to files of one archive.

    Raises:
        SettingsError: there is no `archive.folder`, or the fields of the settings cannot be mapped.
        EventLogError: the topic of clicks does not exist.
        MissingExtraError: the address has a scheme, and what its file system needs is not installed.
        DataError: fsspec does not know the scheme.
    """

    def __init__(self, settings: Settings, log: EventLog, metrics: Metrics, time: TimeSource) -> None:
        archive, self.topic = settings.archive, settings.clicks.topic
        if archive.folder is None:
            raise SettingsError(
                "archive.folder: found none, expected the folder or the address that clicks are written to; set it"
            )
        self._metrics, self._time = metrics, time
        self.clicks = 0
        """Written so far."""
        self._actions = Actions(settings.clicks)
        self._decoder = ClickDecoder(settings.clicks.model_copy(update={"rekey": False}), self._actions)
        self.folder = ArchiveFolder(archive.folder)
        self.partitions = topic_plan.source_partitions(log, settings)
        identity = log.identity(self.topic)
        self._writer = ArchiveWriter(self.folder, self.topic, identity, archive.file_mib, archive.file_age_s)
        self._compactor = Compactor(
            self.folder, CompactionSettings(archive.file_mib, archive.retention_days), self._count
        )

    def begin(self, partitions: Sequence[int]) -> dict[int, int]:
        """The next offset of each of these partitions that has files; see `ArchiveWriter.begin`."""
        self.folder.remove_partials()
        return self._writer.begin(partitions)

    def add(self, records: Records) -> None:
        """Gather the records of one partition, and write those of earlier days.

        Raises:
            DataError: a file cannot be written.
        """
        known = int(np.searchsorted(records.offsets, self._writer.end(records.partition.number)))
        for run in _days(_sliced(records, known, len(records))):
            day = archive_files.day_of(run.timestamps_ms[0])
            if self._writer.is_of_earlier_day(run.partition.number, day):
                self.write(run.partition.number)
            clicks, _ = self._decoder.decode([run], self._time.now_ms())  # dead letters are the workers' to send
            table, wishes = archive_files.rows_of(clicks, self._actions), archive_files.wishes_of(clicks)
            span = run.partition.number, run.offsets[0], run.offsets[-1] + 1
            self._writer.add(span, day, table, wishes, self._time.monotonic_s())

    def write_due(self, *, everything: bool = False) -> dict[Partition, int]:
        """Write the files that are due; returns the next offsets of their partitions.

        Raises:
            DataError: a file cannot be written.
        """
        due = self._writer.due(self._time.monotonic_s(), everything=everything)
        return {Partition(self.topic, number): self.write(number) for number in due}

    def write(self, partition: int) -> int:
        """Write what is gathered of a partition; returns its next offset."""
        clicks, end = self._writer.write(partition)
        self.clicks += clicks
        self._metrics.archived_clicks.inc(clicks)
        self._count("written")
        return end

    def write_of(self, partitions: Sequence[int]) -> None:
        """Write what is gathered of these partitions."""
        for partition in set(partitions).intersection(self._writer.due(0.0, everything=True)):
            self.write(partition)

    def drop(self, partitions: Sequence[int]) -> None:
        """Forget what is gathered of these partitions; whoever has them next reads it again."""
        for partition in partitions:
            self._writer.drop(partition)

    def compact(self, partitions: Sequence[int]) -> Iterator[None]:
        """One compaction of these partitions; see `Compactor.run`."""
        return self._compactor.run(partitions, self._time.now_ms())

    def set_gauges(self) -> None:
        """Bring the metrics up to date."""
        self._metrics.archive_unwritten.set(self._writer.oldest_s(self._time.monotonic_s()))

    def _count(self, change: str) -> None:
        self._metrics.archive_files.labels(change).inc()


def archive_once(settings: Settings, log: EventLog, metrics: Metrics, time: TimeSource) -> int:
    """Archive all records up to the ends of the partitions as they are now, and compact; returns the new clicks.

    Outside the group: archivers that run meanwhile do the same work, which no reader notices.

    Raises:
        SettingsError: there is no `archive.folder`, or the fields of the settings cannot be mapped.
        EventLogError: the topic of clicks does not exist, or cannot be read.
        DataError: the archive cannot be read or written, or is of another topic.
        MissingExtraError: the address has a scheme, and what its file system needs is not installed.
    """
    stream = ArchiveStream(settings, log, metrics, time)
    numbers = range(stream.partitions)
    with log.reader([stream.topic]) as reader:
        for number, offset in stream.begin(numbers).items():
            partition = Partition(stream.topic, number)
            bounds = reader.bounds[partition]
            _report_deleted(partition, range(offset, bounds.start), metrics)
            reader.seek(partition, max(offset, bounds.start))
        ends = {partition: bounds.stop for partition, bounds in reader.bounds.items()}
        while not reader.at_end():
            for records in reader.poll(settings.worker.poll_timeout_s, _MAX_RECORDS):
                before_end = int(np.searchsorted(records.offsets, ends[records.partition]))
                stream.add(_sliced(records, 0, before_end))
            stream.write_due()
    stream.write_due(everything=True)
    for _ in stream.compact(numbers):
        pass
    return stream.clicks


class Archiver:
    """One member of the group of archivers.

    `run` archives in the calling thread until it is told to stop.
    """

    def __init__(self, settings: Settings, log: EventLog, metrics: Metrics, time: TimeSource | None = None) -> None:
        kafka = settings.kafka.model_copy(
            update={"group": settings.kafka.group + ARCHIVE_SUFFIX, "delivery": "at_least_once"}
        )
        self._settings = settings.model_copy(update={"kafka": kafka})
        self._log, self._metrics, self._time = log, metrics, time or TimeSource()
        self._session: Session | None = None
        self._stream: ArchiveStream | None = None
        self._arriving: list[Partition] = []
        self._compaction: Iterator[None] | None = None
        self._compaction_due_s = self._gauges_due_s = self._joined_s = 0.0
        self._lag = LagGauges(metrics, log, self._time)
        self._share_watch = ShareWatch(settings.kafka.stall_timeout_s)
        self._access = Access(settings.kafka.first_connect_timeout_s)
        self._has_written = False
        self.heartbeat_s = self._time.monotonic_s()
        self.not_ready: str | None = "the archiver has not started yet"
        """Why nothing is archived at the moment; None when it is. May be read by any thread."""

    def run(self, stop: threading.Event) -> None:
        """Archive until `stop` is set, then write what is gathered.

        Raises:
            SettingsError: there is no `archive.folder`.
            DataError: the archive is of another topic, or could not be written from the start.
            EventLogError: the cluster has refused the login, or a right, since the start.
        """
        try:
            while not stop.is_set():
                pause_s = self.step()
                if pause_s:  # an event that is waited for cannot be set by a signal at that very moment
                    stop.wait(pause_s)
            if self._stream is not None:
                self._stream.write_due(everything=True)
        finally:
            self._leave()

    def step(self) -> float:
        """One turn; returns the seconds to pause before the next. The first joins the group.

        Raises:
            DataError: the archive is of another topic, or could not be written from the start.
            EventLogError: the cluster has refused the login, or a right, since the start.
        """
        now_s = self.heartbeat_s = self._time.monotonic_s()
        try:
            if self._session is None or self._stream is None:
                self._session, self._stream = self._join()
            self._turn(self._session, self._stream)
        except (EventLogError, DataError) as error:
            if isinstance(error, EventLogError):
                self._access.failed(error, now_s, lasted=False)
            elif not self._has_written:
                raise
            self._leave()
            self._metrics.restarts.inc()
            self.not_ready = f"archiving failed: {error}"
            logger.error("archiving failed, again in %.1f s from where the files end: %s", _PAUSE_S, error)
            return _PAUSE_S
        return 0.0

    def _join(self) -> tuple[Session, ArchiveStream]:
        stream = ArchiveStream(self._settings, self._log, self._metrics, self._time)
        stream.begin(())
        self.not_ready = "no partition is assigned yet"
        self._joined_s = self._time.monotonic_s()
        self._share_watch = ShareWatch(self._settings.kafka.stall_timeout_s)
        self._compaction_due_s = self._joined_s + self._settings.archive.compaction_interval_s
        rebalance = Rebalance(assigned=self._assigned, revoked=self._revoked, lost=self._lost)
        return self._log.session([stream.topic], self._settings.kafka.group, rebalance), stream

    def _turn(self, session: Session, stream: ArchiveStream) -> None:
        polled = session.poll(self._settings.worker.poll_timeout_s, _MAX_RECORDS)
        self._begin_arriving(session, stream)
        self._report_deleted(session)
        for records in polled:
            if records.partition not in self._arriving:
                stream.add(records)
        self._lag.read(polled)
        if positions := stream.write_due():
            session.commit(positions)
            self._has_written = True
        self._access.served()
        self.not_ready = None if session.assignment() else "no partition is assigned yet"
        self._compact(session, stream)
        self._watch(session, stream)

    def _begin_arriving(self, session: Session, stream: ArchiveStream) -> None:
        """Go on with new partitions where their files end."""
        arriving, self._arriving = self._arriving, []
        if not arriving:
            return
        ends = stream.begin([partition.number for partition in arriving])
        for partition in arriving:
            session.seek(partition, ends.get(partition.number, 0))
        session.resume(arriving)
        logger.info("archiving partitions %s", sorted(partition.number for partition in arriving))

    def _compact(self, session: Session, stream: ArchiveStream) -> None:
        """One piece of a compaction that is due, so that the group is served in between."""
        if self.heartbeat_s >= self._compaction_due_s:
            self._compaction_due_s = self.heartbeat_s + self._settings.archive.compaction_interval_s
            self._compaction = stream.compact([partition.number for partition in session.assignment()])
        if self._compaction is None:
            return
        try:
            if next(self._compaction, self) is self:
                self._compaction = None
        except DataError as error:
            self._compaction = None
            logger.error("compacting failed, again in %g s: %s", self._settings.archive.compaction_interval_s, error)

    def _watch(self, session: Session, stream: ArchiveStream) -> None:
        if self._share_watch.is_due(self.heartbeat_s):
            self._share_watch.look(self.heartbeat_s, session.unserved())
        if self.heartbeat_s >= self._gauges_due_s:
            self._gauges_due_s = self.heartbeat_s + _GAUGES_EVERY_S
            self._lag.update(session)
            stream.set_gauges()

    def _report_deleted(self, session: Session) -> None:
        for partition, offsets in session.take_deleted().items():
            if offsets.start:  # a new archive begins with the oldest record there is
                _report_deleted(partition, offsets, self._metrics)

    def _assigned(self, partitions: Sequence[Partition]) -> None:
        """Their records wait until the archive was asked where they go on."""
        if self._session is not None:
            self._session.pause(partitions)
        self._arriving += partitions

    def _revoked(self, partitions: Sequence[Partition]) -> None:
        """Write what is gathered, which the next member would read again otherwise."""
        self._compaction = None
        if self._stream is not None:
            self._stream.write_of([partition.number for partition in partitions])
        self._lost(partitions)

    def _lost(self, partitions: Sequence[Partition]) -> None:
        self._compaction = None
        self._arriving = [partition for partition in self._arriving if partition not in partitions]
        if self._stream is not None:
            self._stream.drop([partition.number for partition in partitions])
        self._lag.drop(partitions)

    def _leave(self) -> None:
        session, self._session, self._stream, self._compaction = self._session, None, None, None
        self._arriving = []
        self._lag.clear()
        if session is not None:
            try:
                session.close()
            except EventLogError as error:
                logger.debug("closing the session failed: %s", error)


def _days(records: Records) -> Iterator[Records]:
    """The records in runs, each of the day of its first record or earlier."""
    if not len(records):
        return
    days = np.maximum.accumulate(np.array(records.timestamps_ms, np.int64) // _DAY_MS)
    cuts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(records)]
    for start, stop in pairwise(cuts):
        yield _sliced(records, start, stop)


def _sliced(records: Records, start: int, stop: int) -> Records:
    rows = slice(start, stop)
    return replace(
        records,
        offsets=records.offsets[rows],
        timestamps_ms=records.timestamps_ms[rows],
        keys=records.keys[rows],
        values=records.values[rows],
        headers=records.headers[rows],
        origins=records.origins and records.origins[rows],
    )


def _report_deleted(partition: Partition, offsets: range, metrics: Metrics) -> None:
    """Warn of records that were deleted before they were archived."""
    if offsets:
        metrics.deleted_records.inc(len(offsets))
        logger.warning(
            "%d records of %s/%d (offsets %d to %d) were deleted by retention before they were archived; keep the topic"
            " longer (retention.ms, retention.bytes) than an archiver may be away",
            *(len(offsets), partition.topic, partition.number, offsets.start, offsets.stop - 1),
        )
