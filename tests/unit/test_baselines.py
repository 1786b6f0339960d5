"""The baselines know the past only, rank the way they say, and never show what was seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.arrays import NO_ITEM, Windows
from engine.errors import DataError
from models.data.histories import Histories
from models.evaluation.baselines import HOUR_MS, Neighbours, PopularityBaseline, first_unseen
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
def test_first_unseen_is_what_a_loop_would_find(ranked: np.ndarray, seen: np.ndarray, count: int) -> None:
    for row, found in enumerate(first_unseen(ranked, seen, count).tolist()):
        taken = set(seen[row].tolist()) | {NO_ITEM}
        expected: list[int] = []
        for item in ranked[row].tolist():
            if item not in taken:
                expected.append(item)
                taken.add(item)
        assert found == [*expected, *[NO_ITEM] * count][:count]


@given(
    arrays(np.float32, (3, 7), elements=st.sampled_from([-np.inf, 0.0, 1.0, 2.0])),
    arrays(np.int32, (3, 4), elements=st.integers(-1, 9)),
    st.integers(1, 9),
)
def test_highest_unseen_is_what_sorting_would_find(scores: np.ndarray, seen: np.ndarray, count: int) -> None:
    for row, found in enumerate(highest_unseen(scores, seen, count).tolist()):
        able = [item for item in range(7) if item not in seen[row] and scores[row, item] > -np.inf]
        expected = sorted(able, key=lambda item: (-scores[row, item], item))
        assert found == [*expected, *[NO_ITEM] * count][:count]


def test_popularity_counts_seven_days_before_the_hour() -> None:
    """Item 0 three times on day 1, item 1 twice on day 6, item 2 within the hour of the question on day 10."""
    asked = 10 * DAY_MS + HOUR_MS // 2
    times_ms = np.array([DAY_MS, DAY_MS + 1, DAY_MS + 2, 6 * DAY_MS, 6 * DAY_MS + 1, 10 * DAY_MS + 1], np.int64)
    items = np.array([0, 0, 0, 1, 1, 2], np.int32)
    early = 7 * DAY_MS
    popularity = PopularityBaseline(items, times_ms, np.array([asked, early], np.int64), depth=3)
    # On day 7 item 0 leads; on day 10 only item 1 is recent, and item 0 follows for what it once was.
    found = popularity.ranking(np.array([early, asked], np.int64))
    assert found.tolist() == [[0, 1, NO_ITEM], [1, 0, NO_ITEM]]


def test_popularity_leaves_out_the_window() -> None:
    popularity = PopularityBaseline(
        np.array([4, 4, 2], np.int32), np.zeros(3, np.int64), np.array([DAY_MS], np.int64), depth=3
    )
    found = popularity.lists(windows_of([4], [NO_ITEM]), np.array([DAY_MS, DAY_MS], np.int64), 2)
    assert found.tolist() == [[2, NO_ITEM], [4, 2]]


def test_neighbours_of_the_newest_item_come_first() -> None:
    """Users walk 0 1 2 and 0 1 3 and 7 8: after 1 come 2 and 3, after 7 comes 8; then what is popular (0 and 1)."""
    users = np.array([0, 0, 0, 1, 1, 1, 2, 2], np.int32)
    items = np.array([0, 1, 2, 0, 1, 3, 7, 8], np.int32)
    asked = np.array([DAY_MS], np.int64)
    neighbours = Neighbours(users, items, PopularityBaseline(items, np.zeros(8, np.int64), asked, depth=9))
    found = neighbours.lists(windows_of([7, 1]), asked, 4)[0].tolist()
    assert found == [2, 3, 8, 0]


def test_neighbours_do_not_reach_from_one_user_to_the_next() -> None:
    users, items = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 2, 3], np.int32)
    asked = np.array([DAY_MS], np.int64)
    nothing_popular = PopularityBaseline(np.array([0], np.int32), np.array([2 * DAY_MS], np.int64), asked, depth=4)
    neighbours = Neighbours(users, items, nothing_popular)
    assert neighbours.lists(windows_of([1]), asked, 2).tolist() == [[NO_ITEM, NO_ITEM]]
    assert neighbours.lists(windows_of([99]), asked, 2).tolist() == [[NO_ITEM, NO_ITEM]]


def test_without_any_event_nothing_is_recommended() -> None:
    nothing, asked = np.empty(0, np.int32), np.array([DAY_MS], np.int64)
    popularity = PopularityBaseline(nothing, np.empty(0, np.int64), asked, depth=3)
    for baseline in (popularity, Neighbours(nothing, nothing, popularity)):
        assert baseline.lists(windows_of([1]), asked, 2).tolist() == [[NO_ITEM, NO_ITEM]]


def events_of(*histories: list[int]) -> Histories:
    lengths = [len(history) for history in histories]
    return Histories(
        items=np.concatenate(histories).astype(np.int32),
        times_ms=np.arange(sum(lengths), dtype=np.int64),
        actions=np.ones(sum(lengths), np.uint8),
        starts=np.cumsum([0, *lengths]),
    )


def test_windows_hold_what_came_before_and_nothing_of_others() -> None:
    events = events_of([1, 2, 3], [4, 5])
    assert events.windows(np.array([2, 4, 3]), 2).items.tolist() == [[1, 2], [NO_ITEM, 4], [NO_ITEM, NO_ITEM]]
    longer_than_all_events = events.windows(np.array([2, 4]), 9).items
    assert longer_than_all_events[:, -3:].tolist() == [[NO_ITEM, 1, 2], [NO_ITEM, NO_ITEM, 4]]


def test_a_validation_asks_for_newest_events_and_hides_them() -> None:
    """Of three users with two events or more, half (rounded up) are asked; the fourth has nothing to be asked from."""
    events = events_of([1, 2, 3], [4, 5], [6, 7], [8])
    validation = BaselineValidation(events, window_length=5)
    newest = {0: 3, 1: 5, 2: 7}
    hidden = [newest[user] for user in validation.users.tolist()]
    assert len(hidden) == 2
    assert validation.rest().items.tolist() == [item for item in events.items.tolist() if item not in hidden]
    with pytest.raises(DataError, match="no user has two events"):
        BaselineValidation(events_of([1], [2]), window_length=5)


def test_older_events_become_sequences_of_their_own() -> None:
    pytest.importorskip("rectools", reason="SASRec is RecTools': see the extra compare in pyproject.toml")
    from models.evaluation.baselines.sasrec import sessions  # noqa: PLC0415 - only where it is installed

    # Sequences of 2 inputs take 3 events, counted from the newest: 1 | 2 3 4 of user 0, and 5 6 of user 1.
    assert sessions(events_of([1, 2, 3, 4], [5, 6]), 2).tolist() == [2, 0, 0, 0, 1, 1]
