"""Layouts of recorded interactions: the column of each meaning, and the unit of times.

A column comes, in this order, from

    the command line       --user-column, --time-column, ...; the file must have it
    the settings           what is written under [clicks.fields], where the file has such a column
    the usual names        user, item, ts, and event or action, query, event_id; or MovieLens' userId, movieId and
                           timestamp

A dot steps into a nested object of Parquet, and is a part of the name in CSV, whether a backslash is before it in the
settings or not. The time unit comes from --time-unit, or
from `clicks.time_unit`, where the settings name the time column; or else it is seconds.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from engine.errors import DataError, SettingsError
from engine.settings.field_paths import parse_path
from engine.settings.sections import ClickSettings, TimeUnit

Meaning: TypeAlias = Literal["user", "item", "time", "action", "search", "event_id", "consent"]

REQUIRED: Final[tuple[Meaning, ...]] = ("user", "item", "time")
_USUAL: Final[tuple[dict[Meaning, str], ...]] = (
    {"user": "user", "item": "item", "time": "ts"},
    {"user": "userId", "item": "movieId", "time": "timestamp"},
)
_USUAL_OPTIONAL: Final[dict[Meaning, tuple[str, ...]]] = {
    "action": ("event", "action"),
    "search": ("query",),
    "event_id": ("event_id",),
    "consent": (),
}
_OTHER_NAMES: Final[dict[Meaning, tuple[str, ...]]] = {
    "user": ("user_id", "userId", "uid", "visitor", "customer", "session"),
    "item": ("item_id", "itemId", "product", "article", "movie", "sku"),
    "time": ("timestamp", "time", "event_time", "unix", "date", "at"),
    "action": ("event_type", "action", "behavior", "type"),
    "search": ("search", "search_term", "keywords", "words"),
}
"""Names that columns have elsewhere, to find the one that was meant."""
_NAMED_AT_MOST: Final = 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Choices of the command line; None leaves one to the settings and the file."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    action: str | None = None
    search: str | None = None
    """The words of searches, which have no item."""
    time_unit: TimeUnit | None = None
    """Not used where the column is a Parquet timestamp or date."""
    separator: str | None = None
    """Character between the columns of CSV; None takes a comma, or the semicolon or tab of the header line."""

    def __post_init__(self) -> None:
        if self.separator is not None and (len(self.separator) != 1 or not self.separator.isascii()):
            raise SettingsError(f"--separator: found {self.separator!r}, expected one ASCII character, or tab")

    def column(self, meaning: Meaning) -> str | None:
        """The column that the command line names."""
        name: str | None = getattr(self, meaning, None)
        return name


@dataclass(frozen=True, slots=True)
class Source:
    """Recorded interactions: a path, or an address with a scheme, and its layout."""

    address: str
    layout: Layout = Layout()
    since_ms: int | None = None
    """Events before this time are left out, Unix milliseconds; None reads all."""
    ends: tuple[tuple[int, int], ...] | None = None
    """Of an archive, the partitions that are read, each with the offset before which it is; None reads all there is."""


@dataclass(frozen=True, slots=True)
class FileColumns:
    """Columns of one file by meaning, and the unit of its times."""

    names: dict[Meaning, str]
    time_unit: TimeUnit
    unit_is_set: bool
    """Whether the unit comes from the settings."""


def resolve(available: Sequence[str], layout: Layout, clicks: ClickSettings, label: str) -> FileColumns:
    """The columns of a file.

    Args:
        available: names of the columns that it has, nested ones with dots.
        layout: the choices of the command line.
        clicks: the settings.
        label: the file's name, for errors.

    Raises:
        DataError: a column is missing, or there more than once.
    """
    settings = _settings_names(clicks)
    names = _required(available, layout, settings) | _optional(available, layout, settings)
    missing = [name for name in names.values() if name not in available]
    if missing:
        raise _missing(names, available, layout, settings, label)
    for name in names.values():
        if available.count(name) > 1:
            raise DataError(f"{label} has {available.count(name)} columns called {name}; rename all but one")
    if clicks.require_consent and "consent" not in names:
        raise DataError(
            f"{label} has no column {clicks.fields.consent or 'for clicks.fields.consent'}; found"
            f" {_shown(available)}; clicks.require_consent needs one: add it, or set clicks.require_consent to false"
        )
    unit_is_set = layout.time_unit is None and names["time"] == settings.get("time")
    unit = layout.time_unit or (clicks.time_unit if unit_is_set else "s")
    return FileColumns(names, unit, unit_is_set)


def _settings_names(clicks: ClickSettings) -> dict[Meaning, str]:
    """Names that the settings give, and not only their defaults; an empty one keeps the column from being read."""
    meanings: tuple[Meaning, ...] = ("user", "item", "time", "action", "search", "event_id", "consent")
    return {meaning: _column(clicks, meaning) for meaning in meanings if meaning in clicks.fields.model_fields_set}


def _column(clicks: ClickSettings, meaning: Meaning) -> str:
    """The column for a path of the settings."""
    path: str = getattr(clicks.fields, meaning)
    return ".".join(map(str, parse_path(path, f"clicks.fields.{meaning}"))) if path else ""


def _required(available: Sequence[str], layout: Layout, settings: dict[Meaning, str]) -> dict[Meaning, str]:
    """User, item and time: each as it is named, and the others by one set of usual names."""
    named = dict[Meaning, str]()
    for meaning in REQUIRED:
        name = layout.column(meaning) or (settings.get(meaning) if settings.get(meaning) in available else None)
        named |= {meaning: name} if name else {}
    sets = [usual | named for usual in _USUAL]
    return next((names for names in sets if all(name in available for name in names.values())), sets[0])


def _optional(available: Sequence[str], layout: Layout, settings: dict[Meaning, str]) -> dict[Meaning, str]:
    """Columns that a file may lack, where it has them or the command line names them."""
    names = dict[Meaning, str]()
    for meaning, usual in _USUAL_OPTIONAL.items():
        option, setting = layout.column(meaning), settings.get(meaning)
        candidates = () if setting == "" else (*([setting] if setting else []), *usual)
        name = option or next((candidate for candidate in candidates if candidate in available), None)
        names |= {meaning: name} if name else {}
    return names


def _missing(
    names: dict[Meaning, str], available: Sequence[str], layout: Layout, settings: dict[Meaning, str], label: str
) -> DataError:
    """The refusal of a file that lacks columns, with those it has and those most likely meant."""
    missing = {meaning: name for meaning, name in names.items() if name not in available}
    spelled = [
        name if layout.column(meaning) or not settings.get(meaning) or settings[meaning] == name
        else f"{settings[meaning]} (clicks.fields.{meaning}) or {name}"
        for meaning, name in missing.items()
    ]  # fmt: skip
    hints = [f"--{meaning}-column {near}" for meaning in missing if (near := _nearest(meaning, names, available))]
    way_out = "name the ones that hold user, item and time (--user-column, --item-column, --time-column)"
    if hints:
        way_out = f"did you mean {' '.join(hints)}?"
    if not hints and any(mark in name for mark in ";\t|" for name in available):
        way_out = "is there another character between the columns (--separator)?"
    return DataError(f"{label} has no column {', '.join(spelled)}; found {_shown(available)}; {way_out}")


def _shown(available: Sequence[str]) -> str:
    """Names of columns, in an error."""
    more = f" and {len(available) - _NAMED_AT_MOST} more" if len(available) > _NAMED_AT_MOST else ""
    return ", ".join(available[:_NAMED_AT_MOST]) + more


def _nearest(meaning: Meaning, names: dict[Meaning, str], available: Sequence[str]) -> str | None:
    """The column that was most likely meant: one spelt like the missing name, or like what others call it."""
    free = {name.lower(): name for name in available if name not in names.values()}
    for name in (names[meaning], *_OTHER_NAMES[meaning]):
        if near := difflib.get_close_matches(name.lower(), free, 1, 0.7):
            return free[near[0]]
    return None
