"""Files of recorded interactions: found on this machine, or on a file system that fsspec knows.

    FOLDER                interactions.csv.gz, interactions.csv, ratings.dat, u.data or ratings.csv in it, the first one
                          that is there; or else every Parquet file below it, in the order of their paths; or else its
                          one CSV file. Items files, and names that begin with a dot or an underscore, do not count
    FILE                  one such file, CSV (.csv, .tsv, gzipped with .gz at the end) or Parquet (.parquet, .pq)
    s3://bucket/clicks    any of these on a file system that fsspec knows

The values of folders called `name=value` are columns of the Parquet files in them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from engine.errors import DataError, MissingExtraError

KNOWN_NAMES: Final = ("interactions.csv.gz", "interactions.csv", "ratings.dat", "u.data", "ratings.csv")
ITEMS_NAMES: Final = ("items.csv.gz", "items.csv", "items.parquet")
_TEXT_SUFFIXES: Final = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_PARQUET_SUFFIXES: Final = (".parquet", ".pq")
_NO_VALUE: Final = "__HIVE_DEFAULT_PARTITION__"
_NAMED_AT_MOST: Final = 8


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file."""

    file_system: fs.FileSystem
    path: str
    label: str
    """The path or address by which people know it."""
    folder_values: dict[str, str | None]
    """Of the folders called `name=value` that it is in."""

    @property
    def name(self) -> str:
        """Without the folder."""
        return self.path.rpartition("/")[2]

    @property
    def is_parquet(self) -> bool:
        """By its name."""
        return self.name.lower().endswith(_PARQUET_SUFFIXES)

    def stamp(self) -> list[Any]:
        """Path, size and time of change: what has the same need not be read again."""
        info = self.file_system.get_file_info(self.path)
        return [info.path, info.size, info.mtime_ns]

    def stream(self) -> pa.NativeFile:
        """Its bytes from the first to the last, unpacked where it is gzipped."""
        compression = "gzip" if self.name.lower().endswith(".gz") else None
        return self.file_system.open_input_stream(self.path, compression=compression)

    @contextmanager
    def reading(self, expected: str) -> Iterator[None]:
        """Translates what goes wrong in the block.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            yield
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
            raise DataError(f"{self.label} cannot be read: {error}; expected {expected}") from error


class Place:
    """A path, or an address with a scheme."""

    def __init__(self, address: str) -> None:
        """Find its file system.

        Raises:
            MissingExtraError: the address has a scheme, and what its file system needs is not installed.
            DataError: fsspec does not know the scheme.
        """
        self.address = address.rstrip("/") if len(address) > 1 else address
        self._file_system, self._path = file_system_of(address)

    def files(self) -> list[DataFile]:
        """The files of interactions here, at least one.

        Raises:
            DataError: there are none, or several of which only one can be meant.
        """
        info = self._info()
        if info.type == fs.FileType.File:
            if not _is_known(self._path):
                endings = ", ".join(_TEXT_SUFFIXES + _PARQUET_SUFFIXES)
                raise DataError(f"{self.address} ends in none of {endings}; rename or convert it")
            return [self._file(self._path)]
        with self._listing():
            listed = self._file_system.get_file_info(fs.FileSelector(self._path, recursive=True))
        paths = [entry.path for entry in listed if entry.is_file and not self._is_hidden(entry.path)]
        for name in KNOWN_NAMES:
            if f"{self._path}/{name}" in paths:
                return [self._file(f"{self._path}/{name}")]
        return [self._file(path) for path in self._of_one_kind(paths)]

    def items_file(self) -> DataFile | None:
        """The items file in this folder, or in the folder of this file."""
        folder = self._path.rpartition("/")[0] if self._info().type == fs.FileType.File else self._path
        with self._listing():
            listed = self._file_system.get_file_info([f"{folder}/{name}" for name in ITEMS_NAMES])
        return next((self._file(entry.path) for entry in listed if entry.is_file), None)

    def _of_one_kind(self, paths: list[str]) -> list[str]:
        """All Parquet files of these, or the one CSV file."""
        items = {f"{self._path}/{name}" for name in ITEMS_NAMES}
        files = sorted(path for path in paths if path not in items)
        parquet = [path for path in files if path.lower().endswith(_PARQUET_SUFFIXES)]
        texts = [path for path in files if path.lower().endswith(_TEXT_SUFFIXES) and "/" not in self._inside(path)]
        if parquet and not texts:
            return parquet
        if len(texts) == 1 and not parquet:
            return texts
        if not texts:
            raise DataError(
                f"{self.address} holds no {', '.join(KNOWN_NAMES)}, no other CSV file and no Parquet file; name a"
                " folder with such files, or a file (columns user, item, ts)"
            )
        candidates = [self._inside(path) for path in (*texts, *parquet)]
        shown = ", ".join(candidates[:_NAMED_AT_MOST])
        if len(candidates) > _NAMED_AT_MOST:
            shown += f" and {len(candidates) - _NAMED_AT_MOST} more"
        raise DataError(
            f"{self.address} holds {shown}; name the one that holds the interactions ({self.address}/{candidates[0]}),"
            f" or call it {KNOWN_NAMES[1]}"
        )

    def _info(self) -> fs.FileInfo:
        with self._listing():
            info = self._file_system.get_file_info(self._path)
        if info.type == fs.FileType.NotFound:
            raise DataError(f"{self.address} does not exist; name a folder or a file")
        return info

    @contextmanager
    def _listing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"{self.address} cannot be reached: {error}; name a folder or a file") from error

    def _file(self, path: str) -> DataFile:
        inside = self._inside(path)
        label = f"{self.address}/{inside}" if inside else self.address
        if not path.startswith(self._path):  # in the folder of this file
            label = self.address.removesuffix(self._path.rpartition("/")[2]) + path.rpartition("/")[2]
        return DataFile(self._file_system, path, label, _folder_values(inside))

    def _inside(self, path: str) -> str:
        return path.removeprefix(self._path).lstrip("/")

    def _is_hidden(self, path: str) -> bool:
        return any(part.startswith((".", "_")) for part in self._inside(path).split("/"))


def _is_known(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name in KNOWN_NAMES or name.lower().endswith(_TEXT_SUFFIXES + _PARQUET_SUFFIXES)


def _folder_values(inside: str) -> dict[str, str | None]:
    pairs = (part.split("=", 1) for part in inside.split("/")[:-1] if "=" in part)
    return {unquote(name): None if value == _NO_VALUE else unquote(value) for name, value in pairs}


def file_system_of(address: str) -> tuple[fs.FileSystem, str]:
    """The file system of an address, and the path in it.

    Raises:
        MissingExtraError: the address has a scheme, and what its file system needs is not installed.
        DataError: fsspec does not know the scheme.
    """
    address = address.removeprefix("file://")
    if "://" not in address:
        return fs.LocalFileSystem(), str(Path(address).absolute())
    try:
        import fsspec  # noqa: PLC0415 - only for addresses with a scheme
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{address} needs fsspec, which is not installed: pip install fsspec") from error
    try:
        file_system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise MissingExtraError(f"{address} cannot be reached: {error}") from error
    except ValueError as error:
        raise DataError(f"{address} cannot be reached: {error}; name a scheme that fsspec knows") from error
    return fs.PyFileSystem(fs.FSSpecHandler(file_system)), path.rstrip("/")
