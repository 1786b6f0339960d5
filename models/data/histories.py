"""Every user's events, one user after the other, each in order of time: what training reads.

An archive larger than memory is sorted on disk, in three passes over records of 17 bytes:

    1. the archive is read once, its ids become numbers, and its events are written down as they come
    2. users are parted into regions of some millions of events, and each event is moved into its user's region
    3. each region is sorted in memory, by user and then by time, and written out as columns, 13 bytes an event

Both sorts are stable, so the archive's order decides ties. What has to fit in memory: the ids while they are numbered
(`models.data.archive`), 12 bytes a user, and three times a region (or the longest user, where one is longer than that).
The disk holds 34 bytes an event while this goes on, and 13 afterwards.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.arrays import Int32, Int64, UInt8
from models.data.archive import Archive

logger = logging.getLogger(__name__)

MANY_EVENTS: Final = 1_000_000
"""Who has more is hardly a person."""
REGION_EVENTS = 1 << 22
"""Events that are worked on in memory at once."""
_EVENT: Final = np.dtype([("user", np.int32), ("item", np.int32), ("time_ms", np.int64), ("action", np.uint8)])


@dataclass(frozen=True, slots=True)
class Timelines:
    """n events of U users with V items and Q searches; the columns may be files that are mapped into memory."""

    items: Int32
    """[n] item numbers, and those of searches from FIRST_SEARCH on."""
    times_ms: Int64
    """[n] ascending within a user."""
    actions: UInt8
    """[n] action numbers."""
    starts: Int64
    """[U + 1] where each user's events begin."""
    item_ids: list[str]
    action_names: list[str]
    users_digest: str
    """`digest` of the users' ids, which are not needed otherwise."""
    search_ids: list[str] = field(default_factory=list)
    """Q, by number less FIRST_SEARCH."""

    def __len__(self) -> int:
        return len(self.items)

    def fingerprint(self) -> str:
        """SHA-256 over all columns and ids: what has the same one trains the same release."""
        found = hashlib.sha256()
        for column in (self.items, self.times_ms, self.actions, self.starts):
            found.update(np.ascontiguousarray(column).data)
        for text in (self.users_digest, digest(self.item_ids), digest(self.action_names)):
            found.update(text.encode())
        if self.search_ids:
            found.update(digest(self.search_ids).encode())
        return found.hexdigest()

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """Users and their events, some millions of events at a time (or one user's, where that is more)."""
        for first, end in _regions(self.starts):
            yield slice(first, end), slice(int(self.starts[first]), int(self.starts[end]))

    def quantile_ms(self, share: float) -> int:
        """The event time that stands after the first `share` of all events in order of time.

        Found digit by digit, 16 of the 48 bits of a time to the year 10000 at once, without a copy of the times.
        """
        place, known = int(share * len(self)), 0
        for shift in (32, 16, 0):
            counts = np.zeros(1 << 16, np.int64)
            for _, events in self.parts():
                times_ms = self.times_ms[events]
                among = times_ms[times_ms >> (shift + 16) == known]
                counts += np.bincount((among >> shift) & 0xFFFF, minlength=1 << 16)
            upto = np.cumsum(counts)
            digit = int(np.searchsorted(upto, place, side="right"))
            place -= int(upto[digit] - counts[digit])
            known = known << 16 | digit
        return known


def digest(ids: Iterable[str]) -> str:
    """SHA-256 over ids in their order."""
    found = hashlib.sha256()
    for text in ids:
        found.update(text.encode() + b"\0")
    return found.hexdigest()


def sort(archive: Archive, folder: Path) -> Timelines:
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
    return Timelines(
        **columns,
        starts=starts,
        item_ids=archive.items.ids(range(len(archive.items))),
        action_names=archive.actions.ids(range(len(archive.actions))),
        users_digest=digest(archive.users.ids(range(len(archive.users)))),
        search_ids=archive.search_ids(),
    )


def column(path: Path, kind: npt.DTypeLike, length: int) -> npt.NDArray[Any]:
    """A new column in a file, mapped into memory; `numpy.load` opens it again."""
    return np.lib.format.open_memmap(path, "w+", kind, (length,)).view(np.ndarray)


def _write_down(archive: Archive, path: Path) -> npt.NDArray[np.void]:
    """The events in the order of the archive."""
    with path.open("wb") as file:
        for chunk in archive.chunks():
            events = np.empty(len(chunk), _EVENT)
            events["user"], events["item"] = chunk.users, chunk.items
            events["time_ms"], events["action"] = chunk.times_ms, chunk.actions
            events.tofile(file)
    return np.memmap(path, _EVENT, "r")


def _starts(events: npt.NDArray[np.void], users: int) -> Int64:
    starts = np.zeros(users + 1, np.int64)
    for part in _pieces(events):
        np.add.at(starts, part["user"] + 1, 1)
    return starts.cumsum(out=starts)


def _regions(starts: Int64) -> list[tuple[int, int]]:
    """First and end user of runs of users that have some millions of events together, at least one user each."""
    edges = np.unique(np.searchsorted(starts, np.arange(0, starts[-1], REGION_EVENTS)))
    edges = edges[edges < len(starts) - 1]
    return list(zip(edges.tolist(), [*edges[1:].tolist(), len(starts) - 1], strict=True)) if len(edges) else []


def _move(
    events: npt.NDArray[np.void], starts: Int64, regions: list[tuple[int, int]], by_region: npt.NDArray[np.void]
) -> None:
    """Move each event into its user's region, behind those that came before it."""
    edges = np.array([first for first, _ in regions])
    filled = starts[edges]
    for part in _pieces(events):
        region = np.searchsorted(edges, part["user"], side="right") - 1
        order = np.argsort(region, kind="stable")
        bounds = np.searchsorted(region[order], np.arange(len(regions) + 1)).tolist()
        part = part[order]  # noqa: PLW2901 - the same events
        for number in np.unique(region).tolist():
            found = part[bounds[number] : bounds[number + 1]]
            by_region[filled[number] : filled[number] + len(found)] = found
            filled[number] += len(found)


def _sorted(
    by_region: npt.NDArray[np.void], starts: Int64, regions: list[tuple[int, int]], folder: Path
) -> dict[str, npt.NDArray[Any]]:
    """The columns of all events by user and time."""
    kinds = {"items": ("item", np.int32), "times_ms": ("time_ms", np.int64), "actions": ("action", np.uint8)}
    columns = {name: column(folder / f"{name}.npy", kind, len(by_region)) for name, (_, kind) in kinds.items()}
    for first, end in regions:
        events = slice(int(starts[first]), int(starts[end]))
        part = np.array(by_region[events])
        order = np.lexsort((part["time_ms"], part["user"]))
        for name, (written, _) in kinds.items():
            columns[name][events] = part[written][order]
    return columns


def _pieces(events: npt.NDArray[np.void]) -> Iterator[npt.NDArray[np.void]]:
    for start in range(0, len(events), REGION_EVENTS):
        yield np.array(events[start : start + REGION_EVENTS])


def _warn(archive: Archive, starts: Int64) -> None:
    """Say what can be trained on but is hardly meant."""
    if archive.earliest_ms == archive.latest_ms:
        logger.warning(
            "%s: all %d events have the same time; the order of the file decides what came first",
            archive.address,
            starts[-1],
        )
    most = int(np.diff(starts).argmax())
    if starts[most + 1] - starts[most] >= MANY_EVENTS:
        logger.warning(
            "%s: user %r has %d of %d events; if that is a program and not a person, leave it out",
            archive.address,
            archive.users.ids([most])[0],
            starts[most + 1] - starts[most],
            starts[-1],
        )
