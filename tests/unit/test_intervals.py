"""Intervals with values that can be worked out by hand, and properties of all intervals."""

from math import sqrt
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation import intervals

Z = 1.959963984540054

entries = st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 1.0)), min_size=1, max_size=40)


def columns(pairs: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    users, values = zip(*pairs, strict=True)
    return np.array(values), np.array(users, np.int32)


def half_width(values: list[float], users: list[int]) -> float:
    interval = intervals.mean(np.array(values), np.array(users, np.int32)).interval
    assert interval is not None
    return (interval[1] - interval[0]) / 2


def test_one_value_a_user_has_the_interval_of_a_mean() -> None:
    """Mean 1/4 of four users; squares of residuals add up to 3/4, so the standard error is sqrt(4/3 · 3/4) / 4."""
    estimate = intervals.mean(np.array([1.0, 0.0, 0.0, 0.0]), np.arange(4, dtype=np.int32))
    assert estimate.value == 1 / 4
    assert estimate.interval == pytest.approx((1 / 4 - Z / 4, 1 / 4 + Z / 4))


def test_values_of_one_user_count_as_one_cluster() -> None:
    """User 7 hit 3 of 3, user 2 none of 1: mean 3/4, residuals 3/4 and -3/4, standard error sqrt(2 · 2 · 9/16) / 4."""
    estimate = intervals.mean(np.array([1.0, 1.0, 0.0, 1.0]), np.array([7, 7, 2, 7], np.int32))
    assert estimate.value == 3 / 4
    assert estimate.interval == pytest.approx((3 / 4 - Z * 3 / 8, 3 / 4 + Z * 3 / 8))


def test_repeating_a_users_values_narrows_nothing() -> None:
    once = half_width([1.0, 0.0, 1.0], [0, 1, 2])
    assert half_width([1.0, 0.0, 1.0] * 50, [0, 1, 2] * 50) == pytest.approx(once)
    assert half_width([1.0, 0.0, 1.0] * 50, list(range(150))) < once / 5


def test_a_ratio_of_sums() -> None:
    """(1 + 5) / (2 + 2) = 3/2; residuals 1 - 3 and 5 - 3, standard error sqrt(2 · 8) / 4 = 1."""
    estimate = intervals.ratio(np.array([1.0, 5.0]), np.array([2.0, 2.0]), np.array([0, 1], np.int32))
    assert estimate.value == 3 / 2
    assert estimate.interval == pytest.approx((3 / 2 - Z, 3 / 2 + Z))


def test_a_zero_denominator_and_a_single_user() -> None:
    undefined = intervals.ratio(np.ones(2), np.zeros(2), np.arange(2, dtype=np.int32))
    assert (undefined.value, undefined.interval) == (None, None)
    single_user = intervals.mean(np.array([1.0, 0.0]), np.zeros(2, np.int32))
    assert (single_user.value, single_user.interval) == (1 / 2, None)
    assert intervals.mean(np.zeros(0), np.zeros(0, np.int32)).value is None


def test_an_interval_is_clipped_to_the_metrics_range() -> None:
    estimate = intervals.mean(np.array([1.0, 0.0, 0.0, 0.0]), np.arange(4, dtype=np.int32)).clipped(0.0, 1.0)
    assert estimate.interval == pytest.approx((0.0, 1 / 4 + Z / 4))


@given(entries)
def test_an_interval_contains_the_mean_and_is_repeatable(pairs: list[tuple[int, float]]) -> None:
    values, users = columns(pairs)
    estimate = intervals.mean(values, users)
    assert estimate == intervals.mean(values.copy(), users.copy())
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.interval is None) == (len(set(users.tolist())) < 2)
    if estimate.interval and estimate.value is not None:
        assert estimate.interval[0] <= estimate.value <= estimate.interval[1]


@given(entries, st.permutations(range(6)), st.randoms())
def test_order_and_names_of_users_do_not_matter(
    pairs: list[tuple[int, float]], names: list[int], random: Random
) -> None:
    renamed = [(names[user], value) for user, value in pairs]
    random.shuffle(renamed)
    first, second = intervals.mean(*columns(pairs)), intervals.mean(*columns(renamed))
    assert second.value == pytest.approx(first.value)
    assert second.interval == (None if first.interval is None else pytest.approx(first.interval, abs=1e-12))


@given(entries, st.integers(2, 9))
def test_an_interval_shrinks_with_copies_of_the_users(pairs: list[tuple[int, float]], times: int) -> None:
    """With `times` copies of U users its width shrinks by sqrt((U - 1) / (U · times - 1))."""
    values, users = columns(pairs)
    count = len(set(users.tolist()))
    few = intervals.mean(values, users).interval
    many = intervals.mean(np.tile(values, times), np.concatenate([users + 6 * copy for copy in range(times)])).interval
    if few is None:
        return
    assert many is not None
    shrunk = (few[1] - few[0]) * sqrt((count - 1) / (count * times - 1))
    assert many[1] - many[0] == pytest.approx(shrunk, abs=1e-12)


def test_ninety_five_of_a_hundred_intervals_contain_the_true_mean() -> None:
    """Users with 1 to 20 values each, their own rates around 0.3: without clusters the intervals are too narrow."""
    rng = np.random.default_rng(0)
    rounds, covered, covered_unclustered = 400, 0, 0
    for _ in range(rounds):
        counts = rng.integers(1, 21, 200)
        users = np.repeat(np.arange(200, dtype=np.int32), counts)
        values = (rng.random(len(users)) < rng.beta(3.0, 7.0, 200)[users]).astype(np.float64)
        clustered = intervals.mean(values, users).interval
        unclustered = intervals.mean(values, np.arange(len(users), dtype=np.int32)).interval
        assert clustered is not None
        assert unclustered is not None
        covered += clustered[0] <= 0.3 <= clustered[1]
        covered_unclustered += unclustered[0] <= 0.3 <= unclustered[1]
    assert 0.92 <= covered / rounds <= 0.98
    assert covered_unclustered / rounds < 0.9
