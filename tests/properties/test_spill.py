"""Room for few: users who make room and come back have the window they would have had with room for all."""

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
ROOM = 3

Windows = dict[str, list[tuple[int, int]]]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("click"), st.lists(st.sampled_from(USERS), min_size=1, max_size=ROOM)),
        st.tuples(st.just("forget"), st.lists(st.sampled_from(USERS), min_size=1, max_size=1)),
        st.tuples(st.just("reload"), st.just([])),
    ),
    max_size=30,
)


class Worker:
    """A window store with so much room, and its changelog."""

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
        """One click of each, in one batch, as the processor does it; partitions by the number in the name."""
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
        """Every user's events with their partition, wherever they are kept."""
        found: Windows = {}
        for partition in (0, 1):
            packed = self.user_windows.pack(partition)
            times = iter(packed.times_ms.tolist())
            assert NO_ITEM not in packed.items
            for user, count in zip(packed.users, packed.counts, strict=True):
                assert user not in found
                found[user] = [(partition, next(times)) for _ in range(count)]
        return found

    def reload(self) -> None:
        """Take a copy of everything, drop everything, and load the copy."""
        copies = [self.user_windows.pack(partition) for partition in (0, 1)]
        for partition, packed in enumerate(copies):
            self.user_windows.drop(partition)
            self.user_windows.load(packed, partition)


@given(steps)
def test_little_room_changes_nothing(taken: list[tuple[str, list[str]]]) -> None:
    little, much = Worker(ROOM), Worker(len(USERS))
    for step, users in taken:
        for worker in (little, much):
            if step == "click":
                worker.click(users)
            elif step == "forget":
                worker.user_windows.forget(users[0])
            else:
                worker.reload()
        assert len(little.store) <= ROOM
    assert little.windows() == much.windows()


def test_users_come_back_as_new_where_that_is_set() -> None:
    worker = Worker(1, on_return="new")
    worker.click(["user-0"])
    worker.click(["user-1"])
    worker.click(["user-0"])
    assert worker.windows() == {"user-0": [(0, 2)]}


def test_a_batch_of_more_users_than_there_is_room_for_is_refused() -> None:
    worker = Worker(ROOM)
    worker.click(USERS[:ROOM])
    with pytest.raises(SettingsError, match=r"windows.max_users = 3 is smaller than the users of one batch"):
        worker.click(USERS[: ROOM + 1])
