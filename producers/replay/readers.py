"""Reads recorded interactions of many kinds into one shape: columns of events in order of time.

A folder is searched for the files below, in this order; a file with one of these names is read in the same way.

    interactions.csv.gz, interactions.csv   user,item,ts[,event,query]   ts in Unix seconds
    ratings.dat                             MovieLens: user::item::rating::time
    u.data                                  MovieLens: user, item, rating, time, between tabs
    ratings.csv                             MovieLens: userId,movieId,rating,timestamp

Any other CSV, gzipped CSV or Parquet file is read with the column names of its `RecordedLayout`. The whole recording
is held in memory: 28 bytes an event, and each user's and item's id once; more while it is read.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from engine.arrays import Float64, Int32, Int64
from engine.errors import DataError

TimeUnit: TypeAlias = Literal["s", "ms", "iso8601"]

DEFAULT_ACTION: Final = "event"
DEFAULT_SEARCH: Final = "query"
PARQUET_SUFFIXES: Final = (".parquet", ".pq")

_FIRST_MS, _END_MS = 0, 253_402_300_800_000
"""1970 to 9999. Milliseconds read as seconds fall outside: they would lie tens of thousands of years ahead."""
_UNIT_NAMES = {"s": "Unix seconds", "ms": "Unix milliseconds", "iso8601": "ISO 8601"}


@dataclass(frozen=True, slots=True)
class RecordedLayout:
    """How a file is laid out: which columns matter, and how they are written."""

    user: str = "user"
    item: str = "item"
    time: str = "ts"
    action: str | None = None
    """None takes the column `event` where there is one."""
    search: str | None = None
    """None takes the column `query` where there is one: the words of searches, which have no item."""
    time_unit: TimeUnit = "s"
    """Not used where the column is a Parquet timestamp or date."""
    delimiter: str = ","
    names: tuple[str, ...] | None = None
    """Column names of a file that has no header."""


_RATINGS = RecordedLayout("userId", "movieId", "timestamp")
KNOWN_FILES: Final = {
    "interactions.csv.gz": RecordedLayout(),
    "interactions.csv": RecordedLayout(),
    # "::" is read as two one-character delimiters with an empty column between them
    "ratings.dat": replace(
        _RATINGS, delimiter=":", names=("userId", "-", "movieId", "--", "rating", "---", "timestamp")
    ),
    "u.data": replace(_RATINGS, delimiter="\t", names=("userId", "movieId", "rating", "timestamp")),
    "ratings.csv": _RATINGS,
}


@dataclass(frozen=True, slots=True)
class Names:
    """A column of n names, few of them different."""

    codes: Int32
    """[n] positions in `names`."""
    names: list[str]

    def select(self, rows: Int64 | slice) -> "Names":
        """Those of some rows."""
        return Names(self.codes[rows], self.names)

    def spelled(self) -> list[str]:
        """The names, one per entry."""
        return [self.names[code] for code in self.codes.tolist()]


@dataclass(frozen=True, slots=True)
class Recording:
    """n recorded events in order of time; those of one moment in the order of the file."""

    users: Names
    items: Names
    times_ms: Int64
    """[n] Unix milliseconds, ascending."""
    actions: Names | None
    rows: Int64
    """[n] row of the file that each event came from, counted from 1 and without the header."""
    words: Names | None = None
    """Of searches, whose item is the empty name; None where there are none."""

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Int64 | slice) -> "Recording":
        """Some rows of every column."""
        actions = None if self.actions is None else self.actions.select(rows)
        words = None if self.words is None else self.words.select(rows)
        return Recording(
            self.users.select(rows), self.items.select(rows), self.times_ms[rows], actions, self.rows[rows], words
        )


def read(source: Path, layout: RecordedLayout | None = None) -> Recording:
    """Read the file `source`, or the first known file in the folder `source`.

    Args:
        source: a file or a folder.
        layout: how the file is laid out; None goes by its name, and by `RecordedLayout()` where the name is not known.

    Raises:
        DataError: there is no such file, it cannot be read, lacks a column, is empty, or has an empty id or an
            unreadable time.
    """
    path = _find(source, layout)
    layout = layout or KNOWN_FILES.get(path.name, RecordedLayout())
    columns = _read_columns(path, layout)
    times_ms = _times_ms(columns["time"], layout, path)
    if len(times_ms) == 0:
        raise DataError(f"{path} holds no events")
    recording = Recording(
        users=_ids(columns["user"], layout.user, path),
        items=_items(columns["item"], columns.get("search"), layout.item, path),
        times_ms=times_ms,
        actions=_encode(columns["action"]) if "action" in columns else None,
        rows=np.arange(1, len(times_ms) + 1),
        words=_encode(columns["search"]) if "search" in columns else None,
    )
    return recording.select(np.argsort(times_ms, kind="stable"))


def _find(source: Path, layout: RecordedLayout | None) -> Path:
    if source.is_file():
        return source
    if not source.exists():
        raise DataError(f"{source} does not exist; name a file or a folder")
    if layout is not None:
        raise DataError(f"{source} is a folder; where columns are named, name the file too")
    for name in KNOWN_FILES:
        if (source / name).is_file():
            return source / name
    raise DataError(f"{source} holds none of {', '.join(KNOWN_FILES)}; for another file, name it and its columns")


def _read_columns(path: Path, layout: RecordedLayout) -> dict[str, pa.ChunkedArray]:
    """The columns that matter, by what they mean."""
    reader = _Parquet(path) if path.suffix in PARQUET_SUFFIXES else _Csv(path, layout)
    try:
        wanted = _wanted(reader.names(), layout, path)
        table = reader.read(list(wanted.values()))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; expected CSV, gzipped CSV or Parquet") from error
    return {meaning: table.column(name) for meaning, name in wanted.items()}


def _wanted(found: list[str], layout: RecordedLayout, path: Path) -> dict[str, str]:
    """Column names by what they mean; all of them are among those `found`."""
    action = layout.action or (DEFAULT_ACTION if DEFAULT_ACTION in found else None)
    search = layout.search or (DEFAULT_SEARCH if DEFAULT_SEARCH in found else None)
    wanted = {"user": layout.user, "item": layout.item, "time": layout.time}
    wanted |= ({"action": action} if action else {}) | ({"search": search} if search else {})
    missing = [name for name in wanted.values() if name not in found]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; found {', '.join(found)}; name the ones that hold user, item"
            " and time (--user-column, --item-column, --time-column)"
        )
    return wanted


class _Csv:
    """Every column is read as text: ids keep their leading zeros, and an unreadable time can be shown."""

    def __init__(self, path: Path, layout: RecordedLayout) -> None:
        self._path = path
        self._options = csv.ReadOptions(column_names=layout.names)
        self._parse = csv.ParseOptions(delimiter=layout.delimiter)

    def names(self) -> list[str]:
        with csv.open_csv(self._path, self._options, self._parse) as reader:
            names: list[str] = reader.schema.names
        return names

    def read(self, columns: list[str]) -> pa.Table:
        types = dict.fromkeys(columns, pa.string())
        convert = csv.ConvertOptions(column_types=types, include_columns=columns)
        return csv.read_csv(self._path, self._options, self._parse, convert)


class _Parquet:
    """Columns have types of their own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        names: list[str] = parquet.read_schema(self._path).names
        return names

    def read(self, columns: list[str]) -> pa.Table:
        return parquet.read_table(self._path, columns=columns)


def _ids(column: pa.ChunkedArray, name: str, path: Path) -> Names:
    encoded = _encode(column)
    if "" in encoded.names:
        row = int(np.argmax(encoded.codes == encoded.names.index(""))) + 1
        raise DataError(f"{path}, row {row}: column {name} is empty; every event needs a user and an item")
    return encoded


def _items(column: pa.ChunkedArray, words: pa.ChunkedArray | None, name: str, path: Path) -> Names:
    """Items, with the empty name where there are words instead."""
    if words is None:
        return _ids(column, name, path)
    given = pc.if_else(pc.equal(_text(column), ""), pc.utf8_trim_whitespace(_text(words)), _text(column))
    _ids(given, name, path)
    return _encode(column)


def _encode(column: pa.ChunkedArray) -> Names:
    encoded = _text(column).combine_chunks().dictionary_encode()
    return Names(encoded.indices.to_numpy().astype(np.int32), encoded.dictionary.to_pylist())


def _times_ms(column: pa.ChunkedArray, layout: RecordedLayout, path: Path) -> Int64:
    """[n] Unix milliseconds."""
    convert = _converter(column.type, layout.time_unit)
    try:
        times_ms = convert(column)
    except pa.ArrowInvalid:
        return _refuse_time(column, _first_unreadable(column, convert), layout, path)
    fit = (times_ms >= _FIRST_MS) & (times_ms < _END_MS)  # not so where it is not a number
    if not fit.all():
        return _refuse_time(column, int(np.argmin(fit)), layout, path)
    return np.rint(times_ms).astype(np.int64)


def _converter(kind: pa.DataType, unit: TimeUnit) -> Callable[[pa.ChunkedArray], Float64]:
    """What turns a column of that type into [n] Unix milliseconds; raises ArrowInvalid where it can't."""
    if pa.types.is_date(kind):
        return lambda column: _from_timestamps(column.cast(pa.timestamp("ms")))
    if pa.types.is_timestamp(kind):
        return _from_timestamps
    return {"iso8601": _from_iso8601, "s": lambda column: 1000.0 * _from_numbers(column), "ms": _from_numbers}[unit]


def _from_timestamps(column: pa.ChunkedArray) -> Float64:
    in_ms = column.cast(pa.timestamp("ms", column.type.tz), safe=False)
    times_ms: Float64 = in_ms.cast(pa.int64()).cast(pa.float64()).to_numpy()
    return times_ms


def _from_numbers(column: pa.ChunkedArray) -> Float64:
    text = pc.utf8_trim_whitespace(_text(column))
    numbers: Float64 = text.cast(pa.float64()).to_numpy()
    return numbers


def _from_iso8601(column: pa.ChunkedArray) -> Float64:
    """A time without a zone is taken as UTC, a date as its first moment."""
    text = pc.utf8_trim_whitespace(_text(column))
    dates = pc.match_substring_regex(text, r"^\d{4}-\d\d-\d\d$")
    zoned = pc.match_substring_regex(text, r"\d[T ].*(Z|[+-]\d\d(:?\d\d)?)$")
    zone = pc.if_else(dates, "T00Z", pc.if_else(zoned, "", "Z"))
    return _from_timestamps(pc.binary_join_element_wise(text, zone, "").cast(pa.timestamp("ns", "UTC")))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(column.cast(pa.string()), "")


def _first_unreadable(column: pa.ChunkedArray, convert: Callable[[pa.ChunkedArray], Float64]) -> int:
    """The first row that `convert` refuses, by bisection: Arrow names a value, not its row."""
    readable, refused = 0, len(column)
    while refused - readable > 1:
        middle = (readable + refused) // 2
        try:
            convert(column[readable:middle])
        except pa.ArrowInvalid:
            refused = middle
        else:
            readable = middle
    return readable


def _refuse_time(column: pa.ChunkedArray, row: int, layout: RecordedLayout, path: Path) -> NoReturn:
    raise DataError(
        f"{path}, row {row + 1}: column {layout.time} holds {column[row].as_py()!r}, which is not a time in"
        f" {_UNIT_NAMES[layout.time_unit]}; choose another unit (--time-unit) or mend the row"
    )
