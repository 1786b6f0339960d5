"""Splits and ranking metrics, with values that can be worked out by hand."""

from math import log2, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import NO_ITEM
from engine.releases.bundles import Holdout
from models.data import splits
from models.data.dataset import Interactions
from models.evaluation import ranking_metrics
from models.evaluation.ranking_metrics import MetricAccumulator
from models.settings import HoldoutName


def interactions(users: list[int], times_ms: list[int]) -> Interactions:
    count = len(users)
    return Interactions(
        users=np.array(users, np.int32),
        items=np.arange(count, dtype=np.int32),
        times_ms=np.array(times_ms, np.int64),
        actions=np.zeros(count, np.int32),
        user_ids=["a", "b", "c"],
        item_ids=[str(item) for item in range(count)],
        action_names=[""],
    )


#                    a  b  a  c  b  b  a  c  c  a
DATA = interactions([0, 1, 0, 2, 1, 1, 0, 2, 2, 0], [10, 20, 30, 40, 50, 60, 70, 80, 90, 90])


def test_the_newest_event_of_each_user() -> None:
    assert np.flatnonzero(splits.newest(DATA)).tolist() == [5, 8, 9]


def test_the_time_split_begins_after_nine_tenths_of_the_events_and_takes_ties_along() -> None:
    holdout = splits.holdout(DATA.histories(), "time")
    assert holdout == Holdout(last_event=False, from_ms=90)
    assert np.flatnonzero(splits.held_out(DATA, holdout)).tolist() == [8, 9]


@pytest.mark.parametrize(("name", "events"), [("none", []), ("last", [5, 8, 9]), ("time", [8, 9]), ("both", [5, 8, 9])])
def test_events_that_each_holdout_leaves_out(name: HoldoutName, events: list[int]) -> None:
    assert np.flatnonzero(splits.held_out(DATA, splits.holdout(DATA.histories(), name))).tolist() == events


def scored(catalogue: int, popularity: list[int], *lists: tuple[int, list[int], int]) -> MetricAccumulator:
    """An accumulator of lists: user, items (filled up to 20 with NO_ITEM) and target."""
    accumulator = MetricAccumulator(np.arange(catalogue, dtype=np.int32), np.array(popularity))
    for user, items, target in lists:
        filled = np.array([[*items, *[NO_ITEM] * (20 - len(items))]], np.int32)
        accumulator.add(np.array([user], np.int32), filled, np.array([target], np.int32))
    return accumulator


def test_figures_of_three_lists() -> None:
    """Targets at rank 1, at rank 12 and not listed; 20 of 40 items are in the first ten positions."""
    accumulator = MetricAccumulator(np.arange(40, dtype=np.int32), np.ones(40, np.int64))
    first, second = np.arange(20, dtype=np.int32), np.arange(20, 40, dtype=np.int32)
    accumulator.add(np.array([0, 1], np.int32), np.stack([first, second]), np.array([0, 31], np.int32))
    accumulator.add(np.array([2], np.int32), first[None], np.array([39], np.int32))
    figures = accumulator.figures()
    assert set(figures.pop("intervals")) == {"hr10", "ndcg10", "hr20", "mrr", "popularity_bias"}
    assert figures == pytest.approx(
        {
            "hr10": 1 / 3,
            "ndcg10": 1 / 3,
            "hr20": 2 / 3,
            "mrr": (1 + 1 / 12) / 3,
            "coverage": 20 / 40,
            "popularity_bias": 0.0,
        }
    )


def test_gains_by_rank() -> None:
    lists = np.broadcast_to(np.arange(25, dtype=np.int32), (4, 25))
    accumulator = MetricAccumulator(np.arange(25, dtype=np.int32), np.ones(25, np.int64))
    accumulator.add(np.arange(4, dtype=np.int32), lists, np.array([1, 9, 10, 20], np.int32))
    assert accumulator.ranks.tolist() == [2, 10, 11, 21]
    gains = ranking_metrics.gains(accumulator.ranks)
    assert gains["hr10"].tolist() == [1, 1, 0, 0]
    assert gains["ndcg10"].tolist() == pytest.approx([1 / log2(3), 1 / log2(11), 0, 0])
    assert gains["hr20"].tolist() == [1, 1, 1, 0]
    assert gains["mrr"].tolist() == pytest.approx([1 / 2, 1 / 10, 1 / 11, 0])


def test_users_with_many_targets_widen_the_interval() -> None:
    """The same six lists, of six users or of two: the hits of one user are correlated."""
    lists, targets = [[0]] * 3 + [[1]] * 3, [0] * 6
    six = scored(2, [1, 1], *zip(range(6), lists, targets, strict=True)).figures()
    two = scored(2, [1, 1], *zip([0, 0, 0, 1, 1, 1], lists, targets, strict=True)).figures()
    assert six["hr10"] == two["hr10"] == 1 / 2
    assert six["intervals"]["hr10"][0] > two["intervals"]["hr10"][0] == 0.0


def test_popularity_bias_compares_lists_with_targets() -> None:
    """Lists of popularity (6 + 2) / 2 and 6, targets of 2 and 2: (4 + 6) / (2 + 2) - 1."""
    assert scored(3, [6, 2, 2], (0, [0, 1], 1), (1, [0], 2)).figures()["popularity_bias"] == pytest.approx(3 / 2)


def test_popularity_bias_of_the_first_ten_positions_only() -> None:
    accumulator = scored(12, [1] * 10 + [99, 1], (0, list(range(11)), 0), (1, list(range(11)), 11))
    assert accumulator.figures()["popularity_bias"] == 0.0


def test_targets_without_training_events_leave_no_popularity_bias() -> None:
    figures = scored(2, [5, 0], (0, [0], 1), (1, [0], 1)).figures()
    assert figures["popularity_bias"] is None
    assert "popularity_bias" not in figures["intervals"]


def test_the_lead_is_paired_by_target() -> None:
    """The release hits 3 of 4, the baseline 2 of 4: +1, +1, 0, -1, mean 1/4, error sqrt(4/3 · 11/4) / 4."""
    release = scored(2, [1, 1], (0, [0], 0), (1, [0], 0), (2, [0], 0), (3, [1], 0))
    baseline = scored(2, [1, 1], (0, [1], 0), (1, [1], 0), (2, [0], 0), (3, [0], 0))
    lead = release.lead(baseline)
    error = sqrt(4 / 3 * 11 / 4) / 4
    assert lead["hr10"] == 1 / 4
    assert lead["intervals"]["hr10"] == pytest.approx((1 / 4 - 1.959964 * error, 1 / 4 + 1.959964 * error))
    assert baseline.lead(release)["ndcg10"] == -lead["ndcg10"]
    assert release.lead(release)["intervals"]["mrr"] == (0.0, 0.0)


def test_the_lead_over_seeds_counts_the_mean_gain_of_each_target() -> None:
    """Two seeds hit target 0 once and target 1 twice; the baseline's one seed hits target 0: (-1/2 + 1) / 2."""
    miss = ranking_metrics.NOT_LISTED
    lead = ranking_metrics.lead(np.array([[1, 1], [miss, 1]]), np.array([[1, miss]]), np.array([0, 1], np.int32))
    assert lead["hr10"] == lead["mrr"] == 1 / 4
    error = sqrt(2 / 1 * (9 / 16 + 9 / 16)) / 2
    assert lead["intervals"]["hr10"] == pytest.approx((1 / 4 - 1.959964 * error, 1 / 4 + 1.959964 * error))


def test_an_empty_list_neither_hits_nor_covers() -> None:
    figures = scored(5, [1] * 5, (0, [], 4)).figures()
    assert {figures[metric] for metric in ("hr10", "ndcg10", "hr20", "mrr", "coverage")} == {0.0}
    assert figures["intervals"] == {}


@given(st.lists(st.integers(0, 4), max_size=40))
def test_earlier_events_of_the_same_user(users: list[int]) -> None:
    counts = splits.earlier(np.array(users, np.int32))
    assert counts.tolist() == [users[:index].count(user) for index, user in enumerate(users)]
