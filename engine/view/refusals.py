"""Refusals of requests, and the problems (RFC 9457) that say so over HTTP."""

from http import HTTPStatus
from typing import Final

import msgspec

from engine.view.http_messages import Problem

PROBLEM_TYPE: Final = "application/problem+json"


class RefusalError(Exception):
    """A request that is not answered.

    Args:
        status: of the answer.
        detail: what was found, what was expected, and the way out.
        field: of the request that it is about.
        retry_after_s: when another attempt may be worth it.
    """

    def __init__(self, status: HTTPStatus, detail: str, field: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> bytes:
        """The problem as JSON."""
        return msgspec.json.encode(
            Problem(title=self.status.phrase, status=self.status, detail=self.detail, field=self.field)
        )

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer, but for its length and type."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def not_ready(reason: str) -> RefusalError:
    """The refusal of a server that has not read all it needs."""
    return RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {reason}", retry_after_s=1)


def failure() -> RefusalError:
    """The answer to a request at which the server itself failed, which its log explains and the answer does not."""
    return RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed at this request; its log has the cause")


def missing(field: str, detail: str) -> RefusalError:
    """The refusal of a request for what is not held."""
    return RefusalError(HTTPStatus.NOT_FOUND, detail, field)
