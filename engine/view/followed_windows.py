"""Windows that report the events which are new in them, as a server reads no clicks but their changelog."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.arrays import NO_ITEM, Bool, Int32, Int64, UInt8, Windows
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.settings.sections import Settings
from engine.windows.packed import PackedWindows
from engine.windows.slots import NO_SLOT
from engine.windows.users import UserWindows


@dataclass(frozen=True, slots=True)
class NewEvents:
    """n events that are newer than all that was held of their users, as columns."""

    users: list[str]
    items: Int32
    """[n] numbers of items and searches."""
    times_ms: Int64
    actions: UInt8
    windows: Windows
    """[B, L] windows of the users with any such event, these included."""
    is_new: Bool
    """[B, L] marks them there."""


class FollowedWindows(UserWindows):
    """Windows restored from the changelog alone; of a late event, put before others in its window, nothing is said."""

    def __init__(
        self, settings: Settings, catalogue: Catalogue, actions: Actions, observe: Callable[[NewEvents], None]
    ) -> None:
        super().__init__(settings, catalogue, actions)
        self._observe = observe

    def load(self, windows: PackedWindows, partition: int) -> None:
        """See `UserWindows.load`; the observer is called before."""
        self.reload(windows.users)
        for part in windows.parts(self.store.max_users):
            self._observe(self._new_events(part))
        super().load(windows, partition)

    def _new_events(self, windows: PackedWindows) -> NewEvents:
        slots = self.store.user_slots.lookup(windows.users)
        held = slots != NO_SLOT
        newest_ms = np.full(len(windows), -1, np.int64)
        newest_ms[held] = self.store.read(slots[held]).times_ms[:, -1]
        owners = np.repeat(np.arange(len(windows)), windows.counts)
        new = windows.times_ms > newest_ms[owners]
        aligned = windows.aligned(self.store.length)
        is_new = (aligned.items != NO_ITEM) & (aligned.times_ms > newest_ms[:, None])
        changed = np.flatnonzero(is_new.any(axis=1))
        return NewEvents(
            users=[windows.users[owner] for owner in owners[new].tolist()],
            items=windows.items[new],
            times_ms=windows.times_ms[new],
            actions=windows.actions[new],
            windows=aligned.take(changed),
            is_new=is_new[changed],
        )
