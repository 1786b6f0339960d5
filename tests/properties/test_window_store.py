"""The vectorised window store compared with a plain model of it: one list per user, one event at a time."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.arrays import NO_ACTION, NO_ITEM
from engine.settings.sections import WindowSettings
from engine.windows.store import Events, WindowStore

LENGTH = 4
DAY_MS = 86_400_000


class Event(NamedTuple):
    user: str
    item: int
    time_ms: int
    action: int
    event_hash: int


events = st.builds(
    Event,
    user=st.sampled_from(["ann", "bob", "cem"]),
    item=st.integers(0, 5),
    time_ms=st.integers(0, 12).map(lambda n: n * 1_000),
    action=st.integers(1, 3),
    event_hash=st.sampled_from([0, 0, 0, 7, 8]),
)
batches = st.lists(st.lists(events, max_size=12), max_size=6)


class Model:
    """The rules of engine/windows/store.py, word for word."""

    def __init__(self, ttl_ms: int | None = None) -> None:
        self.windows: dict[str, list[Event]] = defaultdict(list)
        self.ttl_ms = ttl_ms

    def add(self, event: Event) -> None:
        window = self.windows[event.user]
        if any(event[1:4] == old[1:4] or (event.event_hash and event.event_hash == old.event_hash) for old in window):
            return
        newest_ms = window[-1].time_ms if window else -1
        if self.ttl_ms is not None and event.time_ms < newest_ms - self.ttl_ms:
            return
        if len(window) == LENGTH and event.time_ms <= window[0].time_ms and event.time_ms < newest_ms:
            return
        window.append(event)
        window.sort(key=lambda old: old.time_ms)  # stable: ties in order of arrival
        del window[:-LENGTH]
        if self.ttl_ms is not None:
            newest_ms = window[-1].time_ms
            window[:] = [old for old in window if old.time_ms >= newest_ms - self.ttl_ms]


def append(store: WindowStore, batch: list[Event]) -> list[str]:
    slots = store.slots([event.user for event in batch], np.zeros(len(batch), np.int32))
    appended = store.append(
        Events(
            slots=slots,
            items=np.array([event.item for event in batch], np.int32),
            times_ms=np.array([event.time_ms for event in batch], np.int64),
            actions=np.array([event.action for event in batch], np.uint8),
            event_hashes=np.array([event.event_hash for event in batch], np.uint32),
        )
    )
    return store.users(appended.changed)


def read(store: WindowStore, user: str) -> list[tuple[int, int, int]]:
    slot = store.find(user)
    if slot is None:
        return []
    windows = store.read(np.array([slot], np.int32))
    window = list(
        zip(windows.items[0].tolist(), windows.times_ms[0].tolist(), windows.actions[0].tolist(), strict=True)
    )
    empty = [event for event in window if event[2] == NO_ACTION]
    assert all(item == NO_ITEM for item, _, _ in empty)
    return [event for event in window if event[2] != NO_ACTION]


def expected(model: Model, user: str) -> list[tuple[int, int, int]]:
    return [event[1:4] for event in model.windows[user]]


def new_store(ttl_days: float | None = None) -> WindowStore:
    return WindowStore(WindowSettings(length=LENGTH, max_users=10, ttl_days=ttl_days))


@given(batches)
@settings(max_examples=150)
def test_batches_give_the_same_as_one_event_at_a_time(stream: list[list[Event]]) -> None:
    store, model = new_store(), Model()
    for batch in stream:
        before = {user: expected(model, user) for user in ("ann", "bob", "cem")}
        changed = append(store, batch)
        for event in batch:
            model.add(event)
        for user in ("ann", "bob", "cem"):
            assert read(store, user) == expected(model, user)
            if expected(model, user) != before[user]:
                assert user in changed


@given(batches)
@settings(max_examples=80)
def test_time_to_live_drops_events_that_are_too_old(stream: list[list[Event]]) -> None:
    ttl_ms = 3_000
    store, model = new_store(ttl_days=ttl_ms / DAY_MS), Model(ttl_ms)
    for batch in stream:
        append(store, batch)
        for event in batch:
            model.add(event)
    for user in ("ann", "bob", "cem"):
        assert read(store, user) == expected(model, user)


@given(batches)
@settings(max_examples=80)
def test_replayed_twice_equals_once(stream: list[list[Event]]) -> None:
    # Distinct milliseconds per user: a run of more than L ties is the one case that the store says it cannot know.
    first_at = {(e.user, e.time_ms): e for batch in reversed(stream) for e in reversed(batch)}
    # And an id belongs to one event only, so these have none.
    stream = [[e._replace(event_hash=0) for e in batch if first_at[e.user, e.time_ms] is e] for batch in stream]
    store = new_store()
    for batch in stream:
        append(store, batch)
    once = {user: read(store, user) for user in ("ann", "bob", "cem")}
    for batch in stream:
        assert append(store, batch) == []
    assert {user: read(store, user) for user in ("ann", "bob", "cem")} == once


@given(st.lists(events, max_size=30, unique_by=lambda e: (e.user, e.time_ms)), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_order_of_arrival_does_not_matter(stream: list[Event], random: object) -> None:
    stream = [event._replace(event_hash=0) for event in stream]
    shuffled = list(stream)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    ordered, other = new_store(), new_store()
    append(ordered, sorted(stream, key=lambda e: e.time_ms))
    for event in shuffled:
        append(other, [event])
    for user in ("ann", "bob", "cem"):
        assert read(ordered, user) == read(other, user)
