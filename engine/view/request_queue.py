"""Requests of the event loop that wait for a thread, which answers all of them that wait at once."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from engine.errors import HeadraceError

logger = logging.getLogger(__name__)

Job = TypeVar("Job")


class OverloadedError(Exception):
    """More requests wait than are allowed to: this one is turned away."""


@dataclass(frozen=True, slots=True)
class Waiting(Generic[Job]):
    """A request, and what waits for its answer."""

    job: Job
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class RequestQueue(Generic[Job]):
    """Requests in the order of their arrival; any event loop submits, one thread takes."""

    def __init__(self, most: int) -> None:
        """Hold at most `most` requests."""
        self._most = most
        self._waiting: deque[Waiting[Job]] = deque()
        self._changed = threading.Condition()
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def submit(self, job: Job) -> Any:
        """The answer to a request, as soon as there is one.

        Raises:
            OverloadedError: too many requests wait, or the thread has ended.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        with self._changed:
            if len(self._waiting) >= self._most or self.is_closed:
                raise OverloadedError
            self._waiting.append(Waiting(job, answer, loop))
            self._changed.notify()
        return await answer

    def take(self, most: int, timeout_s: Callable[[], float | None]) -> list[Waiting[Job]]:
        """At most `most` requests, the first ones, without those that nobody waits for any more.

        Args:
            most: of them.
            timeout_s: longest wait for the first one, None for no limit; called after the last `wake`.
        """
        with self._changed:
            limit_s = timeout_s()
            if not self._waiting and not self.is_closed and (limit_s is None or limit_s > 0.0):
                self._changed.wait(limit_s)
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]
        return [waiting for waiting in batch if not waiting.answer.cancelled()]

    def wake(self) -> None:
        """Have `take` return, or ask for its time limit again; may be called by any thread."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Turn requests away from now on; those that wait may still be taken."""
        with self._changed:
            self.is_closed = True
            self._changed.notify()


def resolve(waiting: Sequence[Waiting[Any]], compute: Callable[[], Sequence[Any]]) -> None:
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
