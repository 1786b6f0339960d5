"""The two sorts of engine/retrieval/candidates.py compared with a plain merge of result lists."""

from typing import TypeVar
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import NO_ITEM
from engine.retrieval import candidates

USERS, INTERESTS, DEPTH, SEEN = 3, 2, 4, 3
Value = TypeVar("Value")
any_row = st.integers(-1, 8)
any_score = st.sampled_from([-2.5, -1.0, 0.0, 0.5, 1.0, 3.25])  # few values, far apart: ties happen, rounding does not


def repeated(values: st.SearchStrategy[Value], count: int) -> st.SearchStrategy[list[Value]]:
    return st.lists(values, min_size=count, max_size=count)


def results_of(values: st.SearchStrategy[Value]) -> st.SearchStrategy[list[list[list[Value]]]]:
    """[USERS, INTERESTS, DEPTH]"""
    return repeated(repeated(repeated(values, DEPTH), INTERESTS), USERS)


def merged_plainly(result_rows: list[list[int]], result_scores: list[list[float]], seen: list[int]) -> dict[int, float]:
    """Best score of each item among a user's results that the user has not seen."""
    best: dict[int, float] = {}
    for interest_rows, interest_scores in zip(result_rows, result_scores, strict=True):
        for row, score in zip(interest_rows, interest_scores, strict=True):
            if row != NO_ITEM and row not in seen:
                best[row] = max(score, best.get(row, -np.inf))
    return best


@given(
    results_of(any_row),
    results_of(any_score),
    repeated(repeated(any_row, SEEN), USERS),
    st.integers(1, 10),
    st.sampled_from([0, candidates.MAX_PLACES]),
)
def test_merge_equals_a_plain_merge(
    rows: list[list[list[int]]], scores: list[list[list[float]]], seen: list[list[int]], keep: int, max_places: int
) -> None:
    with patch.object(candidates, "MAX_PLACES", max_places):  # 0: by the way that takes any number of results
        merged = candidates.merge(
            np.array(rows, np.int32), np.array(scores, np.float32), np.array(seen, np.int32), keep
        )
    for user in range(USERS):
        best = merged_plainly(rows[user], scores[user], seen[user])
        expected = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:keep]
        filled = merged.rows[user] != NO_ITEM
        kept_rows, kept_scores = merged.rows[user][filled].tolist(), merged.scores[user][filled].tolist()
        assert list(zip(kept_rows, kept_scores, strict=True)) == expected
        assert merged.counts[user] == len(best)
        assert (merged.scores[user][~filled] == -np.inf).all()
        for row, score, interest in zip(kept_rows, kept_scores, merged.interests[user][filled].tolist(), strict=True):
            assert (row, score) in list(zip(rows[user][interest], scores[user][interest], strict=True))
    kept = sum(len(merged_plainly(rows[user], scores[user], seen[user])) for user in range(USERS))
    result_count = int((np.array(rows) != NO_ITEM).sum())
    seen_count = sum(len({*np.ravel(rows[user]).tolist()} & set(seen[user]) - {NO_ITEM}) for user in range(USERS))
    assert merged.seen == seen_count
    assert kept + merged.duplicates + merged.seen == result_count


def test_scores_close_together_keep_their_order() -> None:
    close = np.float32(1.0) + np.arange(5, dtype=np.float32) * np.finfo(np.float32).eps
    merged = candidates.merge(
        np.arange(5, dtype=np.int32).reshape(1, 1, 5), close.reshape(1, 1, 5), np.full((1, 1), NO_ITEM, np.int32), 5
    )
    assert merged.rows[0].tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("interests", "depth"),
    [
        (16, 1023),  # the last that packed words can number, and the first that they cannot
        (16383, 1),
        (16, 1200),  # K * (count + L) at count = 200, L = 1000
        (32, 1200),
        (64, 1200),
    ],
)
def test_merge_is_right_for_more_results_than_packed_words_can_number(interests: int, depth: int) -> None:
    rng = np.random.default_rng(interests * depth)
    items, keep = 4000, 200
    vectors = rng.normal(size=(items, 8)).astype(np.float32)
    result_rows = rng.integers(NO_ITEM, items, (2, interests, depth), np.int32)
    result_scores = (vectors[result_rows] @ rng.normal(size=8).astype(np.float32)).astype(np.float32)
    result_scores += rng.normal(size=result_scores.shape).astype(
        np.float32
    )  # the same item is found with several scores
    seen = rng.integers(NO_ITEM, items, (2, 1000), np.int32)
    merged = candidates.merge(result_rows, result_scores, seen, keep)
    for user in range(2):
        best = merged_plainly(result_rows[user].tolist(), result_scores[user].tolist(), seen[user].tolist())
        expected = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:keep]
        assert merged.counts[user] == len(best)
        assert merged.rows[user].tolist() == [row for row, _ in expected]
        assert merged.scores[user].tolist() == pytest.approx([score for _, score in expected], abs=1e-3)
        for row, score, interest in zip(merged.rows[user], merged.scores[user], merged.interests[user], strict=True):
            assert score in result_scores[user, interest][result_rows[user, interest] == row]
