"""Event times as Unix milliseconds, from numbers, text and Parquet's own timestamps and dates.

A number is in the unit that is named: seconds (fractions allowed), milliseconds or microseconds since 1970. ISO 8601 is
a date, or a date and a time to the minute or finer, with `T` or a space between them; a zone is `Z`, `UTC`, an offset
or, where there is none, UTC. Text may have blanks around it. A unit that cannot be meant is refused: by years beyond
9999, and by times that are a thousand times apart.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.arrays import Bool, Float64, Int64
from engine.interactions.columns import MEND, UnreadableValueError, decoded, first_unreadable, is_number, is_text
from engine.settings.sections import TimeUnit

UNIT_NAMES: Final[dict[TimeUnit, str]] = {
    "s": "Unix seconds",
    "ms": "Unix milliseconds",
    "us": "Unix microseconds",
    "iso8601": "ISO 8601",
}
_MS: Final[dict[TimeUnit, float]] = {"s": 1000.0, "ms": 1.0, "us": 0.001}
_END_MS: Final = 253_402_300_800_000
"""The year 10000. Milliseconds read as seconds fall outside: they would be tens of thousands of years ahead."""
_COARSER_END_MS: Final = 5_000_000_000
_FINER_BEGIN_MS: Final = 500_000_000_000
"""Seconds of any year up to 2128, read as milliseconds, are before the first (and so are milliseconds read as
microseconds); milliseconds since 1985 are after the second. A column that has both mixes two units."""
_YEAR_MS: Final = 31_556_952_000


class TimeColumn:
    """A column of times, batch by batch."""

    def __init__(self, unit: TimeUnit, *, unit_is_set: bool = False) -> None:
        """Args: the unit of numbers and text; whether the settings say so, and not the command line."""
        self._unit, self._unit_is_set = unit, unit_is_set
        self.earliest_ms = self.latest_ms = -1
        """Of all batches so far; -1 before the first."""

    def to_ms(self, column: pa.Array) -> Int64:
        """[n] Unix milliseconds.

        Raises:
            UnreadableValueError: a row has no time, or one that cannot be meant.
        """
        column = decoded(column)
        _refuse_first(column.is_null().to_numpy(zero_copy_only=False), "nothing", MEND)
        typed = pa.types.is_date(column.type) or pa.types.is_timestamp(column.type)
        if typed:
            times_ms = _from_timestamps(column)
        elif self._unit == "iso8601":
            times_ms = _from_iso8601(column)
        else:
            times_ms = _MS[self._unit] * _numbers(column, self._unit)
        _refuse_impossible(times_ms, column, self._unit)
        self._take_note(times_ms, column, is_number=not typed and self._unit in {"ms", "us"})
        rounded: Int64 = np.rint(times_ms).astype(np.int64)
        return rounded

    def _take_note(self, times_ms: Float64, column: pa.Array, *, is_number: bool) -> None:
        """Remember the range of all times; refuse what cannot be of one unit with those before."""
        if not len(times_ms):
            return
        earliest_ms, is_first = round(times_ms.min()), self.earliest_ms < 0
        self.earliest_ms = earliest_ms if is_first else min(self.earliest_ms, earliest_ms)
        self.latest_ms = max(self.latest_ms, round(times_ms.max()))
        if is_number and self.earliest_ms < _COARSER_END_MS and self.latest_ms > _FINER_BEGIN_MS:
            index = int(np.argmax((times_ms < _COARSER_END_MS) == (earliest_ms < _COARSER_END_MS)))
            content = f"{_spelled(column, index)}, a thousand times apart from other times"
            raise UnreadableValueError(index, content, "some rows are in another unit: bring all to one unit")
        if is_number and is_first and self._unit_is_set and self.latest_ms < _COARSER_END_MS:
            content = f"{_spelled(column, 0)}, which as {UNIT_NAMES[self._unit]} (clicks.time_unit) is early in 1970"
            raise UnreadableValueError(0, content, "if the column is in seconds, say --time-unit s")


def _from_timestamps(column: pa.Array) -> Float64:
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    in_ms = column.cast(pa.timestamp("ms", zone), safe=False)
    times_ms: Float64 = in_ms.cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return times_ms


def _from_iso8601(column: pa.Array) -> Float64:
    """A time without a zone is taken as UTC, a date as its first moment."""
    if is_number(column.type):
        way_out = f"say --time-unit {_likely(float(column[0].as_py())) or 's'}"
        raise UnreadableValueError(0, _spelled(column, 0), f"expected {UNIT_NAMES['iso8601']}: {way_out}")
    return _from_text(column, "iso8601", _cast_iso8601)


def _numbers(column: pa.Array, unit: TimeUnit) -> Float64:
    """[n] numbers of a column of any type that has them."""
    if not is_number(column.type):
        return _from_text(column, unit, _cast_numbers)
    numbers: Float64 = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers


def _cast_iso8601(texts: pa.Array) -> Float64:
    texts = pc.replace_substring_regex(texts, r" ?(UTC|GMT|z)$", "Z")
    dates = pc.match_substring_regex(texts, r"^\d{4}-\d\d-\d\d$")
    zoned = pc.match_substring_regex(texts, r"\d[T ].*(Z|[+-]\d\d(:?\d\d)?)$")
    zone = pc.if_else(dates, "T00Z", pc.if_else(zoned, "", "Z"))
    return _from_timestamps(pc.binary_join_element_wise(texts, zone, "").cast(pa.timestamp("ns", "UTC")))


def _cast_numbers(texts: pa.Array) -> Float64:
    numbers: Float64 = texts.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


def _from_text(column: pa.Array, unit: TimeUnit, cast: Callable[[pa.Array], Float64]) -> Float64:
    """[n] numbers of text without the blanks around it; the first value that `cast` refuses is named."""
    if not is_text(column.type):
        way_out = f"expected {UNIT_NAMES[unit]}, or a timestamp: cast the column, or name another"
        raise UnreadableValueError(0, f"values of type {column.type}", way_out)
    texts = pc.ascii_trim_whitespace(column.cast(pa.string()))
    _refuse_first(pc.equal(texts, "").to_numpy(zero_copy_only=False), "nothing", MEND)
    try:
        return cast(texts)
    except pa.ArrowInvalid:
        index = first_unreadable(texts, cast)
        way_out = f"expected {UNIT_NAMES[unit]}: {_other_unit(texts[index : index + 1])}"
        raise UnreadableValueError(index, _spelled(column, index), way_out) from None


def _other_unit(text: pa.Array) -> str:
    """The option that would read this one text, or else that there is such an option."""
    try:
        return f"say --time-unit {_likely(float(_cast_numbers(text)[0])) or 's'}"
    except pa.ArrowInvalid:
        pass
    try:
        _cast_iso8601(text)
    except pa.ArrowInvalid:
        return f"choose another unit (--time-unit), or {MEND}"
    return "say --time-unit iso8601"


def _refuse_impossible(times_ms: Float64, column: pa.Array, unit: TimeUnit) -> None:
    """Refuse the first time that is no number, before 1970 or after 9999."""
    possible: Bool = (times_ms >= 0) & (times_ms < _END_MS)  # neither where it is not a number
    if possible.all():
        return
    index = int(np.argmin(possible))
    time_ms, content, expected = float(times_ms[index]), _spelled(column, index), UNIT_NAMES[unit]
    if not np.isfinite(time_ms):
        raise UnreadableValueError(index, content, f"expected {expected}: {MEND}")
    if time_ms < 0:
        raise UnreadableValueError(index, f"{content}, which is before 1970", f"expected {expected}: {MEND}")
    way_out = "bring the column to seconds, milliseconds or microseconds"
    if likely := _likely(time_ms / _MS.get(unit, 1.0)):
        way_out = f"if the column is in {UNIT_NAMES[likely]}, say --time-unit {likely}; if only some rows are, bring"
        way_out += " all to one unit"
    year = 1970 + int(time_ms / _YEAR_MS)
    raise UnreadableValueError(index, f"{content}, which as {expected} is the year {year}", way_out)


def _likely(number: float) -> TimeUnit | None:
    """The unit in which a number is a time from 1985 to 2128."""
    fits = (unit for unit, scale in _MS.items() if _FINER_BEGIN_MS <= number * scale < 1000 * _COARSER_END_MS)
    return next(fits, None)


def _refuse_first(marks: Bool, content: str, way_out: str) -> None:
    if marks.any():
        raise UnreadableValueError(int(np.argmax(marks)), content, way_out)


def _spelled(column: pa.Array, index: int) -> str:
    """A value as one would look for it in the file."""
    value = column[index : index + 1]
    if pa.types.is_floating(column.type):
        return f"{value[0].as_py():.15g}"
    text: str = value.cast(pa.string()).cast(pa.binary())[0].as_py().decode(errors="backslashreplace")
    return repr(text) if is_text(column.type) else text
