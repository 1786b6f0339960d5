"""Events on their way to the topic of clicks: columns of them, and their encoding as the user's own messages.

The field names, their nesting and the unit of time are those of the settings, so that what is produced here is read
by `headrace run` with the same settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from engine.arrays import Int64
from engine.catalogue.actions import Actions
from engine.errors import SettingsError
from engine.eventlog.base import Outgoing
from engine.ingest.decoder import ClickDecoder
from engine.ingest.fields import Step, parse_path
from engine.settings.sections import ClickSettings

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ProducedEvents:
    """n events in order of time, as parallel columns."""

    users: list[str]
    items: Sequence[str | None]
    """None for a search."""
    times_ms: Int64
    """[n] event time, Unix milliseconds."""
    actions: list[str] | None
    """Names; None leaves the action out of the messages."""
    ids: list[str] | None = None
    """None leaves the event id out of the messages."""
    words: list[str | None] | None = None
    """Of searches; None leaves them out of the messages."""

    def __len__(self) -> int:
        return len(self.users)


class ClickEncoder:
    """Encodes events as JSON, keyed by user.

    A batch's messages differ in their values only, so each is a template filled: nesting costs nothing per event.
    """

    def __init__(self, settings: ClickSettings) -> None:
        """Check the settings.

        Raises:
            SettingsError: the field names do not fit together.
        """
        ClickDecoder(settings, Actions(settings))  # what nobody could read is refused by who reads it
        self._settings = settings

    def encode(self, events: ProducedEvents) -> Outgoing:
        """Records for the topic of clicks; without a field for the time, the record's own timestamp is the event time.

        Raises:
            SettingsError: there are event ids or searches, but no field for them.
        """
        fields = self._settings.fields
        if events.ids is not None and not fields.event_id:
            raise SettingsError("event ids were asked for, but clicks.fields.event_id is empty; name a field for them")
        if None in events.items and not fields.search:
            raise SettingsError("there are searches, but clicks.fields.search is empty; name a field for their words")
        optional = {fields.action: events.actions, fields.event_id: events.ids, fields.search: events.words}
        strings = {fields.user: events.users, fields.item: events.items} | optional
        columns = {path: list(map(_encode, column)) for path, column in strings.items() if path and column is not None}
        if fields.time:
            columns[fields.time] = self._times(events.times_ms)
        template, order = _template(list(columns))
        return Outgoing(
            self._settings.topic,
            keys=[user.encode() for user in events.users],
            values=[template % values for values in zip(*(columns[path] for path in order), strict=True)],
            timestamps_ms=None if fields.time else events.times_ms.tolist(),
        )

    def _times(self, times_ms: Int64) -> list[bytes]:
        """Event times as JSON values in the unit of the settings."""
        if self._settings.time_unit == "iso8601":
            text = np.datetime_as_string(times_ms.astype("datetime64[ms]"), timezone="UTC")
            return list(map(_encode, text.tolist()))
        if self._settings.time_unit == "s":
            return list(map(_encode, (times_ms / 1000).tolist()))
        if self._settings.time_unit == "us":
            return list(map(_encode, (times_ms * 1000).tolist()))
        return list(map(_encode, times_ms.tolist()))


def _template(paths: list[str]) -> tuple[bytes, list[str]]:
    """A message with a hole for the value at each path, and the paths in the order of the holes."""
    tree: dict[Step, Any] = {}
    for path in paths:
        *parents, last = parse_path(path)
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = path
    order: list[str] = []
    return _render(tree, order), order


def _render(tree: dict[Step, Any] | str | None, order: list[str]) -> bytes:
    """An object; or, where the steps are indices, an array with null for the elements that no path names."""
    if tree is None:
        return b"null"
    if isinstance(tree, str):
        order.append(tree)
        return b"%b"
    if all(isinstance(step, int) for step in tree):
        length = max(int(step) for step in tree) + 1
        return b"[" + b",".join(_render(tree.get(index), order) for index in range(length)) + b"]"
    members = [_encode(name).replace(b"%", b"%%") + b":" + _render(inner, order) for name, inner in tree.items()]
    return b"{" + b",".join(members) + b"}"
