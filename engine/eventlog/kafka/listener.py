"""Rebalances: callbacks of a session, and corrections to how the library joins a group."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from kafka import AsyncConsumerRebalanceListener
from kafka.errors import FencedInstanceIdError
from kafka.future import Future

from engine.errors import EventLogError
from engine.eventlog.base import Partition, Rebalance
from engine.eventlog.commit_steps import Holder
from engine.eventlog.kafka.failures import describe

_LOOKUP_INTERVAL_S: Final = 0.1


class Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Calls the callbacks of a session on a thread of their own, while the session's thread waits inside `poll`.

    The library awaits the listener on its I/O thread: heartbeats go on meanwhile, and the callback may commit.
    """

    def __init__(self, net: Any, consumer: Any, rebalance: Rebalance) -> None:
        self.net = net
        self._consumer = consumer
        self._rebalance = rebalance
        self.failure: Exception | None = None
        """Error of a callback; `poll` raises it again."""
        self.muted = False
        """No callback is called any more."""
        self.holder = Holder()
        self.removed: set[Partition] = set()
        """Partitions revoked or lost since the session last cleared the set."""

    async def on_partitions_assigned(self, assigned: Sequence[Any]) -> None:
        """Partitions that this member holds from now on."""
        self.holder.assigned(self._consumer.group_metadata().member_id)
        await self._call(self._rebalance.assigned, assigned)

    async def on_partitions_revoked(self, revoked: Sequence[Any]) -> None:
        """Partitions to be handed over."""
        self._note_removed(revoked)
        await self._call(self._rebalance.revoked, revoked)

    async def on_partitions_lost(self, lost: Sequence[Any]) -> None:
        """Partitions that other members hold already."""
        self.holder.nothing_held()
        self._note_removed(lost)
        await self._call(self._rebalance.lost, lost)

    def _note_removed(self, partitions: Sequence[Any]) -> None:
        self.removed.update(Partition(*partition) for partition in partitions)

    async def _call(self, callback: Callable[[Sequence[Partition]], None], partitions: Sequence[Any]) -> None:
        if self.muted:
            return
        done = Future()

        def call() -> None:
            try:
                callback([Partition(*partition) for partition in sorted(partitions)])
            except Exception as error:  # noqa: BLE001 - raised again by the thread that polls
                self.failure = error
            self.net.call_soon_threadsafe(lambda: done.success(None))

        threading.Thread(target=call, name="rebalance").start()
        await done


def throttle_lookups(coordinator: Any, net: Any) -> None:
    """Limit the library's lookups of the group's coordinator to ten a second.

    As long as brokers name a node that has just died, the library looks up again after every answer, without a pause:
    a busy core, and a warning each time.
    """
    look_up = coordinator._send_group_coordinator_request  # noqa: SLF001 - there is no public way to it
    due_s = 0.0

    async def look_up_when_due() -> Any:
        nonlocal due_s
        delay_s = due_s - time.monotonic()
        if delay_s > 0:
            await net.sleep(delay_s)
        due_s = time.monotonic() + _LOOKUP_INTERVAL_S
        return await look_up()

    coordinator._send_group_coordinator_request = look_up_when_due  # noqa: SLF001


def tell_fenced(coordinator: Any, listener: Listener) -> None:
    """Let `poll` raise that another member took this one's place under the same static name.

    The library logs it, stops its heartbeats and joins again when its session has expired: two such members would take
    the place of one another for ever.
    """
    send = coordinator._send_heartbeat_request  # noqa: SLF001 - there is no public way to it

    async def send_heartbeat() -> Any:
        try:
            return await send()
        except FencedInstanceIdError as error:
            listener.failure = EventLogError(f"Kafka: {describe(error)}")
            raise

    coordinator._send_heartbeat_request = send_heartbeat  # noqa: SLF001


class _PendingJoin:
    """A request to join the group that was in flight when a `poll` ended, and whose answer the next `poll` reads.

    The library looks at `is_done` and, when the answer came between two polls, drops it and sends another request,
    which makes the whole group join again: members with short polls would never settle.
    """

    is_done = False

    def __init__(self, join: Any) -> None:
        self.add_callback = join.add_callback
        self.add_errback = join.add_errback


def keep_pending_join(coordinator: Any) -> None:
    """Let the next `poll` read the answer to a request to join that is in flight.

    Without the call of `request_rejoin` it may never read it: new partition counts start a join, and the library takes
    them for done as soon as the leader has used them; the member would go on polling without a pause, without
    partitions and without heartbeats.
    """
    if coordinator._join_task is not None:  # noqa: SLF001 - there is no public way to it
        coordinator._join_task = _PendingJoin(coordinator._join_task)  # noqa: SLF001
        coordinator.request_rejoin()
