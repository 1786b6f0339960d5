"""Server-sent events: what is published on a subject goes to the streams that are open for it.

A slow reader gets the newest state and not every one before it, so no stream holds more than one message.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from engine.metrics import ServeMetrics

_KEEP_ALIVE_S: Final = 15.0
"""Between two comments on a silent stream, by which both ends notice that the other is gone."""
_HELLO: Final = b"retry: 1000\n\n"
"""A browser comes back a second after the stream broke off."""
_KEEP_ALIVE: Final = b": still here\n\n"


class _Mailbox:
    """The newest message of one stream."""

    def __init__(self) -> None:
        self._message: bytes | None = None
        self._filled = asyncio.Event()

    def put(self, message: bytes) -> None:
        self._message = message
        self._filled.set()

    async def take(self, timeout_s: float) -> bytes | None:
        """The message, or None after `timeout_s` without one."""
        try:
            await asyncio.wait_for(self._filled.wait(), timeout_s)
        except TimeoutError:
            return None
        self._filled.clear()
        return self._message


class Subscriptions:
    """The open streams by subject. Belongs to the event loop's thread, but for `publish`."""

    def __init__(self, most: int, metrics: ServeMetrics) -> None:
        self._most = most
        self._metrics = metrics
        self._mailboxes: dict[str, set[_Mailbox]] = {}
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Serve streams on the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    @property
    def is_full(self) -> bool:
        """Whether another stream would be one too many."""
        return self._count >= self._most

    def has(self, subject: str) -> bool:
        """Whether anybody listens; may be called by any thread."""
        return subject in self._mailboxes

    def publish(self, subject: str, event: str, data: bytes) -> None:
        """Send an event to the streams of a subject; may be called by any thread."""
        if subject in self._mailboxes and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._deliver, subject, encode(event, data))
            except RuntimeError:  # the loop is closed, and with it every stream
                return

    async def stream(self, subject: str, first: bytes | None = None) -> AsyncIterator[bytes]:
        """What a stream sends: `first`, an encoded event, then all that is published, and comments in silence."""
        mailbox = _Mailbox()
        self._mailboxes.setdefault(subject, set()).add(mailbox)
        self._count += 1
        self._metrics.streams.set(self._count)
        try:
            yield _HELLO + (first or b"")
            while True:
                yield await mailbox.take(_KEEP_ALIVE_S) or _KEEP_ALIVE
        finally:
            self._count -= 1
            self._metrics.streams.set(self._count)
            mailboxes = self._mailboxes[subject]
            mailboxes.discard(mailbox)
            if not mailboxes:
                del self._mailboxes[subject]

    def _deliver(self, subject: str, message: bytes) -> None:
        for mailbox in self._mailboxes.get(subject, ()):
            mailbox.put(message)


def encode(event: str, data: bytes) -> bytes:
    """An event as bytes of the stream."""
    return b"event: " + event.encode() + b"\ndata: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"
