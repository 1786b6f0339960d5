"""A TCP proxy in front of a Kafka broker that delivers single requests late, on the connection they came by.

It reads no more of a request than its header: size, api key, version and correlation id. A request that is held back
takes what follows it on the same connection along, as a network does; other connections go on. Its client may be cut
off at once, or left waiting until it gives up. Either way the broker's side of the connection stays open.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

PRODUCE: Final = 0
INIT_PRODUCER_ID: Final = 22
ADD_PARTITIONS: Final = 24
ADD_OFFSETS: Final = 25
END_TRANSACTION: Final = 26
TRANSACTIONAL_POSITIONS: Final = 28
_LIMIT_S: Final = 30.0
_SIZE = struct.Struct(">i")
_REQUEST = struct.Struct(">hhi")
"""Api key, api version, correlation id."""


@dataclass(slots=True)
class LateRequest:
    """A request of one kind to be held back, the first that comes."""

    api_key: int
    cuts_off: bool
    """Whether its client loses the connection at once; otherwise it waits for an answer."""
    arrived: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    _frames: list[bytes] = field(default_factory=list)
    _broker: socket.socket | None = None
    _last_correlation_id: int = 0

    def deliver(self) -> None:
        """Send it, and what followed it, to the broker, and wait until the last of them was answered.

        Raises:
            TimeoutError: it never came, or was not answered.
        """
        if not self.arrived.wait(_LIMIT_S) or self._broker is None:
            raise TimeoutError(f"no request of kind {self.api_key} came")
        self._last_correlation_id = _correlation_id(self._frames[-1])
        for frame in self._frames:
            self._broker.sendall(_SIZE.pack(len(frame)) + frame)
        if not self.answered.wait(_LIMIT_S):
            raise TimeoutError(f"the broker did not answer a request of kind {self.api_key}")

    def keep(self, frame: bytes, broker: socket.socket) -> None:
        """Hold back the request, or one that follows it."""
        self._frames.append(frame)
        self._broker = broker
        self.arrived.set()

    def note_answer(self, correlation_id: int) -> None:
        """The broker answered a request of this connection."""
        if correlation_id == self._last_correlation_id:
            self.answered.set()


class Proxy:
    """Listens on a port of its own, and passes everything on to a broker and back."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.broker_port = 0
        """Where to connect; set it before the first client comes."""
        self._lock = threading.Lock()
        self._awaited: list[LateRequest] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def bootstrap(self) -> str:
        """The proxy, as `kafka.bootstrap_servers` wants it."""
        return f"127.0.0.1:{self.port}"

    def hold(self, api_key: int, *, cuts_off: bool) -> LateRequest:
        """Hold back the next request of this kind."""
        late = LateRequest(api_key, cuts_off)
        with self._lock:
            self._awaited.append(late)
        return late

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for open_socket in self._sockets:
            _close(open_socket)
        for thread in self._threads:
            thread.join(_LIMIT_S)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                client, _ = self._listener.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", self.broker_port), _LIMIT_S)
                except OSError:
                    client.close()
                    continue
                broker.settimeout(None)
                for side in (client, broker):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, broker]
                connection = _Connection(self, client, broker)
                self._start(connection.forward_requests)
                self._start(connection.forward_answers)

    def _start(self, target: object) -> None:
        thread = threading.Thread(target=target, name="proxy", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def take_awaited(self, api_key: int) -> LateRequest | None:
        """What a request of this kind is held back by, once."""
        with self._lock:
            for late in self._awaited:
                if late.api_key == api_key:
                    self._awaited.remove(late)
                    return late
        return None


class _Connection:
    """One client's connection, and the broker's side of it."""

    def __init__(self, proxy: Proxy, client: socket.socket, broker: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._broker = broker
        self._late: LateRequest | None = None

    def forward_requests(self) -> None:
        """Pass the client's requests on, until one is held back."""
        with contextlib.suppress(OSError):
            for frame in _frames(self._client):
                api_key, _, _ = _REQUEST.unpack_from(frame)
                self._late = self._late or self._proxy.take_awaited(api_key)
                if self._late is None:
                    self._broker.sendall(_SIZE.pack(len(frame)) + frame)
                    continue
                self._late.keep(frame, self._broker)
                if self._late.cuts_off:
                    _close(self._client)
                    return
        if self._late is None:
            _close(self._broker)

    def forward_answers(self) -> None:
        """Pass the broker's answers back, to whoever is still there."""
        with contextlib.suppress(OSError):
            for frame in _frames(self._broker):
                with contextlib.suppress(OSError):
                    self._client.sendall(_SIZE.pack(len(frame)) + frame)
                if self._late is not None:
                    self._late.note_answer(_SIZE.unpack_from(frame)[0])
        _close(self._client)


def _frames(source: socket.socket) -> Iterator[bytes]:
    """The messages of one direction, without their sizes, until the sender closes."""
    with source.makefile("rb") as stream:
        while len(head := stream.read(_SIZE.size)) == _SIZE.size:
            yield stream.read(_SIZE.unpack(head)[0])


def _correlation_id(request: bytes) -> int:
    return int(_REQUEST.unpack_from(request)[2])


def _close(open_socket: socket.socket) -> None:
    """Close a socket that another thread may be reading from."""
    with contextlib.suppress(OSError):
        open_socket.shutdown(socket.SHUT_RDWR)
    open_socket.close()
