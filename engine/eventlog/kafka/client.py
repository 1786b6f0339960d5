"""The library's network client, mended where it forgets: why a connection failed, sockets, half a TLS handshake."""

import contextlib
import socket
import ssl
import time
from typing import Any, Final
from weakref import WeakSet

from kafka.errors import KafkaConnectionError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from engine.eventlog.kafka.failures import is_permanent

LONGEST_WAIT_S: Final = 45.0
"""For one call of the library. All of them are given shorter time limits, which it mostly keeps."""
_UNREACHABLE_PAUSE_S: Final = 0.02


class _Loop(NetworkSelector):  # type: ignore[misc]
    """The library's event loop, with an end to every wait for it: the library itself sets none."""

    _waiting_since_s: dict[Any, float] | None = None

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._sockets = WeakSet[socket.socket]()

    def register_event(self, fileobj: Any, event: int, task: Any) -> None:
        """As the library's; every socket is waited for through here."""
        self._sockets.add(fileobj)
        super().register_event(fileobj, event, task)

    def close(self) -> None:
        """As the library's, and every socket: one that still has something to write when the loop ends stays open."""
        super().close()
        for each in self._sockets:
            each.close()

    def start(self) -> None:
        """As the library's; from now on looks after who waits."""
        super().start()
        if self._waiting_since_s is None:
            self._waiting_since_s = {}
            self.call_soon_threadsafe(self._end_long_waits)

    def _end_long_waits(self) -> None:
        now_s, known = time.monotonic(), self._waiting_since_s or {}
        with self._pending_waiters_lock:
            self._waiting_since_s = {done: known.get(done, now_s) for done in self._pending_waiters}
            late = [done for done, since_s in self._waiting_since_s.items() if now_s - since_s > LONGEST_WAIT_S]
            waits = [(done, self._pending_waiters.pop(done)) for done in late]
        for done, outcome in waits:
            outcome["exception"] = KafkaTimeoutError(f"no answer within {LONGEST_WAIT_S:g} s")
            done.set()
        self.call_later(LONGEST_WAIT_S / 10, self._end_long_waits)


class _Connections(KafkaConnectionManager):  # type: ignore[misc]
    """The library's connections, with a memory for why the last one failed.

    Until the first broker has answered, a refusal that would only repeat itself ends the search.
    """

    def __init__(self, net: Any, **config: Any) -> None:
        super().__init__(net, **config)
        self.net = net
        self.last_error: Exception | None = None

    def get_connection(self, node_id: Any, timeout_ms: float | None = None, **options: Any) -> Any:
        """As the library's; called once per attempt while it looks for a broker."""
        if self.last_error and not self.bootstrapped and is_permanent(self.last_error):
            raise self.last_error
        connection = super().get_connection(node_id, timeout_ms=timeout_ms, **options)
        if not self.bootstrapped:
            connection.init_future.add_errback(self._remember)
            if timeout_ms is not None:  # the library waits for ever for the other end of a TLS handshake
                self.net.call_later(timeout_ms / 1000, lambda: self._give_up(connection))
        return connection

    def _give_up(self, connection: Any) -> None:
        if not connection.init_future.is_done:
            connection.close(KafkaTimeoutError("connected, but there was no answer"))

    def _remember(self, error: Exception) -> None:
        self.last_error = error


class Client(KafkaNetClient):  # type: ignore[misc]
    """The library's network client, on connections that remember."""

    def __init__(self, **config: Any) -> None:
        self.net = _Loop(**config)
        self.connections = _Connections(self.net, **config)
        super().__init__(self.net, self.connections, **config)

    def await_ready(self, node_id: Any, timeout_ms: float = 30_000) -> bool:
        """Whether the node can be reached; the library's raises, and its sender then loses the request in its hands."""
        try:
            return bool(super().await_ready(node_id, timeout_ms))
        except KafkaConnectionError:
            time.sleep(_UNREACHABLE_PAUSE_S)  # the sender would come back at once
            return False

    def close_connections(self) -> None:
        """End every connection, from any thread, so that nobody goes on waiting for an answer."""
        with contextlib.suppress(RuntimeError):  # closed already
            self.net.call_soon_threadsafe(self.connections.close)


class _PlainSocket(socket.socket):
    """A socket that lets the library read what a broker says just before it hangs up, such as why it refuses a login.

    The library drops data that arrives together with the end of the stream; here the end arrives one read later.
    """

    _heard = False

    def recv(self, size: int = 1024, flags: int = 0) -> bytes:
        data = super().recv(size, flags)
        if not data and self._heard:
            self._heard = False
            raise BlockingIOError
        self._heard = bool(data)
        return data


class TlsSocket(_PlainSocket, ssl.SSLSocket):
    """The same with TLS; closed when its handshake fails, because the library would forget it."""

    def do_handshake(self, block: bool = False) -> None:
        """As the library asks for it, which then forgets a socket whose handshake failed."""
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            self.close()
            raise


class Connector(KafkaNetSocket):  # type: ignore[misc]
    """Opens the sockets above, and closes them when they cannot connect.

    Defining the class registers it with the library, which picks it by the scheme of the setting `proxy_url`.
    """

    SCHEMES = ("direct",)

    def socket(self, *args: Any) -> Any:
        """A new socket, remembered until it is connected."""
        self._opened = _PlainSocket(*args)
        return self._opened

    async def connect(self, *args: Any, **options: Any) -> Any:
        """Connect the socket made last, or close it."""
        try:
            return await super().connect(*args, **options)
        except BaseException:
            self._opened.close()
            raise
