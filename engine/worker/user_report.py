"""Everything that the topics and the snapshots on this machine hold of one user.

Topics are read from their start to the end that they had when the reading began, committed records alone. That takes as
long as a restore of the same topics: some 50,000 records a second.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import ChangelogError, MessageError
from engine.eventlog.base import EventLog
from engine.ingest.letter_purge import LetterPurge
from engine.ingest.pseudonyms import Pseudonyms
from engine.messages.recommendation import decode_recommendation
from engine.settings.sections import Settings
from engine.windows.codec import WindowCodec
from engine.windows.snapshots import Snapshots

_POLL_S: Final = 0.5
_MAX_RECORDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class HeldEvent:
    """One event of a window."""

    item: str
    """Id of the item, or the words of a search."""
    kind: str
    """`item` or `search`."""
    action: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class HeldWindow:
    """The last record of the user in one partition of the changelog."""

    partition: int
    offset: int
    written_ms: int
    events: list[HeldEvent] | None
    """Oldest first; None for a tombstone, or where the record cannot be read."""
    fault: str | None = None
    """Why the record cannot be read."""


@dataclass(frozen=True, slots=True)
class HeldList:
    """The last record of the user in one partition of the topic of lists."""

    partition: int
    offset: int
    written_ms: int
    release: str | None
    """None for a null in the place of a list, or where the record cannot be read."""
    computed_ms: int | None
    items: list[str] | None


@dataclass(frozen=True, slots=True)
class UserReport:
    """What is held of a user."""

    user: str
    windows: list[HeldWindow]
    """One for each partition that has a record of the user: more than one where clicks are not keyed by user."""
    lists: list[HeldList]
    dead_letters: int
    snapshots: list[str]
    """Files on this machine that hold a window of the user."""

    def as_dict(self) -> dict[str, Any]:
        """The report as plain objects."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report for people."""
        return [
            *map(_window_line, self.windows),
            *([] if self.windows else ["window: none"]),
            *map(_list_line, self.lists),
            *([] if self.lists else ["list: none"]),
            f"dead letters: {self.dead_letters}",
            f"snapshots on this machine: {', '.join(self.snapshots) or 'none'}",
        ]


@dataclass(frozen=True, slots=True)
class _Last:
    """The last record under a key in one partition."""

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None


def of_user(log: EventLog, settings: Settings, user: str) -> UserReport:
    """Look everywhere.

    Raises:
        EventLogError: a topic cannot be read.
    """
    catalogue, actions = Catalogue(), Actions(settings.clicks)
    codec = WindowCodec(catalogue, actions)
    held_as = Pseudonyms(settings.clicks).of(user)
    return UserReport(
        user=user,
        windows=[
            _window(last, held_as, codec, catalogue, actions)
            for last in _last_records(log, settings.windows.topic, held_as)
        ],
        lists=[_list(last) for last in _last_records(log, settings.recommendations.topic, held_as)],
        dead_letters=LetterPurge(log, settings.clicks, user).count(),
        snapshots=[str(path) for path in Snapshots(settings.snapshots, catalogue, actions).holding(held_as)],
    )


def _last_records(log: EventLog, topic: str, user: str) -> list[_Last]:
    """The last record of a user in each partition that has one."""
    key, last = user.encode(), dict[int, _Last]()
    if not log.partitions(topic):
        return []
    with log.reader([topic]) as reader:
        while not reader.at_end():
            for records in reader.poll(_POLL_S, _MAX_RECORDS):
                if key in records.keys:
                    row = len(records) - 1 - records.keys[::-1].index(key)
                    number = records.partition.number
                    last[number] = _Last(number, records.offsets[row], records.timestamps_ms[row], records.values[row])
    return [last[number] for number in sorted(last)]


def _window(last: _Last, user: str, codec: WindowCodec, catalogue: Catalogue, actions: Actions) -> HeldWindow:
    events, fault = None, None
    if last.value is not None:
        try:
            packed = codec.decode([user], [last.value], f"partition {last.partition}, offset {last.offset}")
        except ChangelogError as error:
            fault = str(error)
        else:
            names = [actions.names[code] for code in packed.actions.tolist()]
            items = catalogue.ids(packed.items.tolist())
            events = [_event(*row) for row in zip(items, names, packed.times_ms.tolist(), strict=True)]
    return HeldWindow(last.partition, last.offset, last.timestamp_ms, events, fault)


def _event(item: str, action: str, time_ms: int) -> HeldEvent:
    is_search = searches.is_search(item)
    return HeldEvent(item.removeprefix(searches.MARK), "search" if is_search else "item", action, time_ms)


def _list(last: _Last) -> HeldList:
    try:
        message = None if last.value is None else decode_recommendation(last.value)
    except MessageError:
        message = None
    if message is None:
        return HeldList(last.partition, last.offset, last.timestamp_ms, None, None, None)
    items = [listed.item for listed in message.items]
    return HeldList(last.partition, last.offset, last.timestamp_ms, message.release, message.computed_ms, items)


def _window_line(window: HeldWindow) -> str:
    place = f"window: partition {window.partition}, offset {window.offset}, written {_shown(window.written_ms)}:"
    if window.fault:
        return f"{place} {window.fault}"
    if window.events is None:
        return f"{place} forgotten"
    return "\n".join([f"{place} {len(window.events)} events", *map(_event_line, window.events)])


def _event_line(event: HeldEvent) -> str:
    return f"    {_shown(event.time_ms)}  {event.action}  {event.kind} {event.item}"


def _list_line(last: HeldList) -> str:
    place = f"list: partition {last.partition}, offset {last.offset}, written {_shown(last.written_ms)}:"
    return f"{place} none" if last.items is None else f"{place} by {last.release}: {_joined(last.items)}"


def _joined(items: Sequence[str]) -> str:
    return ", ".join(items) or "empty"


def _shown(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
