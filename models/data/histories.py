"""Histories: the events of every user, one user after the other, each in order of time.

An archive larger than memory is sorted on disk, in three passes over records of 17 bytes:

    1. the archive is read once, its ids become numbers, and its events are written down as they come
    2. users are parted into regions of some millions of events, and each event is moved into its user's region
    3. each region is sorted in memory, by user and then by time, and written out as columns, 13 bytes an event

Both sorts are stable, so the archive's order decides ties. What has to fit in memory: the ids while they are numbered
(`models.data.numbering`), 12 bytes a user, and three times a region (or the longest user, where one is longer). The
disk holds 34 bytes an event while this goes on, and 13 afterwards.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.arrays import NO_ACTION, NO_ITEM, Bool, Int32, Int64, UInt8, Windows
from models.data.numbering import NumberedInteractions

logger = logging.getLogger(__name__)

MANY_EVENTS: Final = 1_000_000
"""A user with more is hardly a person."""
REGION_EVENTS = 1 << 22
"""Events that are worked on in memory at once."""
_EVENT: Final = np.dtype([("user", np.int32), ("item", np.int32), ("time_ms", np.int64), ("action", np.uint8)])


@dataclass(frozen=True, slots=True)
class Histories:
    """n events of U users; the columns may be files that are mapped into memory."""

    items: Int32
    """[n] numbers or rows of items, and those of searches from FIRST_SEARCH on."""
    times_ms: Int64
    """[n] ascending within a user."""
    actions: UInt8
    """[n] codes of the actions (`engine.catalogue.actions`)."""
    starts: Int64
    """[U + 1] index of each user's first event."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def users(self) -> Int32:
        """[n] user number of each event, 0 to U - 1."""
        return np.repeat(np.arange(len(self.starts) - 1, dtype=np.int32), self.lengths())

    def lengths(self) -> Int64:
        """[U] events per user."""
        return np.diff(self.starts)

    def select(self, mask: Bool) -> "Histories":
        """The events under `mask` [n]; users keep their numbers."""
        starts = np.append(0, np.cumsum(mask))[self.starts]
        return Histories(self.items[mask], self.times_ms[mask], self.actions[mask], starts)

    def windows(self, events: Int64, length: int) -> Windows:
        """Windows [B, L] of up to `length` events of the same user before each of the events at `events` [B]."""
        begins = self.starts[np.searchsorted(self.starts, events, side="right") - 1]  # [B]
        indices = events[:, None] + np.arange(-length, 0)  # [B, L]
        is_event = indices >= begins[:, None]
        indices = np.maximum(indices, 0)
        return Windows(
            np.where(is_event, self.items[indices], np.int32(NO_ITEM)),
            np.where(is_event, self.times_ms[indices], 0),
            np.where(is_event, self.actions[indices], np.uint8(NO_ACTION)),
        )

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """Users and their events, some millions of events at a time (or one user's, where that is more)."""
        for first, end in _regions(self.starts):
            yield slice(first, end), slice(int(self.starts[first]), int(self.starts[end]))

    def quantile_ms(self, share: float) -> int:
        """The event time after the first `share` of all events in order of time.

        Found digit by digit, 16 of the 48 bits of a time to the year 10000 at once, without a copy of the times.
        """
        rank, prefix = int(share * len(self)), 0
        for shift in (32, 16, 0):
            counts = np.zeros(1 << 16, np.int64)
            for _, events in self.parts():
                times_ms = self.times_ms[events]
                candidates = times_ms[times_ms >> (shift + 16) == prefix]
                counts += np.bincount((candidates >> shift) & 0xFFFF, minlength=1 << 16)
            totals = np.cumsum(counts)
            digit = int(np.searchsorted(totals, rank, side="right"))
            rank -= int(totals[digit] - counts[digit])
            prefix = prefix << 16 | digit
        return prefix


@dataclass(frozen=True, slots=True)
class RecordedHistories(Histories):
    """Histories with V items and Q searches as they were recorded: `actions` are numbers by name, not yet codes."""

    item_ids: list[str]
    """V ids, by item number."""
    action_names: list[str]
    """By action number."""
    users_digest: str
    """`digest` of the users' ids, which are not needed otherwise."""
    search_ids: list[str] = field(default_factory=list)
    """Q, by number less FIRST_SEARCH."""

    def fingerprint(self) -> str:
        """SHA-256 over all columns and ids: what has the same one trains the same release."""
        checksum = hashlib.sha256()
        for column in (self.items, self.times_ms, self.actions, self.starts):
            checksum.update(np.ascontiguousarray(column).data)
        for text in (self.users_digest, digest(self.item_ids), digest(self.action_names)):
            checksum.update(text.encode())
        if self.search_ids:
            checksum.update(digest(self.search_ids).encode())
        return checksum.hexdigest()


def by_user(users: Int32, user_count: int) -> tuple[Int64, Int64]:
    """The order [n] that puts events in order of time user by user, and the starts [U + 1] of the users in it."""
    order = np.argsort(users, kind="stable")
    return order, np.searchsorted(users[order], np.arange(user_count + 1))


def digest(ids: Iterable[str]) -> str:
    """SHA-256 over ids in their order."""
    checksum = hashlib.sha256()
    for text in ids:
        checksum.update(text.encode() + b"\0")
    return checksum.hexdigest()


def sort(archive: NumberedInteractions, folder: Path) -> RecordedHistories:
    """Read an archive and sort it on disk, in `folder`.

    Raises:
        DataError: the archive cannot be read, or is unfit to learn from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spool, moved = folder / "as_they_came.bin", folder / "by_region.bin"
    events = _write_down(archive, spool)
    starts = _starts(events, len(archive.users))
    _warn(archive, starts)
    regions = _regions(starts)
    by_region = np.memmap(moved, _EVENT, "w+", shape=len(events))
    _move(events, starts, regions, by_region)
    columns = _sorted(by_region, starts, regions, folder)
    del events, by_region
    spool.unlink()
    moved.unlink()
    return RecordedHistories(
        **columns,
        starts=starts,
        item_ids=archive.item_ids(),
        action_names=list(archive.actions),
        users_digest=digest(archive.users),
        search_ids=archive.search_ids(),
    )


def column(path: Path, kind: npt.DTypeLike, length: int) -> npt.NDArray[Any]:
    """A new column in a file, mapped into memory; `numpy.load` opens it again."""
    return np.lib.format.open_memmap(path, "w+", kind, (length,)).view(np.ndarray)


def _write_down(archive: NumberedInteractions, path: Path) -> npt.NDArray[np.void]:
    """The events in the order of the archive."""
    with path.open("wb") as file:
        for batch in archive.batches():
            events = np.empty(len(batch), _EVENT)
            events["user"], events["item"] = batch.users, batch.items
            events["time_ms"], events["action"] = batch.times_ms, batch.actions
            events.tofile(file)
    return np.memmap(path, _EVENT, "r")


def _starts(events: npt.NDArray[np.void], users: int) -> Int64:
    starts = np.zeros(users + 1, np.int64)
    for piece in _pieces(events):
        np.add.at(starts, piece["user"] + 1, 1)
    return starts.cumsum(out=starts)


def _regions(starts: Int64) -> list[tuple[int, int]]:
    """First and end user of runs of users that have some millions of events together, at least one user each."""
    edges = np.unique(np.searchsorted(starts, np.arange(0, starts[-1], REGION_EVENTS)))
    edges = edges[edges < len(starts) - 1]
    return list(zip(edges.tolist(), [*edges[1:].tolist(), len(starts) - 1], strict=True)) if len(edges) else []


def _move(
    events: npt.NDArray[np.void], starts: Int64, regions: list[tuple[int, int]], by_region: npt.NDArray[np.void]
) -> None:
    """Move each event into its user's region, after those that came before it."""
    edges = np.array([first for first, _ in regions])
    filled = starts[edges]
    for piece in _pieces(events):
        region = np.searchsorted(edges, piece["user"], side="right") - 1
        order = np.argsort(region, kind="stable")
        bounds = np.searchsorted(region[order], np.arange(len(regions) + 1)).tolist()
        sorted_piece = piece[order]
        for number in np.unique(region).tolist():
            moved = sorted_piece[bounds[number] : bounds[number + 1]]
            by_region[filled[number] : filled[number] + len(moved)] = moved
            filled[number] += len(moved)


def _sorted(
    by_region: npt.NDArray[np.void], starts: Int64, regions: list[tuple[int, int]], folder: Path
) -> dict[str, npt.NDArray[Any]]:
    """The columns of all events by user and time."""
    kinds = {"items": ("item", np.int32), "times_ms": ("time_ms", np.int64), "actions": ("action", np.uint8)}
    columns = {name: column(folder / f"{name}.npy", kind, len(by_region)) for name, (_, kind) in kinds.items()}
    for first, end in regions:
        events = slice(int(starts[first]), int(starts[end]))
        region = np.array(by_region[events])
        order = np.lexsort((region["time_ms"], region["user"]))
        for name, (stored_name, _) in kinds.items():
            columns[name][events] = region[stored_name][order]
    return columns


def _pieces(events: npt.NDArray[np.void]) -> Iterator[npt.NDArray[np.void]]:
    for start in range(0, len(events), REGION_EVENTS):
        yield np.array(events[start : start + REGION_EVENTS])


def _warn(archive: NumberedInteractions, starts: Int64) -> None:
    """Warn of what can be trained on but is hardly meant."""
    if archive.has_one_time:
        logger.warning(
            "%s: all %d events have the same time; the order of the file decides what came first",
            archive.address,
            starts[-1],
        )
    user = int(np.diff(starts).argmax())
    if starts[user + 1] - starts[user] >= MANY_EVENTS:
        logger.warning(
            "%s: user %r has %d of %d events; if that is a program and not a person, leave it out",
            archive.address,
            list(archive.users)[user],
            starts[user + 1] - starts[user],
            starts[-1],
        )
