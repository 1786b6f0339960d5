"""An archive as one table: each click once, whatever files hold it, and none of a user who is forgotten.

The archive may change while it is read. A file that is gone was replaced by a compacted one, in which reading goes on
after the last message read: offsets say where.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa

from engine.errors import DataError
from engine.interactions.archive_files import ArchivePart, chain, next_part
from engine.interactions.archive_folder import ArchiveFolder
from engine.interactions.archive_wishes import WISH_COLUMNS, Wishes

_NO_END: Final = 1 << 62
_NAMES: Final = ("user", "item", "query", "ts", "action")


class ArchiveTable:
    """All clicks of an archive, partition by partition, each in the order of the log."""

    def __init__(
        self,
        folder: ArchiveFolder,
        since_ms: int | None = None,
        ends: tuple[tuple[int, int], ...] | None = None,
    ) -> None:
        """List the archive.

        Args:
            folder: the archive.
            since_ms: files with earlier events alone are not read.
            ends: the partitions that are read, each with the offset before which it is; None reads all there is.

        Raises:
            DataError: there is a foreign file in it, or one that cannot be read.
        """
        self._folder, self._since_ms = folder, since_ms
        self._ends = None if ends is None else dict(ends)
        self.names = list(_NAMES)
        self._parts, self._wishes = _listed(folder)

    def stamp(self) -> list[Any]:
        """Files that are read, or their ends where these are set: the same ones hold the same clicks."""
        if self._ends is not None:
            ends = [list(end) for end in sorted(self._ends.items())]  # as JSON gives it back
            return [self._folder.address, ends, sorted(wish.user for wish in self._wishes.all)]
        return [part.path for parts in self._parts.values() for part in chain(parts)]

    def ends(self) -> tuple[tuple[int, int], ...]:
        """Each partition with the offset after its last record."""
        return tuple((number, max(part.end for part in parts)) for number, parts in self._parts.items())

    def newest_ms(self) -> int:
        """Time of the newest event, Unix milliseconds; 0 where there is none."""
        footers = (self._folder.footer(part) for parts in self._parts.values() for part in chain(parts))
        return max((footer.newest_ms for footer in footers), default=0)

    def batches(self, columns: list[str]) -> Iterator[dict[str, pa.Array]]:
        """The rows of these columns, by their names.

        Raises:
            DataError: a file is damaged.
        """
        for partition in list(self._parts):
            for batch in self._of_partition(partition, columns):
                yield {name: batch.column(name) for name in columns}

    def _of_partition(self, partition: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        offset, missing = 0, ""
        end = _NO_END if self._ends is None else self._ends.get(partition, 0)
        while (part := next_part(self._parts.get(partition, ()), offset)) and max(part.first, offset) < end:
            try:
                for run in self._runs(part, columns, offset):
                    yield from (self._readable(batch, partition, end) for batch in run)
                    offset = run[-1].column("offset")[-1].as_py() + 1
                offset = part.end
            except FileNotFoundError as error:
                if part.path == missing:
                    raise DataError(
                        f"{self._folder.address}/{part.path} is listed and cannot be opened, expected a file of the"
                        " archive; read the archive again, or move the file elsewhere"
                    ) from error
                missing = part.path
                self._parts, self._wishes = _listed(self._folder)

    def _runs(self, part: ArchivePart, columns: list[str], offset: int) -> Iterator[list[pa.RecordBatch]]:
        if self._since_ms is not None and self._folder.footer(part).newest_ms < self._since_ms:
            return iter(())
        return self._folder.rows(part, list(dict.fromkeys([*columns, *WISH_COLUMNS])), offset)

    def _readable(self, batch: pa.RecordBatch, partition: int, end: int) -> pa.RecordBatch:
        """The rows before an offset, but for those of users who are forgotten."""
        batch = batch.slice(0, int(np.searchsorted(batch.column("offset").to_numpy(), end)))
        if not len(self._wishes):
            return batch
        return batch.filter(pa.array(self._wishes.kept(batch, partition)))


def _listed(folder: ArchiveFolder) -> tuple[dict[int, list[ArchivePart]], Wishes]:
    """The files by partition, and the requests to forget users in all of them."""
    while True:
        parts = folder.parts()
        try:
            return parts, wishes_in(folder, parts)
        except FileNotFoundError:
            continue  # compaction replaced it between the two looks


def wishes_in(folder: ArchiveFolder, parts: dict[int, list[ArchivePart]]) -> Wishes:
    """The requests to forget users in the footers of these files, each once.

    Raises:
        DataError: a file cannot be read.
        FileNotFoundError: one is gone.
    """
    marked = (part for of_partition in parts.values() for part in of_partition if part.has_wishes)
    return Wishes(dict.fromkeys(wish for part in marked for wish in folder.footer(part).wishes))
