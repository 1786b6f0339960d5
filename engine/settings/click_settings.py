"""Settings of clicks and items: where they come from, and which of their fields means what."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field, ValidationInfo, field_validator

from engine.arrays import MAX_ACTIONS
from engine.settings.section import PositiveFloat, PositiveInt, Section

MAX_ACTION_WEIGHT = 1000.0
MAX_ACTION_BYTES = 255

TimeUnit = Literal["s", "ms", "us", "iso8601"]


class ClickFields(Section):
    r"""Paths of a click's fields in the user's own messages.

    A dot steps into a nested object, a step of digits into an array (`lines.0.id`). A backslash makes a dot a part of a
    key (`'user\.id'` in TOML's single quotes), and digits a key. A field that may be absent from a message may also be
    null, empty or of a wrong type there, which is as good as absent.
    """

    user: str = "user"
    item: str = "item"
    lines: str = ""
    """An array, as of the lines of an order: a message that has it is one event for each of its elements, with the item
    of the element and all else of the message. A message without it, or with an empty one, has its item itself. An
    empty path: never read."""
    line_item: str = ""
    """Path of the item in an element of `lines`. An empty path: that of `item`."""
    search: str = "query"
    """Words that the user searched for: a message that has them and no item is a search. May be absent from a message.
    An empty path: never read."""
    time: str = "ts"
    """An empty path: the record's own Kafka timestamp is taken."""
    action: str = "action"
    """May be absent from a message: then `clicks.default_action` is taken. An empty path: never read."""
    event_id: str = "event_id"
    """May be absent from a message. A repeated id changes nothing. An empty path: never read."""
    consent: str = ""
    """A boolean; false keeps the click out of windows and lists. May be absent from a message, which
    `clicks.require_consent` decides about; anything but a boolean is no click. An empty path: never read."""
    type: str = ""
    """The type of an event, on a topic that has others than clicks (`clicks.skip_types`). May be absent from a message.
    An empty path: never read."""


class ClickSettings(Section):
    """The topic of clicks, and their schema."""

    topic: str = "clicks"
    create_topic: bool = False
    """Create the topic of clicks where it is missing, as `[topics]` says. It is yours, so that a worker only waits for
    it otherwise."""
    start: str = "earliest"
    """Where a new group begins: at the `earliest` record, at the `latest`, or at the first one appended from a time on
    (`2026-11-25T06:00:00Z`). A group that has begun goes on from its last commit."""
    rekey: bool = False
    """Put clicks onto `by_user_topic` first, keyed by user, and read them from there: for a stream in which the clicks
    of one user are in several partitions. All workers must say the same."""
    by_user_topic: Annotated[str, Field(validate_default=True)] = "clicks.by-user"
    """Clicks keyed by user, where `rekey` is true: a topic of this deployment alone. `windows.topic` has as many
    partitions."""
    dead_letter_topic: str = "clicks.dead"
    """Records that are no clicks are sent there, with the reason."""
    fields: ClickFields = ClickFields()
    time_unit: TimeUnit = "ms"
    """Seconds, milliseconds or microseconds since 1970, or ISO 8601 (also as `2024-05-01 10:00:00 UTC`, without the
    seconds, or a date alone). Times that name no zone are UTC."""
    earliest: Annotated[dt.date, Ge(dt.date(1970, 1, 1))] = dt.date(1990, 1, 1)
    """A click before this day (UTC) goes to the dead letters: a time in the wrong unit is in 1970."""
    skip_types: list[str] = Field(default=[])
    """Types of events that are no clicks, by `clicks.fields.type`: they are left out and counted
    (`headrace_dropped_events_total{reason="skipped_type"}`), and are no dead letters."""
    pseudonym_key_file: Path | None = None
    """A file with a key of 32 bytes or more, by which a keyed hash takes the place of every user's id in windows, lists
    and whatever comes of them. Without a file, ids as they are. Another key makes every user a new one."""
    require_consent: bool = False
    """Take a click without consent, or with null in its place, for one that is refused. Records of which the consent
    cannot be read then go to the dead letters without their value."""
    on_refusal: Literal["keep", "forget"] = "keep"
    """What becomes of a user's window when a click says that consent is refused (false, not merely absent). keep: that
    click is left out, as a flag on one click, of one page or device, is no request to delete, and deletion cannot be
    undone. forget: window, changelog entry and last list are deleted, as by a request to forget the user."""
    actions: Annotated[dict[str, float], Field(min_length=1, max_length=MAX_ACTIONS)] = Field(
        default={
            "view": 1.0,
            "pv": 1.0,
            "search": 1.0,
            "like": 2.0,
            "fav": 2.0,
            "cart": 2.0,
            "buy": 3.0,
            "dislike": -1.0,
            "return": -1.0,
        }
    )
    """Weight of each action. Above 0 the event counts that many times in the attention, 0 only marks the item as seen,
    and below 0 it pushes away items like it."""
    default_action: Annotated[str, Field(validate_default=True)] = "view"
    """Action of a click without one, or with one that `clicks.actions` does not name."""
    search_action: str = "search"
    """Action of a search, whatever action its message has."""
    max_future_s: PositiveFloat = 3600.0
    """A click with a time later than now by more than this goes to the dead letters."""
    max_bytes: PositiveInt = 1_000_000
    """A larger message goes to the dead letters without being parsed."""
    max_id_bytes: Annotated[int, Ge(1), Le(65_535)] = 512
    """Largest size of a user's id, an item's id or a search, in bytes of UTF-8."""

    @field_validator("start", mode="before")
    @classmethod
    def _is_a_place_in_time(cls, start: object) -> object:
        if isinstance(start, dt.date):  # TOML has dates and times of its own
            return start.isoformat()
        if isinstance(start, str) and start not in {"earliest", "latest"}:
            try:
                dt.datetime.fromisoformat(start)
            except ValueError:
                raise ValueError(
                    f"found {start!r}, expected earliest, latest or a time as 2026-11-25T06:00:00Z"
                ) from None
        return start

    @field_validator("by_user_topic")
    @classmethod
    def _is_another_topic(cls, by_user_topic: str, info: ValidationInfo) -> str:
        if info.data.get("rekey") and by_user_topic == info.data.get("topic"):
            raise ValueError(
                f"found {by_user_topic!r}, expected another topic than clicks.topic, or clicks would go round for ever;"
                " name another one"
            )
        return by_user_topic

    @field_validator("actions")
    @classmethod
    def _finite(cls, actions: dict[str, float]) -> dict[str, float]:
        for name, weight in actions.items():
            if not -MAX_ACTION_WEIGHT <= weight <= MAX_ACTION_WEIGHT:
                raise ValueError(
                    f"weight of action {name!r} is {weight}, expected -{MAX_ACTION_WEIGHT:g} to {MAX_ACTION_WEIGHT:g}"
                )
            if len(name.encode()) > MAX_ACTION_BYTES:
                raise ValueError(f"action {name!r} has {len(name.encode())} bytes, expected {MAX_ACTION_BYTES} at most")
        return actions

    @field_validator("default_action")
    @classmethod
    def _has_a_weight(cls, default: str, info: ValidationInfo) -> str:
        actions = info.data.get("actions", {default: 1.0})  # not there where they were refused themselves
        if default not in actions:
            raise ValueError(f"found {default!r}, expected one of clicks.actions: {', '.join(actions)}")
        return default


class ItemFields(Section):
    """Names of the columns of an items file. An empty name: never read. All columns but `item` may be absent."""

    item: Annotated[str, Field(min_length=1)] = "item"
    title: str = "title"
    category: str = "category"
    genres: str = "genres"
    tags: str = "tags"
    brand: str = "brand"
    department: str = "department"
    price: str = "price"
    vector: str = "vector"
    """A vector of the item's text, image or sound, from a model of the user's own."""


class ItemSettings(Section):
    """The content of items."""

    fields: ItemFields = ItemFields()
    separator: Annotated[str, Field(min_length=1)] = "|"
    """Separates several values, or the numbers of a vector, in one field of text."""
