"""Events as columns, and their encoding as messages for the topic of clicks.

Field names, nesting and the unit of time are those of the settings, so `headrace run` with the same settings decodes
these messages.
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
from engine.settings.field_paths import Step, parse_path
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
    """Action names; None sends messages without an action."""
    ids: list[str] | None = None
    """Event ids; None sends messages without one."""
    words: list[str | None] | None = None
    """Words of searches, None for a click; None in place of the list where no event is a search."""

    def __len__(self) -> int:
        return len(self.users)


class ClickEncoder:
    """Encoder of events as JSON records, keyed by user.

    The messages of a batch differ in their values alone, so all are made from one template: nesting costs nothing per
    event.
    """

    def __init__(self, settings: ClickSettings) -> None:
        """Check the settings.

        Raises:
            SettingsError: the field names contradict each other.
        """
        ClickDecoder(settings, Actions(settings))  # raises for settings with which no click could be decoded
        self._settings = settings

    def encode(self, events: ProducedEvents) -> Outgoing:
        """Records for the topic of clicks; without a field for the time, a record's timestamp is the event time.

        Raises:
            SettingsError: there are event ids or searches, but no field for them.
        """
        fields = self._settings.fields
        if events.ids is not None and not fields.event_id:
            raise SettingsError("the events have ids, but clicks.fields.event_id is empty; name a field for them")
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
    """A message with `%b` in place of the value at each path, and the paths in the order of the values."""
    tree: dict[Step, Any] = {}
    for path in paths:
        *parents, last = parse_path(path)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = path
    order: list[str] = []
    return _render(tree, order), order


def _render(node: dict[Step, Any] | str | None, order: list[str]) -> bytes:
    """The template of a node: a path, which is appended to `order`, an object, or an array with null for the rest."""
    if node is None:
        return b"null"
    if isinstance(node, str):
        order.append(node)
        return b"%b"
    if all(isinstance(step, int) for step in node):
        length = max(int(step) for step in node) + 1
        return b"[" + b",".join(_render(node.get(index), order) for index in range(length)) + b"]"
    members = [_encode(name).replace(b"%", b"%%") + b":" + _render(child, order) for name, child in node.items()]
    return b"{" + b",".join(members) + b"}"
