"""Popularity at the times of recorded queries is what a worker would have counted by then."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.ranking.popularity import Popularity
from models.data.popularity_at import HOUR_MS, PopularityAt

ITEMS = 6


@given(st.integers(0, 1_000), st.lists(st.integers(0, 24 * 20), min_size=1, max_size=8))
def test_the_counts_are_those_of_a_worker(seed: int, hours: list[int]) -> None:
    rng = np.random.default_rng(seed)
    items = rng.integers(0, ITEMS, 60).astype(np.int32)
    times_ms = rng.integers(0, 20 * 24 * HOUR_MS, 60)
    recorded = PopularityAt(items, times_ms, ITEMS)
    every_item = np.arange(ITEMS, dtype=np.int32)
    for hour in hours:  # in any order
        recorded.move_to(hour * HOUR_MS + HOUR_MS // 2)
        worker, before = Popularity(), times_ms < hour * HOUR_MS
        # A worker's newest day is that of its newest event: one in the hour of the query, which is then left out.
        worker.add(np.append(items[before], ITEMS).astype(np.int32), np.append(times_ms[before], hour * HOUR_MS))
        extra = worker.shares(np.array([ITEMS], np.int32))[0]  # one event in all
        counts = worker.shares(every_item) / extra
        np.testing.assert_allclose(recorded.shares(every_item), counts / max(1.0, 1.0 / extra - 1.0), rtol=1e-4)
        assert recorded.top(ITEMS).tolist() == [item for item in worker.top(ITEMS + 1).tolist() if item != ITEMS]


def test_the_generation_changes_with_the_counts_alone() -> None:
    recorded = PopularityAt(np.array([1, 2], np.int32), np.array([HOUR_MS, 5 * HOUR_MS]), ITEMS)
    recorded.move_to(2 * HOUR_MS)
    generation = recorded.generation
    recorded.move_to(4 * HOUR_MS)
    assert recorded.generation == generation
    recorded.move_to(6 * HOUR_MS)
    assert recorded.generation != generation
