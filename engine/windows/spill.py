"""The spill store: windows of evicted users, on local disk until the users come back.

It is a scratch copy of what the changelog holds: the system deletes the database when the worker ends, so no other
worker ever reads it and it needs no care for crashes. A user is in the window store or here, never in both.

Windows that the disk does not take stay in memory: given up, they would be replaced by shorter ones when their users
come back.
"""

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

Row = tuple[str, int, bytes, int]
"""User, partition, the window as the changelog spells it, and its input position."""

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 500
"""Users per statement; SQLite allows 999 variables even where it is old."""


class SpillStore:
    """Windows by user."""

    def __init__(self) -> None:
        # No name means a private file that SQLite keeps in memory while it is small. The session's thread waits while
        # another one calls, so they are never here together.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = MEMORY")  # windows that do not fit leave the others as they were
        self._database.execute(
            "CREATE TABLE windows (user TEXT PRIMARY KEY, partition INTEGER, window BLOB, input_position INTEGER)"
            " WITHOUT ROWID"
        )
        self._count = 0
        self._unwritten: dict[str, Row] = {}
        self._warn_at = 1

    def __len__(self) -> int:
        return self._count + len(self._unwritten)

    @property
    def unwritten(self) -> int:
        """Windows that are in memory, as they could not be written."""
        return len(self._unwritten)

    def put(self, rows: Sequence[Row]) -> None:
        """Keep windows of users who are not here; in memory what the disk does not take."""
        try:
            with self._database:
                self._database.execute("BEGIN")
                self._database.executemany("INSERT INTO windows VALUES (?, ?, ?, ?)", rows)
        except sqlite3.OperationalError as error:
            self._keep(rows, error)
        else:
            self._count += len(rows)

    def take(self, users: Sequence[str]) -> list[Row]:
        """Give back the windows of those users who are here."""
        found = [self._unwritten.pop(user) for user in users if user in self._unwritten]
        for start in range(0, len(users) if self._count else 0, _AT_ONCE):
            some = users[start : start + _AT_ONCE]
            these = f"WHERE user IN ({', '.join('?' * len(some))})"
            rows = self._database.execute(f"SELECT * FROM windows {these}", some).fetchall()  # noqa: S608 - only '?'
            if rows:
                self._delete(these, some)
            found += rows
        return found

    def input_positions(self, users: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Partition and input position of those users who are here; they stay here."""
        unwritten = [self._unwritten[user] for user in users if user in self._unwritten]
        positions = {user: (partition, position) for user, partition, _, position in unwritten}
        for start in range(0, len(users) if self._count else 0, _AT_ONCE):
            some = users[start : start + _AT_ONCE]
            columns = "SELECT user, partition, input_position FROM windows"
            rows = self._database.execute(f"{columns} WHERE user IN ({', '.join('?' * len(some))})", some)
            positions |= {user: (partition, position) for user, partition, position in rows}
        return positions

    def of(self, partition: int) -> Iterator[Row]:
        """The windows of a partition; they stay here."""
        yield from [row for row in self._unwritten.values() if row[1] == partition]
        yield from self._database.execute("SELECT * FROM windows WHERE partition = ?", [partition])

    def drop_partition(self, partition: int) -> None:
        """Forget the users of a partition."""
        self._unwritten = {user: row for user, row in self._unwritten.items() if row[1] != partition}
        self._delete("WHERE partition = ?", [partition])

    def clear(self) -> None:
        """Forget everybody."""
        self._unwritten.clear()
        self._delete("", [])

    def _keep(self, rows: Sequence[Row], error: sqlite3.OperationalError) -> None:
        """Hold rows in memory; warns at the first, and whenever they have doubled."""
        self._unwritten |= {row[0]: row for row in rows}
        if len(self._unwritten) >= self._warn_at:
            self._warn_at = 2 * len(self._unwritten)
            logger.error(
                "evicted windows cannot be written to the folder for temporary files (%s): %d stay in memory, about a"
                " kilobyte each; make room there, or name another by SQLITE_TMPDIR, or raise windows.max_users",
                *(error, len(self._unwritten)),
            )

    def _delete(self, these: str, values: Sequence[object]) -> None:
        if self._count:
            self._count -= self._database.execute(f"DELETE FROM windows {these}", values).rowcount  # noqa: S608
