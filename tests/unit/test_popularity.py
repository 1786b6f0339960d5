"""Popularity over seven days: a sliding window of whole days of event time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import FIRST_SEARCH, NO_ITEM
from engine.ranking.popularity import DAY_MS, DAYS, Popularity, untaken


def add(popularity: Popularity, items: list[int], day: float) -> None:
    popularity.add(np.array(items, np.int32), np.full(len(items), round(day * DAY_MS), np.int64))


def test_most_popular_first_ties_by_number() -> None:
    popularity = Popularity()
    add(popularity, [5, 5, 5, 2, 2, 9, 7], day=0.5)
    assert popularity.top(10).tolist() == [5, 2, 7, 9]
    assert popularity.top(2).tolist() == [5, 2]


def test_days_leave_the_window() -> None:
    popularity = Popularity()
    add(popularity, [1, 1, 1], day=100)
    add(popularity, [2], day=106)
    assert popularity.top(5).tolist() == [1, 2]
    add(popularity, [3, 3], day=107)  # day 100 is the eighth day back
    assert popularity.top(5).tolist() == [3, 2]


def test_late_events_count_on_their_own_day() -> None:
    popularity = Popularity()
    add(popularity, [1], day=10)
    add(popularity, [2, 2], day=4)  # six days back: the last day that counts
    add(popularity, [3, 3, 3], day=3)
    assert popularity.top(5).tolist() == [2, 1]


def test_seed_serves_until_seven_days_of_the_stream_have_passed() -> None:
    popularity = Popularity()
    popularity.seed(np.array([4, 6], np.int32), np.array([10, 20], np.float32))
    assert popularity.top(5).tolist() == [6, 4]
    add(popularity, [1], day=50)
    add(popularity, [1], day=56)
    assert popularity.top(5).tolist() == [6, 4, 1]
    add(popularity, [2], day=57)
    assert popularity.top(5).tolist() == [1, 2]


def test_without_events_nothing_is_popular() -> None:
    assert Popularity().top(5).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40)), max_size=40))  # few: each batch ranks again
def test_equals_counting_from_scratch(events: list[tuple[int, int]]) -> None:
    popularity = Popularity()
    newest = -1
    window: list[tuple[int, int]] = []
    for item, day in events:
        add(popularity, [item], day)
        newest = max(newest, day)
        # An event that arrives too old never counts; one that counted leaves with its day.
        window = [(i, d) for i, d in [*window, (item, day)] if d > newest - DAYS]
        counts = np.bincount([i for i, _ in window], minlength=7)
        expected = [item for item in np.argsort(-counts, kind="stable").tolist() if counts[item]]
        assert popularity.top(99).tolist() == expected


@given(
    popular=st.lists(st.integers(0, 12), unique=True, max_size=10),
    taken=st.lists(
        st.lists(st.sampled_from([NO_ITEM, *range(14), FIRST_SEARCH + 3]), min_size=4, max_size=4), max_size=5
    ),
)
def test_untaken_compares_every_item_with_every_taken_one(popular: list[int], taken: list[list[int]]) -> None:
    items, of_users = np.array(popular, np.int32), np.array(taken, np.int32).reshape(-1, 4)
    expected = (items[None, :, None] != of_users[:, None, :]).all(axis=2)
    np.testing.assert_array_equal(untaken(items, of_users), expected)
