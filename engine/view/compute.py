"""The compute thread: requests that wait are computed together, and the standby follows its topics in between."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from threadpoolctl import threadpool_limits

from engine.errors import HeadraceError
from engine.metrics import ServeMetrics
from engine.view.item_queries import ItemQueries
from engine.view.requests import ListQuery, Responder
from engine.view.standby import Standby

logger = logging.getLogger(__name__)

_BUSY_PAUSE_S: Final = 0.01
"""Between two steps of the standby after a list arrived, whose window comes with it."""
_BUSY_S: Final = 0.1
_QUIET_PAUSE_S: Final = 0.2
"""The same at other times: a look at a topic costs milliseconds of CPU, and a window rarely changes without a list."""
_GAUGES_EVERY_S: Final = 1.0

ItemJob = Callable[[ItemQueries], Any]
"""A request that is computed by itself."""


class OverloadedError(Exception):
    """More requests wait than `serve.max_waiting`: this one is turned away."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request, and what waits for its answer."""

    job: ListQuery | ItemJob
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class ComputeThread:
    """Answers requests and keeps the standby up to date, in a thread of its own."""

    def __init__(self, standby: Standby, metrics: ServeMetrics) -> None:
        self._standby = standby
        self._responder = Responder(standby)
        self._items = ItemQueries(self._responder)
        self._metrics = metrics
        self._max_batch = standby.settings.serve.max_batch
        self._max_waiting = standby.settings.serve.max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._stop = False
        self._gauges_due_s = self._busy_until_s = 0.0
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
        with self._changed:
            self._stop = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._standby.close()

    async def submit(self, job: ListQuery | ItemJob) -> Any:
        """The answer to a request, as soon as it is computed.

        Raises:
            OverloadedError: too many requests wait.
            RequestError: the request cannot be answered.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        with self._changed:
            if len(self._waiting) >= self._max_waiting or self._stop or self.failure:
                raise OverloadedError
            self._waiting.append(_Waiting(job, answer, loop))
            self._changed.notify()
        return await answer

    def _run(self) -> None:
        try:
            self._standby.start()
            with threadpool_limits(self._standby.settings.worker.threads, user_api="blas"):
                while not self._stop:
                    self._turn()
        except HeadraceError as error:
            logger.error("nothing is computed any more: %s", error)
            self.failure = error

    def _turn(self) -> None:
        """Compute what waits, then follow a little further."""
        self.heartbeat_s = self._standby.time.monotonic_s()
        batch = self._take(self._pause_s())
        if batch:
            self._answer(batch)
        self._standby.step()
        if self.heartbeat_s >= self._gauges_due_s:
            self._gauges_due_s = self.heartbeat_s + _GAUGES_EVERY_S
            self._standby.set_gauges()

    def nudge(self) -> None:
        """Look for changed windows now; may be called by any thread."""
        with self._changed:
            self._busy_until_s = self._standby.time.monotonic_s() + _BUSY_S
            self._changed.notify()

    def _pause_s(self) -> float:
        """Longest wait for requests before the next step of the standby."""
        if self._standby.is_behind():
            return 0.0
        return _BUSY_PAUSE_S if self.heartbeat_s < self._busy_until_s else _QUIET_PAUSE_S

    def _take(self, timeout_s: float) -> list[_Waiting]:
        """Requests to be computed together, at most `serve.max_batch`, without those that nobody waits for any more."""
        with self._changed:
            if not self._waiting and timeout_s and not self._stop:
                self._changed.wait(timeout_s)
            count = min(len(self._waiting), self._max_batch)
            batch = [self._waiting.popleft() for _ in range(count)]
            self._metrics.waiting_requests.set(len(self._waiting))
        return [waiting for waiting in batch if not waiting.answer.cancelled()]

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        lists = [waiting for waiting in batch if isinstance(waiting.job, ListQuery)]
        queries = [waiting.job for waiting in batch if isinstance(waiting.job, ListQuery)]
        if queries:
            self._metrics.batch_requests.observe(len(queries))
            _resolve(lists, lambda: self._responder.lists(queries))
        for waiting in batch:
            job = waiting.job
            if not isinstance(job, ListQuery):
                _resolve([waiting], lambda job=job: [job(self._items)])  # type: ignore[misc] # mypy: untyped default


def _resolve(waiting: Sequence[_Waiting], compute: Callable[[], Sequence[Any]]) -> None:
    """Compute answers, and hand them or the error to those that wait."""
    try:
        answers: Sequence[Any] = compute()
    except Exception as error:
        if not isinstance(error, HeadraceError):
            logger.exception("a request failed")
        answers = [error] * len(waiting)
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for request, answer in zip(waiting, answers, strict=True):
        by_loop.setdefault(request.loop, []).append((request.answer, answer))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_hand_over, pairs)
        except RuntimeError:  # the loop is closed: nobody waits any more
            logger.debug("answers came after the end of the server")


def _hand_over(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in pairs:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
