"""The gate before the application: who may ask, how often, and what every answer carries.

An ASGI middleware. Without keys it answers on this machine alone, and only to requests that name this machine: a page
from elsewhere that has its own name point here (DNS rebinding) gets nothing.
"""

import asyncio
import math
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_plus

from engine.metrics import ServeMetrics
from engine.settings.sections import ServeSettings
from engine.view.api_keys import ApiKey, ApiKeys
from engine.view.asgi import JSON_TYPE, AsgiApp, Message, Receive, Scope, Send, answer, refuse
from engine.view.caller_rates import CallerRates
from engine.view.refusals import RefusalError

_BODY_LIMIT_S: Final = 10.0
"""A body that is not whole after this time never will be."""
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_OPEN: Final = frozenset({"/", "/healthz", "/readyz", "/v1/health/live", "/v1/health/ready", "/v1/openapi.json"})
_SCOPES: Final = {
    "/v1/impressions": "report",
    **dict.fromkeys(("/v1/explanation", "/v1/window", "/v1/map/user", "/v1/figures", "/v1/clicks"), "explain"),
    "/metrics": "admin",
}
"""Scopes of the paths for which `read` is not enough."""
_PATHS: Final = frozenset(
    {*_OPEN, *_SCOPES, "/v1/list", "/v1/lists", "/v1/session", "/v1/next", "/v1/rank", "/v1/similar", "/v1/popular"}
    | {"/v1/trending", "/v1/map", "/v1/releases", "/v1/events"}
)
"""Paths that metrics name; all others are one."""
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: the page loads and asks nothing but this server."""
_HEADERS: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-site"),
    (b"content-security-policy", _POLICY),
]


class Gate:
    """Middleware around the application."""

    def __init__(
        self,
        app: AsgiApp,
        settings: ServeSettings,
        keys: ApiKeys | None,
        metrics: ServeMetrics,
        stored: Callable[[str], bytes | None] = lambda _user: None,
    ) -> None:
        """Put a gate before an application.

        Args:
            app: answers whatever is admitted.
            settings: rates and hosts.
            keys: None where nobody needs one.
            metrics: of the server.
            stored: the list that was pushed to a user, which is repeated here: most requests are for it.
        """
        self._app = app
        self._stored = stored
        self._settings = settings
        self._keys = keys
        self._metrics = metrics
        self._rates = CallerRates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send_counted = self._counted(scope, send)
        try:
            self._admit(scope)
        except RefusalError as refusal:
            await refuse(send_counted, refusal)
            return
        message = self._stored_list(scope)
        if message is not None:
            await answer(send_counted, HTTPStatus.OK, JSON_TYPE, message)
            return
        await self._app(scope, _impatient(receive), send_counted)

    def _stored_list(self, scope: Scope) -> bytes | None:
        """The stored list that a request is for; None for every other request, and where none is held."""
        if scope["path"] != "/v1/list" or scope["method"] != "GET":
            return None
        query = scope["query_string"].decode("latin-1")
        name, _, user = query.partition("=")
        return None if name != "user" or "&" in user else self._stored(unquote_plus(user))

    def _counted(self, scope: Scope, send: Send) -> Send:
        """`send` that adds headers, and counts the answer and its time."""
        started_s = time.perf_counter()
        path = scope["path"] if scope["path"] in _PATHS else "other"

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
                self._metrics.requests.labels(path, message["status"]).inc()
                self._metrics.request_seconds.labels(path).observe(time.perf_counter() - started_s)
            await send(message)

        return send_on

    def _admit(self, scope: Scope) -> None:
        """Refuse who may not ask.

        Raises:
            RefusalError: no key, the wrong one, too often, or a body that is not JSON.
        """
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        if method == "OPTIONS" or path in _OPEN or path.startswith("/page/"):
            return
        limit, caller = self._settings.rate_per_s, (scope.get("client") or ("",))[0]
        if self._keys is not None:
            caller, key = _key_of(headers, self._keys, _SCOPES.get(path, "read"))
            limit = self._settings.rate_per_s if key.rate_per_s is None else key.rate_per_s
        elif not self._settings.without_keys:
            _check_host(headers)
        wait_s = self._rates.wait_s(caller, limit) if limit else 0.0
        if wait_s:
            self._metrics.shed_requests.labels("rate").inc()
            raise RefusalError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"more than {limit:g} requests a second",
                retry_after_s=math.ceil(wait_s),
            )
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if method == "POST" and kind != b"application/json":
            # A form of another site could send anything else without the browser asking first.
            raise RefusalError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"Content-Type: found {kind.decode(errors='replace')!r}, expected application/json",
                "Content-Type",
            )


def _key_of(headers: dict[bytes, bytes], keys: ApiKeys, scope: str) -> tuple[str, ApiKey]:
    kind, _, secret = headers.get(b"authorization", b"").decode(errors="replace").partition(" ")
    named = keys.find(secret.strip()) if kind.lower() == "bearer" else None
    if named is None:
        raise RefusalError(
            HTTPStatus.UNAUTHORIZED,
            "Authorization: found no key that is known, expected `Bearer KEY`; `headrace serve-key` makes keys",
            "Authorization",
        )
    if not named[1].allows(scope):
        raise RefusalError(
            HTTPStatus.FORBIDDEN,
            f"key {named[0]!r} has the scopes {', '.join(named[1].scopes)}, expected {scope!r}",
            "Authorization",
        )
    return named


def _check_host(headers: dict[bytes, bytes]) -> None:
    """Refuse requests that name another machine than this one."""
    host = headers.get(b"host", b"").decode(errors="replace")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.strip("[]").lower() not in LOOPBACK:
        raise RefusalError(
            HTTPStatus.FORBIDDEN,
            f"Host: found {host!r}, expected this machine's own name for itself, localhost; for requests by way of a"
            " proxy set serve.keys_file, or serve.without_keys",
            "Host",
        )


def _impatient(receive: Receive) -> Receive:
    """`receive` that takes the sender of a body that does not become whole for gone."""
    is_whole, deadline_s = False, time.monotonic() + _BODY_LIMIT_S

    async def receive_on() -> Message:
        nonlocal is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    return receive_on
