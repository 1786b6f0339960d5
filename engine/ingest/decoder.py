"""Decoding of clicks: the user's own messages, by the field names of the settings, to columns.

msgspec decodes a click straight into a struct made for those names (`engine.ingest.fields`), and what it refuses is
read a second time, with more patience (`engine.ingest.lenient`). A click with words in the place of an item is a search
(`engine.catalogue.searches`). A record that is no click never stops the stream: it becomes a `DeadLetter` with its
reason.
"""

import datetime as dt
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import msgspec
import numpy as np

from engine.arrays import MAX_TIME_MS, Clicks, ForgetRequest, Int32, Int64
from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.eventlog.base import Records
from engine.ingest import forget_requests, rekeying, times
from engine.ingest.dead_letters import DeadLetter
from engine.ingest.event_types import SkippedTypes
from engine.ingest.fields import ClickLayout
from engine.ingest.lenient import LenientDecoder, Refusal, is_absent
from engine.ingest.pseudonyms import Pseudonyms
from engine.settings.sections import ClickSettings

_NO_ITEM_ID: Final = (None, "")
_NO_EVENT_ID: Final = ("", "null")
_NUMBERS: Final = (int, float)
_NO_LINE: Final = -1


class ClickDecoder:
    """Decodes polled records to columns, by the settings' field names.

    Raises:
        SettingsError: the fields of the settings cannot be mapped, or the key of pseudonyms cannot be used.
    """

    def __init__(self, settings: ClickSettings, actions: Actions) -> None:
        self._settings = settings
        self._actions = actions
        self._layout = ClickLayout(settings)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._layout.type).decode
        self._skipped_types = SkippedTypes(settings)
        self._lenient = LenientDecoder(self._layout, settings.time_unit, settings.require_consent)
        self._lines = self._layout.getter("lines") if "lines" in self._layout.fields else None
        self._line_item = self._layout.line_getter()
        self._get = {name: self._layout.getter(name) for name in self._layout.fields}
        self._pseudonyms = Pseudonyms(settings)
        self._earliest_ms = round(dt.datetime.combine(settings.earliest, dt.time(), dt.UTC).timestamp() * 1000)

    def decode(self, polled: Sequence[Records], now_ms: int) -> tuple[Clicks, list[DeadLetter]]:
        """Clicks of all records in their order, and dead letters of the records that are no clicks.

        A record without a value is a request to forget the user who is its key.

        Args:
            polled: the records of one poll.
            now_ms: the current time, for telling the far future.
        """
        batch = _Batch()
        polled = [rekeying.restored(records) for records in polled] if self._settings.rekey else polled
        decode, max_bytes, skipped_types = self._decode, self._settings.max_bytes, self._skipped_types
        consent, item, lines = self._get.get("consent"), self._get["item"], self._lines
        may_lack_item = "search" in self._get or lines is not None
        position = 0
        for records in polled:
            for index, value in enumerate(records.values):
                if value is None or len(value) > max_bytes or (skipped_types and skipped_types.has(value)):
                    self._put_aside(records, index, position, batch)
                    continue
                try:
                    event = decode(value)
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                    event = self._repaired(value, error, (records, index, position), batch)
                    if event is None:
                        continue
                if (consent and consent(event) is not True) or (may_lack_item and item(event) in _NO_ITEM_ID):
                    left_out = self._left_out(event, batch)
                    if consent and consent(event) is False:
                        self._refused(self._get["user"](event), records, position + index, batch)
                    if left_out:
                        batch.dead += [_dead(records, index, left_out)] if isinstance(left_out, Refusal) else []
                        continue
                if lines:
                    batch.add_lines(event, len(lines(event) or ()), position + index, records.timestamps_ms[index])
                    continue
                batch.events.append(event)
                batch.origins.append(position + index)
                batch.timestamps.append(records.timestamps_ms[index])
            position += len(records)
        clicks = self._columns(batch, polled)
        refused = _refuse(self._impossible(clicks, batch, now_ms), batch, polled)
        return self._pseudonyms.applied(_without(clicks, refused | _before_requests(clicks, batch))), batch.dead

    def _repaired(self, value: bytes, error: Exception, place: tuple[Records, int, int], batch: "_Batch") -> Any:
        """The event of a record by the lenient reading; None for a record that is refused, with the reason noted."""
        records, index, position = place
        event = self._lenient.decode(value, error)
        if not isinstance(event, Refusal):
            return event
        batch.dead.append(_dead(records, index, event))
        self._refused(event.refused_by, records, position + index, batch)
        return None

    def _put_aside(self, records: Records, index: int, position: int, batch: "_Batch") -> None:
        """Count a record of a type that is skipped, note who is to be forgotten, or refuse a record unread."""
        value, user = records.values[index], forget_requests.user_of(records.keys[index])
        if value is not None and len(value) <= self._settings.max_bytes:
            batch.skipped += 1
            return
        if value is not None:
            detail = f"{len(value)} bytes, clicks.max_bytes is {self._settings.max_bytes}"
            refusal = Refusal("too_large", detail, self._settings.require_consent)
        elif user:
            is_everywhere = forget_requests.is_in_every_partition(records.headers[index])
            batch.forget(user, records.partition.number, position + index, is_everywhere=is_everywhere)
            return
        else:
            refusal = Refusal("null_value", "no value, nor a key that names a user to forget")
        batch.dead.append(_dead(records, index, refusal))

    def _refused(self, user: str | int | None, records: Records, origin: int, batch: "_Batch") -> None:
        """Forget a user who refuses consent, where the settings say so."""
        text = str(user or "")
        if text and self._settings.on_refusal == "forget" and len(text.encode()) <= self._settings.max_id_bytes:
            batch.forget(text, records.partition.number, origin, is_everywhere=False)

    def _left_out(self, event: Any, batch: "_Batch") -> Refusal | bool:
        """Look at a click without a yes or without an item; True for one that is counted, False for one to keep."""
        consent, search = self._get.get("consent"), self._get.get("search")
        answer = consent(event) if consent else True
        if answer is not True:
            required = self._settings.require_consent
            if answer is False or (required and is_absent(answer)):
                batch.without_consent += 1
                return True
            if not is_absent(answer):
                path = self._layout.fields["consent"].path
                detail = f"the consent ({path}) is {times.shown(answer)}, expected true or false"
                return Refusal("mistyped_field", detail, required)
        if self._lines and self._lines(event):
            return False
        item = self._get["item"](event)
        words = search(event) if search else None
        if item is None or (item == "" and words and isinstance(words, str)):
            text = self._search_id(words)
            if isinstance(text, Refusal):
                return text
            batch.searches[len(batch.events)] = text
        return False

    def _search_id(self, words: object) -> str | Refusal:
        """The id of a search for these words."""
        fields, limit = self._settings.fields, self._settings.max_id_bytes
        if words is None:
            others = [f"the words of a search ({fields.search})"] if fields.search else []
            others += [f"lines ({fields.lines})"] if fields.lines else []
            return Refusal("missing_field", f"neither an item ({fields.item}) nor {' nor '.join(others)}")
        if not isinstance(words, str):
            detail = f"no item ({fields.item}), and the search ({fields.search}) is {times.shown(words)}, expected text"
            return Refusal("mistyped_field", detail)
        search = searches.id_of(words) if len(words) <= limit else ""
        if search == searches.MARK:
            return Refusal("empty_search", f"the search ({fields.search}) has no words")
        if not search or len(search.encode("utf-8", "surrogatepass")) > limit:
            detail = f"the search ({fields.search}) has more than clicks.max_id_bytes = {limit} bytes"
            return Refusal("long_search", detail)
        return search

    def _columns(self, batch: "_Batch", polled: Sequence[Records]) -> Clicks:
        get, events = self._get, batch.events
        count = len(events)
        hashes = np.zeros(count, np.uint32)
        if "event_id" in get:
            ids = list(map(get["event_id"], events))
            if any(event_id is not None for event_id in ids):
                hashes[:] = [0 if event_id is None else _event_hash(event_id) for event_id in ids]
                if self._lines:
                    hashes[:] = list(map(_line_hash, hashes.tolist(), batch.lines))
        if "action" in get:
            codes = list(map(self._actions.code, map(get["action"], events)))
        else:
            codes = [self._actions.code(None)] * count
        items = _ids(self._line_items(batch) if self._lines else map(get["item"], events))
        for index, search in batch.searches.items():
            items[index], codes[index] = search, self._actions.search
        numbers = np.array([records.partition.number for records in polled], np.int32)
        partitions = np.repeat(numbers, [len(records) for records in polled])
        first_partitions, offsets = _origins(polled, partitions)
        origins = np.array(batch.origins, np.int64)
        keys = list(chain.from_iterable(records.keys for records in polled))
        return Clicks(
            users=_ids(map(get["user"], events)),
            items=items,
            times_ms=self._times_ms(batch),
            actions=np.array(codes, np.uint8),
            event_hashes=hashes,
            partitions=partitions[origins],
            offsets=offsets[origins],
            appends_ms=np.array(batch.timestamps, np.int64),
            first_partitions=None if first_partitions is partitions else first_partitions[origins],
            keys=[keys[origin] for origin in batch.origins],
            forgotten=list(_requests(batch, polled)),
            without_consent=batch.without_consent,
            skipped=batch.skipped,
        )

    def _line_items(self, batch: "_Batch") -> Iterator[str | int]:
        """Items of events, each of its line where the message has lines."""
        item, line_item, lines = self._get["item"], self._line_item, self._lines
        for event, line in zip(batch.events, batch.lines, strict=True):
            yield line_item(lines(event)[line]) if lines and line != _NO_LINE else item(event)

    def _times_ms(self, batch: "_Batch") -> Int64:
        if "time" not in self._get:
            return np.array(batch.timestamps, np.int64)
        return times.to_ms(map(self._get["time"], batch.events), len(batch.events), self._settings.time_unit)

    def _impossible(self, clicks: Clicks, batch: "_Batch", now_ms: int) -> dict[int, Refusal]:
        """Clicks with impossible ids or times, by index; rarely any, so whole columns are looked at first."""
        latest_ms = min(now_ms + round(self._settings.max_future_s * 1000), MAX_TIME_MS)
        bad_time = (clicks.times_ms < self._earliest_ms) | (clicks.times_ms > latest_ms)
        suspects = set(np.flatnonzero(bad_time).tolist())
        limit = self._settings.max_id_bytes
        for ids in (clicks.users, clicks.items):
            # A character is four bytes at most, so shorter ids need no encoding to be measured.
            suspects.update(i for i, text in enumerate(ids) if not text or len(text) * 4 > limit)
        suspects.update(
            i for i, item in enumerate(clicks.items) if searches.is_search(item) and i not in batch.searches
        )
        refusals = {index: self._refusal(clicks, batch, index, latest_ms) for index in sorted(suspects)}
        return {index: refusal for index, refusal in refusals.items() if refusal}

    def _refusal(self, clicks: Clicks, batch: "_Batch", index: int, latest_ms: int) -> Refusal | None:
        """What is impossible about a click, if anything is."""
        limit = self._settings.max_id_bytes
        for name, text in (("user", clicks.users[index]), ("item", clicks.items[index])):
            if not text:
                return Refusal("empty_id", f"the {name} id ({self._path(name, batch, index)}) is empty")
            if len(text.encode("utf-8", "surrogatepass")) > limit:
                return Refusal("long_id", f"the {name} id has more than clicks.max_id_bytes = {limit} bytes")
        if searches.is_search(clicks.items[index]) and index not in batch.searches:
            detail = f"the item id begins with {searches.MARK!r}, which is kept for the ids of searches"
            return Refusal("reserved_id", detail)
        time_ms = int(clicks.times_ms[index])
        if self._earliest_ms <= time_ms <= latest_ms:
            return None
        return self._time_refusal(batch.events[index], time_ms)

    def _path(self, name: str, batch: "_Batch", index: int) -> str:
        """The path of the user's or the item's id in the message of an event."""
        if name == "item" and self._lines and batch.lines[index] != _NO_LINE:
            return f"{self._settings.fields.lines}.{batch.lines[index]}.{self._layout.line_item.path}"
        return self._layout.fields[name].path

    def _time_refusal(self, event: Any, time_ms: int) -> Refusal:
        """The refusal of a time that is too early, or later than windows or `clicks.max_future_s` allow."""
        field = self._layout.fields.get("time")
        unit = self._settings.time_unit
        value = "the time of the record"
        if field:
            value = f"the time ({field.path}) is {times.shown(self._get['time'](event))}, which"
        advice = f"; {times.advice(unit)}" if field else ""
        if time_ms < self._earliest_ms:
            limit = f"before clicks.earliest = {self._settings.earliest}"
        elif time_ms > MAX_TIME_MS:
            limit = f"after {times.shown_ms(MAX_TIME_MS)}"
        else:
            detail = f"{value} is {times.shown_ms(time_ms)}, more than clicks.max_future_s after now{advice}"
            return Refusal("time_in_future", detail)
        return Refusal("time_out_of_range", f"{value} is {times.shown_ms(time_ms)}, {limit}{advice}")


@dataclass(slots=True)
class _Batch:
    """The events of a poll so far, and the records that are none."""

    events: list[Any] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    """Index of each event's record among all that were polled."""
    timestamps: list[int] = field(default_factory=list)
    searches: dict[int, str] = field(default_factory=dict)
    """Ids of the events that are searches, by index."""
    dead: list[DeadLetter] = field(default_factory=list)
    forgotten: dict[tuple[str, int], tuple[int, bool]] = field(default_factory=dict)
    """Users to be forgotten, each with the partition of the request, the index of the last record that requests it, and
    whether there is such a request in every partition."""
    without_consent: int = 0
    skipped: int = 0
    lines: list[int] = field(default_factory=list)
    """Index of each event among the lines of its message, _NO_LINE for one without; empty where none are mapped."""

    def forget(self, user: str, partition: int, origin: int, *, is_everywhere: bool) -> None:
        """Note a request."""
        _, is_before = self.forgotten.get((user, partition), (origin, True))
        self.forgotten[user, partition] = origin, is_everywhere and is_before

    def add_lines(self, event: Any, count: int, origin: int, timestamp_ms: int) -> None:
        """Add a message as an event for each of its lines; as one event where it has none."""
        self.lines += range(count) if count else [_NO_LINE]
        self.events += [event] * max(count, 1)
        self.origins += [origin] * max(count, 1)
        self.timestamps += [timestamp_ms] * max(count, 1)


def _refuse(refusals: Mapping[int, Refusal], batch: _Batch, polled: Sequence[Records]) -> set[int]:
    """Write a letter for each record with an event that is refused; returns the indices of all events of those records.

    A message is refused as a whole, so that its letter, mended, can be sent again as it is.
    """
    if not refusals:
        return set()
    of_records: dict[int, Refusal] = {}
    for index, refusal in refusals.items():
        of_records.setdefault(batch.origins[index], refusal)
    batch.dead += [
        _dead(*_locate(polled, origin), refusal) for origin, refusal in sorted(of_records.items(), key=itemgetter(0))
    ]
    return {index for index, origin in enumerate(batch.origins) if origin in of_records}


def _before_requests(clicks: Clicks, batch: _Batch) -> set[int]:
    """Indices of the clicks that came before a request to forget their user."""
    if not batch.forgotten:
        return set()
    anywhere: dict[str, int] = {}
    for (user, _), (origin, is_everywhere) in batch.forgotten.items():
        if not is_everywhere:
            anywhere[user] = max(origin, anywhere.get(user, -1))
    rows = enumerate(zip(clicks.users, clicks.partitions.tolist(), batch.origins, strict=True))
    return {
        index
        for index, (user, partition, origin) in rows
        if origin < max(batch.forgotten.get((user, partition), (-1, True))[0], anywhere.get(user, -1))
    }


def _requests(batch: _Batch, polled: Sequence[Records]) -> Iterator[ForgetRequest]:
    """The requests to forget users, one for each user and partition."""
    for (user, partition), (origin, is_everywhere) in batch.forgotten.items():
        records, index = _locate(polled, origin)
        offset = records.origin(index)[1]
        yield ForgetRequest(user, partition, is_everywhere, offset, records.timestamps_ms[index])


def _origins(polled: Sequence[Records], partitions: Int32) -> tuple[Int32, Int64]:
    """[n] partitions and offsets at which the records were first; `partitions` [n] itself where they were not moved."""
    if all(records.origins is None for records in polled):
        columns = chain.from_iterable(records.offsets for records in polled)
        return partitions, np.fromiter(columns, np.int64, len(partitions))
    origins = [records.origin(index) for records in polled for index in range(len(records))]
    numbers = np.array([partition.number for partition, _ in origins], np.int32)
    return numbers, np.array([offset for _, offset in origins], np.int64)


def _dead(records: Records, index: int, refusal: Refusal) -> DeadLetter:
    partition, offset = records.origin(index)
    return DeadLetter(
        key=records.keys[index],
        value=None if refusal.withheld else records.values[index],
        headers=records.headers[index],
        timestamp_ms=records.timestamps_ms[index],
        partition=partition,
        offset=offset,
        reason=refusal.reason,
        detail=refusal.detail,
        withheld=refusal.withheld,
    )


def _locate(polled: Sequence[Records], position: int) -> tuple[Records, int]:
    for records in polled:
        if position < len(records):
            return records, position
        position -= len(records)
    raise IndexError(position)


def _without(clicks: Clicks, refused: AbstractSet[int]) -> Clicks:
    if not refused:
        return clicks
    kept = [index for index in range(len(clicks)) if index not in refused]
    return replace(
        clicks,
        users=[clicks.users[index] for index in kept],
        items=[clicks.items[index] for index in kept],
        times_ms=clicks.times_ms[kept],
        actions=clicks.actions[kept],
        event_hashes=clicks.event_hashes[kept],
        partitions=clicks.partitions[kept],
        offsets=clicks.offsets[kept],
        appends_ms=clicks.appends_ms[kept],
        first_partitions=None if clicks.first_partitions is None else clicks.first_partitions[kept],
        keys=[clicks.keys[index] for index in kept],
    )


def _ids(values: Iterator[str | int]) -> list[str]:
    return [value if type(value) is str else str(value) for value in values]


def _line_hash(event_hash: int, line: int) -> int:
    """The hash of an event's id and its line, so that the lines of a message are no repeats of one another."""
    if event_hash == 0 or line == _NO_LINE:
        return event_hash
    return zlib.crc32(b"/%d" % line, event_hash) or 1


def _event_hash(event_id: object) -> int:
    """The hash of an event id; 0 for one that is empty or no id."""
    if type(event_id) in _NUMBERS:
        event_id = str(event_id)
    if type(event_id) is not str or event_id in _NO_EVENT_ID:
        return 0
    return zlib.crc32(event_id.encode("utf-8", "surrogatepass")) or 1
