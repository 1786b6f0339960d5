"""Event times as messages write them: units, spellings, and what a wrong one is called in a dead letter."""

import datetime as dt
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import numpy as np

from engine.arrays import MAX_TIME_MS, Int64
from engine.settings.sections import TimeUnit

MessageTime: TypeAlias = int | float | dt.datetime

_PER_MS: Final[Mapping[str, float]] = {"s": 0.001, "ms": 1.0, "us": 1000.0}
_EXPECTED: Final[Mapping[TimeUnit, str]] = {
    "s": "a number of seconds since 1970",
    "ms": "a number of milliseconds since 1970",
    "us": "a number of microseconds since 1970",
    "iso8601": "ISO 8601 such as 2024-05-01T10:00:00Z",
}
_SPELLING: Final = re.compile(
    r"""\s* (?P<date> \d{4}-\d\d-\d\d) (?: [T\ ] (?P<time> \d\d:\d\d (?: :\d\d (?: [.,]\d+)?)?)
        \s* (?P<zone> Z | UTC | GMT | [+-]\d\d (?: :?\d\d)?)? )? \s*""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
"""ISO 8601, and what databases and spreadsheets make of it: `2019-10-01 00:00:00 UTC`, a date alone, no seconds."""
_SHOWN: Final = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80


def strict_type(unit: TimeUnit) -> Any:
    """The type of a time in this unit, for msgspec; `lenient` reads the other spellings of ISO 8601."""
    if unit == "iso8601":
        return dt.datetime
    most = int(MAX_TIME_MS * _PER_MS[unit])
    return Annotated[int, msgspec.Meta(ge=0, le=most)] | Annotated[float, msgspec.Meta(ge=0.0, le=float(most))]


def lenient(value: object, unit: TimeUnit) -> MessageTime | None:
    """A time as a message has it; None where it is none in this unit."""
    if unit == "iso8601":
        return _parse(value) if isinstance(value, str) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def in_range(value: MessageTime, unit: TimeUnit) -> bool:
    """True if windows can hold the time: from 1970 to the year 2109."""
    return isinstance(value, dt.datetime) or 0 <= value <= int(MAX_TIME_MS * _PER_MS[unit])


def to_ms(values: Iterable[Any], count: int, unit: TimeUnit) -> Int64:
    """[count] Unix milliseconds of times that the strict type allows."""
    if unit == "iso8601":
        return np.fromiter(map(_epoch_ms, values), np.int64, count)
    return np.rint(np.fromiter(values, np.float64, count) / _PER_MS[unit]).astype(np.int64)


def mistyped(value: object, path: str, unit: TimeUnit) -> str:
    """The detail of a dead letter whose time is none in this unit."""
    return f"the time ({path}) is {shown(value)}, expected {_EXPECTED[unit]}; {advice(unit)}"


def out_of_range(value: object, path: str, unit: TimeUnit) -> str:
    """The detail of a dead letter with a time that no window can hold."""
    return f"the time ({path}) is {shown(value)}, expected 1970 to {shown_ms(MAX_TIME_MS)[:4]}; {advice(unit)}"


def shown(value: object) -> str:
    """A value as a dead letter names it, cut to a readable length."""
    return value.isoformat() if isinstance(value, dt.datetime) else _SHOWN.repr(value)


def shown_ms(time_ms: int) -> str:
    """A time to the second, in UTC."""
    return str(np.datetime_as_string(np.datetime64(time_ms, "ms"), unit="s", timezone="UTC"))


def advice(unit: TimeUnit) -> str:
    """The setting to look at when a time is wrong."""
    return f"is clicks.time_unit = {unit!r} right?"


def _parse(text: str) -> dt.datetime | None:
    match = _SPELLING.fullmatch(text)
    if not match:
        return None
    zone = (match["zone"] or "Z").upper().replace("UTC", "Z").replace("GMT", "Z")
    clock = (match["time"] or "00:00").replace(",", ".")
    try:
        return dt.datetime.fromisoformat(f"{match['date']}T{clock}{zone}")
    except ValueError:  # the thirtieth of February
        return None


def _epoch_ms(time: dt.datetime) -> int:
    return round((time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp() * 1000)
