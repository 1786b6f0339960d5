"""Neighbours counted from the stream, against the same counts kept in plain dictionaries, one click at a time."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.arrays import NO_ITEM, Bool
from engine.retrieval.stream_neighbours import HALF_LIFE_MS, NEIGHBOURS, STEPS, CountedWindows, StreamNeighbours

LENGTH = 14
FIRST_MS = 1_700_000_000_000
NONE_KNOWN = np.zeros(0, np.bool_)
Window = list[tuple[int, int]]
"""Item and time of each click, oldest first."""
Weights = dict[tuple[int, int], float]


def counted(windows: list[Window], new: list[int]) -> CountedWindows:
    """Windows whose newest clicks are new: so many of each."""
    shape = (len(windows), LENGTH)
    items, times_ms, is_new = np.full(shape, NO_ITEM, np.int32), np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for row, (window, count) in enumerate(zip(windows, new, strict=True)):
        for column, (item, time_ms) in enumerate(window, start=LENGTH - len(window)):
            items[row, column], times_ms[row, column] = item, time_ms
        is_new[row, LENGTH - count :] = True
    return CountedWindows(items, times_ms, items != NO_ITEM, is_new)


@dataclass
class Reference:
    """The counts of the module's formula."""

    known: set[int] = field(default_factory=set)
    pairs: dict[tuple[int, int], float] = field(default_factory=lambda: defaultdict(float))
    clicks: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    newest_ms: int = 0

    def add(self, window: Window, sign: float = 1.0) -> None:
        """Count the newest click of a window."""
        *before, (item, time_ms) = window
        share = sign * 2.0 ** ((time_ms - FIRST_MS) / HALF_LIFE_MS)
        self.newest_ms = max(self.newest_ms, time_ms)
        self.clicks[item] += share
        for step, (other, _) in enumerate(before[::-1][:STEPS]):
            if other != item and not {other, item} <= self.known:
                self.pairs[other, item] += share * 0.9**step
                self.pairs[item, other] += share * 0.9**step

    def weights(self) -> Weights:
        now = 2.0 ** ((self.newest_ms - FIRST_MS) / HALF_LIFE_MS)
        return {
            (source, item): count
            / now
            / ((self.clicks[source] / now) ** 0.85 * (self.clicks[item] / now) ** 0.15 + 10.0)
            for (source, item), count in self.pairs.items()
        }


def weights_of(stream: StreamNeighbours, items: int) -> Weights:
    near = stream.of(np.arange(items, dtype=np.int32))
    rows = zip(near.sources.tolist(), near.items.tolist(), near.weights.tolist(), strict=True)
    return {(source, item): weight for source, item, weight in rows}


def random_windows(rng: np.random.Generator, users: int, items: int, clicks: int) -> list[Window]:
    """Each user's clicks, days apart."""
    windows = []
    for _ in range(users):
        times_ms = FIRST_MS + np.sort(rng.integers(0, 6 * HALF_LIFE_MS, clicks))
        windows.append(list(zip(rng.integers(0, items, clicks).tolist(), times_ms.tolist(), strict=True)))
    return windows


def mask(known: set[int]) -> Bool:
    is_known = np.zeros(max(known, default=-1) + 1, np.bool_)
    is_known[list(known)] = True
    return is_known


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, LENGTH), st.sets(st.integers(0, 19)))
@settings(max_examples=60)
def test_weights_are_those_of_the_formula_however_clicks_are_batched(
    seed: int, users: int, clicks: int, known: set[int]
) -> None:
    """Click by click in small batches, or whole windows at once: the same weights as the plain dictionaries give."""
    rng = np.random.default_rng(seed)
    histories, reference = random_windows(rng, users, 20, clicks), Reference(known)
    batched, at_once = StreamNeighbours(64), StreamNeighbours(64)
    done = 0
    while done < clicks:
        step = int(rng.integers(1, 4))
        windows = [history[: done + step] for history in histories]
        batched.add(counted(windows, [min(step, clicks - done)] * users), mask(known))
        done += step
    for history in histories:
        for end in range(1, clicks + 1):
            reference.add(history[:end])
    at_once.add(counted(histories, [clicks] * users), mask(known))
    expected = reference.weights()
    assert weights_of(batched, 20) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert weights_of(at_once, 20) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_a_forgotten_user_leaves_what_the_others_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ann, *others = random_windows(rng, 4, 20, 8)
    others[0][-1] = (others[0][-1][0], FIRST_MS + 6 * HALF_LIFE_MS)  # the newest click is not hers
    with_ann, without = StreamNeighbours(64), StreamNeighbours(64)
    with_ann.add(counted([ann, *others], [8] * 4), NONE_KNOWN)
    without.add(counted(others, [8] * 3), NONE_KNOWN)
    with_ann.subtract(counted([ann], [8]))
    expected = weights_of(without, 20)
    remaining = weights_of(with_ann, 20)
    assert remaining.keys() >= expected.keys()
    assert all(weight == pytest.approx(expected.get(pair, 0.0), abs=1e-4) for pair, weight in remaining.items())


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_with_more_neighbours_than_places_weights_are_never_too_high_and_the_frequent_stay(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stream, reference = StreamNeighbours(512), Reference()
    for turn in range(60):
        others = rng.permutation(np.arange(2, 300))[:6].tolist()
        #  everybody clicks item 0 among others, and every second user item 1 after it
        history = [(item, FIRST_MS + 1000 * turn + place) for place, item in enumerate([*others, 0, turn % 2, 5])]
        stream.add(counted([history], [len(history)]), NONE_KNOWN)
        for end in range(1, len(history) + 1):
            reference.add(history[:end])
    counts, limits = weights_of(stream, 300), reference.weights()
    assert all(weight <= limits[pair] * 1.001 for pair, weight in counts.items())
    assert sum(source == 0 for source, _ in counts) == NEIGHBOURS
    assert counts[0, 1] == pytest.approx(limits[0, 1], rel=1e-3)


def test_rows_are_bounded_and_those_used_last_stay() -> None:
    stream = StreamNeighbours(8)
    bytes_before = None
    for turn in range(200):
        window = [(3 * turn + place, FIRST_MS + turn) for place in range(3)]
        stream.add(counted([window], [3]), NONE_KNOWN)
        assert len(stream) <= 8
        if turn == 100:
            bytes_before = stream._neighbours.nbytes + stream._counts.nbytes + stream._errors.nbytes
    assert bytes_before == 8 * NEIGHBOURS * 12
    last = 3 * 199
    assert {pair for pair in weights_of(stream, 600) if pair[0] >= last} == {
        (source, item) for source in range(last, last + 3) for item in range(last, last + 3) if source != item
    }


@pytest.mark.parametrize("length", [1, 2, STEPS - 1, STEPS, STEPS + 1])
def test_windows_may_be_shorter_than_the_steps(length: int) -> None:
    stream, reference = StreamNeighbours(64), Reference()
    window = [(item, FIRST_MS + item) for item in range(length)]
    whole = counted([window], [length])
    columns = slice(LENGTH - length, None)
    short = CountedWindows(*(getattr(whole, name)[:, columns] for name in ("items", "times_ms", "is_click", "is_new")))
    stream.add(short, NONE_KNOWN)
    for end in range(1, length + 1):
        reference.add(window[:end])
    assert weights_of(stream, length) == pytest.approx(reference.weights(), rel=1e-3)
    stream.subtract(short)
    assert not weights_of(stream, length)


def test_neighbours_may_be_asked_for_by_their_clicks() -> None:
    stream = StreamNeighbours(8)
    for user, item in enumerate([1, 1, 2]):
        stream.add(counted([[(0, FIRST_MS + user), (item, FIRST_MS + user)]], [2]), NONE_KNOWN)
    assert stream.of(np.zeros(1, np.int32), least_clicks=1.5).items.tolist() == [1]
    assert sorted(stream.of(np.zeros(1, np.int32)).items.tolist()) == [1, 2]


def test_more_items_in_one_batch_than_rows_are_left_out() -> None:
    stream = StreamNeighbours(4)
    stream.add(counted([[(place, FIRST_MS + place) for place in range(LENGTH)]], [LENGTH]), NONE_KNOWN)
    assert len(stream) == 4
    assert {source for source, _ in weights_of(stream, LENGTH)} == {0, 1, 2, 3}


def test_an_item_whose_number_is_given_to_another_has_no_neighbours_and_is_none() -> None:
    stream = StreamNeighbours(8)
    stream.add(counted([[(item, FIRST_MS + item) for item in range(3)]], [3]), NONE_KNOWN)
    stream.forget(np.array([1], np.int32))
    assert weights_of(stream, 3).keys() == {(0, 2), (2, 0)}
    assert len(stream) == 2


def test_years_later_what_was_is_gone_and_what_is_new_counts_whole() -> None:
    stream, reference = StreamNeighbours(8), Reference()
    stream.add(counted([[(0, FIRST_MS), (1, FIRST_MS)]], [2]), NONE_KNOWN)
    later = FIRST_MS + 400 * HALF_LIFE_MS
    stream.add(counted([[(0, later), (2, later)]], [2]), NONE_KNOWN)
    for end in (1, 2):
        reference.add([(0, FIRST_MS), (2, FIRST_MS)][:end])
    weights = weights_of(stream, 3)
    assert weights[0, 2] == pytest.approx(reference.weights()[0, 2], rel=1e-3)
    assert weights.get((0, 1), 0.0) == pytest.approx(0.0, abs=1e-9)
