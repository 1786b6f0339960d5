"""Fields of a click by their paths in the user's own messages, and the struct type that messages are decoded into.

msgspec decodes straight into a struct made for the paths: fields that are not mapped cost nothing, and a field that is
wrong is named by its path.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from engine.errors import SettingsError
from engine.ingest import times
from engine.settings.field_paths import Step, Steps, parse_path
from engine.settings.sections import ClickSettings


@dataclass(frozen=True, slots=True)
class MappedField:
    """A field of a click that the settings map to a path of the messages."""

    name: str
    """Of the setting, under `clicks.fields`."""
    path: str
    steps: Steps
    kind: Any
    """What msgspec decodes it as. Fields that may be absent are of any type: a wrong one is as good as absent."""
    required: bool

    def parents(self) -> Iterator[tuple[Steps, type]]:
        """Paths of the objects and arrays that hold the field, outermost first, each with its type, dict or list."""
        for depth in range(1, len(self.steps)):
            yield self.steps[:depth], list if isinstance(self.steps[depth], int) else dict


class ClickLayout:
    """The mapped fields of a click, and the struct type of a message that has them.

    Raises:
        SettingsError: a path cannot be one, the user or the item has none, or two paths do not go together.
    """

    def __init__(self, settings: ClickSettings) -> None:
        self.fields = {field.name: field for field in _mapped(settings)}
        for name in ("user", "item"):
            if name not in self.fields:
                raise SettingsError(
                    f"setting 'clicks.fields.{name}' is empty, expected a path; name the field that holds the {name}"
                )
        if settings.require_consent and "consent" not in self.fields:
            raise SettingsError(
                "setting 'clicks.require_consent' is true, but 'clicks.fields.consent' is empty; name the field that"
                " holds the consent"
            )
        self.type = _struct(self.fields.values(), ())
        self.line_item = _line_item(settings)

    def type_of(self, name: str) -> type[msgspec.Struct]:
        """The struct type of a message in which nothing but one mapped field is read."""
        return _struct([self.fields[name]], ())

    def getter(self, name: str) -> Callable[[Any], Any]:
        """A function that gets a mapped field from a decoded message."""
        return _getter(self.fields[name].steps)

    def line_getter(self) -> Callable[[Any], Any]:
        """A function that gets the item from a decoded element of the lines."""
        return _getter(self.line_item.steps)

    def optional_parents(self) -> Iterator[tuple[Steps, type]]:
        """Objects and arrays that hold no required field, outermost first, each with its type, dict or list."""
        required = {
            field.steps[:end] for field in self.fields.values() if field.required for end in range(len(field.steps))
        }
        parents = {
            field.steps[:end]: list if isinstance(field.steps[end], int) else dict
            for field in self.fields.values()
            for end in range(1, len(field.steps))
        }
        yield from sorted(
            ((steps, kind) for steps, kind in parents.items() if steps not in required), key=lambda pair: len(pair[0])
        )


def single_field(name: str, path: str) -> tuple[type[msgspec.Struct], Callable[[Any], Any]]:
    """The struct type of a message of which only one field is read, None where it is absent, and its getter.

    Args:
        name: of the setting, under `clicks.fields`.
        path: in the messages.

    Raises:
        SettingsError: the path cannot be one.
    """
    field = MappedField(name, path, parse_path(path, f"clicks.fields.{name}"), Any, required=False)
    return _struct([field], ()), attrgetter(".".join(map(_attribute, field.steps)))


def _mapped(settings: ClickSettings) -> Iterator[MappedField]:
    """The fields whose setting is not empty."""
    fields = settings.fields
    item_type, item_required = (str | int | None, False) if fields.search or fields.lines else (str | int, True)
    line_type = list[_struct([_line_item(settings)], ())] | None if fields.lines else None  # type: ignore[misc]
    types: dict[str, tuple[str, Any, bool]] = {
        "user": (fields.user, str | int, True),
        "item": (fields.item, item_type, item_required),
        "lines": (fields.lines, line_type, False),
        "search": (fields.search, Any, False),
        "time": (fields.time, times.strict_type(settings.time_unit), True),
        "action": (fields.action, Any, False),
        "event_id": (fields.event_id, Any, False),
        "consent": (fields.consent, Any, False),
    }
    for name, (path, kind, required) in types.items():
        if path:
            yield MappedField(name, path, parse_path(path, f"clicks.fields.{name}"), kind, required)


def _line_item(settings: ClickSettings) -> MappedField:
    """The item in an element of the lines."""
    fields = settings.fields
    path, setting = (fields.line_item, "line_item") if fields.line_item else (fields.item, "item")
    return MappedField("item", path, parse_path(path, f"clicks.fields.{setting}"), str | int, required=True)


def _getter(steps: Steps) -> Callable[[Any], Any]:
    return attrgetter(".".join(map(_attribute, steps)))


def _struct(fields: Any, prefix: Steps) -> type[msgspec.Struct]:
    """The struct type of an object or array with these fields, nested where their paths are."""
    leaves: dict[Step, MappedField] = {}
    inner: dict[Step, list[MappedField]] = {}
    depth = len(prefix)
    for field in fields:
        step = field.steps[depth]
        if len(field.steps) > depth + 1:
            inner.setdefault(step, []).append(field)
        elif step in leaves:
            raise SettingsError(
                f"setting 'clicks.fields.{field.name}': {field.path!r} is mapped twice, expected once; name another one"
            )
        else:
            leaves[step] = field
    if clash := leaves.keys() & inner.keys():
        raise SettingsError(
            f"settings 'clicks.fields': {_shown(*prefix, clash.pop())!r} is both a field and an object,"
            " expected one of them; correct the path that is wrong"
        )
    columns = {step: _column(step, leaf.kind, leaf.required) for step, leaf in leaves.items()}
    for step, nested in inner.items():
        required = any(field.required for field in nested)
        columns[step] = _column(step, _struct(nested, (*prefix, step)), required)
    if {*map(type, columns)} == {str, int}:
        raise SettingsError(
            f"settings 'clicks.fields': {_shown(*prefix)!r} is both an object and an array,"
            " expected one of them; correct the path that is wrong"
        )
    if all(isinstance(step, int) for step in columns):
        return _array_struct(columns)
    rename = {_attribute(step): str(step) for step in columns}
    return msgspec.defstruct("Click", [*columns.values()], rename=rename, kw_only=True, gc=False)


def _array_struct(columns: Mapping[Step, tuple[Any, ...]]) -> type[msgspec.Struct]:
    """The struct type of an array, as far as its last mapped element."""
    elements = [columns.get(index, (_attribute(index), msgspec.Raw, msgspec.Raw())) for index in range(_end(columns))]
    return msgspec.defstruct("Array", elements, array_like=True, kw_only=True, gc=False)


def _end(columns: Mapping[Step, object]) -> int:
    return max(int(step) for step in columns) + 1


def _column(step: Step, kind: Any, required: bool) -> tuple[Any, ...]:
    """A field for `msgspec.defstruct`."""
    if required:
        return _attribute(step), kind
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _attribute(step), kind, msgspec.field(default_factory=kind)
    return _attribute(step), kind, None


def _attribute(step: Step) -> str:
    """A valid name for the attribute of a step."""
    return f"e{step}" if isinstance(step, int) else "f" + step.encode().hex()


def _shown(*steps: Step) -> str:
    return ".".join(map(str, steps))
