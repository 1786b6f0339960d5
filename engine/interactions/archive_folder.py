"""The folder of an archive, on this machine or on any file system that fsspec knows: listed, read, added to.

A file comes into being in one step: on this machine by a rename after `fsync`, elsewhere by a single put, as object
stores have no rename. So a writer that dies at any moment leaves either the whole file or none.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from pyarrow import fs, parquet

from engine.errors import DataError
from engine.interactions import archive_files
from engine.interactions.archive_files import ArchivePart, Footer
from engine.interactions.files import ITEMS_NAMES, file_system_of

_BATCH_ROWS: Final = 1 << 16
_BUFFER_BYTES: Final = 1 << 16
_END: Final = b"PAR1"
_PARTIAL: Final = ".partial-"
_PARTIAL_AGE_S: Final = 3600.0


class ArchiveFolder:
    """One archive."""

    def __init__(self, address: str) -> None:
        """Find its file system; the folder need not exist.

        Raises:
            MissingExtraError: the address has a scheme, and what its file system needs is not installed.
            DataError: fsspec does not know the scheme.
        """
        self.address = address.rstrip("/")
        self._file_system, self._root = file_system_of(address)
        self._footers: dict[str, Footer] = {}

    @classmethod
    def of(cls, address: str) -> "ArchiveFolder | None":
        """The archive at this address; None where no file there has an archive's name."""
        folder = cls(address)
        try:
            names = [path for path, _ in folder._listed()]
        except DataError:
            return None  # whoever reads it otherwise meets the same trouble, and reports it
        return folder if any(map(archive_files.parse, names)) else None

    def parts(self) -> dict[int, list[ArchivePart]]:
        """All files by partition, of which some may hold the same clicks.

        Raises:
            DataError: the folder cannot be listed, or there is a foreign file in it.
        """
        parts = dict[int, list[ArchivePart]]()
        for path, size in self._listed():
            part = archive_files.parse(path, size)
            if part is None and path not in ITEMS_NAMES:
                raise DataError(
                    f"{self.address}/{path} is no file of the archive {self.address}, expected only files that"
                    " `headrace archive` wrote (day=…/clicks-….parquet); move it elsewhere"
                )
            if part is not None:
                parts.setdefault(part.partition, []).append(part)
        return dict(sorted(parts.items()))

    def footer(self, part: ArchivePart) -> Footer:
        """The footer of a file, which is read once.

        Raises:
            DataError: the file cannot be read, or is another one than its name says.
            FileNotFoundError: it is gone; a compacted one has taken its place.
        """
        if part.path not in self._footers:
            with self._opened(part):
                pass
        return self._footers[part.path]

    def is_whole(self, part: ArchivePart) -> bool:
        """Whether a file has its end: a file system may have kept half of what was put there.

        Raises:
            DataError: it has its end, and cannot be read all the same; or it cannot be looked at.
        """
        try:
            self.footer(part)
        except DataError:
            if self._has_end(part):
                raise
            return False
        return True

    def rows(self, part: ArchivePart, columns: list[str], offset: int = 0) -> Iterator[list[pa.RecordBatch]]:
        """The rows of a file from an offset on, in runs that hold whole messages; `columns` has `offset`.

        Raises:
            DataError: the file cannot be read, or is another one than its name says.
            FileNotFoundError: it is gone; a compacted one has taken its place.
        """
        with self._opened(part) as opened:
            batches = opened.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
            yield from _whole_messages(_from_offset(batch, offset) for batch in batches)

    def put(self, part: ArchivePart, content: bytes) -> None:
        """Add a file, in one step for readers.

        Raises:
            DataError: it cannot be written.
        """
        with self._changing(part):
            if isinstance(self._file_system, fs.LocalFileSystem):
                _put_locally(Path(self._root, part.path), content)
            else:
                self._file_system.handler.fs.pipe_file(f"{self._root}/{part.path}", content)

    def remove(self, part: ArchivePart) -> None:
        """Delete a file, if it is still there.

        Raises:
            DataError: it cannot be deleted.
        """
        with self._changing(part):
            try:
                self._file_system.delete_file(f"{self._root}/{part.path}")
            except FileNotFoundError:
                return
        self._footers.pop(part.path, None)

    def remove_partials(self) -> None:
        """Delete what a writer that was killed left half written on this machine."""
        if isinstance(self._file_system, fs.LocalFileSystem):
            for path in Path(self._root).glob(f"day=*/.*{_PARTIAL}*"):
                if time.time() - path.stat().st_mtime > _PARTIAL_AGE_S:  # a writer on another host may be at it
                    path.unlink(missing_ok=True)

    def _has_end(self, part: ArchivePart) -> bool:
        """Whether the last bytes are those of Parquet."""
        try:
            with self._file_system.open_input_file(f"{self._root}/{part.path}") as source:
                source.seek(max(0, source.size() - len(_END)))
                return bool(source.read(len(_END)) == _END)
        except OSError as error:
            raise self._unreadable(part, f"cannot be read: {error}") from error

    @contextmanager
    def _opened(self, part: ArchivePart) -> Iterator[parquet.ParquetFile]:
        try:
            with self._file_system.open_input_file(f"{self._root}/{part.path}") as source:
                opened = parquet.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False)
                self._note(part, archive_files.footer_of(opened))
                yield opened
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, EOFError) as error:
            raise self._unreadable(part, f"cannot be read: {error}") from error

    def _note(self, part: ArchivePart, footer: Footer | None) -> None:
        """Keep a footer that agrees with its file's name."""
        if footer is None:
            raise self._unreadable(part, "has no footer of an archive, or one of a later version")
        if (footer.partition, footer.first, footer.end) != (part.partition, part.first, part.end):
            found = f"partition {footer.partition}, offsets {footer.first} to {footer.end - 1}"
            raise self._unreadable(part, f"has another name than its footer says ({found})")
        self._footers[part.path] = footer

    def _unreadable(self, part: ArchivePart, problem: str) -> DataError:
        return DataError(
            f"{self.address}/{part.path} {problem}; expected a file that `headrace archive` wrote: put it back as it"
            f" was, or move it elsewhere and do without its clicks (partition {part.partition}, offsets {part.first} to"
            f" {part.end - 1})"
        )

    @contextmanager
    def _changing(self, part: ArchivePart) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Each file system of fsspec has errors of its own.
            raise DataError(
                f"archive.folder: {self.address}/{part.path} cannot be written: {type(error).__name__}: {error};"
                " expected a folder, or an address that fsspec knows, that this program may write to and delete from"
            ) from error

    def _listed(self) -> list[tuple[str, int]]:
        """Paths inside the folder with their sizes, but for hidden ones."""
        if isinstance(self._file_system, fs.PyFileSystem):
            self._file_system.handler.fs.invalidate_cache()  # it may remember what was there a while ago
        try:
            if self._file_system.get_file_info(self._root).is_file:
                return []
            selector = fs.FileSelector(self._root, allow_not_found=True, recursive=True)
            entries = [entry for entry in self._file_system.get_file_info(selector) if entry.is_file]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.address} cannot be listed: {error}; name a folder or an address") from error
        inside = ((entry.path.removeprefix(self._root).lstrip("/"), entry.size or 0) for entry in entries)
        return [(path, size) for path, size in inside if not _is_hidden(path)]


def _whole_messages(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """The batches in runs that end between two offsets: the lines of a message are rows of the same one."""
    held, held_offset = list[pa.RecordBatch](), -1
    for batch in batches:
        if not len(batch):
            continue
        offsets = batch.column("offset").to_numpy()
        if held and offsets[0] != held_offset:
            yield held
            held = []
        cut = int(np.searchsorted(offsets, offsets[-1]))
        if cut:
            yield [*held, batch.slice(0, cut)]
            held = []
        held, held_offset = [*held, batch.slice(cut)], int(offsets[-1])
    if held:
        yield held


def _from_offset(batch: pa.RecordBatch, offset: int) -> pa.RecordBatch:
    return batch.slice(int(np.searchsorted(batch.column("offset").to_numpy(), offset)))


def _put_locally(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_PARTIAL}{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_hidden(path: str) -> bool:
    return any(step.startswith((".", "_")) for step in path.split("/"))
