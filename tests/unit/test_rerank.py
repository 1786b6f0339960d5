"""Maximal marginal relevance and pushing away, on vectors with plain angles."""

import numpy as np
import pytest

from engine.arrays import NO_ITEM, Float32, Int32
from engine.ranking.rerank import diversify, push_away
from engine.retrieval.candidates import Candidates

# Rows 0 and 1 point east, row 2 north, row 3 north-east.
VECTORS = np.array([[1, 0], [2, 0], [0, 1], [1, 1]], np.float32)


def candidates(rows: list[int], scores: list[float]) -> Candidates:
    return Candidates(
        rows=np.array([rows], np.int32),
        scores=np.array([scores], np.float32),
        interests=np.zeros((1, len(rows)), np.int32),
        origins=np.full((1, len(rows)), NO_ITEM, np.int32),
        counts=np.array([sum(row != NO_ITEM for row in rows)]),
        duplicates=0,
        seen=0,
    )


def test_without_diversity_scores_decide() -> None:
    assert diversify(candidates([1, 0, 3, 2], [4, 3, 2, 1]), VECTORS, 4, 0.0).tolist() == [[0, 1, 2, 3]]


def test_with_diversity_an_unlike_item_comes_first() -> None:
    # After row 1, row 0 repeats its direction: 0.5 * 2/3 - 0.5 * 1 = -1/6; row 2 is at right angles: 0.5 * 0 - 0 = 0.
    assert diversify(candidates([1, 0, 2], [4, 3, 1]), VECTORS, 3, 0.5).tolist() == [[0, 2, 1]]


def test_each_column_occurs_once_and_those_without_a_candidate_come_last() -> None:
    order = diversify(candidates([3, 2, NO_ITEM, NO_ITEM], [2, 1, -np.inf, -np.inf]), VECTORS, 4, 0.3)
    assert order[0, :2].tolist() == [0, 1]
    assert sorted(order[0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("disliked", "strength", "expected"),
    [
        # The range of the scores is 4 - 1 = 3. Row 0 has the disliked direction and loses strength * 3.
        ([0, NO_ITEM], [0.5, 0.0], [4 - 1.5, 1.0]),
        # NO_ITEM lowers nothing, whatever its strength.
        ([NO_ITEM, NO_ITEM], [1.0, 1.0], [4.0, 1.0]),
        # The strongest dislike counts, not their sum: row 2 loses 1 * 3, row 0 only cos 45° * 0 of row 3's.
        ([2, 3], [1.0, 0.0], [4.0, 1.0 - 3.0]),
    ],
)
def test_pushing_away(disliked: list[int], strength: list[float], expected: list[float]) -> None:
    scores: Float32 = np.array([[4, 1]], np.float32)
    rows: Int32 = np.array([[0, 2]], np.int32)
    lowered = push_away(scores, rows, np.array([disliked], np.int32), np.array([strength], np.float32), VECTORS)
    np.testing.assert_allclose(lowered, [expected], atol=1e-6)


def test_missing_candidates_stay_missing() -> None:
    scores: Float32 = np.array([[2, -np.inf], [-np.inf, -np.inf]], np.float32)
    rows: Int32 = np.array([[0, NO_ITEM], [NO_ITEM, NO_ITEM]], np.int32)
    lowered = push_away(scores, rows, np.zeros((2, 1), np.int32), np.ones((2, 1), np.float32), VECTORS)
    assert lowered.tolist() == [[2.0, -np.inf], [-np.inf, -np.inf]]
