"""Event types that are no clicks, on a topic of many: skipped before anything else is read of them."""

from typing import Any, Final

import msgspec

from engine.errors import SettingsError
from engine.ingest.fields import single_field
from engine.settings.sections import ClickSettings

_UNREADABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_TYPES_OF_TYPES: Final = (str, int)


class SkippedTypes:
    """The types of `clicks.skip_types`, and where a message has its type.

    Only the type is decoded here, because an event of another type may have neither a user nor an item.

    Raises:
        SettingsError: there are types to skip, and no field that holds the type.
    """

    def __init__(self, settings: ClickSettings) -> None:
        self._types = frozenset(settings.skip_types)
        if not self._types:
            return
        if not settings.fields.type:
            raise SettingsError(
                f"setting 'clicks.skip_types' is {settings.skip_types}, but 'clicks.fields.type' is empty, expected the"
                " path of the field that holds an event's type; name it, or skip nothing"
            )
        message_type, self._type_of = single_field("type", settings.fields.type)
        self._decode = msgspec.json.Decoder(message_type).decode

    def __bool__(self) -> bool:
        return bool(self._types)

    def has(self, value: bytes) -> bool:
        """Whether a message is of a type that is skipped; what cannot be read is of none."""
        try:
            event_type: Any = self._type_of(self._decode(value))
        except _UNREADABLE:
            return False
        return type(event_type) in _TYPES_OF_TYPES and str(event_type) in self._types
