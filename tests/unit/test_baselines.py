"""Baselines know the past alone, rank as documented, and list nothing that is in the window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.arrays import NO_ITEM, Windows
from engine.errors import DataError
from models.data.histories import Histories
from models.data.popularity_at import HOUR_MS
from models.evaluation.baselines import Neighbours, PopularityBaseline, first_unseen
from models.evaluation.baselines.baseline import highest_unseen
from models.evaluation.baselines.task import BaselineValidation

DAY_MS = 24 * HOUR_MS


def windows_of(*items: list[int]) -> Windows:
    rows = np.array(items, np.int32)
    return Windows(rows, np.zeros(rows.shape, np.int64), np.ones(rows.shape, np.uint8))


@given(
    arrays(np.int32, (3, 9), elements=st.integers(-1, 6)),
    arrays(np.int32, (3, 4), elements=st.integers(-1, 6)),
    st.integers(1, 8),
)
def test_first_unseen_agrees_with_a_loop(ranked: np.ndarray, seen: np.ndarray, count: int) -> None:
    for row, items in enumerate(first_unseen(ranked, seen, count).tolist()):
        excluded = set(seen[row].tolist()) | {NO_ITEM}
        expected: list[int] = []
        for item in ranked[row].tolist():
            if item not in excluded:
                expected.append(item)
                excluded.add(item)
        assert items == [*expected, *[NO_ITEM] * count][:count]


@given(
    arrays(np.float32, (3, 7), elements=st.sampled_from([-np.inf, 0.0, 1.0, 2.0])),
    arrays(np.int32, (3, 4), elements=st.integers(-1, 9)),
    st.integers(1, 9),
)
def test_highest_unseen_agrees_with_sorting(scores: np.ndarray, seen: np.ndarray, count: int) -> None:
    for row, items in enumerate(highest_unseen(scores, seen, count).tolist()):
        unseen = [item for item in range(7) if item not in seen[row] and scores[row, item] > -np.inf]
        expected = sorted(unseen, key=lambda item: (-scores[row, item], item))
        assert items == [*expected, *[NO_ITEM] * count][:count]


def test_popularity_counts_seven_days_before_the_hour() -> None:
    """Item 0 three times on day 1, item 1 twice on day 6, item 2 within the hour of the query on day 10."""
    late = 10 * DAY_MS + HOUR_MS // 2
    times_ms = np.array([DAY_MS, DAY_MS + 1, DAY_MS + 2, 6 * DAY_MS, 6 * DAY_MS + 1, 10 * DAY_MS + 1], np.int64)
    items = np.array([0, 0, 0, 1, 1, 2], np.int32)
    early = 7 * DAY_MS
    popularity = PopularityBaseline(items, times_ms, np.array([late, early], np.int64), depth=3)
    # On day 7 item 0 leads; on day 10 only item 1 is recent, and item 0 follows for its older events.
    rankings = popularity.ranking(np.array([early, late], np.int64))
    assert rankings.tolist() == [[0, 1, NO_ITEM], [1, 0, NO_ITEM]]


def test_popularity_leaves_out_the_window() -> None:
    popularity = PopularityBaseline(
        np.array([4, 4, 2], np.int32), np.zeros(3, np.int64), np.array([DAY_MS], np.int64), depth=3
    )
    lists = popularity.lists(windows_of([4], [NO_ITEM]), np.array([DAY_MS, DAY_MS], np.int64), 2)
    assert lists.tolist() == [[2, NO_ITEM], [4, 2]]


def test_neighbours_of_the_newest_item_come_first() -> None:
    """Users walk 0 1 2 and 0 1 3 and 7 8: 2 and 3 follow 1, 8 follows 7; then the popular items (0 and 1)."""
    users = np.array([0, 0, 0, 1, 1, 1, 2, 2], np.int32)
    items = np.array([0, 1, 2, 0, 1, 3, 7, 8], np.int32)
    times_ms = np.array([DAY_MS], np.int64)
    neighbours = Neighbours(users, items, PopularityBaseline(items, np.zeros(8, np.int64), times_ms, depth=9))
    assert neighbours.lists(windows_of([7, 1]), times_ms, 4).tolist() == [[2, 3, 8, 0]]


def test_neighbours_do_not_reach_from_one_user_to_the_next() -> None:
    users, items = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 2, 3], np.int32)
    times_ms = np.array([DAY_MS], np.int64)
    nothing_popular = PopularityBaseline(np.array([0], np.int32), np.array([2 * DAY_MS], np.int64), times_ms, depth=4)
    neighbours = Neighbours(users, items, nothing_popular)
    assert neighbours.lists(windows_of([1]), times_ms, 2).tolist() == [[NO_ITEM, NO_ITEM]]
    assert neighbours.lists(windows_of([99]), times_ms, 2).tolist() == [[NO_ITEM, NO_ITEM]]


def test_without_any_event_nothing_is_recommended() -> None:
    nothing, times_ms = np.empty(0, np.int32), np.array([DAY_MS], np.int64)
    popularity = PopularityBaseline(nothing, np.empty(0, np.int64), times_ms, depth=3)
    for baseline in (popularity, Neighbours(nothing, nothing, popularity)):
        assert baseline.lists(windows_of([1]), times_ms, 2).tolist() == [[NO_ITEM, NO_ITEM]]


def events_of(*histories: list[int]) -> Histories:
    lengths = [len(history) for history in histories]
    return Histories(
        items=np.concatenate(histories).astype(np.int32),
        times_ms=np.arange(sum(lengths), dtype=np.int64),
        actions=np.ones(sum(lengths), np.uint8),
        starts=np.cumsum([0, *lengths]),
    )


def test_windows_hold_earlier_events_of_the_same_user() -> None:
    events = events_of([1, 2, 3], [4, 5])
    assert events.windows(np.array([2, 4, 3]), 2).items.tolist() == [[1, 2], [NO_ITEM, 4], [NO_ITEM, NO_ITEM]]
    longer_than_all_events = events.windows(np.array([2, 4]), 9).items
    assert longer_than_all_events[:, -3:].tolist() == [[NO_ITEM, 1, 2], [NO_ITEM, NO_ITEM, 4]]


def test_a_validation_has_newest_events_as_targets_and_hides_them() -> None:
    """Of three users with two events or more, half (rounded up) have a target; the fourth has no event before it."""
    events = events_of([1, 2, 3], [4, 5], [6, 7], [8])
    validation = BaselineValidation(events, window_length=5)
    newest = {0: 3, 1: 5, 2: 7}
    targets = [newest[user] for user in validation.users.tolist()]
    assert len(targets) == 2
    training_items = validation.training_events().items.tolist()
    assert training_items == [item for item in events.items.tolist() if item not in targets]
    with pytest.raises(DataError, match="no user has two events"):
        BaselineValidation(events_of([1], [2]), window_length=5)


def test_older_events_become_sequences_of_their_own() -> None:
    pytest.importorskip("rectools", reason="SASRec is RecTools': see the extra compare in pyproject.toml")
    from models.evaluation.baselines.sasrec import sessions  # noqa: PLC0415 - only where it is installed

    # Sequences of 2 inputs take 3 events, counted from the newest: 1 | 2 3 4 of user 0, and 5 6 of user 1.
    assert sessions(events_of([1, 2, 3, 4], [5, 6]), 2).tolist() == [2, 0, 0, 0, 1, 1]
