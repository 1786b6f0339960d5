"""The changelog: encoded windows decode in a process with other item numbers, and damaged records are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import MAX_TIME_MS, Int32
from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import ChangelogError
from engine.eventlog.base import Outgoing, Partition, Records
from engine.settings.sections import ClickSettings, Settings, WindowSettings
from engine.windows.codec import SCHEMA, WindowCodec
from engine.windows.packed import PackedWindows
from engine.windows.store import Events
from engine.windows.users import UserWindows

LENGTH = 5
ITEMS = ["a", "b", "long-" * 50, "ünï¢ode", "7", searches.id_of("Größe b"), searches.id_of("b")]
ACTIONS = ClickSettings().actions

Event = tuple[str, str, int, str, int]  # user, item, time in ms, action, hash of the event id

events = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "zoë"]),
        st.sampled_from(ITEMS),
        st.integers(0, 50) | st.integers(0, MAX_TIME_MS),
        st.sampled_from([*ACTIONS]),
        st.sampled_from([0, 0, 1, 2**32 - 1]),
    ),
    max_size=40,
)


class Process:
    """A window store and its changelog, with item numbers and action codes of its own."""

    def __init__(self, items: list[str], actions: dict[str, float]) -> None:
        settings = Settings(windows=WindowSettings(length=LENGTH, max_users=8), clicks=ClickSettings(actions=actions))
        self.catalogue = Catalogue()
        self.catalogue.numbers(items)
        self.actions = Actions(settings.clicks)
        self.codec = WindowCodec(self.catalogue, self.actions)
        self.user_windows = UserWindows(settings, self.catalogue, self.actions)
        self.store = self.user_windows.store

    def append(self, clicks: list[Event]) -> Int32:
        """Add clicks; returns the slots that changed."""
        users, items, times_ms, actions, hashes = zip(*clicks, strict=True) if clicks else ([],) * 5
        columns = Events(
            slots=self.store.slots(list(users), np.zeros(len(users), np.int32)),
            items=self.catalogue.numbers(list(items)),
            times_ms=np.array(times_ms, np.int64),
            actions=np.array([self.actions.code(action) for action in actions], np.uint8),
            event_hashes=np.array(hashes, np.uint32),
        )
        return self.store.append(columns).changed

    def windows(self) -> dict[str, list[tuple[str, int, str, int]]]:
        """Every user's events with item ids and action names, oldest first."""
        packed = self.store.pack(self.store.held(0))
        rows = zip(
            self.catalogue.ids(packed.items.tolist()),
            packed.times_ms.tolist(),
            [self.actions.names[code] for code in packed.actions.tolist()],
            packed.event_hashes.tolist(),
            strict=True,
        )
        return {
            user: [next(rows) for _ in range(count)] for user, count in zip(packed.users, packed.counts, strict=True)
        }


def writer() -> Process:
    return Process([], ACTIONS)


def reader() -> Process:
    return Process(ITEMS[::-1], dict(reversed(ACTIONS.items())))


def as_records(outgoing: Outgoing) -> Records:
    count = len(outgoing)
    return Records(
        Partition(outgoing.topic, 0), list(range(count)), [0] * count, outgoing.keys, outgoing.values, [()] * count
    )


@given(st.lists(events, max_size=4))
def test_encoded_windows_decode_in_another_process(batches: list[list[Event]]) -> None:
    source, copy = writer(), reader()
    for batch in batches:
        changes = source.user_windows.changes(source.append(batch), [])
        assert len(set(changes.keys)) == len(changes)
        if len(changes):
            copy.user_windows.apply(as_records(changes))
    assert copy.windows() == source.windows()


@given(st.lists(events.filter(bool), min_size=1, max_size=4))
def test_records_of_many_batches_can_be_applied_together(batches: list[list[Event]]) -> None:
    source, copy = writer(), reader()
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    for batch in batches:
        changes = source.user_windows.changes(source.append(batch), [])
        keys += changes.keys
        values += changes.values
    copy.user_windows.apply(as_records(Outgoing("windows", keys, values)))
    assert copy.windows() == source.windows()


@given(events.filter(bool), st.data())
def test_a_truncated_value_is_refused(clicks: list[Event], data: st.DataObject) -> None:
    process = writer()
    packed = process.store.pack(process.append(clicks))
    values = process.codec.encode(packed)
    row = data.draw(st.integers(0, len(values) - 1))
    length = data.draw(st.integers(0, len(values[row]) - 1))
    values[row] = values[row][:length]
    with pytest.raises(ChangelogError):
        reader().codec.decode(packed.users, values, "here")


def test_a_forgotten_user_is_removed_from_every_copy() -> None:
    source, copy = writer(), reader()
    copy.user_windows.apply(as_records(source.user_windows.changes(source.append([("ann", "a", 1, "view", 0)]), [])))
    source.store.forget("ann")
    tombstone = source.user_windows.changes(np.empty(0, np.int32), [("ann", 0)])
    assert (tombstone.keys, tombstone.values, tombstone.partitions) == ([b"ann"], [None], [0])
    copy.user_windows.apply(as_records(tombstone))
    assert copy.windows() == source.windows() == {}


def test_of_a_longer_window_the_newest_events_are_kept() -> None:
    process = writer()
    count = LENGTH + 2
    packed = PackedWindows(
        users=["ann"],
        counts=np.array([count]),
        items=np.zeros(count, np.int32),
        times_ms=np.arange(count, dtype=np.int64),
        actions=np.ones(count, np.uint8),
        event_hashes=np.zeros(count, np.uint32),
    )
    process.catalogue.numbers(["a"])
    process.store.load(packed, 0)
    assert [time_ms for _, time_ms, _, _ in process.windows()["ann"]] == list(range(count))[-LENGTH:]


GOLDEN_1 = (
    b"\x01\x01\x02\x00\x0b\x00"  # version 1, with hashes, 2 events, 11 bytes of legend
    b"\x01\x04view\x03\x03buy"
    b"\x41\x00\x00\x00\x00\x00\x01\x00\x07\x00\x00\x00"  # 1 ms << 6 | view, an id of one byte, hash 7
    b"\x03\x00\x00\x00\x40\x00\x03\x00\x00\x00\x00\x00"  # 2**32 ms << 6 | buy, an id of three bytes, no hash
    b"aa\xc3\xa9"
)


def test_golden_bytes_of_version_1() -> None:
    process = Process([], {"view": 1.0, "like": 2.0, "buy": 3.0})
    slots = process.append([("ann", "a", 1, "view", 7), ("ann", "aé", 2**32, "buy", 0)])
    assert process.codec.encode(process.store.pack(slots)) == [GOLDEN_1]
    other = reader()
    other.user_windows.apply(Records(Partition("windows", 0), [9], [0], [b"ann"], [GOLDEN_1], [()]))
    assert other.windows() == {"ann": [("a", 1, "view", 7), ("aé", 2**32, "buy", 0)]}


def test_a_key_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ChangelogError, match="is no user id"):
        reader().user_windows.apply(Records(Partition("windows", 0), [9], [0], [b"\xff"], [GOLDEN_1], [()]))


def test_of_more_users_than_the_store_may_hold_the_last_ones_stay() -> None:
    process, count = writer(), 20
    process.catalogue.numbers(["a"])
    packed = PackedWindows(
        users=[f"user-{number}" for number in range(count)],
        counts=np.ones(count, np.int64),
        items=np.zeros(count, np.int32),
        times_ms=np.arange(count, dtype=np.int64),
        actions=np.ones(count, np.uint8),
        event_hashes=np.zeros(count, np.uint32),
    )
    process.user_windows.load(packed, 0)
    assert set(process.windows()) == {f"user-{number}" for number in range(count)[-8:]}
    assert process.store.user_slots.evicted == count - 8


def test_a_newer_version_is_refused_and_says_so() -> None:
    newer = bytes([SCHEMA + 1]) + GOLDEN_1[1:]
    with pytest.raises(ChangelogError, match=f"topic windows.*version {SCHEMA + 1}.*upgrade"):
        reader().user_windows.apply(Records(Partition("windows", 0), [9], [0], [b"ann"], [newer], [()]))
