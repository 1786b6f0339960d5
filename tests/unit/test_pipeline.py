"""The data path on a trained release: lists follow the user, are always full, and name their reasons.

The tiny release was trained on two rings of items, i0 to i59 and i60 to i119; each user walks along one of them.
"""

import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.arrays import NO_ITEM, Int32, Windows
from engine.catalogue.ids import Catalogue
from engine.pipeline import Recommender
from engine.ranking.lists import FROM_INTEREST, Lists
from engine.ranking.popularity import Popularity
from engine.releases import bundles, serving
from engine.releases.serving import LiveRelease
from engine.settings.sections import IndexSettings, RecommendationSettings
from tests.conftest import TINY_ITEMS

LENGTH = 20
COUNT = 10
VIEW, DISLIKE = 1, 2
WEIGHTS = np.zeros(256, np.float32)
WEIGHTS[[VIEW, DISLIKE]] = [1.0, -1.0]
Clicks = list[tuple[str, int]]
"""Item and action of each click, oldest first."""


@dataclass(frozen=True)
class Served:
    """A warm release, and users by their clicks."""

    live: LiveRelease
    catalogue: Catalogue

    def recommend(
        self,
        users: list[Clicks],
        popularity: Popularity | None = None,
        excluded: list[list[str]] | None = None,
        **changes: object,
    ) -> Lists:
        chosen = RecommendationSettings(**{"count": COUNT, **changes})  # type: ignore[arg-type]
        recommender = Recommender(chosen, WEIGHTS, popularity or Popularity())
        numbers = None if excluded is None else self.padded(excluded)
        return recommender.recommend(self.windows(users), self.live, excluded=numbers)

    def padded(self, users: list[list[str]]) -> Int32:
        numbers = np.full((len(users), max(map(len, users))), NO_ITEM, np.int32)
        for row, items in enumerate(users):
            numbers[row, : len(items)] = self.catalogue.numbers(items)
        return numbers

    def lists_of(self, windows: Windows, live: LiveRelease | None = None) -> Lists:
        recommender = Recommender(RecommendationSettings(count=COUNT), WEIGHTS, Popularity())
        return recommender.recommend(windows, live or self.live)

    def windows(self, users: list[Clicks]) -> Windows:
        items, actions = np.full((len(users), LENGTH), NO_ITEM, np.int32), np.zeros((len(users), LENGTH), np.uint8)
        for row, clicks in enumerate(users):
            for column, (item, action) in enumerate(clicks, start=LENGTH - len(clicks)):
                items[row, column] = self.catalogue.numbers([item])[0]
                actions[row, column] = action
        return Windows(items, np.where(actions > 0, 60_000 * np.arange(LENGTH), 0), actions)

    def names(self, lists: Lists, user: int = 0) -> list[str]:
        return self.catalogue.ids([item for item in lists.items[user].tolist() if item != NO_ITEM])


@pytest.fixture(scope="module", params=["exact", "hnsw"])
def served(request: pytest.FixtureRequest, tiny_release: Path) -> Served:
    catalogue = Catalogue()
    settings = IndexSettings(kind=request.param)
    return Served(serving.warm(bundles.read(tiny_release), catalogue, settings, threads=1), catalogue)


def without_column(windows: Windows, column: int) -> Windows:
    """The windows without one of their events; all others keep their times."""

    def shift(values: np.ndarray, blank: int) -> np.ndarray:
        return np.insert(np.delete(values, column, axis=1), 0, blank, axis=1)

    return Windows(shift(windows.items, NO_ITEM), shift(windows.times_ms, 0), shift(windows.actions, 0))


def assert_same_lists(lists: Lists, others: Lists) -> None:
    np.testing.assert_array_equal(lists.items, others.items)
    np.testing.assert_array_equal(lists.scores, others.scores)
    np.testing.assert_array_equal(lists.reasons, others.reasons)
    np.testing.assert_array_equal(lists.shares, others.shares)


def walk(start: int, steps: int, ring: int = 0) -> Clicks:
    return [(f"i{60 * ring + (start + step) % 60}", VIEW) for step in range(steps)]


def test_lists_hold_the_next_items_on_the_users_ring(served: Served) -> None:
    lists = served.recommend([walk(10, 8), walk(30, 8, ring=1)])
    assert {"i18", "i19"} & set(served.names(lists, 0)[:5])
    assert {"i98", "i99"} & set(served.names(lists, 1)[:5])
    assert (lists.sources == FROM_INTEREST).all()
    assert (np.diff(lists.scores, axis=1) <= 0).all()


def test_a_list_does_not_depend_on_the_other_users_of_the_batch(served: Served) -> None:
    users = [walk(10, 8), [], [("never met", VIEW)], walk(30, 20, ring=1), walk(5, 1), [("i7", DISLIKE)]]
    together = served.recommend(users)
    for index, user in enumerate(users):
        alone = served.recommend([user])
        assert served.names(alone) == served.names(together, index)


def test_seen_items_never_appear(served: Served) -> None:
    lists = served.recommend([walk(10, 20)])
    assert not {item for item, _ in walk(10, 20)} & set(served.names(lists))
    again = served.recommend([walk(10, 20)], exclude_seen=False, count=40)
    assert {item for item, _ in walk(10, 20)} & set(served.names(again))


@given(st.lists(st.integers(0, TINY_ITEMS - 1), max_size=LENGTH), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=60)
def test_lists_are_always_full_and_never_hold_seen_items(
    served: Served, seen: list[int], count: int, depth: int
) -> None:
    popularity = Popularity()
    popularity.seed(served.live.numbers, np.ones(len(served.live.numbers), np.float32))
    user = [(f"i{item}", VIEW) for item in seen]
    lists = served.recommend([user], popularity, count=count, candidates_per_interest=depth)
    names = served.names(lists)
    assert len(names) == len(set(names)) == count
    assert not set(names) & {item for item, _ in user}


@given(
    st.lists(st.lists(st.integers(0, TINY_ITEMS - 1), max_size=60, unique=True), min_size=1, max_size=3),
    st.integers(0, LENGTH),
    st.integers(1, 30),
    st.booleans(),
)
@settings(max_examples=60)
def test_excluded_items_are_in_no_list_and_shorten_none(
    served: Served, excluded: list[list[int]], clicks: int, depth: int, exclude_seen: bool
) -> None:
    names = [["nowhere", *(f"i{item}" for item in items)] for items in excluded]
    popularity = Popularity()
    popularity.seed(served.live.numbers, served.live.popularity)
    popularity.seed(served.live.numbers, np.ones(len(served.live.numbers), np.float32))
    lists = served.recommend(
        [walk(10, clicks)] * len(names),
        popularity,
        names,
        candidates_per_interest=depth,
        exclude_seen=exclude_seen,
    )
    for user, left_out in enumerate(names):
        listed = served.names(lists, user)
        assert len({*listed}) == COUNT
        assert not {*listed} & {*left_out}


def test_a_recommender_starts_with_the_popularity_of_the_release(served: Served) -> None:
    popularity = Recommender.starting(RecommendationSettings(), WEIGHTS, served.live).popularity
    counts = served.live.popularity[served.live.rows(popularity.top(5))]
    assert counts.tolist() == sorted(served.live.popularity.tolist(), reverse=True)[:5]


def test_a_list_holds_at_most_the_items_that_are_left(served: Served) -> None:
    lists = served.recommend([walk(0, 20)], count=200)
    items = len(served.live.numbers)
    assert len(served.names(lists)) == items - 20
    assert (lists.items[0, items - 20 :] == NO_ITEM).all()


def test_a_cold_user_gets_what_is_popular(served: Served) -> None:
    popularity = Popularity()
    numbers = served.catalogue.numbers(["i5", "just published", "i6"])
    popularity.seed(numbers, np.array([3, 2, 1], np.float32))
    lists = served.recommend([[], [("unknown to the release", VIEW)], [("i5", DISLIKE)]], popularity)
    assert served.names(lists, 0) == served.names(lists, 1) == ["i5", "just published", "i6"]
    assert served.names(lists, 2) == ["just published", "i6"]
    assert (lists.reasons == NO_ITEM).all()


def test_every_interest_names_its_clicks(served: Served) -> None:
    user = walk(10, 6)
    lists = served.recommend([user], reasons=3)
    interests = served.live.contract.interests
    assert lists.reasons.shape == (1, interests, 3)
    for reasons, shares in zip(lists.reasons[0], lists.shares[0], strict=True):
        assert set(served.catalogue.ids(reasons.tolist())) <= {item for item, _ in user}
        assert (np.diff(shares) <= 0).all()
        assert 0 < shares.sum() <= 1 + 1e-5
    assert (lists.interests < interests).all()


def test_an_unknown_click_changes_no_list(served: Served) -> None:
    user = walk(10, 6)
    window = served.windows([[*user[:3], ("never met", VIEW), *user[3:]]])
    without = without_column(window, column=LENGTH - 4)
    assert served.catalogue.ids([int(window.items[0, LENGTH - 4])]) == ["never met"]
    assert_same_lists(served.lists_of(window), served.lists_of(without))


def test_an_unknown_click_waits_in_the_window_for_a_release_that_knows_it(served: Served, tiny_release: Path) -> None:
    bundle = bundles.read(tiny_release)
    renamed = replace(bundle, ids=["never met" if item == "i15" else item for item in bundle.ids])
    later = serving.warm(renamed, served.catalogue, IndexSettings(), threads=1)
    clicks = walk(10, 6)
    window = served.windows([[("never met" if item == "i15" else item, action) for item, action in clicks]])
    before, after = served.lists_of(window), served.lists_of(window, later)
    known = served.lists_of(served.windows([clicks]))
    assert (before.items != after.items).any()
    np.testing.assert_array_equal(after.items, known.items)
    np.testing.assert_allclose(after.scores, known.scores, rtol=1e-5)
    reasons = set(served.catalogue.ids(after.reasons[0][after.reasons[0] != NO_ITEM].tolist()))
    assert "never met" in reasons
    assert "never met" not in set(served.catalogue.ids(before.reasons[0][before.reasons[0] != NO_ITEM].tolist()))


def test_a_dislike_lowers_the_items_near_it(served: Served) -> None:
    user = walk(10, 8)
    plain = served.recommend([user], count=20)
    first = served.names(plain)[0]
    disliked = served.recommend([[(first, DISLIKE), *user]], count=20, push_away=1.0)
    assert first not in served.names(disliked)
    vectors = served.live.vectors[served.live.rows(plain.items[0])]
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = served.names(plain)[1 + int((directions[1:] @ directions[0]).argmax())]
    after = served.names(disliked)
    assert nearest not in after or after.index(nearest) >= served.names(plain).index(nearest) - 1


def test_diversity_spreads_the_list(served: Served) -> None:
    def likeness(lists: Lists) -> float:
        vectors = served.live.vectors[served.live.rows(lists.items[0])]
        directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return float((directions @ directions.T).mean())

    user = [walk(10, 8)]
    assert likeness(served.recommend(user, diversity=0.7)) < likeness(served.recommend(user))


def test_removed_candidates_are_counted_by_reason(served: Served) -> None:
    removed = served.recommend([walk(10, 20)], candidates_per_interest=50).removed
    assert removed["seen"] > 0
    assert removed["duplicate"] > 0


def test_filling_many_new_users_takes_little_memory() -> None:
    #  the largest list and window that can be set, a full window for every user of the largest usual batch
    users, count, length = 512, 200, 1000
    popularity = Popularity()
    popularity.seed(np.arange(5000, dtype=np.int32), np.arange(5000, 0, -1, dtype=np.float32))
    recommender = Recommender(RecommendationSettings(count=count), WEIGHTS, popularity)
    seen = np.random.default_rng(0).integers(0, 2000, (users, length), np.int32)
    items = np.full((users, count), NO_ITEM, np.int32)
    tracemalloc.start()
    popular = recommender._fill(items, [seen])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 64e6  # comparing every popular item with every event takes 860 MB
    for user in (0, users - 1):
        expected = np.setdiff1d(np.arange(5000), seen[user])[:count]  # item n is the n-th most popular
        assert popular[user].tolist() == expected.tolist()
