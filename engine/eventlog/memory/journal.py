"""The records of one partition of the in-process log."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.eventlog.base import Headers, Partition, Records


@dataclass(slots=True)
class Journal:
    """The records of one partition, as parallel lists."""

    retain: int | None
    start: int = 0
    """Offset of the oldest record kept."""
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    timestamps_ms: list[int] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Offset the next record will get."""
        return self.start + len(self.values)

    def extend(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
        headers: Sequence[Headers],
    ) -> None:
        """Append records, and drop the oldest when there are twice as many as must be kept.

        Waiting for twice as many makes a drop cost a constant per record appended.
        """
        self.keys.extend(keys)
        self.values.extend(values)
        self.timestamps_ms.extend(timestamps_ms)
        self.headers.extend(headers)
        if self.retain is not None and len(self.values) > 2 * self.retain:
            self.delete_before(self.end - self.retain)

    def delete_before(self, offset: int) -> None:
        """Drop the records before an offset."""
        excess = max(offset - self.start, 0)
        for column in (self.keys, self.values, self.timestamps_ms, self.headers):
            del column[:excess]
        self.start += excess

    def first_from(self, from_ms: int | None) -> int:
        """Offset of the first record of this time or later; the end where there is none, or no time."""
        if from_ms is None:
            return self.end
        rows = (row for row, stamp_ms in enumerate(self.timestamps_ms) if stamp_ms >= from_ms)
        return self.start + next(rows, len(self.timestamps_ms))

    def read(self, partition: Partition, position: int, max_records: int) -> Records:
        """Records from offset `position` on, at most `max_records`; from the oldest kept where those are gone."""
        position = max(position, self.start)
        stop = min(position + max_records, self.end)
        rows = slice(position - self.start, stop - self.start)
        return Records(
            partition=partition,
            offsets=list(range(position, stop)),
            timestamps_ms=self.timestamps_ms[rows],
            keys=self.keys[rows],
            values=self.values[rows],
            headers=self.headers[rows],
        )
