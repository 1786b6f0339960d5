"""The next-click judge, against the same rule written down one click at a time."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from engine.arrays import NO_ITEM, Int32
from engine.quality.next_click import PLACES, NextClickJudge, popular_hits, target_ranks
from engine.quality.sent_lists import SentLists
from engine.ranking.popularity import Popularity

DAY_MS = 86_400_000
items = st.integers(0, 30)


def popularity(counts: list[int]) -> Popularity:
    """Item i has counts[i] events, all of one day."""
    made = Popularity()
    numbers = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    made.add(numbers, np.full(len(numbers), DAY_MS))
    return made


def rows(lists: list[list[int]], width: int) -> Int32:
    return np.array([row[:width] + [NO_ITEM] * (width - len(row)) for row in lists], np.int32)


@given(
    st.lists(st.integers(0, 5), min_size=20, max_size=31),
    st.lists(st.tuples(items, st.lists(items, max_size=6), st.integers(0, 12)), min_size=1, max_size=8),
)
@example([0, 0, 1] + [1] * 17, [(2, [], 1)])  # all tie at the end of the ranking
def test_popular_hits_are_those_of_a_list_made_by_hand(
    counts: list[int], clicks: list[tuple[int, list[int], int]]
) -> None:
    ranking = sorted((item for item, count in enumerate(counts) if count), key=lambda item: (-counts[item], item))
    expected = [
        item in [popular for popular in ranking if popular not in window][:count] for item, window, count in clicks
    ]
    hits = popular_hits(
        popularity(counts),
        np.array([item for item, _, _ in clicks], np.int32),
        rows([window for _, window, _ in clicks], 6),
        np.array([count for _, _, count in clicks]),
    )
    assert hits.tolist() == expected


def test_ranks_count_from_one() -> None:
    lists = np.array([[4, 5, NO_ITEM], [4, 5, NO_ITEM], [4, 5, 6]], np.int32)
    assert target_ranks(lists, np.array([4, 7, 6], np.int32)).tolist() == [1, 0, 3]


def test_clicks_are_judged_by_the_release_that_made_the_list() -> None:
    #  u0 has a list of A, u1 one of B, u2 none       u0 clicks 1 (hit) and 99, u1 clicks 2 (hit), u2 clicks 1
    sent = SentLists(8, 12)
    sent.put(np.array([0], np.int32), rows([[1, 2]], 12), "A")
    sent.put(np.array([1], np.int32), rows([[2, 3]], 12), "B")
    judge = NextClickJudge(sent, popularity([0, 0, 9]), exclude_seen=True)
    slots, clicked = np.array([0, 1, 2, 0], np.int32), np.array([1, 2, 1, 99], np.int32)
    verdicts = judge.judge(slots, clicked, np.full((4, 3), NO_ITEM, np.int32))
    assert [(one.release, one.clicks, one.hits, one.popular_hits) for one in verdicts] == [
        ("A", 2, 1, 0),
        ("B", 1, 1, 1),
    ]


def test_an_item_that_was_seen_is_no_popular_hit_where_lists_leave_it_out() -> None:
    sent = SentLists(8, 12)
    sent.put(np.array([0], np.int32), rows([[7, 8]], 12), "A")
    windows = np.array([[2, 2, NO_ITEM]], np.int32)
    for exclude_seen, hits in ((True, 0), (False, 1)):
        judge = NextClickJudge(sent, popularity([0, 0, 9]), exclude_seen=exclude_seen)
        (verdict,) = judge.judge(np.array([0], np.int32), np.array([2], np.int32), windows)
        assert verdict.popular_hits == hits


def test_only_the_first_ten_places_count() -> None:
    sent = SentLists(8, 12)
    sent.put(np.array([0], np.int32), np.arange(12, dtype=np.int32)[None], "A")
    judge = NextClickJudge(sent, popularity([]), exclude_seen=True)
    for item, hits in ((PLACES - 1, 1), (PLACES, 0)):
        (verdict,) = judge.judge(np.zeros(1, np.int32), np.array([item], np.int32), np.full((1, 2), NO_ITEM, np.int32))
        assert verdict.hits == hits


def test_forgotten_users_and_items_leave_the_rest_alone() -> None:
    sent = SentLists(8, 2)
    sent.put(np.array([0, 1, 2], np.int32), np.array([[1, 2], [1, 3], [4, 5]], np.int32), "A")
    sent.forget(np.array([1, 10], np.int32))  # 10 shares the row of 2, and has no list
    sent.forget_items(np.array([4], np.int32))
    known, lists = sent.lists(np.array([0, 1, 2], np.int32))
    assert known.tolist() == [True, False, True]
    assert lists[[0, 2]].tolist() == [[1, 2], [NO_ITEM, 5]]
