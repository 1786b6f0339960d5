"""Connections of clients that say nothing, or only half of what they began: none keeps a descriptor for long.

uvicorn closes a connection that is idle between two requests, but not one on which no request was ever whole.
"""

import asyncio
import logging
import resource
from typing import Any, Final

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from engine.metrics import ServeMetrics

logger = logging.getLogger(__name__)

_HEAD_LIMIT_S: Final = 10.0
"""A head of a request that is not whole after this time never will be."""
_SPARE_DESCRIPTORS: Final = 128
"""Left to the clients of Kafka, files and everything else."""


_Protocol: Any = AutoHTTPProtocol
"""That of httptools or h11, whichever is installed."""


class Connections:
    """The open connections, the one that was idle longest first."""

    def __init__(self, most: int, metrics: ServeMetrics) -> None:
        """Bound the connections by `most`, and by the descriptors that this process may open."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(8, min(most, soft - _SPARE_DESCRIPTORS))
        self._metrics = metrics
        self._open: dict[Any, None] = {}

    def protocol(self) -> type[asyncio.Protocol]:
        """A class for `uvicorn.Config.http` whose connections are bounded by this object."""
        connections = self

        class Bounded(_Protocol):  # type: ignore[misc] # uvicorn chooses it at import
            def connection_made(self, transport: asyncio.Transport) -> None:
                super().connection_made(transport)
                connections.opened(self)

            def data_received(self, data: bytes) -> None:
                connections.heard(self)
                super().data_received(data)

            def connection_lost(self, exc: Exception | None) -> None:
                connections.closed(self)
                super().connection_lost(exc)

        return Bounded

    def opened(self, connection: Any) -> None:
        """Count a new connection; where there are too many, the one that was idle longest is closed for it."""
        self._open[connection] = None
        connection.loop.call_later(_HEAD_LIMIT_S, self._expire, connection, None)
        if len(self._open) > self._most:
            self._metrics.shed_requests.labels("connections").inc()
            idle = next((other for other in self._open if not _is_busy(other)), next(iter(self._open)))
            self._open.pop(idle)
            idle.transport.abort()

    def heard(self, connection: Any) -> None:
        """Something came: the connection is the last one to be closed now."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def closed(self, connection: Any) -> None:
        """Forget a connection."""
        self._open.pop(connection, None)

    def _expire(self, connection: Any, cycle: Any) -> None:
        """Close a connection on which no request became whole since the last look; look again where one did."""
        if connection not in self._open:
            return
        if not _is_busy(connection) and connection.cycle is cycle:
            connection.transport.abort()
        else:
            connection.loop.call_later(_HEAD_LIMIT_S, self._expire, connection, connection.cycle)


def _is_busy(connection: Any) -> bool:
    """Whether an answer is under way."""
    return connection.cycle is not None and not connection.cycle.response_complete
