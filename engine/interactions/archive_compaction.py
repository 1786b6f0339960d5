"""Compaction of an archive: small files of a day become one, forgotten users disappear, old days are deleted.

    1. The new file is put beside those that it replaces: a reader that lists the archive now takes it for them all, as
       it reaches further. Were they deleted before, their clicks would be missing for a moment.
    2. Those that no reader takes any more are deleted. After a kill in between the next pass does it.

The newest file of a partition is never deleted, as it says where the archive ends: where it is too old to be kept, an
empty one takes its place.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import msgspec
import pyarrow as pa

from engine.interactions import archive_files
from engine.interactions.archive_files import SCHEMA, ArchivePart, Footer, PartEncoder, chain
from engine.interactions.archive_folder import ArchiveFolder
from engine.interactions.archive_table import wishes_in
from engine.interactions.archive_wishes import WISH_COLUMNS, Wishes

_DAY_MS: Final = 86_400_000
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class CompactionSettings:
    """Bounds of files and of their age."""

    file_mib: float
    retention_days: int | None


class Compactor:
    """Compacts one archive."""

    def __init__(
        self,
        folder: ArchiveFolder,
        settings: CompactionSettings,
        on_change: Callable[[str], None] = lambda _change: None,
    ) -> None:
        """Args: the archive; the bounds; called with `compacted` or `deleted` for each file."""
        self._folder, self._settings, self._on_change = folder, settings, on_change
        self._looked_at: dict[str, dict[int, int]] = {}
        """By path, the requests (`Wishes.through`) of which a file was found to hold nobody."""

    def run(self, partitions: Iterable[int], now_ms: int) -> Iterator[None]:
        """One pass over these partitions; yields between pieces of work of a file each, so that a loop can go on.

        Raises:
            DataError: a file cannot be read or written.
        """
        parts = self._folder.parts()
        try:
            wishes = wishes_in(self._folder, parts)
        except FileNotFoundError:
            return  # another archiver is compacting; the next pass is soon enough
        for partition in partitions:
            try:
                yield from self._partition(parts.get(partition, []), wishes, now_ms)
            except FileNotFoundError:
                continue

    def _partition(self, parts: list[ArchivePart], wishes: Wishes, now_ms: int) -> Iterator[None]:
        parts = yield from self._without_expired(parts, now_ms)
        links = chain(parts)
        for part in parts:
            if part not in links:
                self._remove(part)
        for group in self._groups(links):
            if len(group) > 1 or self._holds_forgotten(group[0], wishes):
                self._replace(group, wishes)
                yield

    def _without_expired(self, parts: list[ArchivePart], now_ms: int) -> Generator[None, None, list[ArchivePart]]:
        """Deletes the files that are too old; returns the others."""
        days = self._settings.retention_days
        if days is None or not parts:
            return parts
        oldest_day = archive_files.day_of(now_ms - days * _DAY_MS)
        expired = [part for part in parts if part.day < oldest_day]
        last = max(parts, key=lambda part: part.reach)
        kept = [part for part in parts if part not in expired]
        if last in expired:
            kept.append(self._emptied(last))
        for part in expired:
            if part not in kept:
                self._remove(part)
                yield
        return kept

    def _emptied(self, part: ArchivePart) -> ArchivePart:
        """An empty file in the place of one; that one itself where it is empty already."""
        footer = self._folder.footer(part)
        if not footer.rows:
            return part
        empty = Footer(footer.topic, footer.topic_identity, footer.partition, footer.first, footer.end, rows=0)
        return self._put(empty, part.day, part.generation + 1, ())

    def _groups(self, links: Sequence[ArchivePart]) -> Iterator[list[ArchivePart]]:
        """Runs of files of one day that make one file together."""
        for _, of_day in groupby(links, key=lambda part: part.day):
            group, size = list[ArchivePart](), 0
            for part in of_day:
                if group and (size + part.size > self._settings.file_mib * _MIB or part.first > group[-1].end):
                    yield group
                    group, size = [], 0
                group.append(part)
                size += part.size
            yield group

    def _holds_forgotten(self, part: ArchivePart, wishes: Wishes) -> bool:
        """True if a file has clicks of the user of a request to forget; a file is read once for each request."""
        open_wishes, through = wishes.not_yet_in(part, self._folder.footer(part)), wishes.through()
        if not len(open_wishes) or self._looked_at.get(part.path) == through:
            return False
        for run in self._folder.rows(part, list(WISH_COLUMNS)):
            if not all(open_wishes.kept(batch, part.partition).all() for batch in run):
                return True
        self._looked_at[part.path] = through
        return False

    def _replace(self, group: Sequence[ArchivePart], wishes: Wishes) -> None:
        """Put one file in the place of some, without the users who are forgotten; then delete those."""
        footers = [self._folder.footer(part) for part in group]
        merged = msgspec.structs.replace(
            footers[-1],
            first=group[0].first,
            wishes=list(dict.fromkeys(wish for footer in footers for wish in footer.wishes)),
            forgotten_through=wishes.through(),
        )
        generation = 1 + max(part.generation for part in group)
        self._put(merged, group[0].day, generation, self._kept_rows(group, wishes))
        for part in group:
            self._remove(part)

    def _kept_rows(self, group: Sequence[ArchivePart], wishes: Wishes) -> Iterator[pa.Table]:
        offset = group[0].first
        for part in group:
            for run in self._folder.rows(part, SCHEMA.names, offset):
                for batch in run:
                    kept = batch.filter(pa.array(wishes.kept(batch, part.partition))) if len(wishes) else batch
                    yield _compact(kept)
            offset = part.end

    def _put(self, footer: Footer, day: str, generation: int, tables: Iterable[pa.Table]) -> ArchivePart:
        encoder = PartEncoder()
        for table in tables:
            encoder.add(table)
        part = archive_files.new_part(footer, day, generation)
        self._folder.put(part, encoder.finish(footer))
        self._on_change("compacted")
        return part

    def _remove(self, part: ArchivePart) -> None:
        self._folder.remove(part)
        self._looked_at.pop(part.path, None)
        self._on_change("deleted")


def _compact(batch: pa.RecordBatch) -> pa.Table:
    """The rows with dictionaries of their own: the file's may name users who are forgotten."""
    columns = [
        column.cast(column.type.value_type).dictionary_encode() if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
