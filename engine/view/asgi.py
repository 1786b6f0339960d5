"""ASGI in a few words: types of its callables, and a whole answer in one call."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

from engine.view.refusals import PROBLEM_TYPE, RefusalError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

JSON_TYPE = "application/json"


async def answer(
    send: Send, status: HTTPStatus, kind: str, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """Send a whole answer; `kind` is its media type."""
    encoded = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    encoded += [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": int(status), "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refusal: RefusalError) -> None:
    """Send a refusal."""
    await answer(send, refusal.status, PROBLEM_TYPE, refusal.body, refusal.headers)
