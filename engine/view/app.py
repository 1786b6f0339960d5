"""The HTTP interface: which path answers what, and the OpenAPI document that says so."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from importlib import resources
from typing import Annotated, Any, Final

import msgspec
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream
from litestar.types import ExceptionHandlersMap
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from engine.messages.recommendation import Recommendation
from engine.view import http_description
from engine.view.direct import with_held_user
from engine.view.events import encode
from engine.view.http_messages import (
    Accepted,
    ClickRequest,
    Explanation,
    Health,
    ImpressionsRequest,
    ImpressionsTaken,
    ItemMap,
    ItemsAnswer,
    ListAnswer,
    ListRequest,
    NextRequest,
    Problem,
    RankRequest,
    ReleasesAnswer,
    SessionRequest,
    UserMap,
    WindowAnswer,
)
from engine.view.refusals import PROBLEM_TYPE, RefusalError, failure, missing
from engine.view.service import FIGURES, Service, user_subject

logger = logging.getLogger(__name__)

_FIGURES_EVERY_S: Final = 0.5
_PAGE_FILES: Final = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "stream.js": "text/javascript; charset=utf-8",
    "drawing.js": "text/javascript; charset=utf-8",
}
"""Files of the live page with their types."""

_REFUSED: Final = {
    400: "A field or parameter is missing or out of range",
    401: "No key, or one that is not known",
    403: "The key lacks the scope, or the host is not this machine's",
    404: "Not held",
    413: "The body is larger than serve.max_request_kib",
    415: "The body is not JSON",
    429: "More requests than serve.rate_per_s",
    503: "Overloaded, or not ready yet; see Retry-After",
}
REFUSALS: Final = {
    status: ResponseSpec(data_container=Problem, description=text, media_type=PROBLEM_TYPE, generate_examples=False)
    for status, text in _REFUSED.items()
}

CONFLICT: Final = {
    409: ResponseSpec(
        data_container=Problem,
        description="A report contradicts the decision that it names, itself, or the clock",
        media_type=PROBLEM_TYPE,
        generate_examples=False,
    )
}

_NAMED_FIELD: Final = re.compile(r"at `\$\.([^`]+)`|field `([^`]+)`|parameter '([^']+)'")
"""The field in messages of msgspec and Litestar."""

UserId = Annotated[str, QueryParameter(min_length=1, max_length=512, description="Id of the user.")]
OtherUser = Annotated[
    str | None, QueryParameter(min_length=1, max_length=512, description="Whose interests count, too.")
]
ItemId = Annotated[str, QueryParameter(min_length=1, max_length=512, description="Id of the item.")]
CountOf = Annotated[int, QueryParameter(ge=1, le=200, description="Items in the answer.")]
Dial = Annotated[
    float,
    QueryParameter(ge=0.0, le=1.0, description="0: likeness alone; 1: the user's interests alone."),
]


@get("/v1/list", responses={200: ResponseSpec(data_container=Recommendation), **REFUSALS})
async def stored_list(state: State, user: UserId) -> Response[bytes]:
    """The list that was pushed to a user last, word for word."""
    return _json(_service(state).stored_list(user))


@post("/v1/lists", status_code=200, responses=REFUSALS)
async def list_now(state: State, data: JSONBody[ListRequest]) -> ListAnswer:
    """A list for a user, computed now."""
    return await _service(state).list_for(with_held_user(_service(state), data))


@post("/v1/session", status_code=200, responses=REFUSALS)
async def list_for_session(state: State, data: JSONBody[SessionRequest]) -> ListAnswer:
    """A list for the events of this request; nothing of them is kept but for the next page."""
    return await _service(state).list_for_session(data)


@post("/v1/next", status_code=200, responses=REFUSALS)
async def next_page(state: State, data: JSONBody[NextRequest]) -> ListAnswer | ItemsAnswer:
    """The next page of a decision."""
    return await _service(state).next_page(with_held_user(_service(state), data))


@post("/v1/rank", status_code=200, responses=REFUSALS)
async def rank(state: State, data: JSONBody[RankRequest]) -> ItemsAnswer:
    """Given items in the order of their score for a user or a session."""
    return await _service(state).rank(with_held_user(_service(state), data))


@get("/v1/similar", responses=REFUSALS)
async def similar(
    state: State, item: ItemId, count: CountOf = 10, user: OtherUser = None, dial: Dial = 0.5
) -> ItemsAnswer:
    """The items most like one; with a user, in an order between likeness and that user's interests."""
    return await _service(state).similar(item, count, user, dial)


@get("/v1/popular", responses=REFUSALS)
async def popular(state: State, count: CountOf = 10) -> ItemsAnswer:
    """The most popular items of seven days."""
    return await _service(state).popular(count)


@get("/v1/trending", responses=REFUSALS)
async def trending(state: State, count: CountOf = 10) -> ItemsAnswer:
    """The items whose share of all clicks has risen in the last hour, as against the seven days before it.

    A score is the factor by which it has risen, at the least.
    """
    return await _service(state).trending(count)


@get("/v1/explanation", responses=REFUSALS)
async def explanation(state: State, user: UserId, item: ItemId) -> Explanation:
    """Why an item is, or is not, in a user's list."""
    answer: Explanation = await _service(state).of_user(user, lambda items, held_as: items.explain(held_as, item))
    return answer


@get("/v1/window", responses=REFUSALS)
async def window(state: State, user: UserId) -> WindowAnswer:
    """A user's window."""
    answer: WindowAnswer = await _service(state).of_user(user, lambda items, held_as: items.window(held_as))
    return answer


@get("/v1/map", responses=REFUSALS)
async def item_map(state: State) -> ItemMap:
    """The items of the release on a map."""
    answer: ItemMap = await _service(state).ask(lambda items: items.map_of_items(_label(state)))
    return answer


@get("/v1/map/user", responses=REFUSALS)
async def user_map(state: State, user: UserId) -> UserMap:
    """A user's window, and the interests on the map."""
    answer: UserMap = await _service(state).of_user(user, lambda items, held_as: items.map_of_user(held_as))
    return answer


@get("/v1/releases", responses=REFUSALS)
async def releases(state: State) -> ReleasesAnswer:
    """The release in use, and those that are announced."""
    return _service(state).releases()


@post("/v1/clicks", status_code=202, responses=REFUSALS)
async def click(state: State, data: JSONBody[ClickRequest]) -> Accepted:
    """Send a click to the topic of clicks, where the server plays the shop (`headrace demo`)."""
    service = _service(state)
    return Accepted(await asyncio.get_running_loop().run_in_executor(None, service.click, data.user, data.item))


@post("/v1/impressions", status_code=202, responses=REFUSALS | CONFLICT)
async def impressions(state: State, data: JSONBody[ImpressionsRequest]) -> ImpressionsTaken:
    """Report which items were shown; answered once all reports are on the topic of impressions."""
    return await _service(state).report(data)


@get("/v1/events", responses=REFUSALS, media_type="text/event-stream")
async def events(state: State, user: UserId) -> Stream:
    """A stream of server-sent events: `list` with a user's list, now and whenever a new one is pushed."""
    service = _service(state)
    held_as = service.held_as(user)
    held = service.stored.find(held_as)
    return _stream(service, user_subject(held_as), None if held is None else encode("list", held))


@get("/v1/figures", responses=REFUSALS, media_type="text/event-stream")
async def figures(state: State) -> Stream:
    """A stream of server-sent events: `figures` of the last minute, twice a second."""
    service = _service(state)
    return _stream(service, FIGURES, encode("figures", msgspec.json.encode(service.figures_now())))


@get(["/v1/health/live", "/healthz"], responses={503: REFUSALS[503]})
async def live(state: State) -> Health:
    """Whether the server works; one that does not should be started again."""
    if fault := _service(state).fault:
        raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, fault)
    return Health("ok")


@get(["/v1/health/ready", "/readyz"], responses={503: REFUSALS[503]})
async def ready(state: State) -> Health:
    """Whether the server has read all it needs to answer every request."""
    if reason := _service(state).not_ready:
        raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, reason, retry_after_s=1)
    return Health("ok")


@get("/v1/openapi.json", include_in_schema=False)
async def description(request: Request[Any, Any, Any], state: State) -> Response[bytes]:
    """The OpenAPI document of this interface."""
    actions = _service(state).settings.clicks.actions
    return _json(http_description.complete(request.app.openapi_schema.to_schema(), [*actions]))


@get("/metrics", include_in_schema=False)
async def metrics(state: State) -> Response[bytes]:
    """The server's metrics in Prometheus' text format."""
    text = generate_latest(_service(state).metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@get("/", include_in_schema=False)
async def page(state: State) -> Response[bytes]:
    """The live page."""
    return _page_file(state, "page.html")


@get("/page/{name:str}", include_in_schema=False)
async def page_file(state: State, name: FromPath[str]) -> Response[bytes]:
    """A file of the live page."""
    return _page_file(state, name)


def make_app(service: Service) -> Litestar:
    """The application; its life begins with the server's and ends with it."""
    origins = service.settings.serve.cors_origins

    @contextlib.asynccontextmanager
    async def publish(_app: Litestar) -> AsyncIterator[None]:
        service.streams.open()
        task = asyncio.create_task(_publish_figures(service))
        try:
            yield
        finally:
            task.cancel()

    return Litestar(
        route_handlers=[
            *(stored_list, list_now, list_for_session, next_page, rank, similar, popular, trending),
            *(explanation, window, item_map, user_map, releases, click, impressions, events, figures),
            *(live, ready, description, metrics, page, page_file),
        ],
        state=State({"service": service}),
        cors_config=CORSConfig(allow_origins=origins) if origins else None,
        exception_handlers=_HANDLERS,
        lifespan=[publish],
        logging_config=None,
        request_max_body_size=service.settings.serve.max_request_kib * 1024,
        openapi_config=OpenAPIConfig(
            title="Headrace",
            version="1",
            description="Lists at request time, by the pipeline that pushes them.",
            path="/v1/openapi",  # for the plugin alone; `description` serves the document
            render_plugins=[JsonRenderPlugin(path="/document.json")],
        ),
    )


async def _publish_figures(service: Service) -> None:
    while True:
        await asyncio.sleep(_FIGURES_EVERY_S)
        if service.streams.has(FIGURES):
            service.streams.publish(FIGURES, "figures", msgspec.json.encode(service.figures_now()))


def _service(state: State) -> Service:
    service: Service = state.service
    return service


def _page_file(state: State, name: str) -> Response[bytes]:
    if name not in _PAGE_FILES or not _service(state).settings.serve.page:
        raise missing("", "there is no such page; GET /v1/openapi.json describes the interface")
    content = resources.files("engine.view").joinpath("page", name).read_bytes()
    return Response(content, media_type=_PAGE_FILES[name], headers={"Cache-Control": "no-cache"})


def _label(state: State) -> Callable[[str], str]:
    shop = _service(state).shop
    return shop.label if shop else lambda _item: ""


def _json(message: bytes) -> Response[bytes]:
    return Response(message, media_type=MediaType.JSON)


def _stream(service: Service, subject: str, first: bytes | None) -> Stream:
    if service.streams.is_full:
        service.metrics.shed_requests.labels("streams").inc()
        raise RefusalError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"{service.settings.serve.max_streams} streams are open already (serve.max_streams); come back later",
            retry_after_s=5,
        )
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Stream(service.streams.stream(subject, first), media_type="text/event-stream", headers=headers)


def _refused(_request: Request[Any, Any, Any], error: RefusalError) -> Response[bytes]:
    return Response(error.body, status_code=error.status, headers=error.headers, media_type=PROBLEM_TYPE)


def _invalid(request: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    """A field or parameter that is missing or out of range, the first of them."""
    problems = error.extra if isinstance(error.extra, list) else []
    problem = problems[0] if problems and isinstance(problems[0], dict) else {}
    detail = str(problem.get("message") or error.detail)
    named = _NAMED_FIELD.search(detail)
    key = str(problem.get("key", ""))
    field = next(filter(None, named.groups())) if named else "" if key == "data" else key
    detail = f"{field}: {detail}" if field and not named else detail
    return _refused(request, RefusalError(HTTPStatus.BAD_REQUEST, detail, field))


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    response = _refused(request, RefusalError(HTTPStatus(error.status_code), error.detail))
    if allow := (error.headers or {}).get("Allow"):
        response.headers["Allow"] = allow
    return response


def _failed(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A mistake of the server's own, which its log explains and the answer does not."""
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _refused(request, failure())


_HANDLERS: Final[ExceptionHandlersMap] = {
    RefusalError: _refused,
    ValidationException: _invalid,
    HTTPException: _http,
    Exception: _failed,
}
