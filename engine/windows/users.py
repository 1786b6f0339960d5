"""Windows of the users of the assigned partitions, with all that keeps them: spill store, changelog, item ids.

Other modules see users and clicks here; slots, codecs and files are this package's own. A user's window is in the store
or in the spill store, never in both, and on the changelog as of the last commit.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np

from engine.arrays import Clicks, Int32, Windows
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import ChangelogError, NewerWindowError
from engine.eventlog.base import Outgoing, Partition, Records
from engine.settings.sections import Settings
from engine.windows import changelog
from engine.windows.codec import WindowCodec
from engine.windows.displaced import DisplacedWindows
from engine.windows.input_positions import InputPositions
from engine.windows.packed import PackedWindows, concatenate
from engine.windows.set_aside import SetAside
from engine.windows.slots import NO_SLOT
from engine.windows.spill import Row, SpillStore
from engine.windows.store import Appended, Events, WindowStore

_FIRST_SEARCH_SWEEP: Final = 1 << 18
"""Different searches, some 100 MB of them, before the first look for those that no window holds any more."""
_FIRST_ITEM_SWEEP: Final = 1 << 20
"""Different items, some 200 MB of them, likewise."""
_GROWTH: Final = 2
"""The next sweep is due when the numbers held have multiplied by this."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Numbers that the catalogue gave up, because no window, release or snapshot under way holds them."""

    items: Int32
    """[n] free for other items from now on."""
    searches: bool
    """Searches have other numbers now."""


class UserWindows:
    """The windows of all users of this worker, and the changelog positions up to which they are complete."""

    def __init__(self, settings: Settings, catalogue: Catalogue, actions: Actions) -> None:
        self._topic = settings.windows.topic
        self._deployment = settings.deployment
        self._catalogue = catalogue
        self._codec = WindowCodec(catalogue, actions)
        self._spill = SpillStore()
        self._displaced = DisplacedWindows()
        self.store = WindowStore(settings.windows)
        if settings.windows.on_return == "restore":
            self.store.user_slots.subscribe(evicting=self._spill_slots)
        self.positions: dict[int, int] = {}
        """By partition, the offset of the changelog up to which the windows are complete."""
        self._inputs = InputPositions(self.store.user_slots)
        self.set_aside = SetAside()
        self._is_gapless = settings.kafka.delivery == "at_least_once"
        """Whether every offset of the changelog is a record: transactions leave marks between them."""
        self._written = Counter[int]()
        """By partition, records of the last changes."""
        self._intruded: set[int] = set()
        self._overtaken: dict[int, set[str]] = {}
        """By partition, users whose last record on the changelog knows less than what is held of them."""
        self._search_sweep_at = _FIRST_SEARCH_SWEEP
        self._item_sweep_at = _FIRST_ITEM_SWEEP

    def __len__(self) -> int:
        return len(self.store)

    def locate(self, clicks: Clicks) -> Events:
        """Clicks as events: users by slot, items by number. Evicted users are reloaded, unknown ones get a slot."""
        self.reload(clicks.users)
        return Events(
            slots=self.store.slots(clicks.users, clicks.partitions),
            items=self._catalogue.numbers(clicks.items),
            times_ms=clicks.times_ms,
            actions=clicks.actions,
            event_hashes=clicks.event_hashes,
        )

    def update(self, events: Events) -> Appended:
        """Append events to their users' windows."""
        return self.store.append(events)

    def read(self, slots: Int32) -> Windows:
        """The windows [B, L] of these slots."""
        return self.store.read(slots)

    def changes(
        self, slots: Int32, forgotten: Sequence[tuple[str, int]], positions: Mapping[int, int] | None = None
    ) -> Outgoing:
        """Changelog records of changed windows, and tombstones of forgotten users with their partitions.

        Args:
            slots: [B] slots whose windows changed.
            forgotten: users without a window, each with the partition.
            positions: by partition, the next input position after the clicks that made these changes.
        """
        windows, partitions = self.store.pack(slots), self.store.partitions(slots).tolist()
        reached = [
            self._reached(user, number, positions) for user, number in zip(windows.users, partitions, strict=True)
        ]
        known = np.maximum(self._inputs.of(slots), np.array(reached, np.int64))
        self._inputs.put(slots, known)
        self._inputs.remember(zip(windows.users, partitions, strict=True))
        gone = [self._reached(user, number, positions) for user, number in forgotten]
        for (user, number), position in zip(forgotten, gone, strict=True):
            self._inputs.forget(user, number, position)
        return self._as_records(windows, partitions, [*known.tolist(), *gone], forgotten)

    def wrote(self, ends: Mapping[Partition, int]) -> None:
        """Advance the positions to these ends: the last changes were delivered up to there.

        Without transactions the changes are the only records since the last position, or somebody else writes to the
        partition: a predecessor that was expelled and does not know it yet. The partition is then to be read again.
        """
        for partition, end in ends.items():
            if partition.topic == self._topic:
                start = self.positions.get(partition.number, end)
                is_foreign = self._is_gapless and end - start > self._written[partition.number]
                if is_foreign and partition.number in self.positions:
                    self._intruded.add(partition.number)
                else:
                    self.positions[partition.number] = end

    def take_intruded(self) -> list[int]:
        """The partitions of the changelog that somebody else wrote to since the last call; to be read again."""
        intruded, self._intruded = sorted(self._intruded), set()
        return intruded

    def rewrites(self, partitions: Sequence[int]) -> Outgoing:
        """Records of the users of these partitions whose last record on the changelog is an older one than theirs.

        Compaction keeps the last one, so that the window has to be written once more.
        """
        users = [(user, number) for number in partitions for user in sorted(self._overtaken.pop(number, ()))]
        self.reload([user for user, _ in users])
        slots = np.array([slot for user, _ in users if (slot := self.store.find(user)) is not None], np.int32)
        gone = [(user, number) for user, number in users if self._inputs.of_forgotten(user, number)]
        return self.changes(slots, gone)

    def apply(self, records: Records) -> int:
        """Bring the windows to the state after these changelog records; returns the number of users in them.

        A record that cannot be read is set aside, and one that knows less of the clicks than the window does is left.

        Raises:
            NewerWindowError: a record was written by a later version of this engine.
            SettingsError: a record is of another deployment.
        """
        changelog.refuse_strangers(records, self._deployment)
        number = records.partition.number
        newest = changelog.newest_by_key(records)
        changes = {user: change for key, change in newest.items() if (user := self._named(key, change, records))}
        current = self._not_overtaken(changes, number)
        place = changelog.place_of(records)
        for user, change in current.items():
            if change.value is None:
                self._forget(user, number, change.input_position or 0)
                self.set_aside.heal(number, user.encode())
        self._load_readable(
            {user: change for user, change in current.items() if change.value is not None}, number, place
        )
        return len(newest)

    def load(self, windows: PackedWindows, partition: int) -> None:
        """Take over windows that were written elsewhere."""
        for part in windows.parts(self.store.max_users):  # beyond that, the users loaded first are evicted
            self.store.absent(part.users)
            self._displace(part.users, partition)
            self._load(part, partition)

    def pack(self, partition: int) -> PackedWindows:
        """A copy of all windows of a partition, spilled ones included."""
        slots = self.store.held(partition)
        slots = slots[self.store.known(slots)]
        held = replace(self.store.pack(slots), input_positions=self._inputs.of(slots))
        spilled = [windows for windows, _ in self._decoded(self._spill.of(partition))]
        return concatenate([held, *spilled]) if spilled else held

    @property
    def unspilled(self) -> int:
        """Evicted users whose windows are in memory, as they could not be spilled."""
        return self._spill.unwritten

    def reload(self, users: Sequence[str]) -> None:
        """Bring the spilled windows among these users back into the store."""
        if len(self._spill):
            for windows, partition in self._decoded(self._spill.take(self.store.absent(users))):
                self._load(windows, partition)

    def holds(self, user: str) -> bool:
        """True for a user whose window is in the store; a spilled one is not."""
        return self.store.find(user) is not None

    def partition_of(self, user: str) -> int | None:
        """The partition that a user's window belongs to, wherever it is kept; None where there is none."""
        slot = self.store.find(user)
        if slot is not None:
            return int(self.store.partitions(np.array([slot], np.int32))[0])
        return next((partition for partition, _ in self._spill.input_positions([user]).values()), None)

    def forget(self, user: str, within: int | None = None) -> int | None:
        """Drop a user's window, wherever it is kept; returns the partition it belonged to, None when there was none.

        Args:
            user: the user.
            within: drop only a window of this partition.
        """
        self._displaced.discard([user], within)
        partition = self.partition_of(user)
        if partition is None or within not in {None, partition}:
            return None
        slot = self.store.find(user)
        if slot is not None:
            self._inputs.forget(user, partition, int(self._inputs.of(np.array([slot], np.int32))[0]))
            self.store.forget(user)
        for _, _, _, position in self._spill.take([user]):
            self._inputs.forget(user, partition, position)
        return partition

    def drop(self, partition: int) -> None:
        """Drop the windows of a partition that went to another worker."""
        self.store.drop_partition(partition)
        self._spill.drop_partition(partition)
        self._inputs.drop(partition)
        self._displaced.drop(partition)
        self.set_aside.drop(partition)
        self._overtaken.pop(partition, None)
        self._intruded.discard(partition)
        self.positions.pop(partition, None)

    def clear(self) -> None:
        """Drop every window."""
        self.store.clear()
        self._spill.clear()
        self._inputs.clear()
        self._displaced.clear()
        self.set_aside.clear()
        self._overtaken.clear()
        self._intruded.clear()
        self.positions.clear()

    def sweep(self) -> Sweep:
        """Give up numbers of searches and items that nothing holds any more, once there are many new ones.

        All windows are read, so it is rarely done. Nobody but the windows, pinned releases (`Catalogue.pin`) and those
        told by the result may keep numbers meanwhile.
        """
        return Sweep(items=self._sweep_items(), searches=self._sweep_searches())

    def _sweep_searches(self) -> bool:
        if self._catalogue.searches < self._search_sweep_at:
            return False
        held = self.store.searches(self._catalogue.searches)
        self.store.renumber_searches(held)
        self._catalogue.keep_searches(held)
        self._search_sweep_at = max(_FIRST_SEARCH_SWEEP, _GROWTH * len(held))
        return True

    def _sweep_items(self) -> Int32:
        if len(self._catalogue) < self._item_sweep_at:
            return np.empty(0, np.int32)
        freed = self._catalogue.free_items(self.store.holds_items(self._catalogue.end))
        self._item_sweep_at = max(_FIRST_ITEM_SWEEP, _GROWTH * len(self._catalogue))
        return freed

    def _reached(self, user: str, number: int, positions: Mapping[int, int] | None) -> int:
        """The input position of a change: never before that of a tombstone of the same user."""
        reached = positions.get(number, 0) if positions else 0
        return max(reached, self._inputs.of_forgotten(user, number))

    def _as_records(
        self,
        windows: PackedWindows,
        partitions: list[int],
        input_positions: list[int],
        forgotten: Sequence[tuple[str, int]],
    ) -> Outgoing:
        changes = changelog.Changes(
            users=[*windows.users, *(user for user, _ in forgotten)],
            values=[*self._codec.encode(windows), *([None] * len(forgotten))],
            partitions=[*partitions, *(number for _, number in forgotten)],
            input_positions=input_positions,
        )
        self._written = Counter(changes.partitions)
        return changelog.records(self._topic, changes, self._deployment)

    def _named(self, key: bytes, change: changelog.Change, records: Records) -> str | None:
        """The user of a record; a key that names none is set aside."""
        user, number = changelog.user_of(key), records.partition.number
        if user is None and change.value is None:
            self.set_aside.heal(number, key)
        elif user is None:
            reason = (
                f"topic {records.partition.topic} partition {number}, offset {change.offset}: key {key!r} is no user"
                " id, the record is ignored; who wrote to this topic? A null value under the same key takes it out"
            )
            self.set_aside.add(number, key, reason)
        return user

    def _not_overtaken(self, changes: dict[str, changelog.Change], number: int) -> dict[str, changelog.Change]:
        """The changes that know no less of the clicks than what is held of their users; the others are noted."""
        held = self._held_positions([*changes], number)
        older = {user for user, change in changes.items() if changelog.is_older(change.input_position, held.get(user))}
        overtaken = self._overtaken.setdefault(number, set())
        overtaken.difference_update(changes)
        overtaken.update(older, (user for user, change in changes.items() if change.is_overtaken))
        return {user: change for user, change in changes.items() if user not in older} if older else changes

    def _held_positions(self, users: list[str], number: int) -> dict[str, int]:
        """Input positions of those users of whom something is held in this partition: a window or a tombstone."""
        slots = self.store.user_slots.lookup(users)
        mask = slots != NO_SLOT
        mask[mask] = self.store.partitions(slots[mask]) == number
        rows = np.flatnonzero(mask)
        positions = dict(zip([users[row] for row in rows.tolist()], self._inputs.of(slots[rows]).tolist(), strict=True))
        spilled = self._spill.input_positions([users[row] for row in np.flatnonzero(slots == NO_SLOT).tolist()])
        positions |= {user: position for user, (partition, position) in spilled.items() if partition == number}
        tombstones = ((user, self._inputs.of_forgotten(user, number)) for user in users)
        return positions | {user: position for user, position in tombstones if position > positions.get(user, 0)}

    def _load_readable(self, changes: dict[str, changelog.Change], number: int, place: str) -> None:
        """Load the windows that can be read; a record that cannot is set aside, and what is held then written again."""
        aside: dict[str, str] = {}
        readable = list(self._readable([*changes.items()], place, aside))
        if readable:
            windows = concatenate(readable)
            known = [self._position(changes[user], is_aside=user in aside) for user in windows.users]
            self._inputs.remember((user, number) for user in windows.users)
            self.load(replace(windows, input_positions=np.array(known, np.int64)), number)
            for user in windows.users:
                self.set_aside.heal(number, user.encode())
        for user, reason in aside.items():
            self.set_aside.add(number, user.encode(), reason)
            self._overtaken.setdefault(number, set()).add(user)

    def _readable(
        self, changes: list[tuple[str, changelog.Change]], place: str, aside: dict[str, str]
    ) -> Iterator[PackedWindows]:
        """Windows of the records that can be read, found by halving; why the others cannot goes to `aside`."""
        if not changes:
            return
        try:
            yield self._codec.decode(
                [user for user, _ in changes], [change.value or b"" for _, change in changes], place
            )
        except ChangelogError as error:
            if len(changes) > 1:
                middle = len(changes) // 2
                yield from self._readable(changes[:middle], place, aside)
                yield from self._readable(changes[middle:], place, aside)
                return
            ((user, change),) = changes
            if isinstance(error, NewerWindowError) and change.input_position is not None:
                raise  # one of ours, as the header says
            aside[user] = (
                f"{error}; the record at offset {change.offset} is set aside: its user goes on with the window before"
                " it, or a new one. Who wrote to this topic?"
            )
            if change.before is not None and change.before.value is not None:
                yield from self._readable([(user, change.before)], place, aside)

    @staticmethod
    def _position(change: changelog.Change, *, is_aside: bool) -> int:
        """The input position of the record that was read, which is the one before where the last was set aside."""
        read = change.before if is_aside and change.before is not None else change
        return read.input_position or 0

    def _load(self, windows: PackedWindows, partition: int) -> None:
        """Put windows into the store, with what they know."""
        self.store.load(windows, partition)
        self._inputs.put(self.store.user_slots.lookup(windows.users), windows.known_positions())

    def _forget(self, user: str, number: int, position: int) -> None:
        if self.forget(user, within=number) is not None:
            for windows, partition in self._decoded(self._displaced.take(user)):
                self._load(windows, partition)
        self._inputs.forget(user, number, position)

    def _displace(self, users: list[str], partition: int) -> None:
        """Make place for windows of a partition; what these users have in another one is kept (see `displaced`)."""
        rows = self._spill.take(users)  # a spilled window of the same partition is older
        if len(self.positions) > 1:
            slots = self.store.user_slots.lookup(users)
            slots = slots[slots != NO_SLOT]
            rows += self._as_rows(slots[self.store.partitions(slots) != partition])
        self._displaced.discard(users, partition)
        self._displaced.put(row for row in rows if row[1] != partition)

    def _spill_slots(self, slots: Int32) -> None:
        """Keep the windows of slots that are about to be evicted."""
        self._spill.put(self._as_rows(slots))

    def _as_rows(self, slots: Int32) -> list[Row]:
        """The windows of those of these slots that have any event."""
        slots = slots[self.store.known(slots)]
        windows = self.store.pack(slots)
        partitions = self.store.partitions(slots).tolist()
        known = self._inputs.of(slots).tolist()
        return list(zip(windows.users, partitions, self._codec.encode(windows), known, strict=True))

    def _decoded(self, rows: Iterable[Row]) -> Iterator[tuple[PackedWindows, int]]:
        """The windows of these rows, partition by partition."""
        for partition, group in groupby(sorted(rows, key=itemgetter(1)), itemgetter(1)):
            users, _, values, positions = zip(*group, strict=True)
            windows = self._codec.decode(list(users), values, "the spill store")
            yield replace(windows, input_positions=np.array(positions, np.int64)), partition
