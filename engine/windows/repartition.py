"""Windows moved to the partition that their users' clicks go to, after the topic of clicks was given more partitions.

Nothing else may read clicks or write windows meanwhile. A window is written to its new partition first, and its
tombstone to the old one after that was accepted: what is cut off in between leaves the window in both, and the next run
merges the two. Merged windows have the events of both, as if all had come to one.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import ChangelogError, EventLogError, NewerWindowError
from engine.eventlog.base import EventLog, Outgoing, Partition, Reader, Records
from engine.settings.sections import Settings
from engine.windows import changelog
from engine.windows.changelog import Change, Changes
from engine.windows.codec import WindowCodec
from engine.windows.packed import PackedWindows
from engine.windows.store import Events, WindowStore

logger = logging.getLogger(__name__)

Place = Callable[[bytes], int]
"""The partition of a key."""

_AT_ONCE: Final = 1_000
_RECENT: Final = 1_000
"""Records at the end of each partition of clicks by which it is known how keys are placed."""
_POLL_S: Final = 1.0
_TOLERATED: Final = 0.02
"""Share of clicks that may be in another partition than that of their key: not all producers need be of one kind."""


@dataclass(slots=True)
class Moved:
    """Windows that were moved, and those among them that joined one of the same user."""

    windows: int = 0
    merged: int = 0


@dataclass(slots=True)
class Placement:
    """Counts of clicks by how they are placed."""

    records: int = 0
    strays: int = 0
    """Clicks in a partition that is their key's neither now nor by the number of partitions before."""
    unread: Counter[int] = field(default_factory=Counter)
    """By partition, clicks that no worker has read, of users whose clicks go elsewhere now."""


def survey(log: EventLog, topic: str, place: Place, before: Place | None, positions: Mapping[int, int]) -> Placement:
    """Compare where clicks are with where their keys belong, in those that no worker has read and the last ones read.

    Args:
        log: has the clicks.
        topic: of clicks.
        place: the partition of a key now.
        before: the partition of a key by as many partitions as there are windows for; None where these are as many as
            now, as after a run that was cut off: how keys were placed before is not known then, and only clicks that
            no worker has read count.
        positions: by partition, the next click that a worker would read; none for partitions never read.

    Raises:
        EventLogError: the clicks cannot be read.
    """
    placement = Placement()
    for number in range(log.partitions(topic)):
        with log.reader([Partition(topic, number)]) as reader:
            position = positions.get(number)
            start = _survey_start(reader.bounds[Partition(topic, number)], position, only_unread=before is None)
            for batch in _rest(reader, Partition(topic, number), start):
                for key, offset in zip(batch.keys, batch.offsets, strict=True):
                    placement.records += 1
                    if key is None or place(key) == number:
                        continue
                    if before is None or before(key) != number:
                        placement.strays += 1
                    elif offset >= (position or 0):
                        placement.unread[number] += 1
    return placement


def _survey_start(bounds: range, position: int | None, *, only_unread: bool) -> int:
    """The first click not read, or an earlier one; of a partition never read one of the last."""
    recent = max(bounds.start, bounds.stop - _RECENT)
    if position is None:
        return recent
    return max(bounds.start, position if only_unread else min(position, recent))


def check(placement: Placement, topic: str) -> None:
    """Refuse to move windows away from their users' clicks.

    Raises:
        EventLogError: clicks are not placed as assumed, or some are not read yet that belong to windows to be moved.
    """
    if placement.strays > _TOLERATED * placement.records:
        raise EventLogError(
            f"topic {topic!r}: {placement.strays} of the last {placement.records} clicks are in another partition than"
            " that of their key, expected nearly none; choose the --partitioner of your producers (murmur2 for Java and"
            " kafka-python, crc32 for librdkafka), and key clicks by user"
        )
    if placement.unread:
        shown = ", ".join(f"{count} in partition {number}" for number, count in sorted(placement.unread.items()))
        raise EventLogError(
            f"topic {topic!r}: clicks are not read yet of users whose windows are to be moved: {shown}, expected none;"
            " start a worker until these partitions are read to their ends, stop it, and run this again"
        )


class Repartition:
    """Moves the windows of a deployment; belongs to one process, while no worker runs."""

    def __init__(self, log: EventLog, settings: Settings, place: Place, positions: Mapping[int, int]) -> None:
        """Move nothing yet.

        Args:
            log: has the changelog, with as many partitions as the clicks.
            settings: of the deployment.
            place: the partition of a key.
            positions: by partition of clicks, the position of the group.
        """
        self._log = log
        self._topic = settings.windows.topic
        self._deployment = settings.deployment
        self._place = place
        self._positions = positions
        actions = Actions(settings.clicks)
        self._catalogue = Catalogue()
        self._codec = WindowCodec(self._catalogue, actions)
        self._store = WindowStore(settings.windows.model_copy(update={"max_users": 1}))

    def run(self, confirm: Callable[[], None] = lambda: None, *, dry: bool = False) -> Moved:
        """Move every window that is not in its key's partition.

        Args:
            confirm: called before each partition; raises where a worker has started meanwhile.
            dry: only count.

        Raises:
            EventLogError: the changelog cannot be read or written; run it again.
            SettingsError: there are windows of another deployment.
        """
        count = self._log.partitions(self._topic)
        self._log.end_abandoned([Partition(self._topic, number) for number in range(count)])
        moved = Moved()
        for number in range(count):
            confirm()
            movers = self._windows(number, lambda key: self._place(key) != number)  # noqa: B023 - called in here only
            moved.windows += len(movers)
            if movers and not dry:
                moved.merged += self._move(movers, number)
                logger.info("partition %d: %d windows were moved", number, len(movers))
        return moved

    def _move(self, movers: dict[bytes, Change], source: int) -> int:
        """Write windows to their partitions and tombstones in their place; returns how many joined another window."""
        merged = 0
        by_target: dict[int, list[bytes]] = {}
        for key in movers:
            by_target.setdefault(self._place(key), []).append(key)
        with self._log.producer() as producer:
            for target, keys in sorted(by_target.items()):
                residents = self._windows(target, set(keys).__contains__)
                for start in range(0, len(keys), _AT_ONCE):
                    some = keys[start : start + _AT_ONCE]
                    changes = [self._joined(key, movers[key], residents.get(key)) for key in some]
                    producer.send(self._records(some, changes, target))
                    producer.flush()  # a window must be there before its tombstone is
                    producer.send(
                        self._records(some, [Change(None, movers[key].input_position, 0) for key in some], source)
                    )
                merged += len(residents)
        return merged

    def _records(self, keys: Sequence[bytes], changes: Sequence[Change], number: int) -> Outgoing:
        """Records of one partition, which know the clicks that the group has read of it."""
        position = self._positions.get(number, 0)
        return changelog.records(
            self._topic,
            Changes(
                users=[key.decode() for key in keys],
                values=[change.value for change in changes],
                partitions=[number] * len(keys),
                input_positions=[max(position, change.input_position or 0) for change in changes],
            ),
            self._deployment,
        )

    def _joined(self, key: bytes, mover: Change, resident: Change | None) -> Change:
        """The window of a user in the new partition; positions of the old one mean nothing there."""
        if resident is None or resident.value is None:
            return Change(mover.value, None, 0)
        readable = [packed for change in (resident, mover) if (packed := self._decoded(key, change))]
        if len(readable) < 2:  # noqa: PLR2004 - both
            value = mover.value if readable and self._decoded(key, mover) else resident.value
            return Change(value, resident.input_position, 0)
        return Change(self._merged(key.decode(), *readable), resident.input_position, 0)

    def _decoded(self, key: bytes, change: Change) -> PackedWindows | None:
        """A window, or None for one that cannot be read."""
        try:
            return self._codec.decode([key.decode()], [change.value or b""], f"topic {self._topic}, key {key!r}")
        except NewerWindowError:
            raise
        except ChangelogError as error:
            logger.warning("%s", error)
            return None

    def _merged(self, user: str, first: PackedWindows, second: PackedWindows) -> bytes:
        store = self._store
        store.clear()
        store.load(first, 0)
        slots = np.repeat(store.slots([user], np.zeros(1, np.int32)), len(second.items))
        store.append(Events(slots, second.items, second.times_ms, second.actions, second.event_hashes))
        return self._codec.encode(store.pack(slots[:1]))[0]

    def _windows(self, number: int, holds: Callable[[bytes], bool]) -> dict[bytes, Change]:
        """The windows of a partition, of those keys that are held to."""
        newest: dict[bytes, Change] = {}
        partition = Partition(self._topic, number)
        with self._log.reader([partition]) as reader:
            for records in _rest(reader, partition, reader.bounds[partition].start):
                changelog.refuse_strangers(records, self._deployment)
                for key, change in changelog.newest_by_key(records).items():
                    if changelog.user_of(key) is not None and holds(key):
                        before = newest.get(key)
                        if before is None or not self._yields(key, change, before):
                            newest[key] = change
        return {key: change for key, change in newest.items() if change.value is not None}

    def _yields(self, key: bytes, change: Change, before: Change) -> bool:
        """Whether a record gives way to one before it, which knows more or can be read."""
        if changelog.is_older(change.input_position, before.input_position):
            return True
        is_doubtful = change.input_position is None and change.value is not None and before.value is not None
        return is_doubtful and self._decoded(key, change) is None


def _rest(reader: Reader, partition: Partition, start: int) -> Iterator[Records]:
    """The records of the one partition of a reader from an offset on, up to the end that it has now."""
    reader.seek(partition, start)
    while not reader.at_end():
        yield from reader.poll(_POLL_S, _AT_ONCE)
