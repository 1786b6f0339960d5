"""Clicks on their way into an archive: gathered by partition, written as files whose names say how far they go.

Where a partition goes on is what its files say, and nothing else does: after a kill at any moment the records that are
in no file are read again, and none that is in one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from engine.errors import DataError
from engine.interactions import archive_files
from engine.interactions.archive_files import ArchivePart, Footer, PartEncoder, Wish
from engine.interactions.archive_folder import ArchiveFolder

logger = logging.getLogger(__name__)

_MIB: Final = 1 << 20
_BUFFERS: Final = 4
"""Times the size of a file that all partitions together may have in memory."""


@dataclass(slots=True)
class Gathered:
    """Clicks of one partition that are in no file yet."""

    day: str
    first: int
    end: int
    since_s: float
    tables: list[pa.Table] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    size: int = 0
    """Bytes in memory."""


class ArchiveWriter:
    """Writes the clicks of one topic."""

    def __init__(self, folder: ArchiveFolder, topic: str, identity: str, file_mib: float, file_age_s: float) -> None:
        """Args: the archive; the topic, and what tells it from a later one of its name; size and age of files."""
        self._folder, self._topic, self._identity = folder, topic, identity
        self._size, self._age_s = file_mib * _MIB, file_age_s
        self._gathered: dict[int, Gathered] = {}
        self._ends: dict[int, int] = {}
        """By partition, the offset after the last record that is in a file or gathered."""

    def begin(self, partitions: Sequence[int]) -> dict[int, int]:
        """The next offset of each of these partitions that has files.

        Raises:
            DataError: the archive cannot be listed, has a foreign file, or is of another topic.
        """
        parts = self._folder.parts()
        for partition in partitions:
            self.drop(partition)
            newest = self._newest(parts.get(partition, ()))
            if newest is not None:
                self._ends[partition] = newest.end
        return {partition: self._ends[partition] for partition in partitions if partition in self._ends}

    def end(self, partition: int) -> int:
        """The offset after the last record of a partition that is in a file or gathered; 0 before the first."""
        return self._ends.get(partition, 0)

    def add(self, part: tuple[int, int, int], day: str, table: pa.Table, wishes: Sequence[Wish], now_s: float) -> None:
        """Gather the clicks of some records.

        Args:
            part: partition, first offset and the offset after the last one, of the records.
            day: on which the first of them was appended.
            table: the clicks among them, by `engine.interactions.archive_files.SCHEMA`.
            wishes: the requests to forget users among them.
            now_s: a monotonic clock.
        """
        partition, first, end = part
        gathered = self._gathered.get(partition)
        if gathered is None:
            first = self._ends.get(partition, first)
            gathered = self._gathered[partition] = Gathered(day, first, first, now_s)
        gathered.tables.append(table)
        gathered.wishes += wishes
        gathered.size += table.nbytes
        gathered.end = self._ends[partition] = end

    def due(self, now_s: float, *, everything: bool = False) -> list[int]:
        """Partitions whose clicks are to be written now: by age, by size, or for a request to forget a user."""
        due = [
            partition
            for partition, gathered in self._gathered.items()
            if everything or gathered.wishes or gathered.size >= self._size or now_s - gathered.since_s >= self._age_s
        ]
        if not due and sum(gathered.size for gathered in self._gathered.values()) >= _BUFFERS * self._size:
            return [max(self._gathered, key=lambda partition: self._gathered[partition].size)]
        return due

    def is_of_earlier_day(self, partition: int, day: str) -> bool:
        """Whether what is gathered of a partition belongs into the folder of an earlier day."""
        gathered = self._gathered.get(partition)
        return gathered is not None and gathered.day < day

    def write(self, partition: int) -> tuple[int, int]:
        """Write what is gathered of a partition as one file.

        Returns:
            Number of its clicks, and the offset after its last record.

        Raises:
            DataError: it cannot be written; it is still gathered.
        """
        gathered = self._gathered[partition]
        span = partition, gathered.first, gathered.end
        footer = Footer(self._topic, self._identity, *span, rows=0, wishes=gathered.wishes)
        encoder, table = PartEncoder(), pa.concat_tables(gathered.tables).unify_dictionaries()
        encoder.add(table)
        self._folder.put(archive_files.new_part(footer, gathered.day, 0), encoder.finish(footer))
        del self._gathered[partition]
        return len(table), gathered.end

    def oldest_s(self, now_s: float) -> float:
        """Time for which the oldest click waits; 0 where none does."""
        return now_s - min((gathered.since_s for gathered in self._gathered.values()), default=now_s)

    def drop(self, partition: int) -> None:
        """Forget what is gathered of a partition; it is read again from where its files end."""
        self._gathered.pop(partition, None)
        self._ends.pop(partition, None)

    def _newest(self, parts: Sequence[ArchivePart]) -> ArchivePart | None:
        """The file of a partition that reaches furthest, of those that are whole."""
        for part in sorted(parts, key=lambda part: part.reach, reverse=True):
            if self._folder.is_whole(part):
                self._check_topic(part)
                return part
            logger.warning("%s is cut short, and is deleted: its clicks are read again", part.path)
            self._folder.remove(part)
        return None

    def _check_topic(self, part: ArchivePart) -> None:
        footer = self._folder.footer(part)
        if (footer.topic, footer.topic_identity) != (self._topic, self._identity):
            known = "another topic" if footer.topic != self._topic else "an earlier topic of that name"
            raise DataError(
                f"archive.folder: {self._folder.address} holds clicks of {known} ({footer.topic!r}, id"
                f" {footer.topic_identity}), expected those of {self._topic!r}, id {self._identity}: offsets of one"
                " mean nothing in the other; name a new folder"
            )
