"""Where a click's fields lie in the user's own messages: a struct type made for the settings' paths.

Fields that nobody mapped cost nothing when msgspec decodes into it, and a wrong one is named by its path.
"""

import datetime as dt
from typing import Annotated, Any

import msgspec

from engine.arrays import MAX_TIME_MS
from engine.errors import SettingsError


def time_type(unit: str) -> Any:
    """The type of a time in this unit (`clicks.time_unit`)."""
    if unit == "iso8601":
        return dt.datetime
    most = MAX_TIME_MS if unit == "ms" else MAX_TIME_MS // 1000
    return Annotated[int, msgspec.Meta(ge=0, le=most)] | Annotated[float, msgspec.Meta(ge=0.0, le=float(most))]


def attribute_path(path: str) -> str:
    """Attributes that lead to a field: the keys of its path, each made a valid name."""
    return ".".join(_attribute(key) for key in path.split("."))


def _attribute(key: str) -> str:
    return "f" + key.encode().hex()


def _check_key(name: str, key: str, prefix: str) -> None:
    """Refuse a step of a path that is empty, or that msgspec does not take as a name."""
    if not key:
        raise SettingsError(
            f"setting 'clicks.fields.{name}': found an empty step after {prefix!r}, expected names joined by dots;"
            " take the dot out"
        )
    if {'"', "\\"} & set(key) or not key.isprintable():
        raise SettingsError(
            f"setting 'clicks.fields.{name}': {key!r} has a character that names cannot have, expected printable ones"
            ' without " and \\; map a field with another name'
        )


def struct(fields: dict[str, tuple[str, Any, bool]], prefix: str = "") -> type[msgspec.Struct]:
    """A struct type with these fields, nested where their paths are: name -> (path, type, required)."""
    leaves: dict[str, tuple[Any, bool]] = {}
    inner: dict[str, dict[str, tuple[str, Any, bool]]] = {}
    for name, (path, kind, required) in fields.items():
        key, _, rest = path.partition(".")
        _check_key(name, key, prefix)
        if rest:
            inner.setdefault(key, {})[name] = (rest, kind, required)
        elif key in leaves:
            raise SettingsError(
                f"setting 'clicks.fields.{name}': field {prefix + key!r} is mapped twice, expected once;"
                " name another one"
            )
        else:
            leaves[key] = (kind, required)
    clash = leaves.keys() & inner.keys()
    if clash:
        raise SettingsError(
            f"settings 'clicks.fields': {prefix + clash.pop()!r} is both a field and an object, expected to be one of"
            " them; correct the path that is wrong"
        )
    columns: list[Any] = [
        (_attribute(key), kind) if required else (_attribute(key), kind, None)
        for key, (kind, required) in leaves.items()
    ]
    for key, nested in inner.items():
        inside = struct(nested, f"{prefix}{key}.")
        if any(required for _, _, required in nested.values()):
            columns.append((_attribute(key), inside))
        else:
            columns.append((_attribute(key), inside, msgspec.field(default_factory=inside)))
    rename = {_attribute(key): key for key in (*leaves, *inner)}
    return msgspec.defstruct("Click", columns, rename=rename, kw_only=True, gc=False)
