"""Neighbours in the pipeline, against the formula written down one item at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import NO_ITEM, Float32, Int32
from engine.contract import NeighbourSizes
from engine.retrieval.candidates import Candidates, merge
from engine.retrieval.item_neighbours import NeighbourTable, add_neighbours

ITEMS, DIMENSIONS, INTERESTS, PLACES = 12, 3, 2, 8


def sizes(**changes: float) -> NeighbourSizes:
    return NeighbourSizes(**({"count": 3, "last_items": 4, "decay": 0.8, "weight": 2.0, "floor": 0.05} | changes))  # type: ignore[arg-type]


def table(rng: np.random.Generator, chosen: NeighbourSizes) -> tuple[Int32, Float32]:
    rows = np.array([rng.permutation(ITEMS)[: chosen.count] for _ in range(ITEMS)], np.int32)
    rows[rng.random(rows.shape) < 0.3] = NO_ITEM  # also between others
    weights = np.where(rows == NO_ITEM, 0.0, rng.random(rows.shape)).astype(np.float32)
    return rows, weights


def by_hand(
    recent: list[int], excluded: list[int], interests: Float32, vectors: Float32, neighbours: tuple[Int32, Float32]
) -> dict[int, tuple[float, float]]:
    """Score and affinity of every item that may be listed."""
    chosen, affinity = sizes(), dict.fromkeys(range(ITEMS), 0.0)
    for rank, item in enumerate(recent):
        if 0 <= item < ITEMS:
            for neighbour, weight in zip(neighbours[0][item].tolist(), neighbours[1][item].tolist(), strict=True):
                if neighbour != NO_ITEM:
                    affinity[neighbour] += chosen.decay**rank * weight
    return {
        item: (
            float((interests @ vectors[item]).max()) + chosen.weight * np.log1p(affinity[item] / chosen.floor),
            affinity[item],
        )
        for item in range(ITEMS)
        if item not in excluded
    }


@given(st.integers(0, 10_000), st.integers(1, PLACES), st.integers(1, ITEMS))
def test_joint_scores_are_those_of_the_formula(seed: int, found: int, most: int) -> None:
    """With places for all items the list is every item that an interest or a neighbour found, by its score."""
    rng = np.random.default_rng(seed)
    neighbours = table(rng, sizes())
    vectors = rng.normal(size=(ITEMS, DIMENSIONS)).astype(np.float32)
    interests = rng.normal(size=(2, INTERESTS, DIMENSIONS)).astype(np.float32)
    recent = rng.integers(-1, ITEMS + 2, (2, 4)).astype(np.int32)  # some beyond the table: items after training
    excluded = rng.integers(-1, ITEMS, (2, 3)).astype(np.int32)
    scores = interests @ vectors.T  # [B, K, V]
    near = np.argsort(-scores, axis=2)[:, :, :found].astype(np.int32)
    searched = merge(near, np.take_along_axis(scores, near, axis=2), excluded, ITEMS)
    made = add_neighbours(searched, NeighbourTable(*neighbours, sizes()), recent, excluded, interests, vectors, most)
    for user in range(2):
        by_item = by_hand(recent[user].tolist(), excluded[user].tolist(), interests[user], vectors, neighbours)
        searched_scores = dict(zip(searched.rows[user].tolist(), searched.scores[user].tolist(), strict=True))
        searched_scores.pop(NO_ITEM, None)
        alone = [item for item, (_, affinity) in by_item.items() if affinity > 0 and item not in searched_scores]
        alone = sorted(alone, key=lambda item: -by_item[item][1])[:most]
        joint = {item: by_item[item][0] for item in alone}
        for item, score in searched_scores.items():  # by the interest that found it, which may not be the nearest
            joint[item] = score + sizes().weight * np.log1p(by_item[item][1] / sizes().floor)
        expected = sorted(joint, key=lambda item: -joint[item])
        listed = made.rows[user][made.rows[user] != NO_ITEM].tolist()
        assert listed == expected
        assert made.scores[user][: len(listed)] == pytest.approx([joint[item] for item in listed], abs=1e-3)
        for item, origin in zip(listed, made.origins[user].tolist(), strict=False):
            assert (origin == NO_ITEM) == (item in searched_scores)
            if origin != NO_ITEM:
                assert item in neighbours[0][origin]
        assert made.counts[user] == len(expected)


def test_the_origin_is_the_item_that_weighs_most() -> None:
    rows, weights = np.full((4, 1), 3, np.int32), np.array([[0.5], [0.3], [0.1], [0.0]], np.float32)
    rows[3] = NO_ITEM
    none = Candidates(
        rows=np.full((1, 2), NO_ITEM, np.int32),
        scores=np.full((1, 2), -np.inf, np.float32),
        interests=np.zeros((1, 2), np.int32),
        origins=np.full((1, 2), NO_ITEM, np.int32),
        counts=np.zeros(1, np.int64),
        duplicates=0,
        seen=0,
    )
    vectors = np.zeros((4, DIMENSIONS), np.float32)
    arguments = (np.full((1, 1), NO_ITEM, np.int32), np.zeros((1, 1, DIMENSIONS), np.float32), vectors, 2)
    for recent, origin in (([2, 1, 0], 0), ([1, 2, 0], 0), ([2, 1, NO_ITEM], 1)):  # 0.5 * 0.8^2 > 0.3 * 0.8
        made = add_neighbours(
            none, NeighbourTable(rows, weights, sizes(count=1)), np.array([recent], np.int32), *arguments
        )
        assert made.rows.tolist() == [[3, NO_ITEM]]
        assert made.origins.tolist() == [[origin, NO_ITEM]]
