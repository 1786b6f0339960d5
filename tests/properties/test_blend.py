"""Joint scores of all sources, against the formula written down one item at a time."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import NO_ITEM, POPULAR, Float32, Int32
from engine.contract import NeighbourSizes, PopularityScore
from engine.retrieval.blend import PopularItems, Sources, blend
from engine.retrieval.candidates import Candidates, merge
from engine.retrieval.item_neighbours import NeighbourTable
from engine.retrieval.later_items import NewItems, base
from engine.retrieval.stream_neighbours import StreamNeighbours

ITEMS, DIMENSIONS, INTERESTS, PLACES = 12, 3, 2, 8
SCORE = PopularityScore(weight=1.5, floor=0.05)


def sizes(**changes: float) -> NeighbourSizes:
    return NeighbourSizes(**({"count": 3, "last_items": 4, "decay": 0.8, "weight": 2.0, "floor": 0.05} | changes))  # type: ignore[arg-type]


def table(rng: np.random.Generator, chosen: NeighbourSizes) -> tuple[Int32, Float32]:
    rows = np.array([rng.permutation(ITEMS)[: chosen.count] for _ in range(ITEMS)], np.int32)
    rows[rng.random(rows.shape) < 0.3] = NO_ITEM  # also between others
    weights = np.where(rows == NO_ITEM, 0.0, rng.random(rows.shape)).astype(np.float32)
    return rows, weights


@dataclass(frozen=True)
class World:
    """One user's input, and the sources of a release."""

    recent: list[int]
    excluded: list[int]
    interests: Float32
    vectors: Float32
    neighbours: tuple[Int32, Float32] | None
    shares: Float32 | None
    later_share: float

    def affinity(self, item: int) -> float:
        rows, weights = self.neighbours or (np.empty((ITEMS, 0), np.int32), np.empty((ITEMS, 0), np.float32))
        return sum(
            sizes().decay ** rank * float(weights[clicked][rows[clicked] == item].sum())
            for rank, clicked in enumerate(self.recent)
            if 0 <= clicked < ITEMS
        )

    def parts(self, item: int) -> float:
        """What is added to interest . item."""
        near = (1.0 + self.later_share) * sizes().weight * np.log1p(self.affinity(item) / sizes().floor)
        popular = 0.0 if self.shares is None else SCORE.weight * np.log1p(float(self.shares[item]) / SCORE.floor)
        return float(near + popular)

    def score(self, item: int) -> float:
        return float((self.interests @ self.vectors[item]).max()) + self.parts(item)

    def expected(self, searched: dict[int, float], popular: set[int], most: int) -> dict[int, float]:
        """Joint score by item."""
        others = set(range(ITEMS)) - set(self.excluded) - set(searched)
        near = sorted((item for item in others - popular if self.affinity(item) > 0.0), key=lambda i: -self.affinity(i))
        joint = {item: self.score(item) for item in [*near[:most], *(popular & others)]}
        # A searched item has the score of the interest that found it, which may not be the nearest one.
        return joint | {item: score + self.parts(item) for item, score in searched.items()}


@given(st.integers(0, 10_000), st.integers(1, PLACES), st.integers(1, ITEMS), st.booleans(), st.booleans())
def test_joint_scores_are_those_of_the_formula(
    seed: int, found: int, most: int, has_neighbours: bool, has_popularity: bool
) -> None:
    """With places for all items the list is every item that a source found, by its score."""
    rng = np.random.default_rng(seed)
    neighbours = table(rng, sizes()) if has_neighbours else None
    shares = rng.choice([0.0, 0.1, 0.2, 0.7], ITEMS).astype(np.float32) if has_popularity else None
    later_shares = rng.random(2).astype(np.float32)
    sources = Sources(
        NeighbourTable(*neighbours, sizes()) if neighbours else None,
        PopularItems.of(shares, SCORE, 4, np.empty(0, np.float32)) if shares is not None else None,
        most,
        later_shares=later_shares,
    )
    popular = set(sources.popular.rows.tolist()) if sources.popular else set()
    vectors = rng.normal(size=(ITEMS, DIMENSIONS)).astype(np.float32)
    interests = rng.normal(size=(2, INTERESTS, DIMENSIONS)).astype(np.float32)
    recent = rng.integers(-1, ITEMS + 2, (2, 4)).astype(np.int32)  # some beyond the table: items after training
    excluded = rng.integers(-1, ITEMS, (2, 3)).astype(np.int32)
    scores = interests @ vectors.T  # [B, K, V]
    near = np.argsort(-scores, axis=2)[:, :, :found].astype(np.int32)
    searched = merge(near, np.take_along_axis(scores, near, axis=2), excluded, ITEMS)
    made = blend(searched, sources, recent if has_neighbours else recent[:, :0], excluded, interests, vectors)
    for user in range(2):
        world = World(
            recent[user].tolist(),
            excluded[user].tolist(),
            interests[user],
            vectors,
            neighbours,
            shares,
            float(later_shares[user]),
        )
        by_interest = dict(zip(searched.rows[user].tolist(), searched.scores[user].tolist(), strict=True))
        by_interest.pop(NO_ITEM, None)
        joint = world.expected(by_interest, popular, most)
        listed = made.rows[user][made.rows[user] != NO_ITEM].tolist()
        assert sorted(listed) == sorted(joint)
        assert made.scores[user][: len(listed)] == pytest.approx([joint[item] for item in listed], abs=1e-3)
        assert (np.diff(made.scores[user][: len(listed)]) <= 0.0).all()
        assert made.counts[user] == len(joint)
        for item, origin in zip(listed, made.origins[user].tolist(), strict=False):
            assert (origin == NO_ITEM) == (item in by_interest)
            assert (origin == POPULAR) == (item in popular and item not in by_interest)
            if origin >= 0:
                assert neighbours is not None
                assert item in neighbours[0][origin]


@given(st.integers(0, 1_000), st.integers(1, 20))
def test_the_popular_items_are_those_with_the_highest_shares(seed: int, most: int) -> None:
    shares = np.random.default_rng(seed).choice([0.0, 0.1, 0.2, 0.3], ITEMS).astype(np.float32)
    popular = PopularItems.of(shares, SCORE, most, np.empty(0, np.float32))
    assert len(popular.rows) == min(most, int((shares > 0).sum()))
    assert (shares[popular.rows] > 0).all()
    rest = np.delete(shares, popular.rows)
    assert not len(popular.rows) or shares[popular.rows].min() >= rest.max(initial=0.0)
    np.testing.assert_allclose(popular.bonus[:-1], SCORE.weight * np.log1p(shares / SCORE.floor), rtol=1e-5)


@given(st.integers(0, 1_000), st.floats(0.01, 0.95), st.floats(-5.0, 20.0))
def test_without_neighbours_later_items_have_the_probability_of_their_share(
    seed: int, later_share: float, log_partition: float
) -> None:
    """Softmax over the release's items, whose scores sum up to Z, and later ones: s(i), and 1 - S for the rest."""
    rng = np.random.default_rng(seed)
    clicks = rng.integers(1, 50, 4)
    stream = StreamNeighbours(16)
    shares = np.concatenate([np.full(ITEMS, (1.0 - later_share) / ITEMS), later_share * clicks / clicks.sum()])
    stream._reserve(len(shares))
    stream._clicks[: len(shares)], stream._total = shares, 1.0
    new = NewItems(stream, lambda rows: rows, lambda rows: rows, 0, ITEMS, base(log_partition, later_share))
    rows = np.arange(len(shares), dtype=np.int32)
    scores = np.full(len(shares), log_partition - np.log(ITEMS), np.float32)
    scores[ITEMS:] = 0.0
    new.add_scores(scores, rows)
    weights = np.exp(scores.astype(np.float64) - log_partition)
    np.testing.assert_allclose(weights / weights.sum(), shares, rtol=1e-3)


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
    arguments = (np.full((1, 1), NO_ITEM, np.int32), np.zeros((1, 1, DIMENSIONS), np.float32), vectors)
    for recent, origin in (([2, 1, 0], 0), ([1, 2, 0], 0), ([2, 1, NO_ITEM], 1)):  # 0.5 * 0.8^2 > 0.3 * 0.8
        sources = Sources(NeighbourTable(rows, weights, sizes(count=1)), None, most=2)
        made = blend(none, sources, np.array([recent], np.int32), *arguments)
        assert made.rows.tolist() == [[3, NO_ITEM]]
        assert made.origins.tolist() == [[origin, NO_ITEM]]
