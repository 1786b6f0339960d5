"""The HTTP server: a service, its application, and uvicorn in a thread."""

import logging
import socket
import threading
from typing import Final, Self

import uvicorn

from engine.errors import SettingsError
from engine.eventlog.base import EventLog
from engine.metrics import ServeMetrics
from engine.settings.sections import ServeSettings, Settings
from engine.view.api_keys import ApiKeys
from engine.view.app import make_app
from engine.view.connections import Connections
from engine.view.direct import DirectAnswers
from engine.view.gate import LOOPBACK, Gate
from engine.view.service import Service
from engine.view.shop import Shop

logger = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_KEEP_ALIVE_S: Final = 10
_CLOSE_LIMIT_S: Final = 2
"""Time that answers under way, and streams, get when the server ends."""


class HttpServer:
    """A context manager that answers from the moment it is entered.

    Raises:
        SettingsError: the settings of `serve` do not fit, or the address cannot be listened on.
    """

    def __init__(self, settings: Settings, log: EventLog, shop: Shop | None = None) -> None:
        """Check the settings and take the address; nothing is read or answered yet."""
        serve = settings.serve
        keys = _keys(serve)
        self.metrics = ServeMetrics()
        self.service = Service(settings, log, self.metrics, shop)
        app, service = make_app(self.service), self.service

        def stored(user: str) -> bytes | None:
            return service.stored.find(service.held_as(user))

        # To pages of other origins the application answers, which adds headers for them.
        if serve.cors_origins:
            gate = Gate(app, serve, keys, self.metrics)
        else:
            gate = Gate(DirectAnswers(app, service), serve, keys, self.metrics, stored)
        self._socket = _listen(serve)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            gate,
            http=Connections(serve.max_connections, self.metrics).protocol(),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_CLOSE_LIMIT_S,
            ssl_certfile=serve.tls_certificate_file,
            ssl_keyfile=None if serve.tls_key_file is None else str(serve.tls_key_file),
        )
        self._load(config, serve)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="headrace-http", daemon=True)
        self.address = f"{'https' if serve.tls_certificate_file else 'http'}://{_shown(serve.host)}:{self.port}"
        """URL of the server."""

    def __enter__(self) -> Self:
        self.service.start()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
        self.service.close()

    def check(self) -> None:
        """Raise the error that ended a part of the server.

        Raises:
            HeadraceError: that error; a ReleaseError where the release named in the settings cannot be used.
        """
        self.service.check()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def _load(self, config: uvicorn.Config, serve: ServeSettings) -> None:
        """Have certificates read now, while a mistake can still be said."""
        try:
            config.load()
        except (OSError, ValueError) as error:
            self._socket.close()
            raise SettingsError(
                f"serve.tls_certificate_file {serve.tls_certificate_file} and serve.tls_key_file {serve.tls_key_file}"
                f" cannot be used: {error}; expected a certificate chain and its private key in PEM, correct the paths"
            ) from error


def _keys(serve: ServeSettings) -> ApiKeys | None:
    """The keys of the settings; None where everybody on this machine may ask."""
    if serve.keys_file is not None:
        return ApiKeys(serve.keys_file)
    if serve.host not in LOOPBACK and not serve.without_keys:
        raise SettingsError(
            f"serve.host: found {serve.host!r}, which other machines may reach, without serve.keys_file; expected keys"
            " there (`headrace serve-key` makes them), or serve.without_keys = true where everybody may ask"
        )
    return None


def _listen(serve: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((serve.host, serve.port))
        listener.listen(_BACKLOG)  # from now on a client that connects waits until uvicorn runs
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"serve.host {serve.host!r} and serve.port {serve.port} cannot be listened on: {error.strerror or error};"
            " choose another port, or 0 for any free one"
        ) from error
    return listener


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
