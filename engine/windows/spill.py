"""The spill store: windows of evicted users, on local disk until the users come back.

It is a scratch copy of what the changelog holds: the system deletes the database when the worker ends, so no other
worker ever reads it and it needs no care for crashes. A user is in the window store or here, never in both.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

Row = tuple[str, int, bytes]
"""User, partition, and the window as the changelog spells it."""

_AT_ONCE: Final = 500
"""Users per statement; SQLite allows 999 variables even where it is old."""


class SpillStore:
    """Windows by user."""

    def __init__(self) -> None:
        # No name means a private file that SQLite keeps in memory while it is small. The session's thread waits while
        # another one calls, so they are never here together.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE windows (user TEXT PRIMARY KEY, partition INTEGER, window BLOB) WITHOUT ROWID"
        )
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, rows: Sequence[Row]) -> None:
        """Keep windows of users who are not here."""
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO windows VALUES (?, ?, ?)", rows)
        self._count += len(rows)

    def take(self, users: Sequence[str]) -> list[Row]:
        """Give back the windows of those users who are here."""
        found: list[Row] = []
        for start in range(0, len(users) if self._count else 0, _AT_ONCE):
            some = users[start : start + _AT_ONCE]
            these = f"WHERE user IN ({', '.join('?' * len(some))})"
            rows = self._database.execute(f"SELECT * FROM windows {these}", some).fetchall()  # noqa: S608 - only '?'
            if rows:
                self._delete(these, some)
            found += rows
        return found

    def of(self, partition: int) -> Iterator[Row]:
        """The windows of a partition; they stay here."""
        yield from self._database.execute("SELECT * FROM windows WHERE partition = ?", [partition])

    def drop_partition(self, partition: int) -> None:
        """Forget the users of a partition."""
        self._delete("WHERE partition = ?", [partition])

    def clear(self) -> None:
        """Forget everybody."""
        self._delete("", [])

    def _delete(self, these: str, values: Sequence[object]) -> None:
        if self._count:
            self._count -= self._database.execute(f"DELETE FROM windows {these}", values).rowcount  # noqa: S608
