"""The changelog: encoded windows decode in a process with other item numbers, and damaged records are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import MAX_TIME_MS, Int32
from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.errors import ChangelogError, NewerWindowError, SettingsError
from engine.eventlog.base import Headers, Outgoing, Partition, Records
from engine.metrics import Metrics
from engine.settings.sections import ClickSettings, Settings, WindowSettings
from engine.windows.changelog import DEPLOYMENT_HEADER, POSITION_HEADER
from engine.windows.codec import SCHEMA, WindowCodec
from engine.windows.packed import PackedWindows
from engine.windows.store import Events
from engine.windows.users import UserWindows

LENGTH = 5
ITEMS = ["a", "b", "long-" * 50, "ünï¢ode", "7", searches.id_of("Größe b"), searches.id_of("b")]
ACTIONS = ClickSettings().actions

OURS = (DEPLOYMENT_HEADER, Settings().deployment.encode())

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


def set_aside(process: Process, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said when partition 0 was read to its end; each is counted once."""
    caplog.clear()
    metrics = Metrics()
    process.user_windows.set_aside.report(0, metrics)
    assert metrics.registry.get_sample_value("headrace_set_aside_windows_total") == len(caplog.messages)
    return caplog.messages


def strays(*rows: tuple[bytes, bytes | None]) -> Records:
    """Records of some other program, or of an earlier version of this one."""
    keys, values = zip(*rows, strict=True)
    count = len(rows)
    return Records(Partition("windows", 0), list(range(count)), [0] * count, list(keys), list(values), [()] * count)


def test_a_record_that_cannot_be_read_stops_nobody_and_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    process = reader()
    process.user_windows.apply(strays((b"bob", GOLDEN_1), (b"ann", b"rubbish"), (b"\xff", GOLDEN_1), (b"zo", GOLDEN_1)))
    assert process.windows().keys() == {"bob", "zo"}
    (of_ann, of_key) = sorted(set_aside(process, caplog), reverse=True)
    assert "offset 1 is set aside: its user goes on with the window before it" in of_ann
    assert "ann" not in of_ann
    assert "offset 2: key b'\\xff' is no user id" in of_key
    process.user_windows.apply(strays((b"ann", b"rubbish"), (b"\xff", GOLDEN_1)))
    assert set_aside(process, caplog) == []


@pytest.mark.parametrize("good", [GOLDEN_1, None])
@pytest.mark.parametrize("polls", [1, 2])
def test_a_later_good_record_heals(good: bytes | None, polls: int, caplog: pytest.LogCaptureFixture) -> None:
    process = reader()
    rows = [(b"ann", b"rubbish"), (b"ann", good), (b"\xff", b"rubbish"), (b"\xff", None)]
    for part in [rows] if polls == 1 else [rows[::2], rows[1::2]]:
        process.user_windows.apply(strays(*part))
    assert set_aside(process, caplog) == []
    assert process.windows().keys() == (set() if good is None else {"ann"})


@pytest.mark.parametrize("polls", [1, 2])
def test_what_cannot_be_read_leaves_the_window_before_it(polls: int) -> None:
    """It is written once more, because compaction keeps the last record."""
    process, rows = reader(), [(b"ann", GOLDEN_1), (b"ann", b"rubbish")]
    for part in [rows] if polls == 1 else [rows[:1], rows[1:]]:
        process.user_windows.apply(strays(*part))
    assert process.windows()["ann"][0] == ("a", 1, "view", 7)
    again = process.user_windows.rewrites([0])
    assert again.keys == [b"ann"]
    process.user_windows.apply(strays((b"bob", b"rubbish")))
    assert len(process.user_windows.rewrites([0])) == 0


def stamped(value: bytes | None, position: int) -> Records:
    headers: list[Headers] = [[(POSITION_HEADER, b"%d" % position)]]
    return Records(Partition("windows", 0), [0], [0], [b"ann"], [value], headers)


def window(item: str) -> bytes:
    process = writer()
    return process.codec.encode(process.store.pack(process.append([("ann", item, 1, "view", 0)])))[0]


@pytest.mark.parametrize(
    ("first", "second", "item"),
    [
        # an expelled worker's window comes after its successor's; one that knows as much replaces it
        ((window("b"), 9), (window("a"), 5), "b"),
        ((window("b"), 9), (window("a"), 9), "a"),
        ((window("b"), 9), (window("a"), 12), "a"),
        # nor does it bring back a user who was forgotten, or take one away who came back
        ((None, 9), (window("a"), 5), None),
        ((window("b"), 9), (None, 5), "b"),
        ((window("b"), 9), (None, 9), None),
    ],
)
def test_a_window_never_gives_way_to_one_that_knows_less(
    first: tuple[bytes | None, int], second: tuple[bytes | None, int], item: str | None
) -> None:
    apart, together = reader(), reader()
    for value, position in (first, second):
        apart.user_windows.apply(stamped(value, position))
    both = [stamped(*first), stamped(*second)]
    together.user_windows.apply(
        Records(
            Partition("windows", 0),
            [0, 1],
            [0, 0],
            [b"ann", b"ann"],
            [first[0], second[0]],
            [records.headers[0] for records in both],
        )
    )
    expected = {} if item is None else {"ann": [(item, 1, "view", 0)]}
    assert apart.windows() == together.windows() == expected


@pytest.mark.parametrize("polls", [1, 2])
def test_a_window_that_an_older_one_came_after_is_written_once_more(polls: int) -> None:
    process = reader()
    newer, older = stamped(window("b"), 9), stamped(window("a"), 5)
    if polls == 1:
        columns = [[*getattr(newer, name), *getattr(older, name)] for name in ("keys", "values", "headers")]
        process.user_windows.apply(Records(newer.partition, [0, 1], [0, 0], *columns))
    else:
        process.user_windows.apply(newer)
        process.user_windows.apply(older)
    again = process.user_windows.rewrites([0])
    assert (again.keys, again.headers) == ([b"ann"], [[(POSITION_HEADER, b"9"), OURS]])
    assert len(process.user_windows.rewrites([0])) == 0


def test_positions_that_were_set_back_do_not_lower_what_a_window_knows() -> None:
    """Somebody reads clicks again from the start: what is written then still counts as the newest."""
    process = reader()
    process.user_windows.apply(stamped(window("b"), 900))
    changes = process.user_windows.changes(process.append([("ann", "a", 2, "view", 0)]), [], {0: 3})
    assert changes.headers == [[(POSITION_HEADER, b"900"), OURS]]
    process.user_windows.forget("ann")
    gone = process.user_windows.changes(np.empty(0, np.int32), [("ann", 0)], {0: 4})
    assert (gone.values, gone.headers) == ([None], [[(POSITION_HEADER, b"900"), OURS]])


@pytest.mark.parametrize("value", [window("a"), None], ids=["a window", "a tombstone"])
def test_a_record_of_another_deployment_is_refused_and_changes_nothing(value: bytes | None) -> None:
    process = reader()
    process.user_windows.apply(stamped(window("b"), 9))
    stranger = stamped(value, 12)
    stranger.headers[0] = [*stranger.headers[0], (DEPLOYMENT_HEADER, b"other/clicks")]
    with pytest.raises(SettingsError, match=r"offset 0: found a window of deployment 'other/clicks', expected"):
        process.user_windows.apply(stranger)
    assert process.windows() == {"ann": [("b", 1, "view", 0)]}


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
    """Where the header says that it is one of ours; without one it is some other program's record."""
    newer = bytes([SCHEMA + 1]) + GOLDEN_1[1:]
    with pytest.raises(NewerWindowError, match=f"topic windows.*version {SCHEMA + 1}.*upgrade"):
        reader().user_windows.apply(stamped(newer, 9))
