"""Breakdowns on data small enough to count by hand."""

from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.retrieval.index import ExactIndex, HnswIndex
from engine.settings.sections import IndexSettings
from models.data.dataset import Interactions
from models.evaluation import breakdowns, ranking_metrics
from models.evaluation.breakdowns import InterestsInUse, MeasuredIndex
from models.evaluation.ranking_metrics import NOT_LISTED

HOUR_MS = 3_600_000


def interactions(users: list[int], items: list[int], hours: list[float]) -> Interactions:
    return Interactions(
        users=np.array(users, np.int32),
        items=np.array(items, np.int32),
        times_ms=np.array([round(HOUR_MS * hour) for hour in hours], np.int64),
        actions=np.zeros(len(users), np.int32),
        user_ids=[f"u{user}" for user in range(max(users) + 1)],
        item_ids=[f"i{item}" for item in range(max(items) + 1)],
        action_names=[""],
    )


#                    user a  b  a  a  a  b
DATA = interactions([0, 1, 0, 0, 0, 1], [5, 3, 5, 3, 5, 4], [0, 1, 1.5, 2, 30, 40])
TARGETS = np.array([1, 2, 4, 5])
RANKS = np.array([1, NOT_LISTED, 10, 20])


def test_by_history_counts_the_users_earlier_events() -> None:
    """Targets have 0, 1, 3 and 1 events of their user before them."""
    rows = breakdowns.by_history(DATA, TARGETS, RANKS)
    assert [(row["label"], row["targets"], row["users"]) for row in rows] == [("0", 1, 1), ("1", 2, 2), ("3-5", 1, 1)]
    assert [row["hr10"] for row in rows] == [1.0, 0.0, 1.0]
    assert [row["hr20"] for row in rows] == [1.0, 1 / 2, 1.0]
    assert rows[1]["mrr"] == (0 + 1 / 20) / 2


def test_by_item_age_counts_from_the_items_first_event() -> None:
    """Item 3 has its first event; item 5 is 1.5 and 30 hours old; item 4 has its first event."""
    rows = breakdowns.by_item_age(DATA, TARGETS, RANKS)
    assert [(row["label"], row["targets"]) for row in rows] == [("new", 2), ("<1 day", 1), ("<1 week", 1)]
    assert [row["hr10"] for row in rows] == [1 / 2, 0.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 25)), min_size=1, max_size=60))
def test_rows_add_up_to_the_whole(events: list[tuple[int, int, int]]) -> None:
    users, items, ranks = (np.array(column) for column in zip(*events, strict=True))
    data = interactions(users.tolist(), items.tolist(), [float(number**2) for number in range(len(events))])
    targets = np.arange(len(events))
    for rows in (breakdowns.by_history(data, targets, ranks), breakdowns.by_item_age(data, targets, ranks)):
        assert sum(row["targets"] for row in rows) == len(events)
        for metric, gains in ranking_metrics.gains(ranks).items():
            assert sum(row[metric] * row["targets"] for row in rows) == pytest.approx(gains.sum())


def test_interests_in_use() -> None:
    """Lists of one interest, of two in shares of 3/4 and 1/4, of none, and one whose eleventh item does not count."""
    in_use = InterestsInUse(3)
    in_use.add(np.array([[0] * 4 + [-1] * 8, [2, 2, 2, 0] + [-1] * 8, [-1] * 12], np.int32))
    in_use.add(np.array([[1] * 10 + [0, 0]], np.int32))
    report = in_use.report()
    assert report["lists"] == [1, 2, 1, 0]
    assert report["positions"] == [5, 10, 3]
    mixed = exp(-(3 / 4 * log(3 / 4) + 1 / 4 * log(1 / 4)))
    assert report["effective"] == pytest.approx((1 + mixed + 1) / 3)


def test_no_interest_in_use_has_no_effective_number() -> None:
    in_use = InterestsInUse(2)
    in_use.add(np.full((3, 10), -1, np.int32))
    assert in_use.report() == {"effective": None, "lists": [3, 0, 0], "positions": [0, 0]}


class WithoutNearest(ExactIndex):
    """Finds the items from the second nearest on."""

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = super().search(queries, count + 1)
        return rows[:, 1:], scores[:, 1:]


def test_recall_of_an_index_that_misses_the_nearest_item() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 4)).astype(np.float32)
    measured = MeasuredIndex(WithoutNearest(vectors), ExactIndex(vectors), interests=2, lists=6, depth=4)
    for lists in (5, 1):
        queries = rng.normal(size=(lists * 2, 4)).astype(np.float32)
        assert (measured.search(queries, 4)[0] == WithoutNearest(vectors).search(queries, 4)[0]).all()
    measured.search(queries, 9)  # deeper than usual: not measured
    assert measured.report() == {
        "kind": "hnsw",
        "searches": 12,
        "recall": 3 / 4,
        "recall_by_rank": [0.0, 1.0, 1.0, 1.0],
    }


def test_of_many_lists_an_even_sample_is_measured_with_all_interests() -> None:
    vectors = np.eye(8, dtype=np.float32)
    measured = MeasuredIndex(ExactIndex(vectors), ExactIndex(vectors), interests=4, lists=2_000, depth=3)
    for _ in range(10):
        measured.search(np.ones((7 * 4, 8), np.float32), 3)
    assert measured.report()["searches"] == 4 * len(range(0, 70, 4))
    assert measured.report()["recall"] == 1.0


def test_recall_of_hnsw_counts_common_rows() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(400, 8)).astype(np.float32)
    hnsw = HnswIndex(vectors, IndexSettings(m=4, ef_construction=20, ef_search=10), threads=1)
    measured = MeasuredIndex(hnsw, ExactIndex(vectors), interests=1, lists=100, depth=10)
    queries = rng.normal(size=(100, 8)).astype(np.float32)
    rows, nearest = measured.search(queries, 10)[0], ExactIndex(vectors).search(queries, 10)[0]
    hits = sum(len(set(row) & set(exact)) for row, exact in zip(rows.tolist(), nearest.tolist(), strict=True))
    assert measured.report()["recall"] == pytest.approx(hits / 1000)
    assert 0 < hits < 1000
