"""The two sorts of engine/retrieval/candidates.py against the plain way of merging result lists."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import NO_ITEM
from engine.retrieval import candidates

USERS, INTERESTS, DEPTH, SEEN = 3, 2, 4, 3
rows = st.integers(-1, 8)
scores = st.sampled_from([-2.5, -1.0, 0.0, 0.5, 1.0, 3.25])  # few values, far apart: ties happen, rounding does not


@st.composite
def results(draw: st.DrawFn) -> tuple[list[list[list[int]]], list[list[list[float]]], list[list[int]]]:
    result_rows = [
        [draw(st.lists(rows, min_size=DEPTH, max_size=DEPTH)) for _ in range(INTERESTS)] for _ in range(USERS)
    ]
    result_scores = [
        [draw(st.lists(scores, min_size=DEPTH, max_size=DEPTH)) for _ in range(INTERESTS)] for _ in range(USERS)
    ]
    seen = [draw(st.lists(rows, min_size=SEEN, max_size=SEEN)) for _ in range(USERS)]
    return result_rows, result_scores, seen


def merged_plainly(result_rows: list[list[int]], result_scores: list[list[float]], seen: list[int]) -> dict[int, float]:
    """Best score of each item that was found and not seen."""
    best: dict[int, float] = {}
    for of_interest, its_scores in zip(result_rows, result_scores, strict=True):
        for row, score in zip(of_interest, its_scores, strict=True):
            if row != NO_ITEM and row not in seen:
                best[row] = max(score, best.get(row, -np.inf))
    return best


@given(results(), st.integers(1, 10), st.sampled_from([0, candidates.MAX_PLACES]))
def test_merge_equals_the_plain_way(
    result: tuple[list[list[list[int]]], list[list[list[float]]], list[list[int]]], keep: int, max_places: int
) -> None:
    result_rows, result_scores, seen = result
    with patch.object(candidates, "MAX_PLACES", max_places):  # 0: by the way that takes any number of results
        merged = candidates.merge(
            np.array(result_rows, np.int32), np.array(result_scores, np.float32), np.array(seen, np.int32), keep
        )
    for user in range(USERS):
        best = merged_plainly(result_rows[user], result_scores[user], seen[user])
        expected = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:keep]
        there = merged.rows[user] != NO_ITEM
        assert (
            list(zip(merged.rows[user][there].tolist(), merged.scores[user][there].tolist(), strict=True)) == expected
        )
        assert merged.counts[user] == len(best)
        assert (merged.scores[user][~there] == -np.inf).all()
        for row, score, interest in zip(
            merged.rows[user][there], merged.scores[user][there], merged.interests[user][there], strict=True
        ):
            assert (row, score) in list(zip(result_rows[user][interest], result_scores[user][interest], strict=True))
    kept = sum(len(merged_plainly(result_rows[u], result_scores[u], seen[u])) for u in range(USERS))
    results_found = int((np.array(result_rows) != NO_ITEM).sum())
    seen_found = sum(
        len({row for of_interest in result_rows[u] for row in of_interest} & set(seen[u]) - {NO_ITEM})
        for u in range(USERS)
    )
    assert merged.seen == seen_found
    assert kept + merged.duplicates + merged.seen == results_found


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
