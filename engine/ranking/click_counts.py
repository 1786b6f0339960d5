"""Popularity and the stream's neighbours, counted from clicks as they come and from windows that were restored.

Both are sums over users, kept by nobody: a worker that starts counts them again from the windows of its partitions. A
restored window waits for its turn among all others, some between two batches, or for the next click of its user.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from engine.arrays import NO_ITEM, Bool, Float32, Int32, Windows
from engine.ranking.popularity import Popularity
from engine.retrieval.stream_neighbours import CountedWindows, StreamNeighbours, clicks_of, item_mask
from engine.settings.sections import Settings
from engine.windows.store import WindowStore

_USERS_AT_ONCE: Final = 128
"""Restored windows that are counted between two batches: some milliseconds, for which clicks wait."""
_NEVER_MS: Final = -1


class ClickCounts:
    """Counts of a worker, and the restored windows that are not in them yet."""

    def __init__(self, settings: Settings, action_weights: Float32, store: WindowStore) -> None:
        """Begin with no counts.

        Args:
            settings: `recommendations.stream_neighbours` is the size of the table of neighbours.
            action_weights: [256] weights of the settings by action code; only clicks of positive weight count.
            store: of the windows.
        """
        self.popularity = Popularity()
        most_items = settings.recommendations.stream_neighbours
        self.neighbours = StreamNeighbours(most_items) if most_items else None
        self._weights, self._store = action_weights, store
        self._waiting = np.zeros(store.max_users, np.bool_)
        self._queue: list[Int32] = []
        self._newest_ms = _NEVER_MS
        self._trained_until_ms: int | None = None
        self._counted_until_ms: dict[int, int] = {}
        """By partition that was here before, time of the newest click when it was given up."""
        self._is_known: Bool | None = None
        """By item number; None while neighbours are not counted."""
        self._slots, self._slots_newest_ms = np.empty(0, np.int32), np.empty(0, np.int64)
        store.user_slots.subscribe(released=self._released)

    def serve(self, numbers: Int32, popularity: Float32, known: int, until_ms: int) -> None:
        """Leave to a release what it counted in training; the first one's popularity is where counting begins.

        Args:
            numbers: [V] of the release's items.
            popularity: [V] events of its training's last seven days.
            known: the first of its items, which have neighbours of their own; 0 in a release without.
            until_ms: time of the newest event of its training.
        """
        if self._trained_until_ms is None:
            self.popularity.seed(numbers, popularity)
            self._trained_until_ms = until_ms
            self._wait(self._store.all_held())
        self._is_known = item_mask(numbers[:known]) if known and self.neighbours is not None else None

    def before(self, slots: Int32) -> None:
        """Look at the windows of these users before clicks of a batch come into them."""
        self._slots = np.unique(slots)
        self._count_restored(self._slots[self._waiting[self._slots]])
        self._slots_newest_ms = self._store.newest_ms(self._slots)

    def after(self, changed: Int32, windows: Windows) -> None:
        """Count pairs of the clicks that are newer than all that the windows held; late ones have none.

        Args:
            changed: [B] slots, all of them among those of `before`.
            windows: of these users, with the clicks.
        """
        newest_ms = self._slots_newest_ms[np.searchsorted(self._slots, changed)]
        self._newest_ms = max(self._newest_ms, int(windows.times_ms.max(initial=_NEVER_MS)))
        self._add_pairs(windows, windows.times_ms > newest_ms[:, None])

    def restored(self, partitions: Sequence[int]) -> None:
        """Have the windows of these partitions counted in the steps to come."""
        for number in partitions:
            self._wait(self._store.held(number))

    def add(self, windows: Windows, is_new: Bool) -> None:
        """Count the marked events [B, L] of windows; before there is a release they wait, as windows in the store."""
        if self._trained_until_ms is None:
            return
        self._newest_ms = max(self._newest_ms, int(windows.times_ms.max(initial=_NEVER_MS)))
        self._add_popular(windows, is_new)
        self._add_pairs(windows, is_new)

    def given_up(self, partitions: Sequence[int]) -> None:
        """Of these partitions, count only newer clicks should they come back."""
        self._counted_until_ms |= dict.fromkeys(partitions, self._newest_ms)

    @property
    def waits(self) -> bool:
        """True while restored windows wait to be counted."""
        return bool(self._queue)

    def step(self) -> None:
        """Count some restored windows."""
        if self._queue:
            slots, self._queue[0] = self._queue[0][:_USERS_AT_ONCE], self._queue[0][_USERS_AT_ONCE:]
            self._count_restored(slots[self._waiting[slots]])
            if not len(self._queue[0]):
                del self._queue[0]

    def forget_user(self, slot: int) -> None:
        """Take a user's pairs out of the neighbours' counts; popularity of seven days keeps the clicks."""
        if self.neighbours is not None and not self._waiting[slot]:
            windows = self._store.read(np.array([slot], np.int32))
            self.neighbours.subtract(self._counted(windows, windows.items != NO_ITEM))

    def forget_items(self, numbers: Int32) -> None:
        """Drop the counts of items whose numbers are about to be those of other items."""
        self.popularity.forget(numbers)
        if self.neighbours is not None:
            self.neighbours.forget(numbers)

    def _count_restored(self, slots: Int32) -> None:
        """Count the clicks of restored windows that are in no count yet."""
        if not len(slots):
            return
        self._waiting[slots] = False
        windows = self._store.read(slots)
        until_ms = [self._counted_until_ms.get(number, _NEVER_MS) for number in self._store.partitions(slots).tolist()]
        self.add(windows, windows.times_ms > np.array(until_ms)[:, None])

    def _wait(self, slots: Int32) -> None:
        self._waiting[slots] = True
        if len(slots):
            self._queue.append(slots)

    def _add_popular(self, windows: Windows, is_new: Bool) -> None:
        """Count events towards popularity but for those that the release has counted."""
        is_later = windows.times_ms > (self._trained_until_ms or _NEVER_MS)
        is_popular = is_new & is_later & clicks_of(windows.items, self._weights[windows.actions])
        self.popularity.add(windows.items[is_popular], windows.times_ms[is_popular])

    def _add_pairs(self, windows: Windows, is_new: Bool) -> None:
        if self.neighbours is not None and self._is_known is not None:
            self.neighbours.add(self._counted(windows, is_new), self._is_known)

    def _counted(self, windows: Windows, is_new: Bool) -> CountedWindows:
        is_click = clicks_of(windows.items, self._weights[windows.actions])
        return CountedWindows(windows.items, windows.times_ms, is_click, is_new)

    def _released(self, slots: Int32) -> None:
        self._waiting[slots] = False
