"""The compute thread: requests that wait are computed together, and the standby follows its topics in between.

A step of the standby asks the client for records, which costs milliseconds, so its times are its own: neither a request
nor a list that arrives makes it more frequent than `_BUSY_PAUSE_S`.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from threadpoolctl import threadpool_limits

from engine.errors import HeadraceError
from engine.metrics import ServeMetrics
from engine.view.item_queries import ItemQueries
from engine.view.request_queue import RequestQueue, Waiting, resolve
from engine.view.requests import ListQuery, Responder
from engine.view.standby import Standby

logger = logging.getLogger(__name__)

_BUSY_PAUSE_S: Final = 0.01
"""Between two steps of the standby once a list has arrived, whose window comes with it."""
_BUSY_S: Final = 0.1
_QUIET_PAUSE_S: Final = 0.2
"""The same at other times: a look at a topic costs milliseconds of CPU, and a window rarely changes without a list."""
_GAUGES_EVERY_S: Final = 1.0

ItemJob = Callable[[ItemQueries], Any]
"""A request that is computed by itself."""


class ComputeThread:
    """Answers requests and keeps the standby up to date, in a thread of its own."""

    def __init__(self, standby: Standby, metrics: ServeMetrics) -> None:
        self._standby = standby
        self._responder = Responder(standby)
        self._items = ItemQueries(self._responder)
        self._metrics = metrics
        self._max_batch = standby.settings.serve.max_batch
        self._queue = RequestQueue[ListQuery | ItemJob](standby.settings.serve.max_waiting)
        self._gauges_due_s = self._busy_until_s = self._stepped_s = 0.0
        self.heartbeat_s = standby.time.monotonic_s()
        """Time of the last turn."""
        self.failure: HeadraceError | None = None
        """The error that ended the thread."""
        self._thread = threading.Thread(target=self._run, name="headrace-compute", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop; requests that wait are given up."""
        self._queue.close()
        if self._thread.is_alive():
            self._thread.join()
        self._standby.close()

    async def submit(self, job: ListQuery | ItemJob) -> Any:
        """The answer to a request, as soon as it is computed.

        Raises:
            OverloadedError: too many requests wait.
            RequestError: the request cannot be answered.
        """
        return await self._queue.submit(job)

    def nudge(self) -> None:
        """Look for changed windows soon; may be called by any thread."""
        now_s = self._standby.time.monotonic_s()
        was_busy, self._busy_until_s = now_s < self._busy_until_s, now_s + _BUSY_S
        if not was_busy:  # the thread may be in a longer pause
            self._queue.wake()

    def _run(self) -> None:
        try:
            self._standby.start()
            with threadpool_limits(self._standby.settings.worker.threads, user_api="blas"):
                while not self._queue.is_closed:
                    self._turn()
        except HeadraceError as error:
            logger.error("nothing is computed any more: %s", error)
            self.failure = error
            self._queue.close()

    def _turn(self) -> None:
        """Compute what waits, then follow a little further."""
        self.heartbeat_s = self._standby.time.monotonic_s()
        batch = self._queue.take(self._max_batch, self._pause_s)
        self._metrics.waiting_requests.set(len(self._queue))
        if batch:
            self._answer(batch)
        if self._pause_s() <= 0.0:
            self._standby.step()
            self._stepped_s = self._standby.time.monotonic_s()
        if self.heartbeat_s >= self._gauges_due_s:
            self._gauges_due_s = self.heartbeat_s + _GAUGES_EVERY_S
            self._standby.set_gauges()

    def _pause_s(self) -> float:
        """Time until the next step of the standby."""
        if self._standby.is_behind():
            return 0.0
        pause_s = _BUSY_PAUSE_S if self._stepped_s < self._busy_until_s else _QUIET_PAUSE_S
        return self._stepped_s + pause_s - self._standby.time.monotonic_s()

    def _answer(self, batch: Sequence[Waiting[ListQuery | ItemJob]]) -> None:
        lists = [waiting for waiting in batch if isinstance(waiting.job, ListQuery)]
        queries = [waiting.job for waiting in batch if isinstance(waiting.job, ListQuery)]
        if queries:
            self._metrics.batch_requests.observe(len(queries))
            resolve(lists, lambda: self._responder.lists(queries))
        for waiting in batch:
            job = waiting.job
            if not isinstance(job, ListQuery):
                resolve([waiting], lambda job=job: [job(self._items)])  # type: ignore[misc] # mypy: untyped default
