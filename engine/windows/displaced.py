"""Windows that gave their place to one of the same user in another partition, while the changelog is being read.

`headrace repartition` moves a window to another partition and leaves a tombstone in the first, but until compaction the
old record is there as well, before the tombstone. Who restores both partitions may read the new place first: the old
record then takes the window's place for a moment, and its tombstone brings the window back.
"""

from collections.abc import Iterable

from engine.windows.spill import Row


class DisplacedWindows:
    """Rows of the changelog by user and partition, last displaced last."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, Row]] = {}

    def put(self, rows: Iterable[Row]) -> None:
        """Keep windows whose users have one of another partition now."""
        for row in rows:
            user, partition, _, _ = row
            of_user = self._rows.setdefault(user, {})
            of_user.pop(partition, None)
            of_user[partition] = row

    def take(self, user: str) -> list[Row]:
        """Give back the last displaced window of a user, if there is any."""
        of_user = self._rows.get(user)
        if not of_user:
            return []
        row = of_user.pop(next(reversed(of_user)))
        if not of_user:
            del self._rows[user]
        return [row]

    def discard(self, users: Iterable[str], partition: int | None = None) -> None:
        """Drop what is kept of these users, or what is kept of them in one partition: something newer is known."""
        for user in users if self._rows else ():
            if partition is None:
                self._rows.pop(user, None)
            elif user in self._rows:
                self._rows[user].pop(partition, None)

    def drop(self, partition: int) -> None:
        """Drop the windows of a partition that went to another worker."""
        self.discard(list(self._rows), partition)

    def clear(self) -> None:
        """Drop everything."""
        self._rows.clear()
