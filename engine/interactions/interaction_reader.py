"""Recorded interactions, read a batch at a time: the one way in for training, evaluation and replay.

A row is a click on an item, or a search: a row without an item, but with words. Columns that have no meaning here are
not read: a rating says how much was liked, not how often something was clicked. Rows are counted from 1, without the
header; those of several files go on from file to file.

What has to fit in memory is one batch of CSV (4 MB of the file), or one row group of the columns of a Parquet file.
An archive that `headrace archive` wrote is one table (`engine.interactions.archive_table`), whose columns have names of
their own: the settings' fields are those of the messages it was made of.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from engine.arrays import Int64
from engine.catalogue import searches
from engine.errors import DataError
from engine.interactions.archive_folder import ArchiveFolder
from engine.interactions.archive_table import ArchiveTable
from engine.interactions.columns import MEND, IdColumn, Names, UnreadableValueError, consents, words
from engine.interactions.csv_table import CsvTable
from engine.interactions.files import DataFile, Place
from engine.interactions.layout import REQUIRED, FileColumns, Meaning, Source, resolve
from engine.interactions.parquet_table import ParquetTable
from engine.interactions.time_column import TimeColumn
from engine.settings.sections import ClickFields, ClickSettings

logger = logging.getLogger(__name__)
_IDS: Final[tuple[Meaning, ...]] = ("user", "item", "action", "event_id")


@dataclass(frozen=True, slots=True)
class InteractionBatch:
    """n events in the order of the file."""

    users: Names
    items: Names
    """Ids of items, and of searches (`engine.catalogue.searches`)."""
    times_ms: Int64
    """[n] Unix milliseconds."""
    actions: Names | None
    """The empty name where a row has none; None where the file has no such column."""
    words: Names | None
    """As they were typed; the empty name where a row has none."""
    event_ids: Names | None
    """None where they are not read, or the file has no such column."""
    rows: Int64
    """[n] row of each event, from 1."""

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Int64) -> "InteractionBatch":
        """Some of the events."""
        return InteractionBatch(
            users=self.users.select(rows).in_order(),
            items=self.items.select(rows).in_order(),
            times_ms=self.times_ms[rows],
            actions=self.actions and self.actions.select(rows).in_order(),
            words=self.words and self.words.select(rows).in_order(),
            event_ids=self.event_ids and self.event_ids.select(rows).in_order(),
            rows=self.rows[rows],
        )


class InteractionReader:
    """One source, opened: its files and the columns of the first are known before any row is read."""

    def __init__(self, source: Source | Path, clicks: ClickSettings, *, event_ids: bool = False) -> None:
        """Find the files of `source`.

        Args:
            source: their place, and the choices of the command line; a path has none.
            clicks: the settings, for names of columns and the unit of times.
            event_ids: whether ids of events are read, too.

        Raises:
            DataError: there are none, they cannot be read, or lack a column.
            MissingExtraError: the address has a scheme, and what its file system needs is not installed.
        """
        self._source = Source(str(source)) if isinstance(source, Path) else source
        self._clicks, self._event_ids = clicks, event_ids
        self.address = self._source.address
        archive = ArchiveFolder.of(self.address)
        if archive is not None:
            self._clicks = clicks.model_copy(update={"fields": ClickFields(), "require_consent": False})
            self._table: ArchiveTable | None = ArchiveTable(archive, self._source.since_ms, self._source.ends)
            self._files, self._first = [], self._with_columns(self._table, self.address)
        else:
            self._table, self._files = None, Place(self.address).files()
            self._first = self._open(self._files[0])
        self.columns = self._first.columns
        """Of the first file; others may have more or fewer of those that are optional."""
        self.times = TimeColumn(self.columns.time_unit, unit_is_set=self.columns.unit_is_set)
        self._ids = {meaning: IdColumn(self._spelled(meaning), as_recorded=archive is not None) for meaning in _IDS}

    def stamp(self) -> list[Any]:
        """Files, columns and units: sources with the same stamp hold the same events."""
        files = self._table.stamp() if self._table else [file.stamp() for file in self._files]
        stamp = [files, self.columns.names, self.columns.time_unit, self._source.layout.separator]
        return stamp if self._source.since_ms is None else [*stamp, self._source.since_ms]

    def newest_ms(self) -> int:
        """Time of the newest event, Unix milliseconds; reads all times, unless an archive's footers have them.

        Raises:
            DataError: a row cannot be read.
        """
        if self._table is not None:
            return self._table.newest_ms()
        for _ in self.batches():
            pass
        return self.times.latest_ms

    def ends(self) -> tuple[tuple[int, int], ...] | None:
        """Of an archive, each partition with the offset after its last record, as `Source.ends` takes it; else None."""
        return self._table.ends() if self._table is not None else None

    def batches(self) -> Iterator[InteractionBatch]:
        """All events, once.

        Raises:
            DataError: a row cannot be read, an id or a time is missing or impossible, or there are no events.
        """
        rows = events = 0
        for opened in self._opened():
            for part in opened.parts():
                batch = part.with_consent(required=self._clicks.require_consent)
                if len(batch.rows):
                    events += len(batch.rows)
                    yield from self._in_time(batch.events(self.times, self._ids, rows))
            rows += opened.rows
        if not events:
            raise DataError(f"{self.address} holds no events; name another file or folder")
        if rows > events:
            logger.warning("%s: %d of %d rows are left out, without consent", self.address, rows - events, rows)

    def _opened(self) -> Iterator["_OpenFile"]:
        """Every file, or the archive."""
        yield self._first
        yield from map(self._open_next, self._files[1:])

    def _in_time(self, batch: InteractionBatch) -> Iterator[InteractionBatch]:
        """The events since the source's time, if any."""
        if self._source.since_ms is None:
            yield batch
        elif len(rows := np.flatnonzero(batch.times_ms >= self._source.since_ms)):
            yield batch.select(rows)

    def _open(self, file: DataFile) -> "_OpenFile":
        table = ParquetTable(file) if file.is_parquet else CsvTable(file, self._source.layout.separator)
        return self._with_columns(table, file.label)

    def _with_columns(self, table: "_Table", label: str) -> "_OpenFile":
        columns = resolve(table.names, self._source.layout, self._clicks, label)
        names = {meaning: name for meaning, name in columns.names.items() if meaning != "event_id" or self._event_ids}
        return _OpenFile(table, replace(columns, names=names), label)

    def _open_next(self, file: DataFile) -> "_OpenFile":
        """One of the other files.

        Raises:
            DataError: its columns of users, items and times are other ones than those of the first.
        """
        opened = self._open(file)
        for meaning in REQUIRED:
            if opened.columns.names[meaning] != self.columns.names[meaning]:
                raise DataError(
                    f"{file.label} has no column {self.columns.names[meaning]}, as {self._files[0].label} has; bring"
                    " all files to the same columns, or read them one by one"
                )
        return opened

    def _spelled(self, meaning: Meaning) -> str:
        return f"{self.address}: column {self.columns.names.get(meaning, meaning)}"


_Table: TypeAlias = CsvTable | ParquetTable | ArchiveTable


class _OpenFile:
    """One file, part by part."""

    def __init__(self, table: "_Table", columns: FileColumns, label: str) -> None:
        self._table, self.columns, self._label = table, columns, label
        self.rows = 0
        """Read so far."""

    def parts(self) -> Iterator["_FileRows"]:
        """All rows of the file."""
        self.rows, names = 0, self.columns.names
        for arrays in self._table.batches(list(dict.fromkeys(names.values()))):
            columns = {meaning: arrays[name] for meaning, name in names.items()}
            rows = self.rows + np.arange(1, len(columns["user"]) + 1)
            self.rows += len(rows)
            yield _FileRows(columns, rows, names, self._label)


@dataclass(frozen=True, slots=True)
class _FileRows:
    """n rows of a file."""

    columns: dict[Meaning, pa.Array]
    rows: Int64
    """[n] from 1."""
    names: dict[Meaning, str]
    """Of the columns, for errors."""
    label: str

    def with_consent(self, *, required: bool) -> "_FileRows":
        """The rows whose users allow them; a row that says nothing is one of them unless consent is `required`."""
        if "consent" not in self.columns:
            return self
        with self._naming("consent"):
            allowed = consents(self.columns["consent"], otherwise=not required)
        mask = pa.array(allowed)
        columns = {meaning: column.filter(mask) for meaning, column in self.columns.items()}
        return replace(self, columns=columns, rows=self.rows[allowed])

    def events(self, times: TimeColumn, ids: dict[Meaning, IdColumn], before: int) -> InteractionBatch:
        """The rows as events."""
        with self._naming("time"):
            times_ms = times.to_ms(self.columns["time"])
        with self._naming("user"):
            users = _all_given(ids["user"].read(self.columns["user"]))
        items, typed = self._items(ids["item"])
        return InteractionBatch(
            users=users,
            items=items,
            times_ms=times_ms,
            actions=self._optional("action", ids),
            words=typed,
            event_ids=self._optional("event_id", ids),
            rows=before + self.rows,
        )

    def _items(self, ids: IdColumn) -> tuple[Names, Names | None]:
        """Items, with searches by their words where there is no item; and the words as they were typed."""
        with self._naming("item"):
            items = ids.read(self.columns["item"])
            _refuse_marked(items)
            if "search" not in self.columns:
                return _all_given(items), None
        with self._naming("search"):
            typed = words(self.columns["search"])
        searched = np.flatnonzero(items.is_empty())
        if not len(searched):
            return items, typed
        codes, indices = np.unique(typed.codes[searched], return_inverse=True)
        search_ids = [searches.id_of(typed.names[code]) for code in codes.tolist()]
        if searches.MARK in search_ids:
            index = int(searched[np.argmax(indices == search_ids.index(searches.MARK))])
            way_out = f"nor has column {self.names['search']} the words of a search; {MEND}"
            with self._naming("item"):
                raise UnreadableValueError(index, "nothing", way_out)
        item_codes = items.codes.copy()
        item_codes[searched] = len(items.names) + indices
        return Names(item_codes, items.names + search_ids).in_order(), typed

    def _optional(self, meaning: Meaning, ids: dict[Meaning, IdColumn]) -> Names | None:
        if meaning not in self.columns:
            return None
        with self._naming(meaning):
            return ids[meaning].read(self.columns[meaning])

    @contextmanager
    def _naming(self, meaning: Meaning) -> Iterator[None]:
        """Names the file, the row and the column of a value that cannot be read."""
        try:
            yield
        except UnreadableValueError as error:
            where = f"{self.label}, row {self.rows[error.index]}: column {self.names[meaning]}"
            raise DataError(f"{where} holds {error.content}; {error.way_out}") from error


def _all_given(ids: Names) -> Names:
    """The same ids, of which none may be missing."""
    if "" in ids.names:
        missing = ids.is_empty()
        if missing.any():
            raise UnreadableValueError(int(np.argmax(missing)), "nothing", MEND)
    return ids


def _refuse_marked(items: Names) -> None:
    """Refuse an item that would be taken for a search."""
    marked = np.array([searches.is_search(name) for name in items.names], np.bool_)
    if marked.any():
        index = int(np.argmax(marked[items.codes]))
        raise UnreadableValueError(index, f"an id that begins with {searches.MARK!r}, as searches do", MEND)
