"""Items whose share of all events has risen: quantiles by hand, and a stream in which it is known which ones have."""

import numpy as np
import pytest
from scipy.stats import gamma, norm

from engine.arrays import Int64
from engine.ranking.trending import RecentEvents, lowest_rise, trending

HOUR_MS = 3_600_000
ITEMS = 5_000
QUANTILE = norm.cdf(-3.09)


def counts(*pairs: tuple[int, int], size: int = 6) -> Int64:
    array = np.zeros(size, np.int64)
    for item, count in pairs:
        array[item] = count
    return array


@pytest.mark.parametrize(("events", "expected"), [(5, 0.0), (20, 0.0), (30, 12.5), (900, 1000.0)])
def test_the_lowest_rise_is_a_quantile_of_the_posterior(events: int, expected: float) -> None:
    exact = gamma.ppf(QUANTILE, 4 + events, scale=1 / (4 + expected))
    assert lowest_rise(np.array([events]), np.array([expected]))[0] == pytest.approx(exact, rel=0.03)


def test_an_item_that_has_its_share_of_a_busy_hour_does_not_trend() -> None:
    week = np.array([1000, 2000, 4000, 0, 0, 0], np.float32)
    recent = counts((0, 250), (1, 500), (2, 1000))  # ten times as much of everything
    items, _ = trending(recent, week + recent.astype(np.float32), 6)
    assert not len(items)


def test_an_item_with_more_than_its_share_trends_and_by_less_than_it_seems() -> None:
    before = np.array([1000, 2000, 4000, 0, 0, 0], np.float32)
    recent = counts((0, 60), (1, 40), (2, 80), (5, 30))  # expected of 210: 30, 60, 120, 0
    items, rises = trending(recent, before + recent.astype(np.float32), 6)
    assert items.tolist() == [5, 0]
    assert 1.0 < rises[1] < 60 / 30
    assert trending(recent, before + recent.astype(np.float32), 1)[0].tolist() == [5]


def test_without_a_past_nothing_trends() -> None:
    recent = counts((0, 50))
    assert not len(trending(recent, recent.astype(np.float32), 6)[0])
    assert not len(trending(recent[:0], np.empty(0, np.float32), 6)[0])


def test_the_items_that_were_made_to_rise_trend_and_hardly_any_other() -> None:
    rng = np.random.default_rng(7)
    popularity = 1.0 / np.arange(1, ITEMS + 1)
    popularity /= popularity.sum()
    week = rng.poisson(popularity * 2_000_000)
    risen = [10, 40, 160, 640]
    rates = popularity.copy()
    rates[risen] = popularity[risen] * 3 + 0.002
    rates[-1] = 0.003  # an item of this hour
    week[-1] = 0
    recent = rng.poisson(rates / rates.sum() * 30_000)
    items, rises = trending(recent, (week + recent).astype(np.float32), ITEMS)
    assert {*items[:5].tolist()} == {*risen, ITEMS - 1}
    assert items[0] == ITEMS - 1
    assert len(items) <= 5 + 0.001 * ITEMS  # one in a thousand by chance
    true = rates[items[:5]] / rates.sum() / np.maximum(week[items[:5]] / week.sum(), 1e-9)
    assert (rises[:5] <= true).all()


def test_an_event_counts_for_an_hour_of_event_time() -> None:
    recent, start_ms = RecentEvents(), 1_700_000_000_000 // HOUR_MS * HOUR_MS
    recent.add(np.array([3, 3, 1], np.int32), np.array([start_ms, start_ms + 1, start_ms + 60_000]))
    assert recent.counts()[:4].tolist() == [0, 1, 0, 2]
    recent.add(np.array([2], np.int32), np.array([start_ms + 55 * 60_000]))
    assert recent.counts()[:4].tolist() == [0, 1, 1, 2]
    recent.add(np.array([1, 2], np.int32), np.array([start_ms + HOUR_MS, start_ms - HOUR_MS]))  # one is late
    assert recent.counts()[:4].tolist() == [0, 1, 1, 0]
    recent.add(np.array([0], np.int32), np.array([start_ms + 9 * HOUR_MS]))
    assert recent.counts()[:4].tolist() == [1, 0, 0, 0]
    recent.forget(np.array([0, 99], np.int32))
    assert not recent.counts().any()
    recent.add(np.empty(0, np.int32), np.empty(0, np.int64))
