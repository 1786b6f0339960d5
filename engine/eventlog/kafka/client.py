"""The library's network client, with time limits, reasons of failed connections, and no leaked sockets."""

import contextlib
import socket
import ssl
import time
from typing import Any, Final
from weakref import WeakSet

from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    TxnOffsetCommitRequest,
)

from engine.eventlog.kafka.failures import is_permanent

MAX_WAIT_S: Final = 45.0
"""Time limit of one call into the library's event loop. All calls have shorter ones of their own, which the library
mostly keeps."""
_UNREACHABLE_PAUSE_S: Final = 0.02
_TRANSACTION_CALLS: Final = (
    AddPartitionsToTxnRequest,
    AddOffsetsToTxnRequest,
    TxnOffsetCommitRequest,
    EndTxnRequest,
)


class UnansweredError(KafkaError):  # type: ignore[misc]
    """The connection was lost between a call of a transaction and its answer."""


class _Loop(NetworkSelector):  # type: ignore[misc]
    """The library's event loop, with a time limit for every wait for it: the library itself has none."""

    _waiting_since_s: dict[Any, float] | None = None

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._sockets = WeakSet[socket.socket]()
        self._received_s = 0.0

    def register_event(self, fileobj: Any, event: int, task: Any) -> None:
        """As the library's; every wait for a socket comes through here."""
        self._sockets.add(fileobj)
        self._received_s = max(self._received_s, getattr(fileobj, "received_s", 0.0))  # before it waits for more
        super().register_event(fileobj, event, task)

    def silent_s(self) -> float:
        """Time since data last came in on any connection; may be called by any thread."""
        return time.monotonic() - self._received_s

    def close(self) -> None:
        """As the library's, with every socket: it leaves those open that have something to write when the loop ends."""
        super().close()
        for open_socket in self._sockets:
            open_socket.close()

    def start(self) -> None:
        """As the library's; begins to limit the waits."""
        super().start()
        if self._waiting_since_s is None:
            self._waiting_since_s = {}
            self.call_soon_threadsafe(self._end_long_waits)

    def _end_long_waits(self) -> None:
        now_s, since_s = time.monotonic(), self._waiting_since_s or {}
        with self._pending_waiters_lock:
            self._waiting_since_s = {waiter: since_s.get(waiter, now_s) for waiter in self._pending_waiters}
            overdue = [waiter for waiter, start_s in self._waiting_since_s.items() if now_s - start_s > MAX_WAIT_S]
            results = [(waiter, self._pending_waiters.pop(waiter)) for waiter in overdue]
        for waiter, result in results:
            result["exception"] = KafkaTimeoutError(f"no answer within {MAX_WAIT_S:g} s")
            waiter.set()
        self.call_later(MAX_WAIT_S / 10, self._end_long_waits)


class _Connections(KafkaConnectionManager):  # type: ignore[misc]
    """The library's connections, with the reason why the last one failed.

    Until the first broker has answered, a permanent failure ends the search for one.
    """

    def __init__(self, net: Any, **config: Any) -> None:
        super().__init__(net, **config)
        self.net = net
        self.last_error: Exception | None = None

    def get_connection(self, node_id: Any, timeout_ms: float | None = None, **options: Any) -> Any:
        """As the library's; called for each attempt while it looks for a broker."""
        if self.last_error and not self.bootstrapped and is_permanent(self.last_error):
            raise self.last_error
        connection = super().get_connection(node_id, timeout_ms=timeout_ms, **options)
        if not self.bootstrapped:
            connection.init_future.add_errback(self._remember)
            if timeout_ms is not None:  # the library waits without limit for the other side of a TLS handshake
                self.net.call_later(timeout_ms / 1000, lambda: self._time_out(connection))
        return connection

    def _time_out(self, connection: Any) -> None:
        if not connection.init_future.is_done:
            connection.close(KafkaTimeoutError("connected, but there was no answer"))

    def _remember(self, error: Exception) -> None:
        self.last_error = error


class Client(KafkaNetClient):  # type: ignore[misc]
    """The library's network client, on the event loop and the connections above."""

    def __init__(self, **config: Any) -> None:
        self.net = _Loop(**config)
        self.connections = _Connections(self.net, **config)
        self._unanswered: tuple[Any, Any] | None = None
        """The last call of a transaction whose connection was lost, and the node."""
        super().__init__(self.net, self.connections, **config)

    def await_ready(self, node_id: Any, timeout_ms: float = 30_000) -> bool:
        """True if the node can be reached; the library's raises, and its sender then loses the request it holds."""
        try:
            return bool(super().await_ready(node_id, timeout_ms))
        except KafkaConnectionError:
            time.sleep(_UNREACHABLE_PAUSE_S)  # the sender tries again without a pause
            return False

    def send(self, node_id: Any, request: Any, **options: Any) -> Any:
        """As the library's, but no call of a transaction is repeated to the node that did not answer it.

        The library would repeat it on a new connection under the same epoch. The first copy may be on its way still,
        and would then be taken for a call of the next transaction: its end would commit half of that. Another node may
        be called: where that coordinates, the first one refuses what arrives there late.
        """
        if not _is_of_a_transaction(request):
            return super().send(node_id, request, **options)
        if self._unanswered is not None and self._unanswered[0] is request and self._unanswered[1] == node_id:
            return Future().failure(UnansweredError("no answer before the connection was lost; it may have been done"))
        answer = super().send(node_id, request, **options)
        if not answer.is_done:  # what failed at once was not sent
            answer.add_errback(lambda error: self._note_unanswered(node_id, request, error))
        return answer

    def _note_unanswered(self, node_id: Any, request: Any, error: Exception) -> None:
        if isinstance(error, KafkaConnectionError):
            self._unanswered = request, node_id

    def close_connections(self) -> None:
        """Close every connection, from any thread, so that no thread goes on waiting for an answer."""
        with contextlib.suppress(RuntimeError):  # closed already
            self.net.call_soon_threadsafe(self.connections.close)


def _is_of_a_transaction(request: Any) -> bool:
    """True for a request that must not be sent twice."""
    if isinstance(request, InitProducerIdRequest):
        return request.transactional_id is not None  # producers without transactions ask for a number, too
    return isinstance(request, _TRANSACTION_CALLS)


class _PlainSocket(socket.socket):
    """A socket whose last data the library reads, such as a broker's reason for refusing a login.

    The library drops data that arrives together with the end of the stream; here the end arrives one read later.
    """

    _has_data = False
    received_s = 0.0
    """Time of the last data, on a monotonic clock."""

    def recv(self, size: int = 1024, flags: int = 0) -> bytes:
        data = super().recv(size, flags)
        if not data and self._has_data:
            self._has_data = False
            raise BlockingIOError
        self._has_data = bool(data)
        self.received_s = time.monotonic()
        return data


class TlsSocket(_PlainSocket, ssl.SSLSocket):
    """The same with TLS; closed when its handshake fails, because the library would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        """As the standard library's; the client calls it, and leaves the socket open when it fails."""
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            self.close()
            raise


class Connector(KafkaNetSocket):  # type: ignore[misc]
    """Opens the sockets above, and closes those that cannot connect.

    The definition of the class registers it with the library, which chooses it by the scheme of the option `proxy_url`.
    """

    SCHEMES = ("direct",)

    def socket(self, *args: Any) -> Any:
        """A new socket, kept until it is connected."""
        self._socket = _PlainSocket(*args)
        return self._socket

    async def connect(self, *args: Any, **options: Any) -> Any:
        """Connect the last socket, or close it."""
        try:
            return await super().connect(*args, **options)
        except BaseException:
            self._socket.close()
            raise
