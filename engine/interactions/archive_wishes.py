"""Requests to forget users, as an archive carries them out: on every read at once, in the files at the next compaction.

A request concerns the clicks before it in its own partition. One that a producer sent, to the partition of its choice,
concerns the clicks of other partitions, too: those that the log had when the request came.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from engine.arrays import Bool
from engine.interactions.archive_files import ArchivePart, Footer, Wish, digest_of

WISH_COLUMNS: Final = ("user", "offset", "append_ts")
"""Columns that requests look at."""
_NEVER: Final = -1


class Wishes:
    """All requests of an archive."""

    def __init__(self, wishes: Iterable[Wish] = ()) -> None:
        self.all: Sequence[Wish] = tuple(wishes)
        self._by_user: dict[str, list[Wish]] = {}
        for wish in self.all:
            self._by_user.setdefault(wish.user, []).append(wish)

    def __len__(self) -> int:
        return len(self.all)

    def through(self) -> dict[int, int]:
        """By partition, the offset after its last request."""
        ends = dict[int, int]()
        for wish in self.all:
            ends[wish.partition] = max(ends.get(wish.partition, 0), wish.offset + 1)
        return ends

    def not_yet_in(self, part: ArchivePart, footer: Footer) -> "Wishes":
        """The requests that may concern clicks of a file and are not carried out in it."""
        return Wishes(
            wish
            for wish in self.all
            if wish.offset >= footer.forgotten_through.get(wish.partition, 0) and _may_concern(wish, part, footer)
        )

    def kept(self, batch: pa.RecordBatch, partition: int) -> Bool:
        """[n] marks the rows of a batch of a partition, with `WISH_COLUMNS`, that no request concerns."""
        users = batch.column("user").dictionary.to_pylist()
        limits = np.array([self._limits(user, partition) for user in users] or [(_NEVER, _NEVER)], np.int64)
        codes = batch.column("user").indices.to_numpy()
        appends_ms = batch.column("append_ts").cast(pa.int64()).to_numpy()
        kept: Bool = (batch.column("offset").to_numpy() >= limits[codes, 0]) & (appends_ms >= limits[codes, 1])
        return kept

    def _limits(self, user: str, partition: int) -> tuple[int, int]:
        """The offset, and the time of append, before which a user's clicks in a partition are gone."""
        wishes = self._by_user.get(digest_of(user), ())
        offsets = (wish.offset for wish in wishes if wish.partition == partition)
        times_ms = (wish.append_ms for wish in wishes if wish.partition != partition and not wish.is_everywhere)
        return max(offsets, default=_NEVER), max(times_ms, default=_NEVER)


def _may_concern(wish: Wish, part: ArchivePart, footer: Footer) -> bool:
    if wish.partition == part.partition:
        return wish.offset > part.first
    return not wish.is_everywhere and wish.append_ms > footer.oldest_append_ms
