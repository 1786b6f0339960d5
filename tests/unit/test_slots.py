"""Slots against the plainest model: an ordered list of keys, the least recently used first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import Int32
from engine.windows.slots import NO_SLOT, LruSlots, SlotsFullError

CAPACITY = 5
keys = st.sampled_from([f"k{number}" for number in range(9)])
steps = st.lists(
    st.tuples(st.just("assign"), st.lists(keys, min_size=1, max_size=CAPACITY))
    | st.tuples(st.just("lookup"), st.lists(keys, min_size=1, max_size=3))
    | st.tuples(st.just("release"), st.lists(keys, min_size=1, max_size=2)),
    max_size=40,
)


class Recorder:
    """Slots with a subscriber that keeps the key of each slot, as a side table does."""

    def __init__(self, capacity: int = CAPACITY, evict_share: int = 100) -> None:
        self.slots = LruSlots[str](capacity, evict_share)
        self.slots.subscribe(evicting=self._evicting, released=self._released)
        self.table: dict[int, str] = {}
        self.evicting: list[str] = []

    def assign(self, *names: str) -> list[int]:
        self.slots.next_turn()
        slots, new = self.slots.assign(names)
        for index in new.tolist():
            assert int(slots[index]) not in self.table
            self.table[int(slots[index])] = names[index]
        assert [self.table[slot] for slot in slots.tolist()] == list(names)
        return list(map(int, slots))

    def _evicting(self, slots: Int32) -> None:
        self.evicting += self.slots.keys(slots)

    def _released(self, slots: Int32) -> None:
        for slot in slots.tolist():
            del self.table[slot]


@given(steps)
def test_the_least_recently_used_keys_leave_and_subscribers_hear_of_exactly_those(
    script: list[tuple[str, list[str]]],
) -> None:
    """The model is the turn of each key's last use; of several keys of one turn any may leave first."""
    recorder, turns = Recorder(), dict[str, int]()
    for turn, (verb, names) in enumerate(script):
        if verb == "release":
            gone = [name for name in dict.fromkeys(names) if name in turns]
            recorder.slots.release(np.array([recorder.slots.find(name) for name in gone], np.int32))
            for name in gone:
                del turns[name]
        elif verb == "lookup":
            recorder.slots.next_turn()
            assert [slot != NO_SLOT for slot in recorder.slots.lookup(names)] == [name in turns for name in names]
            turns |= {name: turn for name in names if name in turns}
        else:
            evicted_before = len(recorder.evicting)
            recorder.assign(*names)
            idle = [name for name in turns if name not in names]
            evicted = recorder.evicting[evicted_before:]
            assert len(evicted) == max(0, len(idle) + len(set(names)) - CAPACITY)
            assert sorted(turns[name] for name in evicted) == sorted(map(turns.__getitem__, idle))[: len(evicted)]
            turns = {name: last for name, last in turns.items() if name not in evicted} | dict.fromkeys(names, turn)
        assert sorted(recorder.table.values()) == sorted(turns)
        assert len(recorder.slots) == len(turns)
    assert recorder.slots.evicted == len(recorder.evicting)


def test_keys_leave_in_the_order_of_their_last_use() -> None:
    #  a b c fill the slots   a is used again   d evicts b   e evicts c   f evicts a
    recorder = Recorder(capacity=3)
    for name in ("a", "b", "c", "a", "d", "e", "f"):
        recorder.assign(name)
    assert recorder.evicting == ["b", "c", "a"]


def test_a_share_of_all_keys_is_evicted_at_once() -> None:
    recorder = Recorder(capacity=10, evict_share=5)
    for number in range(10):
        recorder.assign(f"k{number}")
    recorder.assign("new")
    assert recorder.evicting == ["k0", "k1"]
    recorder.assign("newer")
    assert recorder.evicting == ["k0", "k1"]


def test_one_turn_never_evicts_its_own_keys() -> None:
    recorder = Recorder(capacity=2)
    recorder.assign("a", "b")
    with pytest.raises(SlotsFullError, match="3 new keys in one turn, 2 slots"):
        recorder.assign("c", "d", "e")
    assert sorted(recorder.assign("b", "c")) == [0, 1]
    assert recorder.evicting == ["a"]
