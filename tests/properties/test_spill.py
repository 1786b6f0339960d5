"""Spilled windows: evicted users who come back have the window that they would have had without eviction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import NO_ITEM
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import SettingsError
from engine.settings.sections import Settings, WindowSettings
from engine.windows.store import Events
from engine.windows.users import UserWindows

USERS = [f"user-{number}" for number in range(7)]
MAX_USERS = 3

Windows = dict[str, list[tuple[int, int]]]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("click"), st.lists(st.sampled_from(USERS), min_size=1, max_size=MAX_USERS)),
        st.tuples(st.just("forget"), st.lists(st.sampled_from(USERS), min_size=1, max_size=1)),
        st.tuples(st.just("reload"), st.just([])),
    ),
    max_size=30,
)


class Worker:
    """A window store of at most `max_users` users, and its changelog."""

    def __init__(self, max_users: int, on_return: str = "restore") -> None:
        settings = Settings(
            windows=WindowSettings.model_validate({"max_users": max_users, "length": 4, "on_return": on_return})
        )
        catalogue = Catalogue()
        catalogue.numbers(["only"])
        self.user_windows = UserWindows(settings, catalogue, Actions(settings.clicks))
        self.store = self.user_windows.store
        self._clock_ms = 0

    def click(self, users: list[str]) -> None:
        """One click of each user in one batch, as the processor adds them; users are in partitions by their number."""
        self.user_windows.reload(users)
        count = len(users)
        self._clock_ms += count
        events = Events(
            slots=self.store.slots(users, np.array([int(user[-1]) % 2 for user in users], np.int32)),
            items=np.zeros(count, np.int32),
            times_ms=np.arange(self._clock_ms - count, self._clock_ms),
            actions=np.ones(count, np.uint8),
            event_hashes=np.zeros(count, np.uint32),
        )
        self.store.append(events)

    def windows(self) -> Windows:
        """Every user's events with their partition, in memory or spilled."""
        windows: Windows = {}
        for partition in (0, 1):
            packed = self.user_windows.pack(partition)
            times = iter(packed.times_ms.tolist())
            assert NO_ITEM not in packed.items
            for user, count in zip(packed.users, packed.counts, strict=True):
                assert user not in windows
                windows[user] = [(partition, next(times)) for _ in range(count)]
        return windows

    def reload(self) -> None:
        """Copy all windows, drop them, and load the copy."""
        copies = [self.user_windows.pack(partition) for partition in (0, 1)]
        for partition, packed in enumerate(copies):
            self.user_windows.drop(partition)
            self.user_windows.load(packed, partition)


@given(steps)
def test_eviction_changes_no_window(script: list[tuple[str, list[str]]]) -> None:
    evicting, plain = Worker(MAX_USERS), Worker(len(USERS))
    for step, users in script:
        for worker in (evicting, plain):
            if step == "click":
                worker.click(users)
            elif step == "forget":
                worker.user_windows.forget(users[0])
            else:
                worker.reload()
        assert len(evicting.store) <= MAX_USERS
    assert evicting.windows() == plain.windows()


def test_evicted_users_come_back_without_a_window_where_the_settings_say_so() -> None:
    worker = Worker(1, on_return="new")
    worker.click(["user-0"])
    worker.click(["user-1"])
    worker.click(["user-0"])
    assert worker.windows() == {"user-0": [(0, 2)]}


def test_a_batch_of_more_than_max_users_is_refused() -> None:
    worker = Worker(MAX_USERS)
    worker.click(USERS[:MAX_USERS])
    with pytest.raises(SettingsError, match=r"windows.max_users = 3 is smaller than the users of one batch"):
        worker.click(USERS[: MAX_USERS + 1])
