"""/metrics, /healthz and /readyz over HTTP, from a thread of their own."""

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from engine.errors import SettingsError
from engine.settings.sections import TelemetrySettings

Probe = Callable[[], str | None]
"""Says what is wrong; None when all is well."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
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
