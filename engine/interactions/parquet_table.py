"""One Parquet file, batch by batch, every column in its own type; little is read ahead, so that memory holds little."""

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from engine.interactions.files import DataFile

_BATCH_ROWS: Final = 1 << 16
_BUFFER_BYTES: Final = 1 << 16
_EXPECTED: Final = "Parquet"


class ParquetTable:
    """A file whose columns are known: its own, those inside its structs by dotted names, and those of its folders."""

    def __init__(self, file: DataFile) -> None:
        """Read the file's footer.

        Raises:
            DataError: it cannot be read.
        """
        self._file = file
        with file.reading(_EXPECTED):
            self._parquet = parquet.ParquetFile(
                file.file_system.open_input_file(file.path), buffer_size=_BUFFER_BYTES, pre_buffer=False
            )
            schema = self._parquet.schema_arrow
        self._top = list(schema.names)
        own = [name for field in schema for name in _names(field)]
        self.names = own + [name for name in file.folder_values if name not in own]

    def batches(self, columns: list[str]) -> Iterator[dict[str, pa.Array]]:
        """The rows of these columns, by their names.

        Raises:
            DataError: the file is damaged.
        """
        stored = [name for name in columns if name not in self._file.folder_values or name in self._top]
        with self._file.reading(_EXPECTED):
            for batch in self._parquet.iter_batches(_BATCH_ROWS, columns=stored, use_threads=False):
                yield {name: self._column(batch, name) for name in columns}

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        if name in self._top:
            return batch.column(name)
        if name in self._file.folder_values:
            return pa.repeat(pa.scalar(self._file.folder_values[name], pa.string()), batch.num_rows)
        top, *steps = name.split(".")
        return pc.struct_field(batch.column(top), steps)


def _names(field: pa.Field, prefix: str = "") -> Iterator[str]:
    """The name of a column, and of everything inside it."""
    yield f"{prefix}{field.name}"
    if pa.types.is_struct(field.type):
        for inner in field.type:
            yield from _names(inner, f"{prefix}{field.name}.")
