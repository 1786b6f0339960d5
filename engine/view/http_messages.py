"""Bodies of requests and answers of the HTTP interface, version 1.

A list that is computed has the form of one that is pushed (`engine.messages.recommendation`); its `id` is that of the
decision, by which the next page continues it and by which impressions are reported.
"""

from typing import Annotated

import msgspec

from engine.arrays import MAX_TIME_MS
from engine.messages.announcement import Announcement
from engine.messages.recommendation import Reason, Recommendation

Id = Annotated[
    str, msgspec.Meta(min_length=1, max_length=512, description="Id of a user or an item, as clicks have it.")
]
Count = Annotated[int, msgspec.Meta(ge=1, le=200, description="Items in the answer.")]
TimeMs = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_MS, description="Unix milliseconds.")]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Excluded = Annotated[list[Id], msgspec.Meta(max_length=1000, description="Items that the answer must not hold.")]
Labels = Annotated[
    dict[
        Annotated[str, msgspec.Meta(min_length=1, max_length=100)],
        Annotated[list[Annotated[str, msgspec.Meta(max_length=512)]], msgspec.Meta(max_length=100)],
    ],
    msgspec.Meta(max_length=10, description="Values by field: the answer holds no item that has one of them."),
]
Ranked = Annotated[list[Id], msgspec.Meta(min_length=1, max_length=1000)]


Words = Annotated[str, msgspec.Meta(min_length=1, max_length=512, description="Words that were searched for.")]


class SessionEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A click or a search of a session: it has an item, or words."""

    item: Id | None = None
    """Of a click, whether there are words or not."""
    search: Words | None = None
    time_ms: TimeMs | None = None
    """Event time; without one a minute after the event before, the last one now."""
    action: str | None = None
    """One of `clicks.actions`; the default action without one. A search has `clicks.search_action` in any case."""


SessionEvents = Annotated[list[SessionEvent], msgspec.Meta(max_length=1000)]


class ListRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A list for a user, computed now from the user's window."""

    user: Id
    count: Count | None = None
    """`recommendations.count` without one."""
    time_ms: TimeMs | None = None
    """The list as of this time: later events of the window do not count."""
    exclude: Excluded = []
    exclude_where: Labels = {}
    diversity: Share | None = None
    """`recommendations.diversity` without one."""
    exclude_seen: bool | None = None
    """`recommendations.exclude_seen` without one."""


class SessionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A list for somebody unknown, from the events of this request, of which nothing is kept but for its next page."""

    events: SessionEvents
    count: Count | None = None
    exclude: Excluded = []
    exclude_where: Labels = {}
    diversity: Share | None = None
    exclude_seen: bool | None = None


class NextRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The next page of a decision: of a list the same window, without the items of the pages before."""

    decision: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    user: Id | None = None
    """Needed to continue the list that was pushed to a user."""


class RankRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Given items in the order of their score for a user or a session; without either, in the order of the request."""

    items: Ranked
    user: Id | None = None
    events: SessionEvents | None = None
    """Of a session, in place of a user's window."""


class ShownAt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item, and where it was shown."""

    item: Id
    place: Annotated[int, msgspec.Meta(ge=1, le=10_000, description="Place at which it was shown, from 1.")]


class ImpressionReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Items of one decision that somebody was shown."""

    decision: Annotated[str, msgspec.Meta(min_length=1, max_length=1000, description="The `id` of the answer or list.")]
    items: Annotated[list[ShownAt], msgspec.Meta(min_length=1, max_length=200)]
    user: Id | None = None
    """Of the list; needed where another server answered, or the list was pushed. Absent for a session."""
    time_ms: TimeMs | None = None
    """Time at which they were shown; now without one."""


class ImpressionsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Reports of what was shown, all of which are taken or none."""

    impressions: Annotated[list[ImpressionReport], msgspec.Meta(min_length=1, max_length=1000)]


class ImpressionsTaken(msgspec.Struct, frozen=True):
    """Reports that are on the topic of impressions."""

    taken: int
    """Reports."""
    known: int
    """Of them, those whose decision this server had, and checked them by."""


class ClickRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A click to be sent to the topic of clicks, where the server plays the shop."""

    user: Id
    item: Id


class ListAnswer(Recommendation, frozen=True, kw_only=True):
    """A list computed for this request; `id` is that of the decision."""

    page: int = 1


class ScoredItem(msgspec.Struct, frozen=True):
    """An item with a score."""

    item: str
    score: float | None
    """None where the release does not know the item."""


class ItemsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Items, best first."""

    id: str
    """Of the decision."""
    release: str
    items: list[ScoredItem]
    page: int = 1


class InterestScore(msgspec.Struct, frozen=True):
    """The part of one interest in the score of an item."""

    score: float
    reasons: list[Reason]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why an item is, or is not, in the list that would be computed for a user now."""

    id: str
    """Of the decision."""
    user: str
    item: str
    release: str
    known: bool
    """The release has the item."""
    seen: bool
    """The item is in the user's window."""
    rank: int | None
    """In the list of `recommendations.count` items, from 1; None where it is not in it."""
    interests: list[InterestScore]
    """Inner product of each interest and the item, and the clicks that weigh most in the interest."""


class WindowEvent(msgspec.Struct, frozen=True):
    """An event of a window."""

    item: str
    """Id of the item; for a search, its words."""
    kind: str
    """`item` or `search`."""
    action: str
    time_ms: int


class WindowAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A user's window, oldest event first."""

    user: str
    events: list[WindowEvent]


class MapPoint(msgspec.Struct, frozen=True):
    """A place on the map of items, both coordinates from -1 to 1."""

    x: float
    y: float


class ItemMap(msgspec.Struct, frozen=True, kw_only=True):
    """The items of a release on a map: two main components of their vectors."""

    release: str
    explained: float
    """Share of the vectors' variance that the map shows."""
    items: list[str]
    labels: list[str]
    """A word on each item, empty where there is none."""
    x: list[float]
    y: list[float]


class UserMap(msgspec.Struct, frozen=True, kw_only=True):
    """A user's window, and the interests on the map of items."""

    user: str
    release: str
    event_ms: int
    """Event time of the newest event; 0 without any."""
    window: list[WindowEvent]
    interests: list[MapPoint]
    """Empty for a user of whom nothing is known."""


class ReleasesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The release in use, and all that are announced on the topic, newest first."""

    live: str | None
    announced: list[Announcement]


class Health(msgspec.Struct, frozen=True):
    """State of the server."""

    status: str
    """`ok`, or the reason why not."""


class Accepted(msgspec.Struct, frozen=True):
    """A click that was sent."""

    time_ms: int
    """Its event time, Unix milliseconds."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error (RFC 9457, `application/problem+json`)."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    field: str = ""
    """Field or parameter of the request that the error is about."""
