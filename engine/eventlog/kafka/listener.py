"""Rebalances: the callbacks of a session, and the library's way of joining a group, mended."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from kafka import AsyncConsumerRebalanceListener
from kafka.future import Future

from engine.eventlog.base import Partition, Rebalance
from engine.eventlog.commit_steps import Holder

_LOOKUP_EVERY_S: Final = 0.1


class Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Calls the callbacks of a session on a thread of their own, while the session's thread waits inside `poll`.

    The library awaits the listener on its I/O thread: heartbeats go on meanwhile, and the callback may commit.
    """

    def __init__(self, net: Any, consumer: Any, rebalance: Rebalance) -> None:
        self._net = net
        self._consumer = consumer
        self._rebalance = rebalance
        self.failure: Exception | None = None
        """What a callback raised; `poll` raises it again."""
        self.muted = False
        self.holder = Holder()
        self.taken: set[Partition] = set()
        """Partitions that went since the session last emptied this."""

    async def on_partitions_assigned(self, assigned: Sequence[Any]) -> None:
        """These came."""
        self.holder.assigned(self._consumer.group_metadata().member_id)
        await self._call(self._rebalance.assigned, assigned)

    async def on_partitions_revoked(self, revoked: Sequence[Any]) -> None:
        """These are to be handed over."""
        self._note(revoked)
        await self._call(self._rebalance.revoked, revoked)

    async def on_partitions_lost(self, lost: Sequence[Any]) -> None:
        """These are somebody else's already."""
        self.holder.nothing_held()
        self._note(lost)
        await self._call(self._rebalance.lost, lost)

    def _note(self, partitions: Sequence[Any]) -> None:
        self.taken.update(Partition(*partition) for partition in partitions)

    async def _call(self, callback: Callable[[Sequence[Partition]], None], partitions: Sequence[Any]) -> None:
        if self.muted:
            return
        done = Future()

        def call() -> None:
            try:
                callback([Partition(*partition) for partition in sorted(partitions)])
            except Exception as error:  # noqa: BLE001 - handed over to the thread that polls
                self.failure = error
            self._net.call_soon_threadsafe(lambda: done.success(None))

        threading.Thread(target=call, name="rebalance").start()
        await done


def throttle_lookups(coordinator: Any, net: Any) -> None:
    """Let the library ask who coordinates the group ten times a second at most.

    As long as brokers name a node that has just died, it would ask again as soon as it is answered: a busy core, and
    a warning each time.
    """
    ask = coordinator._send_group_coordinator_request  # noqa: SLF001 - there is no public way to it
    due_s = 0.0

    async def ask_in_time() -> Any:
        nonlocal due_s
        delay_s = due_s - time.monotonic()
        if delay_s > 0:
            await net.sleep(delay_s)
        due_s = time.monotonic() + _LOOKUP_EVERY_S
        return await ask()

    coordinator._send_group_coordinator_request = ask_in_time  # noqa: SLF001


class _PendingJoin:
    """A request to join the group, still under way when a `poll` ended; the next `poll` is to read its answer.

    The library looks at `is_done` and, when the answer came between two polls, drops it and asks anew, which calls the
    whole group together again: members that poll briefly would never settle.
    """

    is_done = False

    def __init__(self, join: Any) -> None:
        self.add_callback = join.add_callback
        self.add_errback = join.add_errback


def keep_pending_join(coordinator: Any) -> None:
    """Make sure that the next `poll` reads the answer to a request to join that is under way.

    Without the second line it may never look: new partition counts start a join, and seem dealt with as soon as the
    leader has used them; the member would go on polling, busily, without partitions and without heartbeats.
    """
    if coordinator._join_task is not None:  # noqa: SLF001 - there is no public way to it
        coordinator._join_task = _PendingJoin(coordinator._join_task)  # noqa: SLF001
        coordinator.request_rejoin()
