"""Clicks in: the user's own messages, by the field names of the settings, to columns.

A click is decoded by msgspec straight into a struct made for those names (`engine.ingest.fields`). One that has words
in the place of an item is a search (`engine.catalogue.searches`). What cannot be read never stops the stream: it
becomes a `DeadLetter` with its reason.
"""

import datetime as dt
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from engine.arrays import MAX_TIME_MS, Clicks
from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.errors import SettingsError
from engine.eventlog.base import Records
from engine.ingest.dead_letters import DeadLetter, DeadLetterReason
from engine.ingest.fields import attribute_path, struct, time_type
from engine.settings.sections import ClickSettings


class ClickDecoder:
    """Turns polled records into columns by the settings' field names.

    Raises:
        SettingsError: two fields are mapped so that one lies inside the other.
    """

    def __init__(self, settings: ClickSettings, actions: Actions) -> None:
        self._settings = settings
        self._actions = actions
        fields = settings.fields
        types: dict[str, tuple[str, Any, bool]] = {
            "user": (fields.user, str | int, True),
            "item": (fields.item, str | int | None, False) if fields.search else (fields.item, str | int, True),
            "search": (fields.search, str | None, False),
            "time": (fields.time, time_type(settings.time_unit), True),
            "action": (fields.action, str | int | None, False),
            "event_id": (fields.event_id, str | int | None, False),
            "consent": (fields.consent, bool | None, False),
        }
        mapped = {name: spec for name, spec in types.items() if spec[0]}
        for name in ("user", "item"):
            if name not in mapped:
                raise SettingsError(
                    f"setting 'clicks.fields.{name}' is empty, expected a path; name the field that holds the {name}"
                )
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(struct(mapped)).decode
        self._get = {name: attrgetter(attribute_path(spec[0])) for name, spec in mapped.items()}

    def decode(self, polled: Sequence[Records], now_ms: int) -> tuple[Clicks, list[DeadLetter]]:
        """Clicks of all records in their order, and the records that are none.

        A record without a value asks to forget the user who is its key.

        Args:
            polled: what one poll brought.
            now_ms: the time it is, for telling the far future.
        """
        read = _Read()
        decode, max_bytes = self._decode, self._settings.max_bytes
        consent, item, words = self._get.get("consent"), self._get["item"], self._get.get("search")
        position = 0
        for records in polled:
            for index, value in enumerate(records.values):
                if value is None or len(value) > max_bytes:
                    self._put_aside(records, index, position, read)
                    continue
                try:
                    event = decode(value)
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                    read.dead.append(_dead(records, index, *_reason(error)))
                    continue
                if consent and consent(event) is False:
                    read.without_consent += 1
                    continue
                if words and item(event) is None:
                    search = self._search(words(event))
                    if not isinstance(search, str):
                        read.dead.append(_dead(records, index, *search))
                        continue
                    read.searches[len(read.events)] = search
                read.events.append(event)
                read.origins.append(position + index)
                read.timestamps.append(records.timestamps_ms[index])
            position += len(records)
        clicks, dead = self._checked(self._columns(read), polled, now_ms, read)
        return _without_forgotten(clicks), dead

    def _put_aside(self, records: Records, index: int, position: int, read: "_Read") -> None:
        value, user = records.values[index], _user(records.keys[index])
        if value is not None:
            detail = f"{len(value)} bytes, clicks.max_bytes is {self._settings.max_bytes}"
            read.dead.append(_dead(records, index, "too_large", detail))
        elif user:
            read.forgotten[user] = position + index
        else:
            read.dead.append(_dead(records, index, "null_value", "no value, nor a key that names a user to forget"))

    def _search(self, text: str | None) -> str | tuple[DeadLetterReason, str]:
        """The id of a search for this text, or what is wrong with it."""
        fields, limit = self._settings.fields, self._settings.max_id_bytes
        if text is None:
            return "missing_field", f"neither an item ({fields.item}) nor the words of a search ({fields.search})"
        search = searches.id_of(text) if len(text) <= limit else ""
        if search == searches.MARK:
            return "empty_search", f"the search ({fields.search}) has no words"
        if not search or len(search.encode("utf-8", "surrogatepass")) > limit:
            return "long_search", f"the search ({fields.search}) has more than clicks.max_id_bytes = {limit} bytes"
        return search

    def _columns(self, read: "_Read") -> Clicks:
        get, events = self._get, read.events
        count = len(events)
        hashes = np.zeros(count, np.uint32)
        if "event_id" in get:
            ids = list(map(get["event_id"], events))
            if any(event_id is not None for event_id in ids):
                hashes[:] = [0 if event_id is None else _hash(event_id) for event_id in ids]
        if "action" in get:
            codes = list(map(self._actions.code, map(get["action"], events)))
        else:
            codes = [self._actions.code(None)] * count
        items = _ids(map(get["item"], events))
        for index, search in read.searches.items():
            items[index], codes[index] = search, self._actions.search
        return Clicks(
            users=_ids(map(get["user"], events)),
            items=items,
            times_ms=self._times_ms(events, read.timestamps),
            actions=np.array(codes, np.uint8),
            event_hashes=hashes,
            origins=np.array(read.origins, np.int32),
            forgotten=read.forgotten,
            without_consent=read.without_consent,
        )

    def _times_ms(self, events: list[Any], timestamps: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
        if "time" not in self._get:
            return np.array(timestamps, np.int64)
        values = map(self._get["time"], events)
        if self._settings.time_unit == "iso8601":
            return np.fromiter(map(_epoch_ms, values), np.int64, len(events))
        scale = 1000.0 if self._settings.time_unit == "s" else 1.0
        return np.rint(np.fromiter(values, np.float64, len(events)) * scale).astype(np.int64)

    def _checked(
        self, clicks: Clicks, polled: Sequence[Records], now_ms: int, read: "_Read"
    ) -> tuple[Clicks, list[DeadLetter]]:
        """Move clicks with impossible values to the dead letters; rarely finds any, so it looks at whole columns."""
        latest_ms = now_ms + round(self._settings.max_future_s * 1000)
        times_ms, limit = clicks.times_ms, self._settings.max_id_bytes
        bad_time = (times_ms < 0) | (times_ms > min(latest_ms, MAX_TIME_MS))
        suspects = set(np.flatnonzero(bad_time).tolist())
        for ids in (clicks.users, clicks.items):
            # A character is four bytes at most, so shorter ids need no encoding to be measured.
            suspects.update(i for i, one in enumerate(ids) if not one or len(one) * 4 > limit)
        marked = {i for i, item in enumerate(clicks.items) if searches.is_search(item)}
        suspects |= marked - read.searches.keys()
        if not suspects:
            return clicks, read.dead
        refused: set[int] = set()
        for index in sorted(suspects):
            problem = self._problem(clicks, index, latest_ms)
            if problem is None and index in marked and index not in read.searches:
                problem = "reserved_id", f"the item id begins with {searches.MARK!r}, which stands before searches"
            if problem:
                refused.add(index)
                records, inside = _locate(polled, int(clicks.origins[index]))
                read.dead.append(_dead(records, inside, *problem))
        return (_without(clicks, refused) if refused else clicks), read.dead

    def _problem(self, clicks: Clicks, index: int, latest_ms: int) -> tuple[DeadLetterReason, str] | None:
        time_ms, limit = int(clicks.times_ms[index]), self._settings.max_id_bytes
        for what, one in (("user", clicks.users[index]), ("item", clicks.items[index])):
            if not one:
                return "empty_id", f"the {what} id is empty"
            if len(one.encode("utf-8", "surrogatepass")) > limit:
                return "long_id", f"the {what} id has more than clicks.max_id_bytes = {limit} bytes"
        if time_ms < 0 or time_ms > MAX_TIME_MS:
            return "time_out_of_range", f"time {time_ms} ms, expected 0 to {MAX_TIME_MS}; is clicks.time_unit right?"
        if time_ms > latest_ms:
            return "time_in_future", f"time {time_ms} ms is more than clicks.max_future_s after now"
        return None


@dataclass(slots=True)
class _Read:
    """What was read so far: events, where each came from, and what is none."""

    events: list[Any] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    searches: dict[int, str] = field(default_factory=dict)
    """Ids of those events that are searches, by their places."""
    dead: list[DeadLetter] = field(default_factory=list)
    forgotten: dict[str, int] = field(default_factory=dict)
    without_consent: int = 0


def _user(key: bytes | None) -> str | None:
    """The user whom a record's key names, if it does."""
    try:
        return key.decode() if key else None
    except UnicodeDecodeError:
        return None


def _without_forgotten(clicks: Clicks) -> Clicks:
    """All clicks but those that stand before their user's wish to be forgotten."""
    if not clicks.forgotten:
        return clicks
    asked = np.array([clicks.forgotten.get(user, -1) for user in clicks.users], np.int64)
    return _without(clicks, set(np.flatnonzero(asked > clicks.origins).tolist()))


def _reason(error: Exception) -> tuple[DeadLetterReason, str]:
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return "unparsable", text or type(error).__name__
    if "missing required field" in text:
        return "missing_field", text
    if "<=" in text or ">=" in text:
        return "time_out_of_range", text
    return "mistyped_field", text


def _dead(records: Records, index: int, reason: DeadLetterReason, detail: str) -> DeadLetter:
    return DeadLetter(
        key=records.keys[index],
        value=records.values[index],
        headers=records.headers[index],
        timestamp_ms=records.timestamps_ms[index],
        partition=records.partition,
        offset=records.offsets[index],
        reason=reason,
        detail=detail,
    )


def _locate(polled: Sequence[Records], position: int) -> tuple[Records, int]:
    for records in polled:
        if position < len(records):
            return records, position
        position -= len(records)
    raise IndexError(position)


def _without(clicks: Clicks, refused: set[int]) -> Clicks:
    kept = [index for index in range(len(clicks)) if index not in refused]
    return replace(
        clicks,
        users=[clicks.users[index] for index in kept],
        items=[clicks.items[index] for index in kept],
        times_ms=clicks.times_ms[kept],
        actions=clicks.actions[kept],
        event_hashes=clicks.event_hashes[kept],
        origins=clicks.origins[kept],
    )


def _ids(values: Iterator[str | int]) -> list[str]:
    return [value if type(value) is str else str(value) for value in values]


def _hash(event_id: str | int) -> int:
    return zlib.crc32(str(event_id).encode("utf-8", "surrogatepass")) or 1


def _epoch_ms(time: dt.datetime) -> int:
    return round((time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp() * 1000)
