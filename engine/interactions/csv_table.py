"""One CSV file, batch by batch, every column as text: ids keep their leading zeros, and what is wrong can be shown.

Line breaks may be inside quotes. The separator is a comma, unless the header line is one column with a semicolon or a
tab in it, or the name is one of MovieLens' own: `u.data` has tabs, `ratings.dat` two colons, and neither has a header.

Arrow takes quotes that are never closed for one value up to the end of the file. So the file is read with one more row
than it has, whose values are all empty: where that row does not come out last, it is inside such a value.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pyarrow as pa
from pyarrow import csv

from engine.errors import DataError
from engine.interactions.files import DataFile

_BLOCK_BYTES: Final = 1 << 22
"""Read at once; no row may be longer."""
_RATINGS: Final = ("userId", "movieId", "rating", "timestamp")
_HEADERLESS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "u.data": ("\t", _RATINGS),
    # "::" is read as two one-character separators with an empty column between them
    "ratings.dat": (":", ("userId", "-", "movieId", "--", "rating", "---", "timestamp")),
}
_OTHER_SEPARATORS: Final = ";\t"
_EXPECTED: Final = "CSV in UTF-8, gzipped or not"
_SHOWN_CHARACTERS: Final = 60


class CsvTable:
    """A file whose columns are known."""

    def __init__(self, file: DataFile, separator: str | None = None) -> None:
        """Read the header line, unless the file has none.

        Raises:
            DataError: it cannot be read.
        """
        self._file = file
        usual = "\t" if ".tsv" in file.name.lower() else ","
        self._column_names: tuple[str, ...] | None = None
        if file.name in _HEADERLESS:
            usual, self._column_names = _HEADERLESS[file.name]
        self._separator = separator or usual
        self._invalid: csv.InvalidRow | None = None
        self._rows = 0
        self.names = self._header()
        if separator is None and len(self.names) == 1 and self._column_names is None:
            others = [mark for mark in _OTHER_SEPARATORS if mark in self.names[0]]
            if others:
                self._separator = others[0]
                self.names = self._header()

    def batches(self, columns: list[str]) -> Iterator[dict[str, pa.Array]]:
        """The rows of these columns, by their names.

        Raises:
            DataError: a row has more or fewer values than the header has names, quotes are not closed, or the file is
                damaged.
        """
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=columns,
            check_utf8=False,  # checked where a column is read, which knows the row
        )
        stream = _WithLastRow(self._file.stream(), self._separator * (len(self.names) - 1))
        try:
            with (
                self._file.reading(_EXPECTED),
                self._open(pa.PythonFile(stream, "r"), convert, self._note_invalid) as reader,
            ):
                for batch in self._without_last_row(reader):
                    yield {name: batch.column(name) for name in columns}
        except DataError as error:
            raise self._explained(error) from error.__cause__

    def _header(self) -> list[str]:
        try:
            with (
                self._file.reading(_EXPECTED),
                self._open(self._file.stream(), csv.ConvertOptions(), lambda _row: "skip") as reader,
            ):
                names: list[str] = reader.schema.names
        except DataError as error:
            raise self._explained(error) from error.__cause__
        return names

    def _open(
        self, stream: pa.NativeFile, convert: csv.ConvertOptions, on_invalid: Callable[[csv.InvalidRow], str]
    ) -> csv.CSVStreamingReader:
        reading = csv.ReadOptions(  # one thread: it would be no faster with more, and knows the numbers of its rows
            block_size=_BLOCK_BYTES, column_names=self._column_names, use_threads=False
        )
        parsing = csv.ParseOptions(delimiter=self._separator, newlines_in_values=True, invalid_row_handler=on_invalid)
        return csv.open_csv(stream, reading, parsing, convert)

    def _without_last_row(self, reader: csv.CSVStreamingReader) -> Iterator[pa.RecordBatch]:
        """All batches but for the last row, which must be the one that was added."""
        self._rows, previous = 0, None
        for batch in reader:
            if previous is not None:
                yield previous
            self._rows += batch.num_rows
            previous = batch if batch.num_rows else previous
        if previous is None or any(column[-1].as_py() for column in previous.columns):
            raise DataError(
                f"{self._file.label}, row {self._rows}: a value in quotes goes on to the end of the file; close its"
                " quotes, or double those that are a part of it"
            )
        yield previous[:-1]

    def _note_invalid(self, row: csv.InvalidRow) -> str:
        self._invalid = row
        return "error"

    def _explained(self, error: DataError) -> DataError:
        """The error with its row, where Arrow does not say enough."""
        if self._invalid is not None:
            row, text = self._invalid, self._invalid.text
            number = row.number - (self._column_names is None)
            shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
            return DataError(
                f"{self._file.label}, row {number}: {row.actual_columns} of {row.expected_columns} values in {shown!r};"
                f" mend the row: values with {self._separator!r} or a line break in them need quotes"
            )
        if "straddling" in str(error):
            return DataError(
                f"{self._file.label}, row {self._rows + 1}: a value in quotes does not end within"
                f" {_BLOCK_BYTES >> 20} MB; close its quotes, or double those that are a part of it"
            )
        return error


class _WithLastRow:
    """A stream with one more row at its end, as Arrow reads Python's files."""

    def __init__(self, stream: pa.NativeFile, row: str) -> None:
        self._stream = stream
        self._rest = f"\n{row}\n".encode()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return bool(self._stream.closed)

    def read(self, size: int) -> Any:
        """The next bytes, none at the end."""
        data = self._stream.read(size)
        if not data:
            data, self._rest = self._rest, b""
        return data

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()
