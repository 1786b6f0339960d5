"""Recorded files as they lie: found on this machine or on a file system that fsspec knows, and read batch by batch."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import csv, fs

from engine.errors import DataError, MissingExtraError

CSV_NAMES: Final = ("interactions.csv.gz", "interactions.csv")
_CSV_SUFFIXES: Final = (".csv", ".csv.gz")
_PARQUET_SUFFIXES: Final = (".parquet", ".pq")
_BATCH_ROWS: Final = 1 << 16
_BLOCK_BYTES: Final = 1 << 22


def file_system(address: str) -> tuple[fs.FileSystem, str]:
    """The file system of an address, and the path in it.

    Raises:
        MissingExtraError: the address has a scheme and fsspec is not installed.
        DataError: fsspec does not know the scheme.
    """
    if "://" not in address:
        return fs.LocalFileSystem(), str(Path(address).absolute())
    try:
        import fsspec  # noqa: PLC0415 - only where something lies elsewhere
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{address} needs fsspec, which is not installed: pip install fsspec") from error
    try:
        found, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DataError(f"{address} cannot be reached: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(found)), path


def files_of(file_system: fs.FileSystem, path: str, address: str, others: Collection[str]) -> list[str]:
    """The CSV file, or all Parquet files in order of their paths, but for those in the folder itself named in `others`.

    Raises:
        DataError: there are none.
    """
    info = file_system.get_file_info(path)
    if info.type == fs.FileType.File:
        if path.endswith(_CSV_SUFFIXES + _PARQUET_SUFFIXES):
            return [path]
        raise DataError(
            f"{address} ends neither in {', '.join(_CSV_SUFFIXES + _PARQUET_SUFFIXES)}; rename or convert it"
        )
    if info.type == fs.FileType.NotFound:
        raise DataError(f"{address} does not exist; name a folder or a file")
    found = [one.path for one in file_system.get_file_info(fs.FileSelector(path, recursive=True)) if one.is_file]
    for name in CSV_NAMES:
        if f"{path}/{name}" in found:
            return [f"{path}/{name}"]
    beside = {f"{path}/{name}" for name in others}
    parquet = sorted(one for one in found if is_parquet(one) and one not in beside)
    if not parquet:
        raise DataError(
            f"{address} holds no {CSV_NAMES[0]} and no Parquet file; name a folder with such files"
            " (columns user, item, ts)"
        )
    return parquet


def beside(file_system: fs.FileSystem, path: str, names: Collection[str]) -> str | None:
    """The first of these files that lies in the folder `path`, or in the folder of the file `path`."""
    info = file_system.get_file_info(path)
    folder = path.rpartition("/")[0] if info.type == fs.FileType.File else path
    found = file_system.get_file_info([f"{folder}/{name}" for name in names])
    return next((one.path for one in found if one.is_file), None)


def is_parquet(path: str) -> bool:
    """Whether the file's name says so."""
    return path.endswith(_PARQUET_SUFFIXES)


class Csv:
    """One CSV file, perhaps gzipped, block by block."""

    def __init__(self, file_system: fs.FileSystem, files: list[str], _root: str) -> None:
        self._file_system, self._path = file_system, files[0]
        with self._open(csv.ConvertOptions()) as reader:
            self.names: list[str] = reader.schema.names

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Ids are read as text, so that they keep their leading zeros."""
        kinds = dict.fromkeys(columns, pa.string()) | {columns[2]: pa.float64()}
        convert = csv.ConvertOptions(
            column_types=kinds, include_columns=columns, strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        with self._open(convert) as reader:
            yield from reader

    def place(self, row: int) -> str:
        """Where a row stands, for whoever mends it."""
        return f"line {row + 2}"

    def _open(self, convert: csv.ConvertOptions) -> csv.CSVStreamingReader:
        stream = self._file_system.open_input_stream(self._path, compression="detect")
        return csv.open_csv(stream, csv.ReadOptions(block_size=_BLOCK_BYTES), convert_options=convert)


class Parquet:
    """Parquet files, one after the other; little is read ahead, so that memory holds little of them."""

    def __init__(self, file_system: fs.FileSystem, files: list[str], root: str) -> None:
        options = ds.ParquetFragmentScanOptions(use_buffered_stream=True, pre_buffer=False)
        self._dataset = ds.dataset(
            files,
            filesystem=file_system,
            format=ds.ParquetFileFormat(default_fragment_scan_options=options),
            partitioning="hive",
            partition_base_dir=root,
        )
        self.names: list[str] = self._dataset.schema.names

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """These columns, as they are stored."""
        yield from self._dataset.to_batches(
            columns=columns, batch_size=_BATCH_ROWS, batch_readahead=1, fragment_readahead=1
        )

    def place(self, row: int) -> str:
        """Where a row stands, for whoever mends it."""
        return f"row {row + 1}"
