"""Answers to well-formed requests without the framework, which costs more than computing a list does.

The framework describes these paths, and answers what is not well-formed: such a request goes to it, body and all, so
that each mistake is refused in one place and one form.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec

from engine.view.asgi import JSON_TYPE, AsgiApp, Message, Receive, Scope, Send, answer, refuse
from engine.view.http_messages import ImpressionsRequest, ListRequest, NextRequest, RankRequest, SessionRequest
from engine.view.refusals import RefusalError, failure
from engine.view.service import Service

logger = logging.getLogger(__name__)

_NOT_WELL_FORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_encode: Final = msgspec.json.Encoder().encode
OfUser = TypeVar("OfUser", ListRequest, NextRequest, RankRequest)


@dataclass(frozen=True, slots=True)
class _Path:
    """The body of a path's requests, and what answers them."""

    decoder: msgspec.json.Decoder[Any]
    answer: Callable[[Any], Awaitable[Any]]
    status: HTTPStatus = HTTPStatus.OK


class DirectAnswers:
    """ASGI middleware that answers POST requests of the paths that pages wait for."""

    def __init__(self, app: AsgiApp, service: Service) -> None:
        """Put direct answers before an application.

        Args:
            app: answers everything else.
            service: has the answers.
        """
        self._app = app
        self._most_bytes = service.settings.serve.max_request_kib * 1024
        decoder = msgspec.json.Decoder
        self._paths = {
            "/v1/lists": _Path(decoder(ListRequest), lambda body: service.list_for(with_held_user(service, body))),
            "/v1/session": _Path(decoder(SessionRequest), service.list_for_session),
            "/v1/next": _Path(decoder(NextRequest), lambda body: service.next_page(with_held_user(service, body))),
            "/v1/rank": _Path(decoder(RankRequest), lambda body: service.rank(with_held_user(service, body))),
            "/v1/impressions": _Path(decoder(ImpressionsRequest), service.report, HTTPStatus.ACCEPTED),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        path = self._paths.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if path is None:
            await self._app(scope, receive, send)
            return
        received: list[Message] = []
        body = await self._body(receive, received)
        try:
            request = path.decoder.decode(body)
        except _NOT_WELL_FORMED:
            await self._app(scope, _again(received, receive), send)
            return
        try:
            await answer(send, path.status, JSON_TYPE, _encode(await path.answer(request)))
        except RefusalError as refusal:
            await refuse(send, refusal)
        except Exception as error:  # a mistake of the server's own, which its log explains
            logger.error("POST %s failed", scope["path"], exc_info=error)
            await refuse(send, failure())

    async def _body(self, receive: Receive, received: list[Message]) -> bytes:
        """The body, whole or up to the limit; its messages are added to `received`."""
        size = 0
        while size <= self._most_bytes:
            received.append(message := await receive())
            size += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        return b"".join([message.get("body", b"") for message in received]) if size <= self._most_bytes else b""


def with_held_user(service: Service, request: OfUser) -> OfUser:
    """The request with the id under which its user is held."""
    if request.user is None:
        return request
    return msgspec.structs.replace(request, user=service.held_as(request.user))


def _again(received: list[Message], receive: Receive) -> Receive:
    """`receive` that begins with messages received before."""
    left = iter(received)

    async def receive_on() -> Message:
        return next(left, None) or await receive()

    return receive_on
