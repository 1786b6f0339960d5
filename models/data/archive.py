"""Recorded interactions as they lie, read a batch at a time: CSV or Parquet, on this machine or elsewhere.

    FOLDER                interactions.csv.gz or interactions.csv in it, or else every Parquet file below it, in the
                          order of their paths but for the items file; folders called `name=value` are columns
    FILE                  one CSV, gzipped CSV or Parquet file
    s3://bucket/clicks    any of these on a file system that fsspec knows

Columns are `user`, `item`, `ts` and perhaps `event`, the name of the action, and `query`, the words of a search; a
`Layout` says where they are called otherwise. A row without an item, but with words, is a search. Other columns are not
read: a rating says how much was liked, not how often something was clicked. Times are Unix seconds (fractions allowed),
Unix milliseconds, or Parquet's own timestamps and dates.

Every user's, item's, search's and action's id becomes a number, in order of appearance. What has to fit in memory is
each id once (some 150 bytes), one batch, and one row group of a Parquet file.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.arrays import FIRST_SEARCH, Bool, Int32, Int64, UInt8
from engine.catalogue import searches
from engine.catalogue.ids import Catalogue
from engine.errors import DataError
from models.data import item_content, storage

TimeUnit = Literal["s", "ms"]

MAX_ACTIONS: Final = 255
_MS: Final = {"s": 1000, "ms": 1}
_UNIT_NAMES: Final = {"s": "Unix seconds", "ms": "Unix milliseconds"}
_END_MS: Final = 253_402_300_800_000
"""The year 10000. Milliseconds read as seconds fall outside: they would lie tens of thousands of years ahead."""
_SECONDS_END_MS: Final = 5_000_000_000
_MS_BEGIN_MS: Final = 500_000_000_000
"""Seconds of any year up to 2128, read as milliseconds, lie before the first; milliseconds since 1985 behind the
second. A column in milliseconds that has both mixes the units."""
_YEAR_MS: Final = 31_556_952_000
_SEARCH: Final = "search"
"""Name of the action of searches, where actions have names."""
_OTHER_NAMES: Final = {
    "user": ("user_id", "userId", "uid", "visitor", "customer", "session"),
    "item": ("item_id", "itemId", "product", "article", "movie", "sku"),
    "time": ("timestamp", "time", "event_time", "unix", "date", "at"),
    "action": ("event_type", "action", "behavior", "type"),
    "search": ("search", "search_term", "keywords", "words"),
}
"""What columns are called elsewhere, to find the one that was meant."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns are called, and how times are written."""

    user: str = "user"
    item: str = "item"
    time: str = "ts"
    action: str | None = None
    """None takes the column `event` where there is one."""
    search: str | None = None
    """None takes the column `query` where there is one."""
    time_unit: TimeUnit = "s"
    """Not used where the column is a Parquet timestamp or date."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where interactions lie: a path or an address with a scheme, and their layout."""

    address: str
    layout: Layout = Layout()


@dataclass(frozen=True, slots=True)
class Chunk:
    """n events in the order of the file, ids as numbers."""

    users: Int32
    items: Int32
    times_ms: Int64
    actions: UInt8

    def __len__(self) -> int:
        return len(self.users)


class Archive:
    """One source, opened: its files are found and its columns are known before anything is read."""

    def __init__(self, source: Source) -> None:
        """Find the files of `source`.

        Raises:
            DataError: there are none, they cannot be read, or lack a column.
            MissingExtraError: the address has a scheme and fsspec is not installed.
        """
        self._layout = source.layout
        self.address = source.address
        self.users, self.items, self.actions = Catalogue(), Catalogue(), Catalogue()
        self.earliest_ms = self.latest_ms = 0
        try:
            self._file_system, path = storage.file_system(source.address)
            self._files = storage.files_of(self._file_system, path, source.address, item_content.FILE_NAMES)
            reader = storage.Parquet if storage.is_parquet(self._files[0]) else storage.Csv
            self._reader = reader(self._file_system, self._files, path)
            self._columns = _wanted(self._reader.names, source)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def search_ids(self) -> list[str]:
        """Ids of the searches read so far, by number less FIRST_SEARCH."""
        return self.items.ids(range(FIRST_SEARCH, FIRST_SEARCH + self.items.searches))

    def stamp(self) -> list[list[Any]]:
        """Path, size and time of change of each file: what is the same need not be read again."""
        return [[info.path, info.size, info.mtime_ns] for info in self._file_system.get_file_info(self._files)]

    def chunks(self) -> Iterator[Chunk]:
        """All events, once.

        Raises:
            DataError: a row cannot be read, an id or time is missing or no time, or there is too little in all.
        """
        rows = 0
        try:
            for batch in self._reader.batches(list(self._columns.values())):
                if batch.num_rows:
                    yield self._chunk({meaning: batch.column(name) for meaning, name in self._columns.items()}, rows)
                    rows += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        self._refuse_trivial(rows)

    def _chunk(self, columns: dict[str, pa.Array], rows: int) -> Chunk:
        """A batch in numbers; `rows` came before it."""
        times_ms = self._times_ms(columns["time"], rows)
        searched: Bool = np.zeros(len(times_ms), np.bool_)
        if "search" in columns:
            searched = np.asarray(pc.equal(_texts(columns["item"]), "").to_numpy(zero_copy_only=False))
        earliest, latest = int(times_ms.min()), int(times_ms.max())
        self.earliest_ms = min(self.earliest_ms, earliest) if rows else earliest
        self.latest_ms = max(self.latest_ms, latest)
        if self._layout.time_unit == "ms" and self.earliest_ms < _SECONDS_END_MS and self.latest_ms > _MS_BEGIN_MS:
            first = int(np.argmax((times_ms < _SECONDS_END_MS) == (earliest < _SECONDS_END_MS)))
            self._refuse(
                "time",
                rows + first,
                f"{int(times_ms[first])}, beside times that are a thousand times apart",
                "some rows are in seconds and some in milliseconds: bring all to one unit",
            )
        return Chunk(
            users=_numbers(self._ids(columns["user"], "user", rows), self.users),
            items=self._items(columns["item"], searched, columns.get("search"), rows),
            times_ms=times_ms,
            actions=self._actions(columns.get("action"), searched, rows),
        )

    def _items(self, column: pa.Array, searched: Bool, words: pa.Array | None, rows: int) -> Int32:
        """[n] numbers of items, and of searches where `searched` [n]."""
        clicks = np.flatnonzero(~searched)
        encoded = self._ids(column if len(clicks) == len(column) else column.take(pa.array(clicks)), "item", rows)
        marked = pc.starts_with(encoded.dictionary, searches.MARK).to_numpy(zero_copy_only=False)
        if marked.any():
            first = clicks[int(np.argmax(marked[encoded.indices.to_numpy()]))]
            found = f"an id that begins with {searches.MARK!r}, which stands before searches"
            self._refuse("item", rows + int(first), found, "mend or remove the row")
        numbers = np.empty(len(searched), np.int32)
        numbers[clicks] = _numbers(encoded, self.items)
        if words is None or len(clicks) == len(column):
            return numbers
        typed = _texts(words.filter(pa.array(searched))).dictionary_encode()
        ids = [searches.id_of(text) for text in typed.dictionary.to_pylist()]
        if searches.MARK in ids:
            first = np.flatnonzero(searched)[int(np.argmax(typed.indices.to_numpy() == ids.index(searches.MARK)))]
            way_out = f"nor has column {self._columns['search']} the words of a search; mend or remove the row"
            self._refuse("item", rows + int(first), "nothing", way_out)
        numbers[searched] = self.items.numbers(ids)[typed.indices.to_numpy()]
        return numbers

    def _ids(self, column: pa.Array, meaning: str, rows: int) -> pa.DictionaryArray:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_floating(column.type):
            self._refuse(meaning, rows, "fractional numbers", "ids are text or whole numbers: cast the column")
        self._refuse_first(meaning, column.is_null().to_numpy(zero_copy_only=False), rows, "nothing")
        encoded = column.dictionary_encode()
        texts = encoded.dictionary.cast(pa.string())
        empty = pc.index(texts, "").as_py()
        if empty >= 0:
            self._refuse_first(meaning, encoded.indices.to_numpy() == empty, rows, "nothing")
        return pa.DictionaryArray.from_arrays(encoded.indices, texts)

    def _actions(self, column: pa.Array | None, searched: Bool, rows: int) -> UInt8:
        """[n] action numbers; one action with the empty name where there is no such column.

        What a search counts as is not for the file to say (`clicks.search_action`), so it need not have an action.
        """
        if column is None:
            self.actions.numbers([""])
            return np.zeros(len(searched), np.uint8)
        if searched.any():
            column = pc.if_else(pa.array(searched), _SEARCH, _texts(column))
        numbers = _numbers(self._ids(column, "action", rows), self.actions)
        if len(self.actions) > MAX_ACTIONS:
            self._refuse(
                "action",
                rows,
                f"more than {MAX_ACTIONS} different names",
                "an action is one of a few: name another column (--action-column)",
            )
        return numbers.astype(np.uint8)

    def _times_ms(self, column: pa.Array, rows: int) -> Int64:
        """[n] Unix milliseconds."""
        self._refuse_first("time", column.is_null().to_numpy(zero_copy_only=False), rows, "nothing")
        kind, scale = column.type, _MS[self._layout.time_unit]
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            zone = kind.tz if pa.types.is_timestamp(kind) else None
            column, scale = column.cast(pa.timestamp("ms", zone), safe=False).cast(pa.int64()), 1
        elif pa.types.is_decimal(kind):
            column = column.cast(pa.float64())
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            self._refuse("time", rows, repr(column[0].as_py()), f"expected {_UNIT_NAMES[self._layout.time_unit]}")
        times = column.to_numpy(zero_copy_only=False)
        if times.dtype.kind == "f":
            self._refuse_first("time", ~np.isfinite(times), rows, "what is no number")
        for wrong in (times < 0, times >= _END_MS // scale):
            if wrong.any():
                first = int(np.argmax(wrong))
                self._refuse("time", rows + first, *self._misdated(float(times[first]), scale))
        times_ms: Int64 = np.rint(times * scale).astype(np.int64)
        return times_ms

    def _misdated(self, time: float, scale: int) -> tuple[str, str]:
        """What was found and what to do about it."""
        unit = _UNIT_NAMES[self._layout.time_unit]
        if time < 0:
            return f"{time:g}, which is before 1970", f"expected {unit}: mend or remove the rows with negative times"
        way_out = (
            "if the column is in milliseconds, say --time-unit ms; if only some rows are, bring all to one unit"
            if self._layout.time_unit == "s"
            else "microseconds and nanoseconds must be divided down to milliseconds"
        )
        return f"{time:.0f}, which as {unit} is the year {1970 + int(time * scale / _YEAR_MS)}", way_out

    def _refuse_first(self, meaning: str, wrong: Bool, rows: int, found: str) -> None:
        if wrong.any():
            self._refuse(meaning, rows + int(np.argmax(wrong)), found, "mend or remove the row")

    def _refuse(self, meaning: str, row: int, found: str, way_out: str) -> NoReturn:
        place = self._reader.place(row)
        raise DataError(f"{self.address}, {place}: column {self._columns[meaning]} holds {found}; {way_out}")

    def _refuse_trivial(self, events: int) -> None:
        if not events:
            raise DataError(f"{self.address} holds no events; there is nothing to learn from")
        for ids, what in ((self.users, "user"), (self.items, "item")):
            if len(ids) < 2:  # noqa: PLR2004 - one of a kind leaves nothing to tell apart
                raise DataError(
                    f"{self.address} has 1 {what}, {ids.ids([0])[0]!r}, in all of its {events} events; at least 2 are"
                    f" needed to learn anything: is column {self._columns[what]} the right one?"
                )

    def _unreadable(self, error: Exception) -> DataError:
        expected = f"CSV, gzipped CSV or Parquet with the columns {self._layout.user}, {self._layout.item}"
        return DataError(f"{self.address} cannot be read: {error}; expected {expected}, {self._layout.time}")


def open_source(source: Source | Path) -> Archive:
    """The archive of a source, or of a path with the usual layout."""
    return Archive(source if isinstance(source, Source) else Source(str(source)))


def _wanted(found: list[str], source: Source) -> dict[str, str]:
    """Column names by what they mean; all of them are among those `found`."""
    layout = source.layout
    wanted = {"user": layout.user, "item": layout.item, "time": layout.time}
    action = layout.action or ("event" if "event" in found else None)
    wanted |= {"action": action} if action else {}
    search = layout.search or ("query" if "query" in found else None)
    wanted |= {"search": search} if search else {}
    missing = [meaning for meaning, name in wanted.items() if name not in found]
    if missing:
        names = ", ".join(wanted[meaning] for meaning in missing)
        hints = [f"--{meaning}-column {near}" for meaning in missing if (near := _nearest(meaning, wanted, found))]
        way_out = f"did you mean {' '.join(hints)}?" if hints else "name the ones that hold user, item and time"
        raise DataError(f"{source.address} has no column {names}; found {', '.join(found)}; {way_out}")
    return wanted


def _nearest(meaning: str, wanted: dict[str, str], found: list[str]) -> str | None:
    """The column that was most likely meant: one spelt like the name wanted, or like what others call it."""
    free = {name.lower(): name for name in found if name not in wanted.values()}
    for name in (wanted[meaning], *_OTHER_NAMES[meaning]):
        if near := difflib.get_close_matches(name.lower(), free, 1, 0.7):
            return free[near[0]]
    return None


def _texts(column: pa.Array) -> pa.Array:
    """A column of ids or words as text, empty where there is nothing."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return pc.fill_null(column.cast(pa.string()), "")


def _numbers(encoded: pa.DictionaryArray, catalogue: Catalogue) -> Int32:
    numbers: Int32 = catalogue.numbers(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]
    return numbers
