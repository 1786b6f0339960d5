"""Windows of the users of the assigned partitions, with all that keeps them: spill store, changelog, item ids.

Other modules see users and clicks here; slots, codecs and files are this package's own. A user's window is in the store
or in the spill store, never in both, and on the changelog as of the last commit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np

from engine.arrays import Clicks, Int32, Windows
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.eventlog.base import Outgoing, Partition, Records
from engine.settings.sections import Settings
from engine.windows import changelog
from engine.windows.codec import WindowCodec
from engine.windows.packed import PackedWindows, concatenate
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
        self._catalogue = catalogue
        self._codec = WindowCodec(catalogue, actions)
        self._spill = SpillStore()
        self.store = WindowStore(settings.windows)
        if settings.windows.on_return == "restore":
            self.store.user_slots.subscribe(evicting=self._spill_slots)
        self.positions: dict[int, int] = {}
        """By partition, the offset of the changelog up to which the windows are complete."""
        self._search_sweep_at = _FIRST_SEARCH_SWEEP
        self._item_sweep_at = _FIRST_ITEM_SWEEP

    def __len__(self) -> int:
        return len(self.store)

    def locate(self, clicks: Clicks, partitions: Int32) -> Events:
        """Clicks as events: users by slot, items by number. Evicted users are reloaded, unknown ones get a slot.

        Args:
            clicks: a batch.
            partitions: [n] the partition of each click.
        """
        self.reload(clicks.users)
        return Events(
            slots=self.store.slots(clicks.users, partitions),
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

    def changes(self, slots: Int32, forgotten: Sequence[tuple[str, int]]) -> Outgoing:
        """Changelog records of changed windows, and tombstones of forgotten users with their partitions."""
        windows = self.store.pack(slots)
        return changelog.records(
            self._topic,
            changelog.Changes(windows.users, self._codec.encode(windows), self.store.partitions(slots).tolist()),
            forgotten,
        )

    def wrote(self, ends: Mapping[Partition, int]) -> None:
        """Advance the positions to these ends: changes were delivered up to there."""
        for partition, end in ends.items():
            if partition.topic == self._topic:
                self.positions[partition.number] = end

    def apply(self, records: Records) -> int:
        """Bring the windows to the state after these changelog records; returns the number of users in them.

        Raises:
            ChangelogError: a record cannot be read.
        """
        newest = changelog.newest_by_user(records)
        windows = {user: value for user, value in newest.items() if value is not None}
        for user in newest.keys() - windows.keys():
            self.forget(user)
        if windows:
            place = changelog.place_of(records)
            self.load(self._codec.decode([*windows], [*windows.values()], place), records.partition.number)
        return len(newest)

    def load(self, windows: PackedWindows, partition: int) -> None:
        """Take over windows that were written elsewhere."""
        for part in windows.parts(self.store.max_users):  # beyond that, the users loaded first are evicted
            self.store.absent(part.users)
            self._spill.take(part.users)  # a spilled window is older
            self.store.load(part, partition)

    def pack(self, partition: int) -> PackedWindows:
        """A copy of all windows of a partition, spilled ones included."""
        slots = self.store.held(partition)
        held = self.store.pack(slots[self.store.known(slots)])
        spilled = [windows for windows, _ in self._decoded(self._spill.of(partition))]
        return concatenate([held, *spilled]) if spilled else held

    def reload(self, users: Sequence[str]) -> None:
        """Bring the spilled windows among these users back into the store."""
        if len(self._spill):
            for windows, partition in self._decoded(self._spill.take(self.store.absent(users))):
                self.store.load(windows, partition)

    def forget(self, user: str) -> bool:
        """Drop a user's window, wherever it is kept; False when there was none."""
        spilled = bool(self._spill.take([user]))
        return self.store.forget(user) or spilled

    def drop(self, partition: int) -> None:
        """Drop the windows of a partition that went to another worker."""
        self.store.drop_partition(partition)
        self._spill.drop_partition(partition)
        self.positions.pop(partition, None)

    def clear(self) -> None:
        """Drop every window."""
        self.store.clear()
        self._spill.clear()
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

    def _spill_slots(self, slots: Int32) -> None:
        """Keep the windows of slots that are about to be evicted."""
        slots = slots[self.store.known(slots)]
        windows = self.store.pack(slots)
        partitions = self.store.partitions(slots).tolist()
        self._spill.put(list(zip(windows.users, partitions, self._codec.encode(windows), strict=True)))

    def _decoded(self, rows: Iterable[Row]) -> Iterator[tuple[PackedWindows, int]]:
        """The windows of these rows, partition by partition."""
        for partition, group in groupby(sorted(rows, key=itemgetter(1)), itemgetter(1)):
            users, _, values = zip(*group, strict=True)
            yield self._codec.decode(list(users), values, "the spill store"), partition
