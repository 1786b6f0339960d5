"""Snapshots: what is written is read, and what cannot be trusted is thrown away."""

import os
from pathlib import Path

import numpy as np
import pytest

from engine.arrays import FIRST_SEARCH
from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.settings.sections import ClickSettings, SnapshotSettings
from engine.windows.packed import PackedWindows
from engine.windows.snapshots import SnapshotHeader, Snapshots

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
MOMENT = SnapshotHeader(topic="T1", partition=3, position=50, written_ms=NOW_MS)
BOUNDS = range(10, 60)
ACTIONS = ClickSettings().actions

Windows = dict[str, list[tuple[str, int, str, int]]]


def snapshots(folder: Path | None, catalogue: Catalogue, actions: dict[str, float] | None = None) -> Snapshots:
    return Snapshots(SnapshotSettings(folder=folder), catalogue, Actions(ClickSettings(actions=actions or ACTIONS)))


def windows(users: int) -> tuple[Catalogue, PackedWindows, Windows]:
    """Users with one, two, three … events each, and the same by name."""
    catalogue = Catalogue()
    names = Actions(ClickSettings()).names
    counts = np.arange(1, users + 1)
    events = int(counts.sum())
    numbers = np.arange(events) % 7
    catalogue.numbers([f"ïtem-{number}" for number in range(9)])
    packed = PackedWindows(
        users=[f"üser-{number}" for number in range(users)],
        counts=counts,
        items=(numbers + 1).astype(np.int32),
        times_ms=NOW_MS + np.arange(events),
        actions=(1 + numbers).astype(np.uint8),
        event_hashes=(numbers * 1000).astype(np.uint32),
    )
    rows = iter([(f"ïtem-{n + 1}", NOW_MS + i, names[1 + n], n * 1000) for i, n in enumerate(numbers.tolist())])
    return (
        catalogue,
        packed,
        {user: [next(rows) for _ in range(n)] for user, n in zip(packed.users, counts, strict=True)},
    )


def by_name(parts: list[PackedWindows], catalogue: Catalogue, actions: dict[str, float]) -> Windows:
    names = Actions(ClickSettings(actions=actions)).names
    found: Windows = {}
    for part in parts:
        columns = (part.items, part.times_ms, part.actions, part.event_hashes)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for user, count in zip(part.users, part.counts, strict=True):
            events = [next(rows) for _ in range(count)]
            found[user] = [(catalogue.ids([i])[0], time_ms, names[action], h) for i, time_ms, action, h in events]
    return found


def test_another_process_reads_what_was_written(tmp_path: Path) -> None:
    catalogue, packed, wanted = windows(users=20)
    snapshots(tmp_path, catalogue).write(MOMENT, packed)
    theirs, reordered = Catalogue(), dict(reversed(ACTIONS.items()))
    theirs.numbers(["something", "ïtem-5", "else"])
    found = snapshots(tmp_path, theirs, reordered).read("T1", 3, BOUNDS, NOW_MS + HOUR_MS)
    assert isinstance(found, tuple)
    position, parts = found
    assert position == MOMENT.position
    assert by_name(list(parts), theirs, reordered) == wanted


def test_searches_are_written_among_items(tmp_path: Path) -> None:
    catalogue, theirs = Catalogue(), Catalogue()
    ids = [searches.id_of("Red shoes"), "x", searches.id_of("ünï¢ode"), "y", "x"]
    theirs.numbers([searches.id_of("something else"), "y"])
    packed = PackedWindows(
        users=["ann", "bob"],
        counts=np.array([2, 3]),
        items=catalogue.numbers(ids),
        times_ms=NOW_MS + np.arange(5),
        actions=np.ones(5, np.uint8),
        event_hashes=np.zeros(5, np.uint32),
    )
    snapshots(tmp_path, catalogue).write(MOMENT, packed)
    found = snapshots(tmp_path, theirs).read("T1", 3, BOUNDS, NOW_MS)
    assert isinstance(found, tuple)
    (part,) = found[1]
    assert theirs.ids(part.items.tolist()) == ids
    assert (part.items >= FIRST_SEARCH).tolist() == [True, False, True, False, False]


def test_a_partition_without_users_can_be_written(tmp_path: Path) -> None:
    empty = np.empty(0, np.int64)
    packed = PackedWindows([], empty, empty.astype(np.int32), empty, empty.astype(np.uint8), empty.astype(np.uint32))
    snapshots(tmp_path, Catalogue()).write(MOMENT, packed)
    found = snapshots(tmp_path, Catalogue()).read("T1", 3, BOUNDS, NOW_MS)
    assert isinstance(found, tuple)
    assert [len(part) for part in found[1]] == []


def test_without_a_folder_nothing_is_written_or_read(tmp_path: Path) -> None:
    catalogue, packed, _ = windows(users=2)
    off = snapshots(None, catalogue)
    off.write(MOMENT, packed)
    assert off.read("T1", 3, BOUNDS, NOW_MS) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bounds", "now_ms", "reason"),
    [
        (range(10, 49), NOW_MS, "too_new"),  # the changelog ends before what the snapshot knows
        (range(51, 60), NOW_MS, "too_old"),  # what came between is gone from the changelog
        (BOUNDS, NOW_MS + 13 * HOUR_MS, "too_old"),  # the mark of a deletion may be gone
        (BOUNDS, NOW_MS - 1, "too_old"),  # written in the future: nobody knows its age
    ],
)
def test_what_does_not_fit_the_changelog_is_thrown_away(
    tmp_path: Path, bounds: range, now_ms: int, reason: str
) -> None:
    catalogue, packed, _ = windows(users=2)
    folder = snapshots(tmp_path, catalogue)
    folder.write(MOMENT, packed)
    assert folder.read("T1", 3, bounds, now_ms) == reason
    assert list(tmp_path.iterdir()) == []
    assert folder.read("T1", 3, BOUNDS, NOW_MS) is None


def test_positions_at_either_end_of_the_changelog_fit(tmp_path: Path) -> None:
    catalogue, packed, _ = windows(users=2)
    folder = snapshots(tmp_path, catalogue)
    folder.write(MOMENT, packed)
    assert isinstance(folder.read("T1", 3, range(10, 50), NOW_MS), tuple)
    assert isinstance(folder.read("T1", 3, range(50, 60), NOW_MS), tuple)


def test_another_topics_snapshot_is_not_taken(tmp_path: Path) -> None:
    catalogue, packed, _ = windows(users=2)
    folder = snapshots(tmp_path, catalogue)
    folder.write(MOMENT, packed)
    assert folder.read("T2", 3, BOUNDS, NOW_MS) is None
    next(tmp_path.iterdir()).rename(tmp_path / "T2-3.windows")
    assert folder.read("T2", 3, BOUNDS, NOW_MS) == "another_topic"


def test_no_damaged_byte_passes(tmp_path: Path) -> None:
    """Flip a byte, or end the file early, at many places."""
    catalogue, packed, wanted = windows(users=6)
    folder = snapshots(tmp_path, catalogue)
    folder.write(MOMENT, packed)
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        flipped = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        for damaged in (flipped, whole[:place]):
            path.write_bytes(damaged)
            found = folder.read("T1", 3, BOUNDS, NOW_MS)
            assert found == "damaged"
    path.write_bytes(whole)
    found = folder.read("T1", 3, BOUNDS, NOW_MS)
    assert isinstance(found, tuple)
    assert by_name(list(found[1]), catalogue, ACTIONS) == wanted


def test_what_is_too_old_to_be_used_is_swept_away(tmp_path: Path) -> None:
    catalogue, packed, _ = windows(users=2)
    folder = snapshots(tmp_path, catalogue)
    for partition, age_h in ((0, 11), (1, 13)):
        folder.write(SnapshotHeader("T1", partition, 50, NOW_MS - age_h * HOUR_MS), packed)
        written_s = NOW_MS / 1000 - age_h * 3600
        os.utime(tmp_path / f"T1-{partition}.windows", (written_s, written_s))
    (tmp_path / "somebody-elses").touch()
    folder.sweep(NOW_MS)
    assert {path.name for path in tmp_path.iterdir()} == {"T1-0.windows", "somebody-elses"}


def test_an_unfinished_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue, packed, wanted = windows(users=3)
    folder = snapshots(tmp_path, catalogue)
    folder.write(MOMENT, packed)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write(MOMENT, packed)
    found = folder.read("T1", 3, BOUNDS, NOW_MS)
    assert isinstance(found, tuple)
    assert by_name(list(found[1]), catalogue, ACTIONS) == wanted
