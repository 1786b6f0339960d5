"""/metrics, /healthz and /readyz over HTTP, from a thread of their own."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from engine.errors import SettingsError
from engine.settings.sections import TelemetrySettings

Probe = Callable[[], str | None]
"""Says what is wrong; None when all is well."""

_MAX_CONNECTIONS: Final = 32
_IDLE_LIMIT_S: Final = 10.0
"""A connection on which nothing comes for so long is closed."""
_NO_DESCRIPTOR_PAUSE_S: Final = 0.1


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, and a bound on them: file descriptors are the whole worker's."""

    daemon_threads = True
    request_queue_size = 128
    """With the library's 5, a scrape that comes in a burst of connections waits seconds for its repeated request."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, None] = {}

    def get_request(self) -> tuple[socket.socket, Any]:
        """As the library's, which tries again without a pause where there is no file descriptor left."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_NO_DESCRIPTOR_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; the oldest connection is closed where there are too many: it is idle."""
        with self._lock:
            if len(self._connections) >= _MAX_CONNECTIONS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._connections[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """As the library's."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was closed, or said nothing for too long, is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _QuietHandler(WSGIRequestHandler):
    timeout = _IDLE_LIMIT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """A scrape every few seconds is no news."""


class Telemetry:
    """The HTTP server; a context manager.

    Raises:
        SettingsError: the address cannot be listened on.
    """

    def __init__(self, settings: TelemetrySettings, registry: CollectorRegistry, health: Probe, ready: Probe) -> None:
        self._probes = {"/healthz": health, "/readyz": ready}
        self._metrics: Any = make_wsgi_app(registry)
        try:
            self._server = make_server(settings.host, settings.port, self._answer, _Server, _QuietHandler)
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"telemetry.host {settings.host!r} and telemetry.port {settings.port} cannot be listened on: {error};"
                " choose another port, or 0 for any free one"
            ) from error
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="headrace-telemetry", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        if path not in self._probes:
            return _plain(start_response, "404 Not Found", "there are /metrics, /healthz and /readyz")
        trouble = self._probes[path]()
        return _plain(start_response, "503 Service Unavailable" if trouble else "200 OK", trouble or "ok")


def _plain(start_response: Any, status: str, text: str) -> list[bytes]:
    body = f"{text}\n".encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
