"""Impressions: reports of what was shown, checked against the decisions they name, and put on their topic.

A report is accepted once the log has it. Reports that arrive while others are sent go with the next ones, together.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from engine.errors import EventLogError, RequestError
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Outgoing, Producer
from engine.messages.impression import Impression, ShownItem
from engine.metrics import ServeMetrics
from engine.settings.sections import Settings
from engine.view.decisions import Decision
from engine.view.http_messages import ImpressionReport
from engine.view.request_queue import RequestQueue, Waiting, resolve

logger = logging.getLogger(__name__)

_MAX_REPORTS: Final = 256
"""Requests whose impressions are sent together."""
_MS: Final = 1000


class ImpressionRules:
    """The rules by which a report becomes an impression.

    - What is known of the decision must be right: the user, and each item.
    - No item comes twice, and no time is before `clicks.earliest` or later than now by more than `clicks.max_future_s`.
    """

    def __init__(self, settings: Settings) -> None:
        clicks = settings.clicks
        self._earliest_ms = topic_plan.start_ms(clicks.earliest.isoformat()) or 0
        self._max_future_ms = round(clicks.max_future_s * _MS)

    def applied(self, report: ImpressionReport, place: str, decision: Decision | None, now_ms: int) -> Impression:
        """The impression of a report.

        Args:
            report: with its user as windows name them.
            place: of the report in the request, for messages.
            decision: the one that it names, where that is held.
            now_ms: time of the server.

        Raises:
            RequestError: names the field.
        """
        shown_ms = now_ms if report.time_ms is None else report.time_ms
        if not self._earliest_ms <= shown_ms <= now_ms + self._max_future_ms:
            raise RequestError(
                f"{place}.time_ms: found {shown_ms}, expected a time from clicks.earliest ({self._earliest_ms}) to"
                f" clicks.max_future_s after now ({now_ms + self._max_future_ms}); send Unix milliseconds"
            )
        if decision is not None and report.user not in {None, decision.user}:
            raise RequestError(
                f"{place}.user: found another user than that of decision {report.decision!r}, expected that one; leave"
                " it out where the decision came from this server"
            )
        _check_items(report, place, decision)
        return Impression(
            decision=report.decision,
            user=(report.user or "") if decision is None else decision.user,
            shown_ms=shown_ms,
            received_ms=now_ms,
            items=[ShownItem(shown.item, shown.place) for shown in report.items],
            release="" if decision is None else decision.release,
            is_known=decision is not None,
        )


def _check_items(report: ImpressionReport, place: str, decision: Decision | None) -> None:
    items = [shown.item for shown in report.items]
    known = set(items) if decision is None else {*decision.shown}
    for index, item in enumerate(items):
        if item not in known:
            raise RequestError(
                f"{place}.items[{index}].item: found {item!r}, expected one of the {len(known)} items of decision"
                f" {report.decision!r}; report each item under the id of the answer that it came with"
            )
        if item in items[:index]:
            raise RequestError(
                f"{place}.items[{index}].item: found {item!r} twice, expected each item once; send a second look as a"
                " report of its own"
            )


class ImpressionSender:
    """Puts impressions on their topic, in a thread of its own."""

    def __init__(self, settings: Settings, log: EventLog, metrics: ServeMetrics) -> None:
        self._settings, self._log, self._metrics = settings, log, metrics
        self._topic = settings.impressions.topic
        self._queue = RequestQueue[Sequence[Impression]](settings.serve.max_waiting)
        self._producer: Producer | None = None
        self._thread = threading.Thread(target=self._run, name="headrace-impressions", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Send what waits, and stop."""
        self._queue.close()
        if self._thread.is_alive():
            self._thread.join()

    async def send(self, impressions: Sequence[Impression]) -> None:
        """Send impressions; returns once the log has them.

        Raises:
            OverloadedError: too many requests wait.
            EventLogError: the log did not take them; some may be on the topic.
        """
        await self._queue.submit(impressions)

    def _run(self) -> None:
        while not self._queue.is_closed or len(self._queue):
            batch = self._queue.take(_MAX_REPORTS, lambda: None)
            if batch:
                resolve(batch, self._delivery(batch))
        self._drop_producer()

    def _delivery(self, batch: Sequence[Waiting[Sequence[Impression]]]) -> Callable[[], Sequence[None]]:
        def deliver() -> Sequence[None]:
            impressions = [impression for waiting in batch for impression in waiting.job]
            try:
                self._deliver(impressions)
            except EventLogError as error:
                logger.error("impressions are not taken: %s", error)
                self._drop_producer()
                raise
            return [None] * len(batch)

        return deliver

    def _deliver(self, impressions: Sequence[Impression]) -> None:
        if self._producer is None:
            self._create_topic()
            self._producer = self._log.producer()
        self._producer.send(
            Outgoing(
                self._topic,
                keys=[impression.user.encode("utf-8", "surrogatepass") or None for impression in impressions],
                values=[*map(msgspec.json.encode, impressions)],
            )
        )
        self._producer.flush()
        for impression in impressions:
            self._metrics.impressions.labels("known" if impression.is_known else "unknown").inc()

    def _create_topic(self) -> None:
        """Create the topic where it is missing, with as many partitions as that of lists."""
        if not self._log.partitions(self._topic):
            partitions = self._log.partitions(self._settings.recommendations.topic)
            self._log.ensure_topics([topic_plan.impressions(self._settings, partitions or topic_plan.ANY_NUMBER)])

    def _drop_producer(self) -> None:
        """Close the producer; the next delivery makes a new one."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close()
        except EventLogError as error:
            logger.debug("closing a producer failed: %s", error)
