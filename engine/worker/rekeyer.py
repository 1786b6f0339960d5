"""The repartition step in front of a worker: clicks of any key onto a topic that is keyed by user, exactly once.

A second member, of a group of its own (`kafka.group` with `-rekey`), reads the topic of clicks in a thread of its own
and commits what it sends together with its positions, so that a crash neither loses nor doubles a click. The worker
reads the topic that it writes. Kafka Streams has the same between a change of key and an aggregation.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Final

from engine.errors import EventLogError
from engine.eventlog import topic_plan
from engine.eventlog.acl_plan import REKEY_SUFFIX
from engine.eventlog.base import EventLog, Partition, Rebalance, Session
from engine.eventlog.share_watch import ShareWatch
from engine.eventlog.time_source import TimeSource
from engine.ingest import rekeying
from engine.ingest.rekeying import RecordUsers
from engine.metrics import Metrics
from engine.settings.sections import Settings

logger = logging.getLogger(__name__)

_GAUGES_EVERY_S: Final = 1.0
_PAUSE_S: Final = 2.0
"""Before a new session after a failure of the log."""
_STOP_LIMIT_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.5
"""Before another look for what was left open, where no broker could say it."""
_LOOK_LIMIT_S: Final = 30.0


class Rekeyer:
    """Moves clicks to the topic `clicks.by_user_topic` while it runs."""

    def __init__(self, settings: Settings, log: EventLog, metrics: Metrics, time: TimeSource) -> None:
        self._settings = settings
        self._log = log
        self._metrics = metrics
        self._time = time
        self._users = RecordUsers(settings.clicks)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._partitions = 0
        self._share_watch = ShareWatch(settings.kafka.stall_timeout_s)
        self._gauges_due_s = 0.0
        self.heartbeat_s = time.monotonic_s()
        self.not_ready: str | None = "clicks are not being keyed by user yet"
        """Why no clicks arrive; None when they do. Written by the thread, read by any other."""

    def start(self) -> None:
        """Begin in a thread."""
        self._thread = threading.Thread(target=self._run, name="headrace-rekey", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Finish the batch under way, leave the group, and end the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOP_LIMIT_S)

    def prepare_topics(self) -> None:
        """Create what is missing: as many partitions by user as the changelog has, or else the clicks."""
        clicks = self._settings.clicks
        sources = topic_plan.source_partitions(self._log, self._settings)
        count = (
            self._log.partitions(clicks.by_user_topic) or self._log.partitions(self._settings.windows.topic) or sources
        )
        self._log.ensure_topics([topic_plan.clicks_by_user(self._settings, count)])

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.heartbeat_s = self._time.monotonic_s()
                self._serve_until_failure()
        except BaseException as error:  # noqa: BLE001 - the worker's thread raises it
            self._error = error

    def _serve_until_failure(self) -> None:
        session: Session | None = None
        try:
            session = self._join()
            self._end_abandoned()
            while not self._stop.is_set():
                self._turn(session)
        except EventLogError as error:
            self.not_ready = f"clicks are not being keyed by user: {error}"
            self._metrics.restarts.inc()
            logger.error("keying clicks by user failed, again in %.1f s from the last commit: %s", _PAUSE_S, error)
            self._stop.wait(_PAUSE_S)
        finally:
            self._leave(session)

    def _join(self) -> Session:
        self.prepare_topics()
        clicks = self._settings.clicks
        self._partitions = self._log.partitions(clicks.by_user_topic)
        self._share_watch = ShareWatch(self._settings.kafka.stall_timeout_s)
        kafka = self._settings.kafka.model_copy(update={"group": self._settings.kafka.group + REKEY_SUFFIX})
        topic_plan.begin(self._log, self._settings.model_copy(update={"kafka": kafka}))
        return self._log.session([clicks.topic], kafka.group, Rebalance(revoked=self._given_up, lost=self._given_up))

    def _end_abandoned(self) -> None:
        """End what was left open on the topic by user: what is sent there must not become a part of it.

        After a while without an answer nothing is taken for open, as before windows are restored.
        """
        give_up_s = self._time.monotonic_s() + _LOOK_LIMIT_S
        while not self._log.end_abandoned([], [self._settings.clicks.by_user_topic]):
            if self._time.monotonic_s() > give_up_s or self._stop.wait(_LOOK_AGAIN_S):
                return
            self.heartbeat_s = self._time.monotonic_s()

    def _leave(self, session: Session | None) -> None:
        if session is not None:
            try:
                session.close()
            except EventLogError as error:
                logger.debug("closing the session failed: %s", error)

    def _turn(self, session: Session) -> None:
        """One batch: its records, then its positions, in one commit."""
        self.heartbeat_s = self._time.monotonic_s()
        worker, topic = self._settings.worker, self._settings.clicks.by_user_topic
        polled = session.poll(worker.poll_timeout_s, worker.max_batch_clicks)
        self.not_ready = None
        if polled:
            for records in polled:
                session.send(rekeying.rekeyed(records, topic, self._partitions, self._users))
            session.commit({records.partition: records.offsets[-1] + 1 for records in polled})
        now_s = self._time.monotonic_s()
        if self._share_watch.is_due(now_s):
            self._share_watch.look(now_s, session.unserved())
        if now_s >= self._gauges_due_s:
            self._gauges_due_s = now_s + _GAUGES_EVERY_S
            for partition, lag in session.lag().items():
                self._metrics.consumer_lag.labels(partition.topic, str(partition.number)).set(lag)

    def _given_up(self, partitions: Sequence[Partition]) -> None:
        for topic, number in partitions:
            self._metrics.consumer_lag.remove_by_labels({"topic": topic, "partition": str(number)})
